"""FLOP and bytes of convolutions: forward, transposed, grouped, and their gradients.

Forward: 2·N·Cout·Hout·Wout·(Cin/g)·kh·kw, which is 2 · (elements of the output) · (elements of
the weight) / Cout. Each of the two gradients (input, weight) costs as much again; transposed
convolutions exchange input and output (Dumoulin and Visin, arXiv:1603.07285). These are the FLOP
of the direct algorithm: Winograd and FFT algorithms need fewer, so a kernel that uses them may
pass its arithmetic roof.
"""

from __future__ import annotations

from dataclasses import dataclass

from .costs_arguments import Arguments, Formula, Shape, Table, Tensor, Work, item_bytes


@dataclass(frozen=True)
class _Layout:
    """Where an op keeps its arguments; None where it has no such argument."""

    stride: int
    padding: int
    dilation: int | None = None
    transposed: int | bool = False
    output_padding: int | None = None
    bias: int | None = 2


@dataclass(frozen=True)
class _Window:
    """The sizes of one convolution, one entry a spatial dimension."""

    stride: Shape
    padding: Shape
    dilation: Shape
    output_padding: Shape


def _spread(values: Shape | None, rank: int, default: int) -> Shape | None:
    if not values:
        return (default,) * rank
    return values * rank if len(values) == 1 else values if len(values) == rank else None


def _padding(args: Arguments, index: int, kernel: Shape, dilation: Shape) -> Shape | None:
    if args.text(index).strip("'\"") == "same":
        return tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    if args.text(index).strip("'\"") == "valid":
        return (0,) * len(kernel)
    if args.integers(index) is None:
        return None
    return _spread(args.integers(index), len(kernel), 0)


def _window(args: Arguments, layout: _Layout, kernel: Shape) -> _Window | None:
    rank = len(kernel)
    if args.integers(layout.stride) is None:
        return None
    stride = _spread(args.integers(layout.stride), rank, 1)
    dilation = _spread(
        args.integers(layout.dilation) if layout.dilation is not None else None, rank, 1
    )
    extra = _spread(
        args.integers(layout.output_padding) if layout.output_padding is not None else None, rank, 0
    )
    if stride is None or dilation is None or extra is None or min(stride, default=1) < 1:
        return None
    padding = _padding(args, layout.padding, kernel, dilation)
    return _Window(stride, padding, dilation, extra) if padding is not None else None


def _out_sizes(size: Shape, kernel: Shape, window: _Window, transposed: bool) -> Shape | None:
    """Spatial output sizes; the formulas of torch.nn.Conv2d and ConvTranspose2d."""
    sizes = []
    for place, (n, k) in enumerate(zip(size, kernel, strict=True)):
        stride, padding = window.stride[place], window.padding[place]
        reach = window.dilation[place] * (k - 1)
        if transposed:
            out = (n - 1) * stride - 2 * padding + reach + window.output_padding[place] + 1
        else:
            out = (n + 2 * padding - reach - 1) // stride + 1
        sizes.append(out)
    return tuple(sizes) if min(sizes, default=1) > 0 else None


def _is_transposed(args: Arguments, layout: _Layout) -> bool:
    if isinstance(layout.transposed, bool):
        return layout.transposed
    return bool(args.flag(layout.transposed))


def _batched(x: Tensor, weight: Tensor) -> Shape | None:
    if len(x.shape) == len(weight.shape) - 1:
        return (1, *x.shape)
    return x.shape if len(x.shape) == len(weight.shape) else None


def _forward(layout: _Layout) -> Formula:
    """(input, weight, …): input [N, Cin, …], weight [Cout, Cin/g, …] or, transposed, [Cin, …]."""

    def formula(args: Arguments) -> Work | None:
        x, weight = args.tensor(0), args.tensor(1)
        if x is None or weight is None or len(weight.shape) < 3:
            return None
        shape, kernel = _batched(x, weight), weight.shape[2:]
        window = _window(args, layout, kernel)
        if shape is None or window is None:
            return None
        transposed = _is_transposed(args, layout)
        sizes = _out_sizes(shape[2:], kernel, window, transposed)
        if sizes is None:
            return None
        return _forward_work(args, layout, (x, weight), (shape, sizes), transposed)

    return formula


def _forward_work(
    args: Arguments,
    layout: _Layout,
    operands: tuple[Tensor, Tensor],
    shapes: tuple[Shape, Shape],
    transposed: bool,
) -> Work:
    x, weight = operands
    shape, sizes = shapes
    positions = 1.0
    for size in sizes:
        positions *= size
    per_channel = weight.elements / max(weight.shape[0], 1)
    if transposed:
        groups = max(shape[1] // max(weight.shape[0], 1), 1)
        channels = weight.shape[1] * groups
        flop = 2.0 * x.elements * per_channel
    else:
        channels = weight.shape[0]
        flop = 2.0 * shape[0] * channels * positions * per_channel
    out = shape[0] * channels * positions
    bias = args.tensor(layout.bias) if layout.bias is not None else None
    moved = x.bytes + weight.bytes + out * item_bytes(x.dtype)
    if bias is not None:
        flop += out
        moved += bias.bytes
    return Work(flop, moved, x.dtype)


def _gradients(
    grad: Tensor | None,
    x: Tensor | None,
    weight: Tensor | None,
    transposed: bool,
    mask: list[bool],
) -> Work | None:
    """Both gradients as `mask` (input, weight, bias) asks; sizes are all recorded."""
    if grad is None or x is None or weight is None or not weight.shape:
        return None
    base = x if transposed else grad  # the side that the weight's first dimension belongs to
    once = 2.0 * base.elements * weight.elements / max(weight.shape[0], 1)
    flop, moved = 0.0, grad.bytes
    if mask[0]:
        flop += once
        moved += weight.bytes + x.elements * x.item_bytes
    if mask[1]:
        flop += once
        moved += x.bytes + weight.elements * weight.item_bytes
    if len(mask) > 2 and mask[2]:
        flop += grad.elements
    return Work(flop, moved, grad.dtype)


def _backward(args: Arguments) -> Work | None:
    """convolution_backward(grad, input, weight, bias_sizes, stride, padding, dilation, transposed,
    output_padding, groups, output_mask)."""
    mask = args.flags(10)
    if mask is None or len(mask) < 2:
        return None
    grad, x, weight = args.tensor(0), args.tensor(1), args.tensor(2)
    return _gradients(grad, x, weight, bool(args.flag(7)), mask)


def _older_backward(args: Arguments) -> Work | None:
    """cudnn_, miopen_ and mkldnn_convolution_backward(input, grad, weight, …, mask) until 1.10.

    The mask is the last argument; without it both gradients are taken (all but a first layer).
    """
    mask = args.flags(len(args) - 1) or [True, True]
    return _gradients(
        args.tensor(1), args.tensor(0), args.tensor(2), False, mask if len(mask) > 1 else [True] * 2
    )


def _older_input(args: Arguments) -> Work | None:
    """cudnn_convolution_backward_input(sizes, grad, weight, …): the input's gradient alone."""
    grad, weight = args.tensor(1), args.tensor(2)
    if grad is None or weight is None or not weight.shape:
        return None
    flop = 2.0 * grad.elements * weight.elements / max(weight.shape[0], 1)
    sizes = args.integers(0)
    elements = 1.0
    for size in sizes or ():
        elements *= max(size, 0)
    out = elements * grad.item_bytes if sizes else grad.bytes
    return Work(flop, grad.bytes + weight.bytes + out, grad.dtype, exact=bool(sizes))


_GENERAL = _forward(_Layout(3, 4, 5, transposed=6, output_padding=7))
_PLAIN = _forward(_Layout(3, 4, 5))
_TRANSPOSED = _forward(_Layout(3, 4, 7, transposed=True, output_padding=5))
_VENDOR = _forward(_Layout(4, 3, 5))
_SLOW = _forward(_Layout(4, 5, 6, bias=3))
_SLOW_PLAIN = _forward(_Layout(4, 5, bias=3))

TABLE: Table = {
    name: ("conv", formula)
    for formula, names in (
        (_GENERAL, ("convolution", "_convolution", "convolution_overrideable")),
        (_PLAIN, ("conv1d", "conv2d", "conv3d", "cudnn_convolution_relu")),
        (_TRANSPOSED, ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")),
        (
            _VENDOR,
            (
                "mkldnn_convolution",
                "_convolution_pointwise",
                "miopen_convolution",
                "miopen_depthwise_convolution",
            ),
        ),
        (_forward(_Layout(3, 2, 4, bias=None)), ("cudnn_convolution",)),
        (
            _forward(_Layout(4, 2, 5, transposed=True, output_padding=3, bias=None)),
            ("cudnn_convolution_transpose",),
        ),
        (
            _forward(_Layout(5, 3, 6, transposed=True, output_padding=4)),
            ("miopen_convolution_transpose",),
        ),
        (_forward(_Layout(5, 6, 7, bias=4)), ("cudnn_convolution_add_relu",)),
        (_SLOW, ("_conv_depthwise2d", "conv_depthwise3d", "slow_conv_dilated2d")),
        (_SLOW, ("slow_conv_dilated3d",)),
        (
            _SLOW_PLAIN,
            ("thnn_conv2d", "_slow_conv2d_forward", "slow_conv3d_forward", "slow_conv3d"),
        ),
        (
            _forward(_Layout(4, 5, 7, transposed=True, output_padding=6, bias=3)),
            ("slow_conv_transpose2d", "slow_conv_transpose3d"),
        ),
        (_backward, ("convolution_backward", "convolution_backward_overrideable")),
        (
            _older_backward,
            (
                "cudnn_convolution_backward",
                "miopen_convolution_backward",
                "mkldnn_convolution_backward",
            ),
        ),
        (_older_input, ("cudnn_convolution_backward_input", "miopen_convolution_backward_input")),
    )
    for name in names
}
