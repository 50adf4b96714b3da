"""FLOP and bytes of reductions, norms, softmax, losses, pooling, sorting and Fourier transforms.

Bytes are the compulsory traffic: inputs and outputs once each. An op whose rows do not fit into
the caches moves more.
"""

from __future__ import annotations

import math

from .costs_arguments import Arguments, Formula, Shape, Table, Tensor, Work, total_bytes
from .costs_elementwise import EXP_FLOP

# Norms with mean and variance in one pass: sum 1, square and sum 2, y = a·x + b 2.
NORM_FORWARD = 5.0
# bias gradient 1, normalised input 2, weight gradient 2, dx = a·dy + b·x + c 4.
NORM_BACKWARD = 9.0
# Square and sum 2, two products.
RMS_FORWARD = 4.0
# normalised input 1, weight gradient 2, the row sum of the product 3, dx 3.
RMS_BACKWARD = 9.0
# In evaluation mode a batch norm is y = a·x + b.
FOLDED_NORM = 2.0
# Maximum, difference, sum, quotient beside the exponential; the derivative of softmax 4.
SOFTMAX_FORWARD = EXP_FLOP + 4.0
SOFTMAX_BACKWARD = 4.0
LOG_SOFTMAX_BACKWARD = EXP_FLOP + 3.0

INT64_BYTES = 8.0


def _dims(args: Arguments, index: int) -> Shape | None:
    """The reduced dimensions; () stands for all of them."""
    text = args.text(index)
    if text in ("", "None", "[]"):
        return ()
    return args.integers(index)


def _reduced(shape: Shape, dims: Shape) -> float:
    """Elements that are left."""
    if not dims:
        return 1.0
    rank = len(shape)
    gone = {dim % rank for dim in dims if -rank <= dim < rank} if rank else set()
    return float(math.prod(n for place, n in enumerate(shape) if place not in gone))


def _reduction(
    weight: float,
    dims_at: int | None = 1,
    item: float | None = None,
    outputs: int = 1,
    special: float = 0.0,
) -> Formula:
    """A reduction over the dimensions at `dims_at`; `item` is the result's size if not the input's.

    Overloads that reduce everything lack it: where it is there, `keepdim` follows.
    """

    def formula(args: Arguments) -> Work | None:
        x = args.tensor(0)
        if x is None:
            return None
        dims: Shape | None = ()
        if dims_at is not None and len(args) > dims_at + 1:
            dims = _dims(args, dims_at)
        left = _reduced(x.shape, dims if dims is not None else ())
        out = left * (item if item is not None else x.item_bytes) * outputs
        flop, functions = x.elements * weight, x.elements * special
        return Work(flop, x.bytes + out, x.dtype, special=functions)

    return formula


def _extremum(args: Arguments) -> Work | None:
    """max, min: of all, along a dimension with indices, or of two tensors element by element."""
    x, other = args.tensor(0), args.tensor(1)
    if x is None:
        return None
    if other is not None and len(args) <= 3:
        out = max(x.elements, other.elements) * x.item_bytes
        return Work(max(x.elements, other.elements), x.bytes + other.bytes + out, x.dtype)
    dims = args.integers(1)
    left = _reduced(x.shape, dims or ())
    return Work(x.elements, x.bytes + left * (x.item_bytes + INT64_BYTES), x.dtype)


def _scan(args: Arguments) -> Work | None:
    x = args.tensor(0)
    return Work(x.elements, x.bytes + x.elements * x.item_bytes, x.dtype) if x else None


def _norm(weight: float, training_at: int | None = None) -> Formula:
    """Forward: input, its affine parameters and statistics in, output out."""

    def formula(args: Arguments) -> Work | None:
        x = args.tensor(0)
        if x is None:
            return None
        folded = training_at is not None and args.flag(training_at) is False
        out = x.elements * x.item_bytes
        flop = x.elements * (FOLDED_NORM if folded else weight)
        return Work(flop, total_bytes(args.tensors()) + out, x.dtype)

    return formula


def _norm_backward(weight: float) -> Formula:
    """Backward: gradient and input in, the input's gradient out, parameters and statistics small.

    Some overloads put the input first and the gradient second: both have the same size.
    """

    def formula(args: Arguments) -> Work | None:
        a, b = args.tensor(0), args.tensor(1)
        if a is None or b is None:
            return None
        out = max(a.elements, b.elements) * b.item_bytes
        return Work(b.elements * weight, total_bytes(args.tensors()) + out, b.dtype)

    return formula


def _rowwise(weight: float, inputs: int, special: float = EXP_FLOP) -> Formula:
    """`inputs` tensors of one shape in, one out."""

    def formula(args: Arguments) -> Work | None:
        operands = [args.tensor(index) for index in range(inputs)]
        last = operands[-1]
        if last is None:
            return None
        out = last.elements * last.item_bytes
        flop, functions = last.elements * weight, last.elements * special
        return Work(flop, total_bytes(operands) + out, last.dtype, special=functions)

    return formula


def _loss(weight: float, reduction_at: int, special: float = 0.0) -> Formula:
    """loss(input, target, …, reduction): one number out, or one an element (reduction 0)."""

    def formula(args: Arguments) -> Work | None:
        x, target = args.tensor(0), args.tensor(1)
        if x is None:
            return None
        kept = args.text(reduction_at) == "0"
        out = x.elements * x.item_bytes if kept else x.item_bytes
        flop, functions = x.elements * weight, x.elements * special
        return Work(flop, total_bytes((x, target)) + out, x.dtype, special=functions)

    return formula


def _loss_backward(weight: float) -> Formula:
    """loss_backward(gradient, input, target, …)."""

    def formula(args: Arguments) -> Work | None:
        grad, x, target = (args.tensor(index) for index in range(3))
        if x is None:
            return None
        out = x.elements * x.item_bytes
        return Work(x.elements * weight, total_bytes((grad, x, target)) + out, x.dtype)

    return formula


def _nll(args: Arguments) -> Work | None:
    """nll_loss_forward(log-probabilities [N, C, …], target [N, …]): one element read a target."""
    x, target = args.tensor(0), args.tensor(1)
    if x is None or target is None:
        return None
    read = target.elements * x.item_bytes
    return Work(target.elements, target.bytes + read + x.item_bytes, x.dtype)


def _nll_backward(args: Arguments) -> Work | None:
    """nll_loss_backward(gradient, input, target, …): a whole gradient written, mostly zeros."""
    grad, x, target = (args.tensor(index) for index in range(3))
    if x is None or target is None:
        return None
    return Work(target.elements, total_bytes((grad, target)) + x.bytes, x.dtype)


def _ctc(args: Arguments) -> Work | None:
    """_ctc_loss(log-probabilities [T, N, C], targets, …): the forward variables of all times.

    Each of T·N·(2S + 1) is the log of a sum of three exponentials plus a log-probability (Graves et
    al., ICML 2006, eq. 6 and 7), S the longest target; where they are concatenated, their mean.
    """
    x, targets = args.tensor(0), args.tensor(1)
    if x is None or targets is None or len(x.shape) != 3:
        return None
    times, batch, classes = x.shape
    padded = len(targets.shape) == 2
    longest = targets.shape[1] if padded else targets.elements / max(batch, 1)
    cells = float(times * batch * (2 * longest + 1))
    special = cells * 4 * EXP_FLOP  # three exponentials, one logarithm
    read = float(times * batch * min(longest + 1, classes)) * x.item_bytes  # labels and blank
    moved = read + targets.bytes + cells * x.item_bytes + batch * x.item_bytes
    return Work(special + 3 * cells, moved, x.dtype, padded, special)


def _pooled_size(args: Arguments, x: Tensor, kernel_at: int) -> tuple[float, float] | None:
    """(output elements, window elements) of max_pool and avg_pool."""
    kernel = args.integers(kernel_at)
    if not kernel or min(kernel) < 1:
        return None
    rank = 1 if "1d" in args.name else 3 if "3d" in args.name else 2
    kernel = kernel * rank if len(kernel) == 1 else kernel
    stride = args.integers(kernel_at + 1) or kernel
    stride = stride * rank if len(stride) == 1 else stride
    padding = args.integers(kernel_at + 2) or (0,)
    padding = padding * rank if len(padding) == 1 else padding
    if not len(kernel) == len(stride) == len(padding) == rank or len(x.shape) < rank:
        return None
    out = float(math.prod(x.shape[: len(x.shape) - rank]))
    for n, k, s, p in zip(x.shape[-rank:], kernel, stride, padding, strict=True):
        out *= max((n + 2 * p - k) // s + 1, 0) if s > 0 else 0
    return out, float(math.prod(kernel))


def _pool(indices: bool) -> Formula:
    """Pooling (input, kernel, stride, padding, …): one operation an element of each window."""

    def formula(args: Arguments) -> Work | None:
        x = args.tensor(0)
        sizes = _pooled_size(args, x, 1) if x is not None else None
        if x is None or sizes is None:
            return None
        out, window = sizes
        item = x.item_bytes + (INT64_BYTES if indices else 0.0)
        return Work(out * window, x.bytes + out * item, x.dtype)

    return formula


def _pool_backward(args: Arguments) -> Work | None:
    """Pooling backward (gradient, input, …): the input's gradient out, its values not needed."""
    grad, x = args.tensor(0), args.tensor(1)
    if grad is None or x is None:
        return None
    indices = grad.elements * INT64_BYTES if "max" in args.name else 0.0
    moved = grad.bytes + indices + x.elements * x.item_bytes
    return Work(max(grad.elements, x.elements), moved, grad.dtype)


def _adaptive_pool(args: Arguments) -> Work | None:
    """Adaptive pooling (input, output size)."""
    x, sizes = args.tensor(0), args.integers(1)
    if x is None or not sizes or len(sizes) > len(x.shape) or min(sizes) < 0:
        return None
    out = float(math.prod(x.shape[: len(x.shape) - len(sizes)])) * math.prod(sizes)
    return Work(x.elements, x.bytes + out * x.item_bytes, x.dtype)


def _sort(args: Arguments) -> Work | None:
    """Sorting rows: n·log2(n) comparisons a row, values and int64 indices out."""
    x = args.tensor(0)
    if x is None:
        return None
    row = max(x.shape, default=1)
    out = x.elements * (x.item_bytes + INT64_BYTES)
    return Work(x.elements * math.log2(max(row, 2)), x.bytes + out, x.dtype)


def _select_top(args: Arguments) -> Work | None:
    """topk(input, k, dim, …): one comparison an element at least; k values and indices a row."""
    x, k, dim = args.tensor(0), args.integer(1), args.integer(2)
    if x is None or k is None:
        return None
    rank = len(x.shape)
    row = x.shape[dim] if dim is not None and -rank <= dim < rank else max(x.shape, default=1)
    out = x.elements / max(row, 1) * max(k, 0) * (x.item_bytes + INT64_BYTES)
    return Work(x.elements, x.bytes + out, x.dtype)


def _search(args: Arguments) -> Work | None:
    """bucketize(input, boundaries), searchsorted(sorted, values): a binary search a value."""
    first, second = args.tensor(0), args.tensor(1)
    if first is None or second is None:
        return None
    values, table = (first, second) if "bucketize" in args.name else (second, first)
    steps = math.log2(max(table.shape[-1] if table.shape else 1, 2))
    out = values.elements * INT64_BYTES
    return Work(values.elements * steps, first.bytes + second.bytes + out, values.dtype)


def _fourier(args: Arguments) -> Work | None:
    """_fft_r2c, _fft_c2c, _fft_c2r: 5·N·log2(N) FLOP a complex transform, half that for a real one.

    The count of FFTW's benchmarks (Frigo and Johnson, Proc. IEEE 93, 2005).
    """
    x, dims = args.tensor(0), args.integers(1)
    if x is None or not dims:
        return None
    rank = len(x.shape)
    if any(not -rank <= dim < rank for dim in dims):
        return None
    length = float(math.prod(x.shape[dim] for dim in dims))
    real = "c2c" not in args.name
    flop = (2.5 if real else 5.0) * x.elements * math.log2(max(length, 2.0))
    return Work(flop, 2.0 * x.bytes, x.dtype)


def _table() -> Table:
    table: Table = {
        "max": ("reduction", _extremum),
        "min": ("reduction", _extremum),
        "nll_loss_forward": ("loss", _nll),
        "nll_loss2d_forward": ("loss", _nll),
        "nll_loss_backward": ("loss", _nll_backward),
        "nll_loss2d_backward": ("loss", _nll_backward),
        "_ctc_loss": ("loss", _ctc),
        "max_pool1d_with_indices": ("reduction", _pool(indices=True)),
        "max_pool2d_with_indices": ("reduction", _pool(indices=True)),
        "max_pool3d_with_indices": ("reduction", _pool(indices=True)),
        "mkldnn_max_pool2d": ("reduction", _pool(indices=False)),
        "avg_pool2d": ("reduction", _pool(indices=False)),
        "avg_pool3d": ("reduction", _pool(indices=False)),
        "_adaptive_avg_pool2d": ("reduction", _adaptive_pool),
        "_adaptive_avg_pool3d": ("reduction", _adaptive_pool),
        "adaptive_max_pool2d": ("reduction", _adaptive_pool),
        "topk": ("sort", _select_top),
        "bucketize": ("sort", _search),
        "searchsorted": ("sort", _search),
    }
    groups: tuple[tuple[str, Formula, str], ...] = (
        ("reduction", _reduction(1.0), "sum mean nansum nanmean amax amin prod"),
        ("reduction", _reduction(1.0, item=1.0), "all any"),
        ("reduction", _reduction(1.0, item=8.0), "argmax argmin count_nonzero"),
        ("reduction", _reduction(2.0, outputs=2), "aminmax"),
        ("reduction", _reduction(2.0, 2), "linalg_vector_norm norm"),
        ("reduction", _reduction(4.0), "var std"),
        ("reduction", _reduction(4.0, outputs=2), "var_mean std_mean"),
        ("reduction", _reduction(EXP_FLOP + 2.0, special=EXP_FLOP), "logsumexp"),
        ("reduction", _scan, "cumsum cumprod cummax cummin logcumsumexp _cummax_helper"),
        ("norm", _norm(NORM_FORWARD), "native_layer_norm layer_norm native_group_norm group_norm"),
        ("norm", _norm(NORM_FORWARD, 5), "native_batch_norm batch_norm _batch_norm_impl_index"),
        ("norm", _norm(NORM_FORWARD, 5), "cudnn_batch_norm miopen_batch_norm instance_norm"),
        ("norm", _norm(NORM_FORWARD, 5), "_native_batch_norm_legit"),
        ("norm", _norm(NORM_FORWARD), "_batch_norm_with_update"),
        ("norm", _norm(RMS_FORWARD), "rms_norm _fused_rms_norm"),
        ("norm", _norm(FOLDED_NORM), "batch_norm_elemt _native_batch_norm_legit_no_training"),
        ("norm", _reduction(3.0, None), "batch_norm_stats"),
        ("norm", _norm_backward(NORM_BACKWARD), "native_batch_norm_backward"),
        ("norm", _norm_backward(NORM_BACKWARD), "cudnn_batch_norm_backward batch_norm_backward"),
        ("norm", _norm_backward(NORM_BACKWARD), "miopen_batch_norm_backward"),
        ("norm", _norm_backward(NORM_BACKWARD), "native_layer_norm_backward"),
        ("norm", _norm_backward(NORM_BACKWARD), "native_group_norm_backward"),
        ("norm", _norm_backward(4.0), "batch_norm_backward_elemt"),
        ("norm", _norm_backward(RMS_BACKWARD), "_fused_rms_norm_backward"),
        ("softmax", _rowwise(SOFTMAX_FORWARD, 1), "_softmax softmax _safe_softmax _log_softmax"),
        ("softmax", _rowwise(SOFTMAX_FORWARD, 1), "log_softmax _masked_softmax"),
        ("softmax", _rowwise(SOFTMAX_BACKWARD, 2, 0.0), "_softmax_backward_data"),
        ("softmax", _rowwise(LOG_SOFTMAX_BACKWARD, 2), "_log_softmax_backward_data"),
        ("loss", _loss(3.0, 2), "mse_loss l1_loss"),
        ("loss", _loss(5.0, 2), "smooth_l1_loss huber_loss"),
        ("loss", _loss(2 * EXP_FLOP + 5.0, 3, 2 * EXP_FLOP), "binary_cross_entropy"),
        ("loss", _loss_backward(3.0), "mse_loss_backward"),
        ("loss", _loss_backward(5.0), "smooth_l1_loss_backward huber_loss_backward"),
        ("loss", _loss_backward(5.0), "binary_cross_entropy_backward"),
        ("reduction", _pool_backward, "max_pool2d_with_indices_backward avg_pool2d_backward"),
        ("reduction", _pool_backward, "max_pool3d_with_indices_backward avg_pool3d_backward"),
        ("reduction", _pool_backward, "_adaptive_avg_pool2d_backward adaptive_max_pool2d_backward"),
        ("sort", _sort, "sort argsort msort kthvalue median nanmedian _unique2 unique_consecutive"),
        ("fft", _fourier, "_fft_r2c _fft_c2c _fft_c2r"),
    )
    for family, formula, names in groups:
        table.update(dict.fromkeys(names.split(), (family, formula)))
    return table


TABLE = _table()
