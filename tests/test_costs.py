"""FLOP and bytes of ops: hand-worked cases, torch's own counter, and odd input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boundscope.profiler.trace.costs import (
    cost,
    family,
)
from boundscope.profiler.trace.costs_elementwise import EXP_FLOP
from boundscope.profiler.trace.table import Signature

torch = pytest.importorskip("torch")
F = torch.nn.functional
KIB = 1024


def signature(*arguments: tuple[Any, ...]) -> Signature:
    """Arguments as (dims, type, concrete[, strides])."""
    padded = [(*argument, None)[:4] for argument in arguments]
    return Signature(
        dims=tuple(argument[0] for argument in padded),
        types=tuple(argument[1] for argument in padded),
        concrete=tuple(argument[2] for argument in padded),
        strides=tuple(argument[3] or () for argument in padded),
    )


def fp32(*shape: int) -> tuple[Any, ...]:
    return (shape, "float", "")


def bf16(*shape: int) -> tuple[Any, ...]:
    return (shape, "c10::BFloat16", "")


def scalar(text: str) -> tuple[Any, ...]:
    return ((), "Scalar", text)


def integers(text: str) -> tuple[Any, ...]:
    return ((), "ScalarList", text)


NONE = ((), "", "")

# name, arguments, FLOP, bytes: worked by hand from the formulas that the docstrings cite.
CASES: list[tuple[str, Signature, float, float]] = [
    ("aten::mm", signature(bf16(4, 8), bf16(8, 16)), 2 * 4 * 8 * 16, 2 * (32 + 128 + 64)),
    (
        "aten::addmm",
        signature(fp32(16), fp32(4, 8), fp32(8, 16), scalar("1"), scalar("1")),
        2 * 4 * 8 * 16 + 64,
        4 * (16 + 32 + 128 + 64),
    ),
    ("aten::bmm", signature(fp32(3, 4, 8), fp32(3, 8, 2)), 3 * 2 * 4 * 8 * 2, 4 * (96 + 48 + 24)),
    (
        "mkldnn::_linear_pointwise",
        signature(fp32(2, 5, 8), fp32(16, 8), fp32(16)),
        2 * 10 * 8 * 16 + 160,
        4 * (80 + 128 + 16 + 160),
    ),
    (
        # fp8 in, bf16 out
        "aten::_scaled_mm",
        signature(
            ((4, 8), "c10::Float8_e4m3fn", ""),
            ((8, 16), "c10::Float8_e4m3fn", ""),
            fp32(),
            fp32(),
            NONE,
            NONE,
            scalar("15"),
        ),
        2 * 4 * 8 * 16,
        32 + 128 + 2 * 64,
    ),
    (
        # 3x3 over 8x8, padding 1, two groups: each output needs 2 channels x 9 products
        "aten::convolution",
        signature(
            fp32(1, 4, 8, 8),
            fp32(6, 2, 3, 3),
            NONE,
            integers("[1, 1]"),
            integers("[1, 1]"),
            integers("[1, 1]"),
            scalar("False"),
            integers("[0, 0]"),
            scalar("2"),
        ),
        2 * 6 * 64 * 2 * 9,
        4 * (256 + 108 + 384),
    ),
    (
        # depthwise, the weight's gradient alone
        "aten::convolution_backward",
        signature(
            fp32(2, 4, 6, 6),
            fp32(2, 4, 8, 8),
            fp32(4, 1, 3, 3),
            integers("[4]"),
            integers("[1, 1]"),
            integers("[0, 0]"),
            integers("[1, 1]"),
            scalar("False"),
            integers("[0, 0]"),
            scalar("4"),
            integers("[False, True, False]"),
        ),
        2 * (2 * 4 * 36) * 9,
        4 * (288 + 512 + 36),
    ),
    (
        # transposed: every input element meets Cout/g x 3 x 3 weights; output (4-1)*2+3 = 9
        "aten::conv_transpose2d",
        signature(
            fp32(1, 3, 4, 4),
            fp32(3, 5, 3, 3),
            NONE,
            integers("[2, 2]"),
            integers("[0, 0]"),
            integers("[0, 0]"),
            scalar("1"),
            integers("[1, 1]"),
        ),
        2 * 48 * 45,
        4 * (48 + 135 + 405),
    ),
    (
        # causal: half of 4·B·H·N²·D
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        signature(
            fp32(2, 3, 16, 8), fp32(2, 3, 16, 8), fp32(2, 3, 16, 8), scalar("0."), scalar("True")
        ),
        4 * 2 * 3 * 16 * 16 * 8 / 2,
        4 * (4 * 768) + 4 * 96,
    ),
    ("aten::add", signature(fp32(4, 8), fp32(8), scalar("1")), 32, 4 * (32 + 8 + 32)),
    ("aten::add_", signature(fp32(4, 8), fp32(4, 8), scalar("1")), 32, 4 * 96),
    ("aten::mul", signature(bf16(4, 8), ((), "double", "")), 32, 2 * 64 + 8),
    ("aten::gt", signature(fp32(4, 8), scalar("0")), 32, 4 * 32 + 32),
    ("aten::exp", signature(fp32(10)), 10 * EXP_FLOP, 80),
    # an expanded tensor is read once
    ("aten::neg", signature(((8, 100), "float", "", (1, 0))), 800, 4 * (8 + 800)),
    ("aten::zero_", signature(fp32(100)), 0, 400),
    (
        "aten::sum",
        signature(fp32(4, 8, 2), integers("[0, -1]"), scalar("False"), NONE),
        64,
        4 * (64 + 8),
    ),
    ("aten::native_layer_norm", signature(fp32(4, 8), integers("[8]")), 5 * 32, 4 * 64),
    (
        "aten::_softmax",
        signature(fp32(4, 8), scalar("-1"), scalar("False")),
        (EXP_FLOP + 4) * 32,
        4 * 64,
    ),
    (
        "aten::copy_",
        signature(((100,), "float", ""), ((100,), "c10::Half", ""), scalar("False")),
        0,
        600,
    ),
    ("aten::cat", signature((((2, 3), (4, 3)), "TensorList", ""), scalar("0")), 0, 2 * 4 * 18),
    (
        "aten::embedding",
        signature(fp32(1000, 16), ((4, 5), "long int", ""), scalar("-1")),
        0,
        2 * 20 * 16 * 4 + 160,
    ),
    (
        "aten::embedding_dense_backward",
        signature(fp32(4, 5, 16), ((4, 5), "long int", ""), scalar("1000"), scalar("-1")),
        320,
        320 * 4 + 160 + 16000 * 4,
    ),
    (
        "aten::_foreach_add_",
        signature(
            (((10,), (20,)), "TensorList", ""), (((10,), (20,)), "TensorList", ""), scalar("1")
        ),
        30,
        4 * 90,
    ),
    (
        # parameters, gradients and two moments read, all but the gradients written
        "aten::_fused_adamw_",
        signature(
            *[(((10,), (20,)), "TensorList", "")] * 4,
            (((), ()), "TensorList", ""),
            (((), ()), "TensorList", ""),
        ),
        22 * 30,
        4 * 30 * 7,
    ),
    ("aten::transpose", signature(fp32(4, 8), scalar("0"), scalar("1")), 0, 0),
    ("aten::empty", signature(integers("[4, 8]")), 0, 0),
]


@pytest.mark.parametrize(("name", "arguments", "flop", "moved"), CASES, ids=[c[0] for c in CASES])
def test_the_cost_of_an_op_is_what_its_formula_gives_by_hand(
    name: str, arguments: Signature, flop: float, moved: float
) -> None:
    # given: recorded arguments
    # when
    found = cost(name, arguments)
    # then
    assert found is not None
    assert found.flop == pytest.approx(flop)
    assert found.bytes == pytest.approx(moved)
    assert found.family == family(name)


def recorded(run: Callable[[], Any], folder: Path) -> list[tuple[str, Signature]]:
    """The ops that a real profile of `run` records."""
    with torch.profiler.profile(record_shapes=True) as profile:
        run()
    path = folder / "trace.json"
    profile.export_chrome_trace(str(path))
    ops = []
    for event in json.loads(path.read_text())["traceEvents"]:
        if event.get("cat") == "cpu_op":
            args = event["args"]
            keys = ("Input Dims", "Input type", "Input Strides", "Concrete Inputs")
            ops.append((event["name"], Signature(*(frozen(args.get(key, [])) for key in keys))))
    return ops


def frozen(value: Any) -> Any:
    return tuple(frozen(item) for item in value) if isinstance(value, list) else value


def _products() -> None:
    x, w = torch.randn(6, 5, 32), torch.randn(24, 32)
    torch.mm(x[0], w.t())
    torch.addmm(torch.randn(24), x[0], w.t())
    torch.bmm(x, torch.randn(6, 32, 7))
    torch.baddbmm(torch.randn(6, 5, 7), x, torch.randn(6, 32, 7))


def _convolutions() -> None:
    x = torch.randn(2, 6, 9, 9)
    torch.nn.Conv2d(6, 8, 3, padding=1)(x)
    torch.nn.Conv2d(6, 12, 3, stride=2, groups=3, dilation=2, padding=2)(x)
    torch.nn.Conv2d(6, 6, 3, groups=6)(x)
    torch.nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1)(x)
    torch.nn.Conv1d(3, 4, 5)(torch.randn(2, 3, 20))


def _gradients() -> None:
    # Grouped ones are left out: torch's counter takes their weight gradient as ungrouped.
    x = torch.randn(2, 6, 9, 9, requires_grad=True)
    torch.nn.Conv2d(6, 8, 3, padding=1, stride=2)(x).sum().backward()
    torch.nn.ConvTranspose2d(6, 4, 3)(x).sum().backward()


@pytest.mark.parametrize("run", [_products, _convolutions, _gradients])
def test_flop_of_recorded_ops_add_up_to_what_torchs_own_counter_counts(
    run: Callable[[], None], tmp_path: Path
) -> None:
    # given
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    # when
    counted = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::convolution"}
    counted |= {"aten::convolution_backward"}
    total = sum(
        _without_bias(name, sig) for name, sig in recorded(run, tmp_path) if name in counted
    )
    # then
    assert total == pytest.approx(counter.get_total_flops(), rel=1e-9)


def _without_bias(name: str, found: Signature) -> float:
    """FLOP less those of the bias, which torch's counter leaves out."""
    bias = {"aten::addmm": 0, "aten::baddbmm": 0, "aten::convolution": 2}.get(name)
    if bias is not None:
        types = list(found.types)
        types[bias] = ""
        found = Signature(found.dims, tuple(types), found.strides, found.concrete)
    if name == "aten::convolution_backward":
        mask = found.concrete[10].replace("True]", "False]")
        concrete = (*found.concrete[:10], mask)
        found = Signature(found.dims, found.types, found.strides, concrete)
    flop = cost(name, found)
    assert flop is not None
    return flop.flop


def test_attention_counts_as_torchs_own_counter_does_forward_and_backward(tmp_path: Path) -> None:
    # given
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    q, k, v = (torch.randn(2, 4, n, 16, requires_grad=True) for n in (40, 24, 24))
    shapes = (q.shape, k.shape, v.shape)
    # when
    ops = dict(recorded(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward(), tmp_path))
    name = "aten::_scaled_dot_product_flash_attention_for_cpu"
    forward, backward = (cost(n, ops[n]) for n in (name, name + "_backward"))
    # then
    assert forward is not None
    assert backward is not None
    assert forward.flop == sdpa_flop_count(*shapes)
    assert backward.flop == sdpa_backward_flop_count(q.shape, *shapes)


def _moved(*tensors: Any) -> float:
    return float(sum(t.nbytes for t in tensors))


X, Y, B = torch.randn(64, 48), torch.randn(64, 48), torch.randn(48)
INDEX = torch.randperm(64)[:20]
IMAGE = torch.randn(2, 4, 16, 16)

# op, call, what it reads; what it writes is its result.
TRAFFIC: list[tuple[str, Callable[[], Any], tuple[Any, ...]]] = [
    ("aten::add", lambda: X + B, (X, B)),
    ("aten::mul", lambda: X * Y, (X, Y)),
    ("aten::where", lambda: torch.where(X > 0, X, Y), (X > 0, X, Y)),
    ("aten::le", lambda: Y <= X, (X, Y)),
    ("aten::sigmoid", X.sigmoid, (X,)),
    ("aten::gelu", lambda: F.gelu(X), (X,)),
    ("aten::_softmax", lambda: X.softmax(-1), (X,)),
    ("aten::_log_softmax", lambda: X.log_softmax(-1), (X,)),
    ("aten::sum", lambda: X.sum(0), (X,)),
    ("aten::amax", lambda: X.amax(1, keepdim=True), (X,)),
    ("aten::argmax", lambda: X.argmax(1), (X,)),
    ("aten::var", lambda: X.var(1), (X,)),
    ("aten::cumsum", lambda: X.cumsum(0), (X,)),
    ("aten::max", lambda: X.max(1), (X,)),
    ("aten::linalg_vector_norm", lambda: torch.linalg.vector_norm(X, dim=1), (X,)),
    ("aten::mm", lambda: X @ Y.t(), (X, Y)),
    ("aten::_to_copy", lambda: X.to(torch.bfloat16), (X,)),
    ("aten::clone", X.clone, (X,)),
    ("aten::index_select", lambda: X.index_select(0, INDEX), (X[:20].clone(), INDEX)),
    ("aten::gather", lambda: X.gather(0, INDEX[:, None]), (INDEX, INDEX.int())),
    ("aten::embedding", lambda: F.embedding(INDEX, X), (X[:20].clone(), INDEX)),
    ("aten::sort", lambda: X.sort(1), (X,)),
    ("aten::topk", lambda: X.topk(5, 1), (X,)),
    ("aten::constant_pad_nd", lambda: F.pad(X, (1, 2)), (X,)),
    ("aten::avg_pool2d", lambda: F.avg_pool2d(IMAGE, 2), (IMAGE,)),
    (
        "aten::max_pool2d_with_indices",
        lambda: F.max_pool2d(IMAGE, 2, return_indices=True),
        (IMAGE,),
    ),
    ("aten::upsample_nearest2d", lambda: F.interpolate(IMAGE, scale_factor=2.0), (IMAGE,)),
    ("aten::mkldnn_convolution", lambda: F.conv2d(IMAGE, IMAGE[:, :, :3, :3].clone()), (IMAGE,)),
    ("aten::cat", lambda: torch.cat([X, Y]), (X, Y)),
]


@pytest.mark.parametrize(("name", "call", "reads"), TRAFFIC, ids=[t[0] for t in TRAFFIC])
def test_bytes_are_those_of_the_tensors_that_the_op_really_reads_and_writes(
    name: str, call: Callable[[], Any], reads: tuple[Any, ...], tmp_path: Path
) -> None:
    # given
    results = call()
    written = (results,) if isinstance(results, torch.Tensor) else tuple(results)
    # when
    found = [cost(n, s) for n, s in recorded(call, tmp_path) if n == name]
    # then: the small operands that a case leaves out are below 5 %
    assert found
    assert found[-1] is not None
    assert found[-1].bytes == pytest.approx(_moved(*reads, *written), rel=0.05)


def test_a_convolution_without_recorded_padding_has_no_cost_rather_than_a_wrong_one() -> None:
    # given: a trace of 2021, which has shapes but no concrete arguments
    old = Signature(
        dims=((32, 3, 224, 224), (64, 3, 7, 7), (), (), (), ()),
        types=("float", "float", "GenericList", "GenericList", "GenericList", "Int"),
    )
    # when
    found = cost("aten::cudnn_convolution", old)
    # then
    assert found is None
    assert family("aten::cudnn_convolution") == "conv"


def test_a_tensor_list_that_was_too_long_to_record_has_no_cost() -> None:
    # given: the profiler leaves lists of more than thirty tensors empty
    dropped = signature(((), "TensorList", ""), ((), "TensorList", ""), scalar("1"))
    # when, then
    assert cost("aten::_foreach_add_", dropped) is None
    assert cost("aten::cat", dropped) is None


def test_indexing_has_no_cost_since_the_profiler_leaves_the_indices_out(tmp_path: Path) -> None:
    # given
    ops = dict(recorded(lambda: X[INDEX], tmp_path))
    # when
    found = cost("aten::index", ops["aten::index"])
    # then
    assert found is None
    assert family("aten::index") == "copy"


def test_a_cost_says_when_the_trace_left_the_element_type_open() -> None:
    # given
    listed = signature((((2, 3), (4, 3)), "TensorList", ""), scalar("0"))
    plain = signature(fp32(6, 3), fp32(6, 3), scalar("1"))
    # when
    joined, added = cost("aten::cat", listed), cost("aten::add", plain)
    # then
    assert joined is not None
    assert added is not None
    assert not joined.exact
    assert added.exact
