"""Takes one limit away and leaves all else as it is: the counterfactuals of the training scripts.

Arithmetic: each layer reads and writes the same tensors, forward and backward, and multiplies
nothing. The sums that stand in for the products cost one pass over each operand, as the product
itself needs at least. Operands that a level-2 cache holds are not passed over: to call a sum takes
longer than a product takes to read them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

VALUE, GRADIENT = 0.01, 1e-6
"""What is written: numbers that no later layer makes infinite or denormal."""

EXPONENTIALS = (nn.GELU, nn.Sigmoid, nn.Tanh)
"""Functions whose arithmetic takes longer than their traffic."""

CACHED_BYTES = 2**20
"""A level-2 cache holds so much of two cores (0.5 to 2 MB each), and gives it out in 13 us (80 GB/s
measured on the slower of two machines). A sum over [64, 1024], 256 kB, takes 23 us."""


def read(operand: torch.Tensor) -> None:
    """One pass over an operand that no cache near the cores holds."""
    if operand.numel() * operand.element_size() > CACHED_BYTES:
        operand.sum()


class Touch(torch.autograd.Function):
    """Reads each large operand once, writes a result of the given shape; the same for gradients.

    Each read and each write is one op: what calling them costs beyond the calls that they stand in
    for is time that removing the arithmetic would not add.
    """

    @staticmethod
    def forward(ctx: Any, shape: Sequence[int], *operands: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*operands)
        for operand in operands:
            read(operand)
        return operands[0].new_full(shape, VALUE)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        operands = ctx.saved_tensors
        results: list[torch.Tensor | None] = [None]
        for index, operand in enumerate(operands):
            if not ctx.needs_input_grad[1 + index]:
                results.append(None)
                continue
            # The gradient of one operand reads the incoming gradient and the other operand; that of
            # a bias the gradient alone.
            read(grad)
            if len(operands) > 1 and index < 2:
                read(operands[1 - index])
            results.append(torch.full_like(operand, GRADIENT))
        return tuple(results)


def touch(shape: Sequence[int], *operands: torch.Tensor | None) -> torch.Tensor:
    """A result of `shape` made from the operands without products; None operands are left out."""
    given = [operand for operand in operands if operand is not None]
    return Touch.apply(tuple(shape), *given)  # type: ignore[no-untyped-call, no-any-return]


def touch_linear(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return touch((*x.shape[:-1], layer.out_features), x, layer.weight, layer.bias)


def touch_convolution(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    sizes = [
        (x.shape[2 + axis] + 2 * int(layer.padding[axis]) - layer.kernel_size[axis])
        // layer.stride[axis]
        + 1
        for axis in (0, 1)
    ]
    return touch((x.shape[0], layer.out_channels, *sizes), x, layer.weight, layer.bias)


def touch_function(x: torch.Tensor) -> torch.Tensor:
    """Stands in for a function of each element."""
    return touch(x.shape, x)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(query, key, value)


def touch_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return touch(query.shape, query, key, value)


def touch_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Stands in for `left @ right` of two batches of matrices."""
    return touch((*left.shape[:-1], right.shape[-1]), left, right)


def without_arithmetic(model: nn.Module) -> None:
    """Compute removed: every layer that multiplies and every exponential in `model` only touches.

    In training alone: validation is a limit of its own, and stays as it is.
    """
    for layer in model.modules():
        replaced: Any = layer
        if isinstance(layer, nn.Linear):
            replaced.forward = in_training(layer, partial(touch_linear, layer), layer.forward)
        elif isinstance(layer, nn.Conv2d):
            touching = partial(touch_convolution, layer)
            replaced.forward = in_training(layer, touching, layer.forward)
        elif isinstance(layer, EXPONENTIALS):
            replaced.forward = in_training(layer, touch_function, layer.forward)
        elif hasattr(layer, "attend"):
            replaced.attend = in_training(layer, touch_attention, replaced.attend)
        elif hasattr(layer, "product"):
            replaced.product = in_training(layer, touch_product, replaced.product)


def in_training(
    layer: nn.Module, replaced: Callable[..., torch.Tensor], own: Callable[..., torch.Tensor]
) -> Callable[..., torch.Tensor]:
    """`replaced` while the layer trains, its `own` call while it is evaluated."""

    def forward(*operands: torch.Tensor) -> torch.Tensor:
        return replaced(*operands) if layer.training else own(*operands)

    return forward
