"""Reasons of arithmetic and of memory traffic, on ops whose figures were worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from boundscope.profiler.device_facts import DeviceFacts
from boundscope.profiler.diagnosis import SLOTS, Diagnosis
from boundscope.profiler.rules.memory import kept_share
from boundscope.profiler.trace.collectives import Collective
from boundscope.profiler.trace.host import OpTime

from .rule_material import MS, diagnosed, elementwise, product, rank_of


@pytest.mark.parametrize(
    ("op", "device", "facts", "id_"),
    [
        (product("[512, 512], [512, 512]", 0.8), False, {}, "at-the-roof"),
        (product("[512, 512], [512, 512]", 0.3), False, {}, "arithmetic"),
        (product("[16, 512], [512, 512]", 0.3), False, {}, "small-batch"),
        (product("[512, 512], [512, 512]", 0.1, "ampere_sgemm_128x64_tn"), True, {},
         "tensor-cores-unused"),
        (product("[512, 512], [512, 512]", 0.3, "ampere_s16816gemm_bf16"), True, {}, "arithmetic"),
        (product("[512, 50257], [50257, 512]", 0.3, "s16816gemm"), True, {}, "odd-shapes"),
        (product("[512, 512], [512, 512]", 0.3, "s16816gemm"), True, {"occupancy": 0.1},
         "low-occupancy"),
        (product("[512, 50257], [50257, 512]", 0.9, "s16816gemm"), True, {"occupancy": 0.1},
         "at-the-roof"),
    ],
)  # fmt: skip
def test_arithmetic_is_named_by_why_it_is_below_its_roof(
    op: OpTime, device: bool, facts: dict[str, float], id_: str
) -> None:
    rank = rank_of([op], "compute", device=device, facts=DeviceFacts(**facts))

    found = [f for f in diagnosed(rank).findings if f.bound == "compute"]

    assert [finding.id for finding in found] == [id_]


def test_nothing_about_cuda_is_advised_on_a_cpu() -> None:
    rank = rank_of([product("[16, 512], [512, 512]", 0.3)], "compute")

    text = str(diagnosed(rank).findings)

    assert "cuda" not in text.lower()
    assert "tensor core" not in text.lower()


def test_at_the_roof_the_only_advice_is_less_work_or_faster_hardware() -> None:
    rank = rank_of([product("[512, 512], [512, 512]", 0.8)], "compute")

    fixes = diagnosed(rank).findings[0].fixes

    assert [fix.title for fix in fixes] == ["Less work or faster hardware"]


def in_balance(*ops: OpTime) -> Diagnosis:
    rank = rank_of(list(ops), "compute")
    shares = dict.fromkeys(SLOTS, 0.0) | {"compute": 0.49, "memory": 0.46, "host": 0.05}
    blocks = np.array([[shares[name] for name in SLOTS]] * 10)
    return diagnosed(replace(rank, shares=shares, block_shares=blocks))


def test_a_run_in_balance_near_the_roof_says_so_and_advises_nothing() -> None:
    diagnosis = in_balance(
        product("[512, 512], [512, 512]", 0.8), elementwise("aten::add", 3, calls=10)
    )

    assert diagnosis.verdict.bound == "balanced"
    assert "healthy" in diagnosis.verdict.headline
    assert {finding.bound for finding in diagnosis.findings} >= {"compute"}
    assert not any(finding.fixes for finding in diagnosis.findings)


@pytest.mark.parametrize(("achieved", "words"), [(0.05, "reach 5 %"), (0.5, "reach 50 %")])
def test_a_run_in_balance_below_the_roof_is_not_called_healthy(achieved: float, words: str) -> None:
    diagnosis = in_balance(
        product("[512, 512], [512, 512]", achieved), elementwise("aten::add", 3, calls=10)
    )

    assert diagnosis.verdict.bound == "balanced"
    assert "healthy" not in diagnosis.verdict.headline
    assert words in diagnosis.verdict.headline
    assert any(finding.fixes for finding in diagnosis.findings)


def test_a_chain_that_fusion_would_cut_is_named_where_arithmetic_holds_as_much() -> None:
    # Ten ops of 2 passes each: of their 20 passes a step 6 stay, so 70 % of 46 % could go.
    names = ("relu", "tanh", "exp", "neg", "sqrt", "abs", "sin", "cos", "erf", "log")
    chain = [elementwise(f"aten::{name}", 2, calls=40) for name in names]

    diagnosis = in_balance(product("[512, 512], [512, 512]", 0.8), *chain)

    fused = next(f for f in diagnosis.findings if f.id == "elementwise-bandwidth")
    assert fused.saving.mid == pytest.approx(0.7 * 0.46, abs=0.01)
    assert diagnosis.verdict.bound == "memory"
    assert "healthy" not in diagnosis.verdict.headline
    assert fused.fixes


def test_a_fused_chain_still_reads_what_comes_from_outside_and_writes_its_end() -> None:
    # y = ((a * b) + c) * d, relu: four ops of 3, 3, 3 and 2 passes. What one op writes and the next
    # reads goes: two passes an op; one read and one write at the ends of three chains stay.
    chain = [elementwise("aten::mul", 3), elementwise("aten::add", 3)]
    chain += [elementwise("aten::mul", 3), elementwise("aten::relu", 2)]

    assert kept_share(chain) == pytest.approx((1 + 1 + 1 + 0 + 6) / 11)


def test_a_longer_chain_keeps_less() -> None:
    chain = [elementwise("aten::mul", 3, calls=20), elementwise("aten::relu", 2, calls=20)]
    longer = [*chain, elementwise("aten::add", 3, calls=20), elementwise("aten::tanh", 2, calls=20)]

    assert kept_share(longer) < kept_share(chain) <= 1.0


def test_a_reduction_keeps_what_fusion_cannot_take() -> None:
    assert kept_share([]) == 0.0
    assert kept_share([elementwise("aten::add", 3, family="norm")]) == 0.0


@pytest.mark.parametrize(
    ("operation", "id_"),
    [
        ("gloo:all_reduce", "exposed-all-reduce"),
        ("nccl:all_gather", "exposed-all-gather"),
        ("nccl:broadcast", "exposed-broadcast"),
        ("gloo:send_recv", "exposed-send-recv"),
        ("nccl:reduce_scatter", "exposed-reduce-scatter"),
        ("nccl:all_to_all", "exposed-all-to-all"),
        ("nccl:something_new", "exposed-communication"),
    ],
)
def test_exposed_collectives_are_named_by_their_operation(operation: str, id_: str) -> None:
    exchange = [Collective(operation, 0, i, 4_000, i * MS, i * MS + MS, 8) for i in range(50)]
    rank = rank_of([], "network", collectives=exchange)

    found = diagnosed(rank).findings[0]

    assert found.id == id_
    exposed = next(e for e in found.evidence if e.quantity == "network.exposed_ms")
    assert exposed.value == pytest.approx(100)  # all of a step
    assert found.where[0].collective == operation
    assert found.fixes
