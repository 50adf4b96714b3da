"""FLOP and bytes of fused attention.

Counted as FlashAttention's benchmarks count it (Dao, arXiv:2307.08691, section 4.1): two products
forward, 4·B·H·Nq·Nk·D, halved under a causal mask; five products backward, 2.5 times the forward
(one of them the recomputed scores). The softmax is left out, as there. Values of another width
count with their own width.
"""

from __future__ import annotations

from dataclasses import dataclass

from .costs_arguments import Arguments, Formula, Table, Tensor, Work, total_bytes

BACKWARD_FACTOR = 2.5


@dataclass(frozen=True)
class _Layout:
    """Where the queries start, where the causal flag is, and whether heads come third."""

    query: int
    causal: int
    heads_third: bool = False  # [B, N, H, D] instead of [B, H, N, D]


def _pairs(queries: float, keys: float, causal: bool) -> float:
    """Query-key pairs under the mask; causal aligned at the top left, as torch defines it."""
    if not causal:
        return queries * keys
    square = min(queries, keys)
    return square * square / 2 + max(queries - keys, 0.0) * keys


def _is_causal(args: Arguments, index: int) -> bool:
    flag = args.flag(index)
    return flag if flag is not None else (args.integer(index) or 0) > 0


def _sizes(q: Tensor, k: Tensor, heads_third: bool) -> tuple[float, float, float]:
    """(batch times heads, queries, keys)."""
    heads, sequence = (2, 1) if heads_third else (1, 2)
    return float(q.shape[0] * q.shape[heads]), float(q.shape[sequence]), float(k.shape[sequence])


def _forward_work(args: Arguments, layout: _Layout) -> tuple[float, float, list[Tensor]] | None:
    found = [args.tensor(layout.query + place) for place in range(3)]
    tensors = [tensor for tensor in found if tensor is not None]
    if len(tensors) != 3 or any(len(tensor.shape) != 4 for tensor in tensors):
        return None
    q, k, v = tensors
    batch_heads, queries, keys = _sizes(q, k, layout.heads_third)
    pairs = _pairs(queries, keys, _is_causal(args, layout.causal))
    flop = 2.0 * batch_heads * pairs * (q.shape[-1] + v.shape[-1])
    log_sums = 4.0 * batch_heads * queries
    return flop, log_sums, tensors


def _forward(layout: _Layout) -> Formula:
    def formula(args: Arguments) -> Work | None:
        work = _forward_work(args, layout)
        if work is None:
            return None
        flop, log_sums, (q, _, v) = work
        out = q.elements / max(q.shape[-1], 1) * v.shape[-1] * q.item_bytes
        return Work(flop, total_bytes(args.tensors()) + out + log_sums, q.dtype)

    return formula


def _backward(layout: _Layout) -> Formula:
    def formula(args: Arguments) -> Work | None:
        work = _forward_work(args, layout)
        if work is None:
            return None
        flop, _, tensors = work
        gradients = sum(tensor.elements * tensor.item_bytes for tensor in tensors)
        moved = total_bytes(args.tensors()) + gradients
        return Work(flop * BACKWARD_FACTOR, moved, tensors[0].dtype)

    return formula


_FORWARD = {
    "scaled_dot_product_attention": _Layout(0, 5),
    "_scaled_dot_product_attention_math": _Layout(0, 5),
    "_scaled_dot_product_flash_attention": _Layout(0, 4),
    "_scaled_dot_product_flash_attention_for_cpu": _Layout(0, 4),
    "_scaled_dot_product_efficient_attention": _Layout(0, 6),
    "_scaled_dot_product_cudnn_attention": _Layout(0, 6),
    "_scaled_dot_product_fused_attention_overrideable": _Layout(0, 5),
    "_cudnn_attention_forward": _Layout(0, 10),
    "_flash_attention_forward": _Layout(0, 8, heads_third=True),
    "_efficient_attention_forward": _Layout(0, 9, heads_third=True),
    "_flash_attn_forward": _Layout(0, 5, heads_third=True),
}
_BACKWARD = {
    "_scaled_dot_product_flash_attention_backward": _Layout(1, 11),
    "_scaled_dot_product_flash_attention_for_cpu_backward": _Layout(1, 7),
    "_scaled_dot_product_efficient_attention_backward": _Layout(1, 11),
    "_scaled_dot_product_cudnn_attention_backward": _Layout(1, 14),
    "_flash_attention_backward": _Layout(1, 11, heads_third=True),
    "_efficient_attention_backward": _Layout(1, 14, heads_third=True),
    "_flash_attn_backward": _Layout(1, 11, heads_third=True),
}

TABLE: Table = {
    **{name: ("attention", _forward(layout)) for name, layout in _FORWARD.items()},
    **{name: ("attention", _backward(layout)) for name, layout in _BACKWARD.items()},
}
