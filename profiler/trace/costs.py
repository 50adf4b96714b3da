"""FLOP and bytes of an op from its recorded arguments, its family from its name alone.

Use the cost of the deepest op that has one: a wrapper (`aten::linear`) has the cost of the op it
calls (`aten::addmm`), see `delegates`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..machine.roofs import Roofs
from . import (
    costs_attention,
    costs_conv,
    costs_copy,
    costs_elementwise,
    costs_gemm,
    costs_names,
    costs_rows,
    costs_triton,
)
from .costs_arguments import Arguments, Formula, Table, words
from .table import Signature

Limiter: TypeAlias = Literal["arithmetic", "bandwidth"]

FAMILIES = (
    "gemm",
    "conv",
    "attention",
    "recurrent",
    "embedding",
    "norm",
    "softmax",
    "loss",
    "reduction",
    "elementwise",
    "copy",
    "optimizer",
    "view",
    "alloc",
    "random",
    "sort",
    "fft",
    "communication",
    "other",
)
MATRIX_FAMILIES = frozenset({"gemm", "conv", "attention", "recurrent"})
"""Families whose arithmetic runs on matrix units where the device has them."""

DELEGATES = frozenset(
    words("""linear matmul conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    convolution _convolution batch_norm _batch_norm_impl_index layer_norm group_norm rms_norm
    instance_norm softmax log_softmax dropout scaled_dot_product_attention
    _scaled_dot_product_attention_math lstm gru rnn_tanh rnn_relu embedding_bag embedding_backward
    contiguous clone to _to_copy reshape stack concat concatenate einsum cross_entropy_loss
    max_pool2d adaptive_avg_pool2d relu relu_ norm type_as""")
)
"""Ops that hand their work to another op below them, which the trace records too."""

_TABLE: Table = {
    **costs_rows.TABLE,
    **costs_elementwise.TABLE,
    **costs_copy.TABLE,
    **costs_gemm.TABLE,
    **costs_conv.TABLE,
    **costs_attention.TABLE,
}


@dataclass(frozen=True)
class Cost:
    """What one call of an op needs at least.

    `flop`: floating-point operations; `bytes`: compulsory traffic, each input and output once at
    its dtype's size, expanded dimensions once; `dtype`: what the arithmetic runs in. `exact` is
    False where the trace leaves something open (the element type of a tensor list).
    `special_flop` is the part of `flop` that stands for exponentials, logarithms and the like,
    and for random numbers (see `costs_elementwise`).
    """

    flop: float
    bytes: float
    family: str
    dtype: str
    exact: bool = True
    special_flop: float = 0.0

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, FLOP/byte; 0 for an op that moves nothing."""
        return self.flop / self.bytes if self.bytes else 0.0

    @property
    def matrix(self) -> bool:
        """Whether the arithmetic runs on matrix units where the device has them."""
        return self.family in MATRIX_FAMILIES


def _formula(name: str) -> tuple[str, Formula] | None:
    base = costs_names.base_name(name)
    return (
        _TABLE.get(name)
        or _TABLE.get(base)
        or costs_elementwise.lookup(base)
        or _TABLE.get(base.rstrip("_"))
        or costs_triton.lookup(base)
    )


def cost(name: str, signature: Signature) -> Cost | None:
    """FLOP and bytes of one call; None where the op is unknown or its arguments do not suffice.

    `name` is the op's as traces record it ("aten::addmm"). Never raises, whatever the arguments.
    """
    found = _formula(name)
    if found is None:
        return None
    family_name, formula = found
    args = Arguments(costs_names.base_name(name), signature)
    try:
        work = formula(args)
    except (ArithmeticError, ValueError, IndexError, TypeError, KeyError):
        return None
    if work is None or not (math.isfinite(work.flop) and math.isfinite(work.bytes)):
        return None
    if work.flop < 0 or work.bytes < 0:
        return None
    dtype = work.dtype or args.dtype()
    return Cost(work.flop, work.bytes, family_name, dtype, work.exact, work.special)


def with_recorded(
    known: Cost | None, name: str, signature: Signature, args: Mapping[str, Any]
) -> Cost | None:
    """`known`, the cost by `cost`, with what torch.compile recorded for a generated kernel.

    `args`: the op's other arguments. "kernel_flop" is FLOP, "kernel_num_gb" 10^9 bytes (inductor's
    `inductor_meta`, written with `benchmark_kernel` or `profile_bandwidth` switched on); the first
    counts matrix products and convolutions alone, so that 0 or nothing leaves `known`'s.
    """
    flop, size = _positive(args.get("kernel_flop")), _positive(args.get("kernel_num_gb"))
    if not flop and not size:
        return known
    kind = known.family if known else family(name)
    if flop and kind not in MATRIX_FAMILIES:
        kind = "gemm"  # only these have FLOP recorded, whatever is fused to them
    dtype = known.dtype if known else Arguments(name, signature).dtype()
    moved = size * 1e9 or (known.bytes if known else 0.0)
    if flop:
        return Cost(flop, moved, kind, dtype, exact=bool(size))
    special = known.special_flop if known else 0.0
    return Cost(known.flop if known else 0.0, moved, kind, dtype, False, special)


def _positive(value: object) -> float:
    known = isinstance(value, (int, float)) and math.isfinite(value) and value > 0
    return float(value) if known else 0.0  # type: ignore[arg-type]


def family(name: str) -> str:
    """The family of an op, autograd node or kernel from its name alone: one of `FAMILIES`."""
    found = _formula(name)
    if found is not None:
        return found[0]
    forward = costs_names.forward_name(name)
    if forward is not None:
        for candidate in (forward, "_" + forward, "native_" + forward):
            found = _formula(candidate)
            if found is not None:
                return found[0]
    return costs_names.kernel_family(name)


def delegates(name: str) -> bool:
    """Whether the op hands its work to another recorded op, whose cost should be taken instead."""
    return costs_names.base_name(name) in DELEGATES


def attainable_seconds(cost: Cost, roof: Roofs) -> tuple[float, Limiter]:
    """The least time that the roofline allows, and the roof that sets it.

    The larger of FLOP over the arithmetic roof and bytes over the bandwidth for a working set of
    that size (Williams, Waterman and Patterson, CACM 52(4), 2009). A roof that is not known
    limits nothing; 0 seconds where none is.
    """
    arithmetic, transfer = roof_seconds(cost, roof)
    return (arithmetic, "arithmetic") if arithmetic > transfer else (transfer, "bandwidth")


def roof_seconds(cost: Cost, roof: Roofs) -> tuple[float, float]:
    """The least times that the arithmetic roof and the bandwidth roof allow; 0 where not known."""
    flops = roof.flops_for(cost.dtype, matrix=cost.matrix)
    special = roof.special_flops(serial=cost.family == "random")
    bandwidth = roof.bandwidth_for(cost.bytes)
    arithmetic = (cost.flop - cost.special_flop) / flops if flops > 0 else 0.0
    arithmetic += cost.special_flop / special if special > 0 else 0.0
    return arithmetic, cost.bytes / bandwidth if bandwidth > 0 else 0.0
