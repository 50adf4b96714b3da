"""FLOP and bytes of element-wise ops, random numbers, and optimizers' list and fused ops.

An add, a multiplication, a comparison or a division pipelined with them counts 1 FLOP an element.
`exp` counts 20: the operations of SLEEF's xexpf, which torch's vectorised CPU code calls (range
reduction 5, a polynomial of degree 5 in fused multiply-adds 10, reconstruction 5). Every other
function is set against `exp` by its measured time an element (torch 2.13, one AVX-512 core,
16,384 fp32 elements in the L1/L2 cache, the time of a copy taken off), so that FLOP over the
rate that `calibrate` measures with `exp` gives the time. Devices with special-function units do
these faster; there the ops are bound by bandwidth in any case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .costs_arguments import (
    Arguments,
    Formula,
    Shape,
    Table,
    Tensor,
    Work,
    broadcast,
    item_bytes,
    promoted,
    total_bytes,
    words,
)

EXP_FLOP = 20.0
SPECIAL_WEIGHT = 5.0
"""From this weight on (rsqrt) a weight comes from the measurement against `exp`."""

# name: (tensor operands, FLOP an element)
_OPERANDS: dict[str, tuple[int, float]] = {
    **dict.fromkeys(
        words(
            "abs neg negative positive floor ceil round sign sgn relu relu6 clamp_min clamp_max "
            "logical_not bitwise_not isnan isinf isfinite nan_to_num threshold square "
            "hardtanh frac angle conj_physical _conj_physical trunc real imag"
        ),
        (1, 1.0),
    ),
    **dict.fromkeys(
        words(
            "add sub rsub mul multiply div divide true_divide floor_divide maximum minimum "
            "fmax fmin eq ne gt ge lt le logical_and logical_or logical_xor bitwise_and "
            "bitwise_or bitwise_xor masked_fill copysign heaviside threshold_backward "
            "hardtanh_backward relu6_backward native_dropout_backward _masked_scale prelu "
            "_prelu_kernel __and__ __or__ __xor__ __lshift__ __rshift__ bitwise_left_shift "
            "bitwise_right_shift"
        ),
        (2, 1.0),
    ),
    "clamp": (3, 2.0),
    "where": (3, 1.0),
    "_s_where": (3, 1.0),
    "addcmul": (3, 3.0),
    "addcdiv": (3, 3.0),
    "lerp": (3, 3.0),
    "reciprocal": (1, 1.0),
    "leaky_relu": (1, 2.0),
    "leaky_relu_backward": (2, 2.0),
    "_prelu_kernel_backward": (3, 2.0),
    "hardswish": (1, 4.0),
    "hardswish_backward": (2, 4.0),
    "hardsigmoid": (1, 3.0),
    "hardsigmoid_backward": (2, 2.0),
    "sigmoid_backward": (2, 3.0),
    "tanh_backward": (2, 3.0),
    "logit": (1, 22.0),
    "sqrt": (1, 7.0),
    "rsqrt": (1, 5.0),
    "exp": (1, EXP_FLOP),
    "exp2": (1, 6.0),
    "expm1": (1, 27.0),
    "log": (1, 20.0),
    "log2": (1, 20.0),
    "log10": (1, 21.0),
    "log1p": (1, 16.0),
    "xlogy": (2, 21.0),
    "logaddexp": (2, 40.0),
    "sin": (1, 30.0),
    "cos": (1, 27.0),
    "tan": (1, 35.0),
    "asin": (1, 125.0),
    "acos": (1, 130.0),
    "atan": (1, 50.0),
    "sinh": (1, 28.0),
    "cosh": (1, 27.0),
    "tanh": (1, 52.0),
    "sigmoid": (1, 8.0),
    "erf": (1, 26.0),
    "erfc": (1, 37.0),
    "erfinv": (1, 135.0),
    "lgamma": (1, 135.0),
    "digamma": (1, 450.0),
    "atan2": (2, 30.0),
    "fmod": (2, 24.0),
    "remainder": (2, 27.0),
    "hypot": (2, 24.0),
    "gelu": (1, 18.0),
    "gelu_backward": (2, 33.0),
    "silu": (1, 10.0),
    "silu_backward": (2, 12.0),
    "mish": (1, 82.0),
    "mish_backward": (2, 96.0),
    "softplus": (1, 33.0),
    "softplus_backward": (2, 13.0),
    "elu": (1, 36.0),
    "elu_backward": (2, 36.0),
    "log_sigmoid_forward": (1, 33.0),
    "log_sigmoid_backward": (2, 13.0),
    "glu": (1, 10.0),
    "glu_backward": (2, 14.0),
    "complex": (2, 0.0),
    "polar": (2, 57.0),
}
_BOOLEAN = frozenset(
    words("eq ne gt ge lt le logical_and logical_or logical_xor logical_not isnan isinf isfinite")
)
_POWER_FLOP = {"0.5": 7.0, "2": 1.0, "3": 2.0, "-1": 1.0, "-2": 2.0, "-0.5": 5.0, "1": 0.0}
_POWER = 53.0

# FLOP-equivalents of drawing one number on the CPU, set against `exp` the same way; the engine
# (mt19937) is serial, so these ops take one thread however many there are.
_RANDOM = {
    "rand": 58.0,
    "rand_like": 58.0,
    "uniform": 58.0,
    "randn": 70.0,
    "randn_like": 70.0,
    "normal": 70.0,
    "log_normal": 90.0,
    "bernoulli": 250.0,
    "exponential": 700.0,
    "geometric": 700.0,
    "cauchy": 700.0,
    "random": 70.0,
    "randint": 70.0,
    "randint_like": 70.0,
    "randperm": 104.0,
}
_FROM_SIZES = frozenset({"rand", "randn"})

# fused optimizer: (lists read, lists written, FLOP an element), counted from the update rules of
# the papers (Adam: two moments 3 + 4, bias corrections, sqrt, division, update ~ 9 + sqrt's 7).
_FUSED = {
    "_fused_adam_": (4, 3, 20.0),
    "_fused_adamw_": (4, 3, 22.0),
    "_fused_sgd_": (3, 2, 6.0),
    "_fused_adagrad_": (3, 2, 14.0),
}
_OPTIMIZER_ONLY = ("addcmul_", "addcdiv_", "lerp_")
"""In place, these appear in practice only in optimizers that update one tensor at a time."""


def _out_bytes(args: Arguments, operands: Sequence[Tensor], shape: Shape, name: str) -> float:
    if args.in_place:
        return operands[0].bytes
    dtype = "bool" if name in _BOOLEAN else promoted(operands)
    if dtype.startswith("complex") and name in ("abs", "angle", "real", "imag"):
        return math.prod(shape) * item_bytes(dtype) / 2
    return math.prod(shape) * item_bytes(dtype)


def _mapped(name: str, arity: int, weight: float) -> Formula:
    """An op over its first `arity` arguments, broadcast against each other."""

    def formula(args: Arguments) -> Work | None:
        found = (args.tensor(index) for index in range(arity))
        operands = [tensor for tensor in found if tensor is not None]
        if not operands:
            return None
        shape = broadcast([tensor.shape for tensor in operands])
        if shape is None:
            return None
        flop = float(math.prod(shape)) * weight
        if any(tensor.is_complex for tensor in operands):
            flop *= 6.0 if name in ("mul", "div") else 2.0
        moved = total_bytes(operands) + _out_bytes(args, operands, shape, name)
        special = flop if weight >= SPECIAL_WEIGHT else 0.0
        return Work(flop, moved, promoted(operands), special=special)

    return formula


def _power(args: Arguments) -> Work | None:
    """pow: torch turns the exponents 2, 3, 0.5, -0.5, -1 and -2 into cheaper operations."""
    weight = _POWER_FLOP.get(args.text(1).removesuffix("."), _POWER)
    return _mapped("pow", 2, weight)(args)


def _filled(args: Arguments) -> Work | None:
    """fill_, zero_: every element written, none read."""
    out = args.tensor(0)
    return Work(0.0, out.bytes, out.dtype) if out is not None else None


def _random(name: str, weight: float) -> Formula:
    def formula(args: Arguments) -> Work | None:
        first = args.tensor(0)
        if first is not None:
            read = 0.0 if args.in_place or name.endswith("_like") else first.bytes
            flop = first.elements * weight
            return Work(flop, first.bytes + read, first.dtype, special=flop)
        sizes = args.integers(0)
        if sizes is None or name not in _FROM_SIZES or any(size < 0 for size in sizes):
            return None
        elements = float(math.prod(sizes))
        flop = elements * weight
        return Work(flop, elements * item_bytes("fp32"), "fp32", exact=False, special=flop)

    return formula


def _native_dropout(args: Arguments) -> Work | None:
    """native_dropout(x, p, train): output and a mask of booleans beside it."""
    x = args.tensor(0)
    if x is None:
        return None
    drawn = x.elements * _RANDOM["uniform"]
    moved = x.bytes + x.elements * (x.item_bytes + 1)
    return Work(drawn + 2 * x.elements, moved, x.dtype, special=drawn)


def _lists(args: Arguments, count: int) -> list[list[Tensor]] | None:
    """The first `count` arguments that are lists; None where one was too long to be recorded."""
    found: list[list[Tensor]] = []
    for index in range(len(args)):
        if len(found) == count:
            break
        if args.is_list(index):
            tensors = args.tensor_list(index)
            if tensors is None:
                return None
            found.append(tensors)
    return found


def _foreach(name: str) -> Formula:
    """_foreach_<op>: the element-wise op over each tensor of its lists."""
    base = name.removeprefix("_foreach_")
    in_place = base.endswith("_")
    base = base.removesuffix("_")
    weight = {"norm": 2.0, "zero": 0.0, "copy": 0.0, "pow": _POWER}.get(base)
    if weight is None:
        weight = _OPERANDS.get(base, (1, 1.0))[1]

    def formula(args: Arguments) -> Work | None:
        lists = _lists(args, 3)
        if not lists:
            return None
        first, *others = lists
        elements = sum(tensor.elements for tensor in first)
        moved = sum(total_bytes(tensors) for tensors in others)
        if base not in ("zero", "copy"):
            moved += total_bytes(first)
        if in_place or base != "norm":
            moved += total_bytes(first)
        flop = elements * weight
        special = flop if weight >= SPECIAL_WEIGHT else 0.0
        return Work(flop, moved, first[0].dtype, exact=False, special=special)

    return formula


def _fused(read: int, written: int, weight: float) -> Formula:
    def formula(args: Arguments) -> Work | None:
        lists = _lists(args, read)
        if not lists or len(lists) < 2:
            return None
        elements = sum(tensor.elements for tensor in lists[0])
        one = total_bytes(lists[0])
        lists_read = sum(1 for tensors in lists if sum(t.elements for t in tensors) >= elements)
        writes = min(written, max(lists_read - 1, 1))
        return Work(elements * weight, one * (lists_read + writes), lists[0][0].dtype, exact=False)

    return formula


def _unscale(args: Arguments) -> Work | None:
    """_amp_foreach_non_finite_check_and_unscale_(grads, found_inf, inverse_scale)."""
    grads = args.tensor_list(0)
    if grads is None:
        return None
    elements = sum(tensor.elements for tensor in grads)
    return Work(2.0 * elements, 2.0 * total_bytes(grads), grads[0].dtype, exact=False)


def element_flop(name: str) -> float:
    """FLOP an element of the element-wise op `name`; 1 for a sum or mean, 0 for other words."""
    if name in ("sum", "mean", "amax", "amin", "pow"):
        return 1.0
    return _OPERANDS.get(name, (0, 0.0))[1]


def lookup(name: str) -> tuple[str, Formula] | None:
    """(family, formula) of `name` (without namespace), in place or not; None if not of these."""
    if name in TABLE:
        return TABLE[name]
    if name.startswith("_foreach_"):
        return "optimizer", _foreach(name)
    base = name.removesuffix("_") if not name.endswith("__") else name
    return TABLE.get(base)


TABLE: Table = {
    **{
        name: ("elementwise", _mapped(name, arity, weight))
        for name, (arity, weight) in _OPERANDS.items()
    },
    **{name: ("random", _random(name, weight)) for name, weight in _RANDOM.items()},
    **{name: ("optimizer", _fused(*figures)) for name, figures in _FUSED.items()},
    **{
        name: ("optimizer", _mapped(name, *_OPERANDS[name.removesuffix("_")]))
        for name in _OPTIMIZER_ONLY
    },
    "_amp_foreach_non_finite_check_and_unscale_": ("optimizer", _unscale),
    "pow": ("elementwise", _power),
    "fill": ("elementwise", _filled),
    "zero": ("elementwise", _filled),
    "native_dropout": ("random", _native_dropout),
    "_fused_dropout": ("random", _native_dropout),
}
