"""Bytes of ops that move data: copies, joins, indexing, embeddings; and what moves nothing.

Rows that several indices name are read once for each, at most the whole table; the indices
themselves count too.
"""

from __future__ import annotations

import math

from .costs_arguments import (
    SCALAR_TYPES,
    Arguments,
    Formula,
    Table,
    Work,
    item_bytes,
    nothing,
    total_bytes,
    words,
)


def _duplicate(args: Arguments) -> Work | None:
    """One tensor read, one of its size written."""
    x = args.tensor(0)
    return Work(0.0, x.bytes + x.elements * x.item_bytes, x.dtype) if x is not None else None


def _copy(args: Arguments) -> Work | None:
    """copy_(destination, source): each at its own dtype."""
    out, x = args.tensor(0), args.tensor(1)
    return Work(0.0, out.bytes + x.bytes, out.dtype) if out is not None and x is not None else None


def _convert(args: Arguments) -> Work | None:
    """_to_copy(x, dtype, …)."""
    x, number = args.tensor(0), args.integer(1)
    if x is None:
        return None
    dtype = SCALAR_TYPES.get(number, x.dtype) if number is not None else x.dtype
    return Work(0.0, x.bytes + x.elements * item_bytes(dtype), dtype)


def _join(args: Arguments) -> Work | None:
    """cat, stack: every part read and written once."""
    parts = args.tensor_list(0)
    if parts is None:
        return None
    moved = total_bytes(parts) + sum(part.elements * part.item_bytes for part in parts)
    return Work(0.0, moved, parts[0].dtype, exact=False)


def _select_rows(args: Arguments) -> Work | None:
    """index_select(x, dim, index)."""
    x, dim, index = args.tensor(0), args.integer(1), args.tensor(2)
    if x is None or dim is None or index is None or not -len(x.shape) <= dim < len(x.shape):
        return None
    out = x.elements / max(x.shape[dim], 1) * index.elements * x.item_bytes
    return Work(0.0, min(out, x.bytes) + out + index.bytes, x.dtype)


def _embedding(args: Arguments) -> Work | None:
    """embedding(weight [V, D], indices)."""
    weight, index = args.tensor(0), args.tensor(1)
    if weight is None or index is None or len(weight.shape) != 2:
        return None
    out = index.elements * weight.shape[1] * weight.item_bytes
    return Work(0.0, min(out, weight.bytes) + out + index.bytes, weight.dtype)


def _embedding_bag(args: Arguments) -> Work | None:
    """_embedding_bag(weight [V, D], indices, offsets, …): rows summed a bag."""
    weight, index, offsets = (args.tensor(place) for place in range(3))
    if weight is None or index is None or offsets is None or len(weight.shape) != 2:
        return None
    width = weight.shape[1]
    read = min(index.elements * width * weight.item_bytes, weight.bytes)
    out = offsets.elements * width * weight.item_bytes
    moved = read + out + index.bytes + offsets.bytes
    return Work(index.elements * width, moved, weight.dtype)


_LOOKUPS = " ".join(
    f"split_embedding_codegen_lookup_{optimizer}_function"
    for optimizer in (
        *("sgd", "adagrad", "rowwise_adagrad", "approx_rowwise_adagrad", "adam", "lamb", "none"),
        *("partial_rowwise_adam", "partial_rowwise_lamb", "lars_sgd", "dense"),
    )
)


def _embedding_tables(args: Arguments) -> Work | None:
    """fbgemm's split_embedding_codegen_lookup_*_function: pooled lookups in several tables.

    D_offsets [T + 1] are at 6, their sum at 7, indices at 11, offsets [T·B + 1] at 12. As FBGEMM's
    benchmarks count: a row read for each index, a row of each table written for each bag; here the
    tables are read once at most. Which table an index belongs to is not recorded: each row counts
    with their mean width.
    """
    weights, widths, width = args.tensor(1), args.tensor(6), args.integer(7)
    indices, offsets = args.tensor(11), args.tensor(12)
    if not (weights and widths and indices and offsets) or width is None:
        return None
    tables = float(widths.elements - 1)
    bags = (offsets.elements - 1) / tables if tables > 0 else -1.0
    if bags < 0 or not bags.is_integer():
        return None
    summed = indices.elements * width / tables
    rows = summed * weights.item_bytes
    rows = min(rows, weights.bytes) if weights.elements else rows  # else they lie on the host
    moved = rows + bags * width * weights.item_bytes
    moved += indices.bytes + offsets.bytes
    return Work(summed, moved, weights.dtype, exact=tables == 1)


def _embedding_backward(rows_at: int) -> Formula:
    """The dense gradient of a table: rows added up, the whole [V, D] written."""

    def formula(args: Arguments) -> Work | None:
        grad, index, rows = args.tensor(0), args.tensor(1), args.integer(rows_at)
        if grad is None or index is None or rows is None or not grad.shape:
            return None
        width = grad.shape[-1]
        out = float(rows) * width * grad.item_bytes
        return Work(index.elements * width, grad.bytes + index.bytes + out, grad.dtype)

    return formula


def _gather(args: Arguments) -> Work | None:
    """gather(x, dim, index): an element read and written for each index."""
    x, index = args.tensor(0), args.tensor(2)
    if x is None or index is None:
        return None
    out = index.elements * x.item_bytes
    return Work(0.0, min(out, x.bytes) + out + index.bytes, x.dtype)


def _scatter(weight: float) -> Formula:
    """scatter_, index_add_, … (self, dim, index, source): written places of self, read if added."""

    def formula(args: Arguments) -> Work | None:
        x, index, source = args.tensor(0), args.tensor(2), args.tensor(3)
        if x is None or index is None:
            return None
        elements = source.elements if source is not None else index.elements
        touched = elements * x.item_bytes * (2.0 if weight else 1.0)
        copied = 0.0 if args.in_place else 2.0 * x.bytes
        moved = touched + copied + index.bytes + (source.bytes if source is not None else 0.0)
        return Work(elements * weight, moved, x.dtype)

    return formula


def _unrecorded(_: Arguments) -> None:
    """index(x, [indices]): the profiler does not record a list of optional tensors."""


def _put(args: Arguments) -> Work | None:
    """index_put_(self, [indices], values, accumulate); None for one value put everywhere."""
    x, values = args.tensor(0), args.tensor(2)
    if x is None or values is None or not values.shape:
        return None
    added = args.flag(3) is True
    moved = values.bytes + values.elements * x.item_bytes * (2.0 if added else 1.0)
    return Work(values.elements if added else 0.0, moved, x.dtype)


def _spread_back(args: Arguments) -> Work | None:
    """slice_backward, select_backward(gradient, sizes of the input, …): zeros and the gradient."""
    grad, sizes = args.tensor(0), args.integers(1)
    if grad is None or sizes is None or any(size < 0 for size in sizes):
        return None
    return Work(0.0, grad.bytes + math.prod(sizes) * grad.item_bytes, grad.dtype)


def _resized(weight: float) -> Formula:
    """upsample_*(x, output sizes, …)."""

    def formula(args: Arguments) -> Work | None:
        x, sizes = args.tensor(0), args.integers(1)
        if x is None or not sizes or len(sizes) != len(x.shape) - 2 or min(sizes) < 0:
            return None
        out = float(x.shape[0] * x.shape[1]) * math.prod(sizes)
        return Work(out * weight, x.bytes + out * x.item_bytes, x.dtype)

    return formula


def _padded(args: Arguments) -> Work | None:
    """constant_pad_nd(x, [left, right of the last dimension, …])."""
    x, padding = args.tensor(0), args.integers(1)
    if x is None or padding is None or len(padding) > 2 * len(x.shape) or len(padding) % 2:
        return None
    shape = list(x.shape)
    for place in range(len(padding) // 2):
        shape[-1 - place] += padding[2 * place] + padding[2 * place + 1]
    return Work(0.0, x.bytes + max(math.prod(shape), 0) * x.item_bytes, x.dtype)


def _repeat(args: Arguments) -> Work | None:
    """repeat(x, times)."""
    x, times = args.tensor(0), args.integers(1)
    if x is None or not times or min(times) < 0:
        return None
    return Work(0.0, x.bytes * (1.0 + math.prod(times)), x.dtype)


VIEWS = frozenset(
    words(
        """view reshape _reshape_alias transpose transpose_ as_strided as_strided_ expand expand_as
    t     t_ slice select detach detach_ permute unsqueeze unsqueeze_ squeeze squeeze_ unbind split
    split_with_sizes chunk unsafe_split unsafe_split_with_sizes unsafe_chunk narrow unflatten
    flatten view_as alias _unsafe_view unfold numpy_T movedim swapaxes swapdims diagonal
    broadcast_tensors broadcast_to view_as_real view_as_complex real imag mT mH conj _conj
    resolve_conj resolve_neg lift lift_fresh tensor_split hsplit vsplit dsplit ravel
    atleast_1d atleast_2d atleast_3d _nested_tensor_from_mask to contiguous requires_grad_
    set_ result_type is_floating_point is_complex is_nonzero stride size sym_size numel
    _has_compatible_shallow_copy_type is_same_size is_pinned record_stream type_as
    cudnn_is_acceptable can_cast _version output_nr _unsafe_masked_index
    """
    )
)
"""No work of their own: views, queries, and wrappers whose copy, if any, is an op below them."""

ALLOCATIONS = frozenset(
    words("""empty empty_like empty_strided new_empty new_empty_strided resize_ resize_as_
    empty_quantized _empty_affine_quantized empty_permuted zeros zeros_like ones ones_like full
    full_like new_zeros new_ones new_full scalar_tensor arange eye linspace range tensor
    _efficientzerotensor _pin_memory pin_memory""")
)
"""Allocations; what fills them (`zero_`, `fill_`, `copy_`) is an op below them."""

_GROUPS: tuple[tuple[str, Formula, str], ...] = (
    ("copy", _duplicate, "clone flip roll tril triu rot90 im2col col2im pixel_shuffle"),
    ("copy", _duplicate, "channel_shuffle pixel_unshuffle tril_ triu_"),
    ("copy", _copy, "copy_"),
    ("copy", _convert, "_to_copy"),
    ("copy", _join, "cat _cat concat concatenate stack _stack flatten_dense_tensors"),
    ("copy", _select_rows, "index_select"),
    ("copy", _gather, "gather take_along_dim"),
    ("copy", _scatter(0.0), "scatter scatter_ index_copy index_copy_ index_fill_"),
    ("copy", _scatter(1.0), "scatter_add scatter_add_ index_add index_add_"),
    ("copy", _scatter(1.0), "scatter_reduce scatter_reduce_ index_reduce_"),
    ("copy", _unrecorded, "index _unsafe_index"),
    ("copy", _put, "index_put index_put_ _index_put_impl_ _unsafe_index_put"),
    ("copy", _spread_back, "slice_backward select_backward"),
    ("copy", _padded, "constant_pad_nd"),
    ("copy", _repeat, "repeat tile"),
    ("copy", _resized(0.0), "upsample_nearest1d upsample_nearest2d upsample_nearest3d"),
    ("copy", _resized(0.0), "_upsample_nearest_exact1d _upsample_nearest_exact2d"),
    ("copy", _resized(8.0), "upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa"),
    ("copy", _resized(16.0), "upsample_trilinear3d upsample_bicubic2d _upsample_bicubic2d_aa"),
    ("embedding", _embedding, "embedding"),
    ("embedding", _embedding_bag, "_embedding_bag _embedding_bag_forward_only embedding_bag"),
    ("embedding", _embedding_tables, _LOOKUPS),
    ("embedding", _embedding_backward(2), "embedding_dense_backward embedding_backward"),
    ("embedding", _embedding_backward(5), "_embedding_bag_dense_backward"),
)

TABLE: Table = {
    **{name: (family, formula) for family, formula, names in _GROUPS for name in names.split()},
    "dropout": ("random", nothing),  # what it calls draws the numbers
    **dict.fromkeys(VIEWS, ("view", nothing)),
    **dict.fromkeys(ALLOCATIONS, ("alloc", nothing)),
}
