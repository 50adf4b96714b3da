"""FLOP and bytes of matrix products and of the recurrent layers made of them.

A product of m x k by k x n costs 2mnk FLOP (a multiplication and an addition each; LAPACK Working
Note 41 counts the same), complex elements four times as much. A bias adds mn.
"""

from __future__ import annotations

import math

from .costs_arguments import (
    SCALAR_TYPES,
    Arguments,
    Formula,
    Shape,
    Table,
    Tensor,
    Work,
    broadcast,
    item_bytes,
    total_bytes,
)

GATE_FLOP = 40.0
"""FLOP an element of a fused cell's gates: about one sigmoid or tanh and a few products."""


def _product(
    a: Tensor | None,
    b: Tensor | None,
    shape: tuple[float, float, float, float] | None,
    bias: Tensor | None = None,
    dtype: str = "",
) -> Work | None:
    """One (batched) product; `shape` is (batch, m, n, k), `dtype` the result's where it differs."""
    if a is None or b is None or shape is None:
        return None
    batch, m, n, k = shape
    out = batch * m * n
    flop = 2.0 * out * k * (4.0 if a.is_complex else 1.0)
    moved = a.bytes + b.bytes + out * item_bytes(dtype or a.dtype)
    if bias is not None:
        flop += out
        moved += bias.bytes
    return Work(flop, moved, a.dtype)


def _matrices(a: Tensor | None, b: Tensor | None) -> tuple[float, float, float, float] | None:
    """(batch, m, n, k) of torch.matmul's rules, None where the shapes do not fit."""
    if a is None or b is None or not a.shape or not b.shape:
        return None
    left: Shape = a.shape if len(a.shape) > 1 else (1, *a.shape)
    right: Shape = b.shape if len(b.shape) > 1 else (*b.shape, 1)
    batch = broadcast([left[:-2], right[:-2]])
    if batch is None or left[-1] != right[-2]:
        return None
    return float(math.prod(batch)), float(left[-2]), float(right[-1]), float(left[-1])


def _plain(first: int, second: int, bias: int | None = None) -> Formula:
    """A product of the arguments at `first` and `second`, added to the one at `bias`."""

    def formula(args: Arguments) -> Work | None:
        a, b = args.tensor(first), args.tensor(second)
        return _product(a, b, _matrices(a, b), args.tensor(bias) if bias is not None else None)

    return formula


def _linear(args: Arguments) -> Work | None:
    """x [..., k] by weight [n, k] transposed, plus a bias."""
    x, weight = args.tensor(0), args.tensor(1)
    if x is None or weight is None or not x.shape or len(weight.shape) not in (1, 2):
        return None
    if x.shape[-1] != weight.shape[-1]:
        return None
    rows = float(math.prod(x.shape[:-1]))
    columns = float(weight.shape[0]) if len(weight.shape) == 2 else 1.0
    return _product(x, weight, (1.0, rows, columns, float(x.shape[-1])), args.tensor(2))


def _linear_backward_input(args: Arguments) -> Work | None:
    """mkldnn_linear_backward_input(sizes, grad [.., n], weight [n, k])."""
    grad, weight = args.tensor(1), args.tensor(2)
    if grad is None or weight is None or not grad.shape or len(weight.shape) != 2:
        return None
    rows = float(math.prod(grad.shape[:-1]))
    n, k = (float(size) for size in weight.shape)
    return _product(grad, weight, (1.0, rows, k, n))


def _linear_backward_weights(args: Arguments) -> Work | None:
    """mkldnn_linear_backward_weights(grad [.., n], input [.., k], weight, bias_defined)."""
    grad, x = args.tensor(0), args.tensor(1)
    if grad is None or x is None or not grad.shape or not x.shape:
        return None
    rows = float(math.prod(x.shape[:-1]))
    return _product(grad, x, (1.0, float(grad.shape[-1]), float(x.shape[-1]), rows))


def _scaled(args: Arguments) -> Work | None:
    """_scaled_mm(a [m, k], b [k, n], scales, bias, scale_result, out_dtype): fp8 in, bf16 out."""
    a, b = args.tensor(0), args.tensor(1)
    dtype = SCALAR_TYPES.get(args.integer(6) or -1, "bf16")
    return _product(a, b, _matrices(a, b), args.tensor(4), dtype)


def _grouped(offsets_at: int, dtype_at: int) -> Formula:
    """A product for each group, of rows or columns that follow each other (torch's `_grouped_mm`).

    a [M, K] by b [G, K, N]: each row meets its group's matrix. a [G, M, K] by b [K, N]: each column
    does. a [M, K] by b [K, N]: K is cut, one [M, N] a group comes out. Where the offsets leave rows
    over, less is done. Without offsets it is a batched product.
    """

    def formula(args: Arguments) -> Work | None:
        a, b, offsets = args.tensor(0), args.tensor(1), args.tensor(offsets_at)
        if a is None or b is None:
            return None
        shape = _matrices(a, b)
        if offsets is not None and min(len(a.shape), len(b.shape)) == 2:
            groups = float(offsets.elements)
            m, k, n = float(a.shape[-2]), float(a.shape[-1]), float(b.shape[-1])
            both = len(a.shape) == len(b.shape)
            shape = (groups, m, n, k / max(groups, 1.0)) if both else (1.0, m, n, k)
        dtype = SCALAR_TYPES.get(args.integer(dtype_at) or -1, "bf16")
        work = _product(a, b, shape, dtype=dtype)
        return Work(work.flop, work.bytes, work.dtype, exact=False) if work else None

    return formula


def _packed_weight(scales_at: int, columns_at: int) -> Formula:
    """x [m, k] by a weight of n columns packed to 4 or 8 bits; n is a dimension of its scales."""

    def formula(args: Arguments) -> Work | None:
        x, weight, scales = args.tensor(0), args.tensor(1), args.tensor(scales_at)
        if x is None or weight is None or scales is None or len(x.shape) != 2:
            return None
        m, k = (float(size) for size in x.shape)
        n = float(scales.shape[columns_at])
        moved = x.bytes + weight.bytes + scales.bytes + m * n * x.item_bytes
        return Work(2.0 * m * n * k, moved, x.dtype)

    return formula


def _integer(args: Arguments) -> Work | None:
    """_int_mm: int8 in, int32 out."""
    a, b = args.tensor(0), args.tensor(1)
    return _product(a, b, _matrices(a, b), dtype="int32")


def _outer(args: Arguments) -> Work | None:
    a, b = args.tensor(0), args.tensor(1)
    if a is None or b is None:
        return None
    return _product(a, b, (1.0, a.elements, b.elements, 1.0))


def _cdist(args: Arguments) -> Work | None:
    """Distances of p [.., m, d] to q [.., n, d]: about three FLOP a coordinate pair."""
    a, b = args.tensor(0), args.tensor(1)
    if a is None or b is None or len(a.shape) < 2 or len(b.shape) < 2:
        return None
    out = a.elements / max(a.shape[-1], 1) * b.shape[-2]
    return Work(3.0 * out * a.shape[-1], a.bytes + b.bytes + out * a.item_bytes, a.dtype)


def _recurrent(input_index: int, weights: tuple[int, ...], factor: float = 1.0) -> Formula:
    """Layers over a sequence [T, N, I]: each weight matrix meets every one of the T·N positions.

    FLOP = 2·T·N·Σ(elements of the weight matrices); gates are left out (below 1 % from hidden
    sizes of about 100 on). A backward pass is two products for each forward one.
    """

    def formula(args: Arguments) -> Work | None:
        x = args.tensor(input_index)
        parameters: list[Tensor] = []
        for index in weights:
            one = args.tensor(index)
            parameters += [one] if one is not None else args.tensor_list(index) or []
        matrices = [p for p in parameters if len(p.shape) == 2]
        if x is None or len(x.shape) < 2 or not matrices:
            return None
        positions = x.elements / max(x.shape[-1], 1)
        flop = 2.0 * positions * sum(p.elements for p in matrices) * factor
        hidden = min(p.shape[-1] for p in matrices[-1:])
        out = positions * hidden * x.item_bytes
        moved = (x.bytes + out + total_bytes(parameters)) * factor
        return Work(flop, moved, x.dtype, exact=all(p.exact for p in parameters))

    return formula


def _cell(args: Arguments) -> Work | None:
    """A fused LSTM or GRU cell: gates read, states read and written."""
    gates = args.tensor(0)
    if gates is None:
        return None
    moved = total_bytes(args.tensors()) + gates.bytes
    return Work(gates.elements * GATE_FLOP, moved, gates.dtype)


TABLE: Table = {
    "mm": ("gemm", _plain(0, 1)),
    "addmm": ("gemm", _plain(1, 2, 0)),
    "_addmm_activation": ("gemm", _plain(1, 2, 0)),
    "sparse_addmm": ("gemm", _plain(1, 2, 0)),
    "bmm": ("gemm", _plain(0, 1)),
    "baddbmm": ("gemm", _plain(1, 2, 0)),
    "addbmm": ("gemm", _plain(1, 2, 0)),
    "matmul": ("gemm", _plain(0, 1)),
    "mv": ("gemm", _plain(0, 1)),
    "addmv": ("gemm", _plain(1, 2, 0)),
    "dot": ("gemm", _plain(0, 1)),
    "vdot": ("gemm", _plain(0, 1)),
    "outer": ("gemm", _outer),
    "ger": ("gemm", _outer),
    "linear": ("gemm", _linear),
    "_linear_pointwise": ("gemm", _linear),
    "mkldnn_linear": ("gemm", _linear),
    "_mkl_linear": ("gemm", _linear),
    "rocm_unquantized_gemm": ("gemm", _linear),
    "mkldnn_linear_backward_input": ("gemm", _linear_backward_input),
    "mkldnn_linear_backward_weights": ("gemm", _linear_backward_weights),
    "_scaled_mm": ("gemm", _scaled),
    "_int_mm": ("gemm", _integer),
    "_grouped_mm": ("gemm", _grouped(2, 4)),
    "_scaled_grouped_mm": ("gemm", _grouped(4, 7)),
    "_weight_int4pack_mm": ("gemm", _packed_weight(3, 1)),
    "_weight_int4pack_mm_for_cpu": ("gemm", _packed_weight(3, 1)),
    "_weight_int8pack_mm": ("gemm", _packed_weight(2, 0)),
    "_cdist_forward": ("gemm", _cdist),
    "_euclidean_dist": ("gemm", _cdist),
    "mkldnn_rnn_layer": ("recurrent", _recurrent(0, (1, 2))),
    "mkldnn_rnn_layer_backward": ("recurrent", _recurrent(0, (1, 2), 2.0)),
    "lstm": ("recurrent", _recurrent(0, (2,))),
    "gru": ("recurrent", _recurrent(0, (2,))),
    "rnn_tanh": ("recurrent", _recurrent(0, (2,))),
    "rnn_relu": ("recurrent", _recurrent(0, (2,))),
    "_cudnn_rnn": ("recurrent", _recurrent(0, (1,))),
    "_cudnn_rnn_backward": ("recurrent", _recurrent(0, (1,), 2.0)),
    "miopen_rnn": ("recurrent", _recurrent(0, (1,))),
    "miopen_rnn_backward": ("recurrent", _recurrent(0, (1,), 2.0)),
    "_thnn_fused_lstm_cell": ("recurrent", _cell),
    "_thnn_fused_lstm_cell_backward": ("recurrent", _cell),
    "_thnn_fused_gru_cell": ("recurrent", _cell),
    "_thnn_fused_gru_cell_backward": ("recurrent", _cell),
}
