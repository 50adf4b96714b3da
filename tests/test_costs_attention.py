"""FLOP and bytes of fused attention with masks and packed sequences, and of grouped products."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boundscope.profiler.trace.costs import cost, family
from boundscope.profiler.trace.costs_elementwise import EXP_FLOP
from boundscope.profiler.trace.table import Signature

from .test_costs import NONE, bf16, fp32, scalar, signature

pytest.importorskip("torch")

# name, arguments, FLOP, bytes: worked by hand from the formulas that the docstrings cite.
CASES: list[tuple[str, Signature, float, float]] = [
    (
        # one query against 4,096 keys sees all of them but for half of its own corner
        "flash_attn::_flash_attn_forward",
        signature(
            *(bf16(2, n, 32, 128) for n in (1, 4096, 4096)),
            scalar("0."),
            scalar("0.088"),
            scalar("True"),
        ),
        4 * 2 * 32 * 128 * 4095.5,
        2 * (2 * 32 * 128) * (1 + 4096 + 4096 + 1) + 4 * 2 * 32,
    ),
    (
        # custom_mask_type 2: causal from the bottom right
        "aten::_efficient_attention_forward",
        signature(
            *(fp32(1, n, 2, 8) for n in (2, 6, 6)),
            NONE,
            NONE,
            NONE,
            NONE,
            NONE,
            scalar("0."),
            scalar("2"),
        ),
        4 * 2 * 8 * (2 * 4 + 2),
        4 * 16 * (2 + 6 + 6 + 2) + 4 * 2 * 2,
    ),
    (
        # four packed sequences of 1,024 tokens each
        "aten::_flash_attention_forward",
        signature(
            *(bf16(4096, 16, 128) for _ in range(3)),
            ((5,), "int", ""),
            ((5,), "int", ""),
            scalar("1024"),
            scalar("1024"),
            scalar("0."),
            scalar("True"),
        ),
        4 * 16 * 128 * 4 * 1024 * 1024 / 2,
        4 * 2 * (4096 * 16 * 128) + 2 * 20 + 4 * 16 * 4096,
    ),
    (
        # 10 tokens in three sequences, the longest of 6: at least 6² + 2² + 2² pairs; 2.5 times
        "flash_attn::_flash_attn_varlen_backward",
        signature(
            *(fp32(10, 1, 4) for _ in range(5)),
            fp32(1, 10),
            NONE,
            NONE,
            NONE,
            ((4,), "int", ""),
            ((4,), "int", ""),
            scalar("6"),
            scalar("6"),
            scalar("0."),
            scalar("0.5"),
            scalar("False"),
        ),
        2.5 * 4 * 4 * 44,
        4 * 40 * (5 + 3) + 40 + 2 * 16,
    ),
    (
        # FlashAttention-3, causal, its result among the arguments
        "flash_attn_3::fwd",
        signature(
            *(bf16(2, 1024, 16, 128) for _ in range(3)),
            *[NONE] * 3,
            bf16(2, 1024, 16, 128),
            *[NONE] * 16,
            scalar("0.088"),
            scalar("True"),
        ),
        4 * 2 * 16 * 128 * 1024 * 1024 / 2,
        4 * 2 * (2 * 1024 * 16 * 128) + 4 * 2 * 16 * 1024,
    ),
    (
        # four packed sequences of 1,024 tokens each; bf16 comes out of fp8
        "flash_attn_3::_flash_attn_forward",
        signature(
            *(((4096, 16, 128), "c10::Float8_e4m3fn", "") for _ in range(3)),
            *[NONE] * 4,
            ((5,), "int", ""),
            ((5,), "int", ""),
            *[NONE] * 3,
            scalar("1024"),
            scalar("1024"),
        ),
        4 * 16 * 128 * 4 * 1024 * 1024,
        (3 + 2) * (4096 * 16 * 128) + 2 * 20 + 4 * 16 * 4096,
    ),
    (
        # the gradients are among the arguments
        "flash_attn_3::bwd",
        signature(
            *(bf16(2, 256, 4, 64) for _ in range(5)),
            fp32(2, 4, 256),
            *(bf16(2, 256, 4, 64) for _ in range(3)),
            *[NONE] * 6,
            scalar("0.125"),
            scalar("False"),
        ),
        2.5 * 4 * 2 * 4 * 64 * 256 * 256,
        8 * 2 * (2 * 256 * 4 * 64) + 4 * 2 * 4 * 256,
    ),
    (
        # the same as an op of torch has them in another order; causal
        "flash_attn_3::_flash_attn_backward",
        signature(
            *(bf16(2, 256, 4, 64) for _ in range(5)),
            fp32(2, 4, 256),
            *[NONE] * 6,
            *(bf16(2, 256, 4, 64) for _ in range(3)),
            scalar("0.125"),
            scalar("True"),
        ),
        2.5 * 4 * 2 * 4 * 64 * 256 * 256 / 2,
        8 * 2 * (2 * 256 * 4 * 64) + 4 * 2 * 4 * 256,
    ),
    (
        # causal within a window of 3 keys before each of 8 queries: 1 + 2 + 3 and then 4 each
        "flash_attn::_flash_attn_forward",
        signature(
            *(fp32(1, 8, 1, 4) for _ in range(3)),
            scalar("0."),
            scalar("0.5"),
            scalar("True"),
            scalar("3"),
            scalar("0"),
        ),
        4 * 4 * (1 + 2 + 3 + 5 * 4),
        4 * 4 * 32 + 4 * 8,
    ),
    (
        # 2 keys before and 1 behind: 2 + 3 + 4 + 4 + 4 + 3
        "flash_attn_3::fwd",
        signature(
            *(fp32(1, 6, 1, 4) for _ in range(3)),
            *[NONE] * 20,
            scalar("0.5"),
            scalar("False"),
            scalar("2"),
            scalar("1"),
        ),
        4 * 4 * 20,
        4 * 4 * 24 + 4 * 6,
    ),
    (
        "aten::_grouped_mm",
        signature(bf16(128, 64), bf16(8, 64, 256), ((8,), "int", "")),
        2 * 128 * 64 * 256,
        2 * (128 * 64 + 8 * 64 * 256 + 128 * 256),
    ),
    (
        # the gradient of a weight: K is cut into four groups
        "aten::_grouped_mm",
        signature(bf16(64, 1000), bf16(1000, 32), ((4,), "int", "")),
        2 * 64 * 1000 * 32,
        2 * (64 * 1000 + 1000 * 32 + 4 * 64 * 32),
    ),
    (
        # fp8 in, bf16 out
        "aten::_scaled_grouped_mm",
        signature(
            ((128, 64), "c10::Float8_e4m3fn", ""),
            ((8, 64, 256), "c10::Float8_e4m3fn", ""),
            fp32(128),
            fp32(8, 256),
            ((8,), "int", ""),
            NONE,
            NONE,
            scalar("15"),
        ),
        2 * 128 * 64 * 256,
        128 * 64 + 8 * 64 * 256 + 2 * 128 * 256,
    ),
    (
        # [16, 512] by 256 columns of 4 bits, with a scale and a zero for each 128
        "aten::_weight_int4pack_mm",
        signature(bf16(16, 512), ((32, 4, 32, 4), "int", ""), scalar("128"), bf16(4, 256, 2)),
        2 * 16 * 512 * 256,
        2 * 16 * 512 + 512 * 256 / 2 + 2 * 4 * 256 * 2 + 2 * 16 * 256,
    ),
    (
        # 50 times, 4 sequences, 20 classes, targets of 10: 21 states each
        "aten::_ctc_loss",
        signature(fp32(50, 4, 20), ((4, 10), "long int", "")),
        50 * 4 * 21 * (4 * EXP_FLOP + 3),
        4 * (50 * 4 * 11) + 8 * 40 + 4 * (50 * 4 * 21) + 4 * 4,
    ),
    (
        "aten::_native_batch_norm_legit_no_training",
        signature(fp32(2, 4, 8), fp32(4), fp32(4), fp32(4), fp32(4)),
        2 * 64,
        4 * (64 + 16 + 64),
    ),
    (
        # one table of 1,000 rows of 96: 600 rows into 16 bags
        "fbgemm::split_embedding_codegen_lookup_rowwise_adagrad_function",
        signature(
            fp32(0),
            fp32(96000),
            fp32(0),
            fp32(0, 0),
            ((1,), "int", ""),
            ((1,), "long", ""),
            ((2,), "int", ""),
            scalar("96"),
            scalar("96"),
            ((2,), "long", ""),
            scalar("10"),
            ((600,), "long", ""),
            ((17,), "long", ""),
        ),
        600 * 96,
        4 * 600 * 96 + 4 * 16 * 96 + 8 * (600 + 17),
    ),
]


@pytest.mark.parametrize(("name", "arguments", "flop", "moved"), CASES, ids=[c[0] for c in CASES])
def test_the_cost_of_an_op_is_what_its_formula_gives_by_hand(
    name: str, arguments: Signature, flop: float, moved: float
) -> None:
    found = cost(name, arguments)

    assert found is not None
    assert found.flop == pytest.approx(flop)
    assert found.bytes == pytest.approx(moved)
    assert found.family == family(name)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.booleans())
def test_packed_sequences_cost_at_least_what_is_claimed_whatever_their_lengths(
    lengths: list[int], causal: bool
) -> None:
    # given: torch's own count of packed sequences, which knows each one's length
    from torch.utils.flop_counter import sdpa_flop_count

    packed, longest = sum(lengths), max(lengths)
    begins = ((len(lengths) + 1,), "int", "")
    most = scalar(str(longest))
    arguments = signature(
        *(fp32(packed, 2, 16) for _ in range(3)), begins, begins, most, most, scalar("0."),
        scalar(str(causal)),
    )  # fmt: skip
    exact = sum(sdpa_flop_count(*[(1, 2, n, 16)] * 3) for n in lengths) / (2 if causal else 1)
    # when
    found = cost("aten::_flash_attention_forward", arguments)
    # then
    assert found is not None
    assert found.flop <= exact * (1 + 1e-9)
    assert found.flop >= exact * (1 - 1e-9) or not found.exact
    if len(set(lengths)) == 1:
        assert found.flop == pytest.approx(exact)


@pytest.mark.parametrize("place", [11, 14])
def test_a_cache_of_which_the_used_part_is_not_recorded_has_no_cost(place: int) -> None:
    arguments = [bf16(8, 1, 16, 128), *(bf16(512, 16, 4, 128) for _ in range(2)), *[NONE] * 22]
    arguments[place] = ((8,), "int", "")

    assert cost("flash_attn_3::fwd", signature(*arguments)) is None


@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(-1, 14), st.integers(-1, 14), st.booleans()
)
def test_a_window_holds_the_pairs_that_are_in_it(
    queries: int, keys: int, left: int, right: int, causal: bool
) -> None:
    if left < 0 and (right < 0 or causal):
        left = 3  # else there is no window
    ends = 0 if causal else right
    places = [query + keys - queries for query in range(queries)]
    pairs = sum(
        (left < 0 or key >= place - left) and (ends < 0 or key <= place + ends)
        for place in places
        for key in range(keys)
    )
    flags = [
        scalar("0."),
        scalar("0.5"),
        scalar(str(causal)),
        scalar(str(left)),
        scalar(str(right)),
    ]
    tensors = [fp32(1, queries, 1, 4), fp32(1, keys, 1, 4), fp32(1, keys, 1, 4)]

    found = cost("flash_attn::_flash_attn_forward", signature(*tensors, *flags))

    assert found is not None
    assert found.flop == 4 * 4 * pairs


def test_a_window_over_more_queries_than_fit_into_memory_costs_no_memory() -> None:
    flags = [scalar("0."), scalar("0.5"), scalar("True"), scalar("0"), scalar("0")]
    arguments = signature(*(fp32(1, 10**13, 1, 4) for _ in range(3)), *flags)

    found = cost("flash_attn::_flash_attn_forward", arguments)

    assert found is not None
    assert found.flop == 4 * 4 * 10**13


def test_sequences_of_other_lengths_than_the_longest_are_not_exact() -> None:
    def packed(longest: int) -> bool | None:
        most = scalar(str(longest))
        begins = ((4,), "int", "")
        found = cost(
            "flash_attn::_flash_attn_varlen_forward",
            signature(*(fp32(12, 1, 4) for _ in range(3)), begins, begins, most, most),
        )
        return found.exact if found else None

    assert packed(4)
    assert packed(6) is False
    assert packed(99) is False  # longer than all together: the sequences are taken as alike
