"""FLOP and bytes of fused attention.

Counted as FlashAttention's benchmarks count it (Dao, arXiv:2307.08691, section 4.1): two products
forward, 4·B·H·Nq·Nk·D, halved under a causal mask; five products backward, 2.5 times the forward
(one of them the recomputed scores). The softmax is left out, as there. Values of another width
count with their own width.

Where queries and keys differ in number, torch's `is_causal` starts at the top left of the scores
(`scaled_dot_product_attention`), FlashAttention's since 2.1 ends at the bottom right: one query
against a cache of keys sees all of them.

A sliding window leaves each query its own position, `left` keys before it and `right` behind it.
With a page table or lengths in use (`page_table`, `seqused_k`) the keys that count are not in the
trace: such a call has no cost.

Sequences of several lengths packed into one dimension: traces hold their number, the tokens of all
and the longest, not each one's length. Of all lengths that fit, the fewest pairs are those with one
sequence of the longest length and all others alike (the sum of squares is convex): what is needed
at least. `torch.utils.flop_counter` takes the longest for every one where it cannot see them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from .costs_arguments import Arguments, Formula, Table, Tensor, Work, total_bytes

BACKWARD_FACTOR = 2.5

Mask: TypeAlias = Literal["none", "top-left", "bottom-right"]


@dataclass(frozen=True)
class _Layout:
    """Where the queries start, where the causal flag is, and whether heads come third.

    `offsets` is where the begins of packed queries are, those of keys follow; `longest` is where
    the longest of both are (by default next). `causal_mask` is what the flag switches on. `window`
    is where the two sizes of a sliding window are. A tensor at one of `open` makes the number of
    keys unknown; one at `given` is the (first) result, which the caller brought along.
    """

    query: int
    causal: int
    heads_third: bool = False  # [B, N, H, D] instead of [B, H, N, D]
    causal_mask: Mask = "top-left"
    offsets: int | None = None
    longest: int | None = None
    window: int | None = None
    open: tuple[int, ...] = ()
    given: int | None = None


class _Scores(NamedTuple):
    """Heads times batch, queries (of all sequences where packed), query-key pairs a head."""

    heads: float
    queries: float
    pairs: float
    exact: bool = True


class _Sight(NamedTuple):
    """Which keys a query sees: a mask, and a sliding window where `left` or `right` is not -1."""

    mask: Mask
    left: int = -1
    right: int = -1


def _pairs(queries: float, keys: float, sight: _Sight) -> float:
    """Query-key pairs that are seen; a triangle without a window counts as half of its square."""
    mask = sight.mask
    if sight.left >= 0 or (sight.right >= 0 and mask == "none"):
        return _in_window(round(queries), round(keys), sight)
    square = min(queries, keys)
    if mask == "top-left":
        return square * square / 2 + max(queries - keys, 0.0) * keys
    if mask == "bottom-right":
        return square * square / 2 + max(keys - queries, 0.0) * queries
    return queries * keys


def _in_window(queries: int, keys: int, sight: _Sight) -> float:
    """Pairs in a window around the diagonal that ends at the bottom right."""

    def up_to(place: int) -> int:
        """Keys there are at places 1, 2, … `place`: as many as the place says, at most all."""
        inside = max(0, min(place, keys))
        return inside * (inside + 1) // 2 + max(0, place - keys) * keys

    def behind(distance: int) -> int:
        """Pairs whose key is at most `distance` behind its query."""
        return up_to(keys + distance) - up_to(keys - queries + distance)

    right = 0 if sight.mask != "none" else sight.right
    seen = behind(right) if right >= 0 else queries * keys
    return float(seen - (behind(-sight.left - 1) if sight.left >= 0 else 0))


def _mask(args: Arguments, layout: _Layout) -> Mask:
    """The mask that an op's arguments ask for: a flag, or `custom_mask_type` (sdp_utils.h)."""
    if args.integer(layout.causal) == 2:
        return "bottom-right"
    return layout.causal_mask if args.flag(layout.causal) else "none"


def _sight(args: Arguments, layout: _Layout) -> _Sight:
    mask = _mask(args, layout)
    if layout.window is None:
        return _Sight(mask)
    left, right = (args.integer(layout.window + place) for place in range(2))
    return _Sight(mask, -1 if left is None else left, -1 if right is None else right)


def _scores(args: Arguments, layout: _Layout, q: Tensor, k: Tensor) -> _Scores | None:
    if any(args.tensor(place) is not None for place in layout.open):
        return None
    sight = _sight(args, layout)
    begins = args.tensor(layout.offsets) if layout.offsets is not None else None
    if layout.offsets is not None and begins is not None and len(begins.shape) == 1:
        first = layout.offsets + 2 if layout.longest is None else layout.longest
        longest = (args.integer(first), args.integer(first + 1))
        return _packed(begins.shape[0] - 1, q, k, longest, sight)
    if len(q.shape) != 4:
        return None
    heads, sequence = (2, 1) if layout.heads_third else (1, 2)
    queries, keys = float(q.shape[sequence]), float(k.shape[sequence])
    return _Scores(float(q.shape[0] * q.shape[heads]), queries, _pairs(queries, keys, sight))


def _packed(
    sequences: int, q: Tensor, k: Tensor, longest: tuple[int | None, int | None], sight: _Sight
) -> _Scores | None:
    """Of sequences packed as [tokens, H, D] or [1, tokens, H, D]."""
    if sequences < 1 or len(q.shape) not in (3, 4) or (len(q.shape) == 4 and q.shape[0] != 1):
        return None
    heads, queries, keys = float(q.shape[-2]), float(q.shape[-3]), float(k.shape[-3])
    alike = queries / sequences, keys / sequences
    most = [float(size or 0) for size in longest]
    fits = alike[0] <= most[0] <= queries and alike[1] <= most[1] <= keys
    if sequences == 1 or not fits or tuple(most) == alike:
        known = sequences == 1 or fits
        return _Scores(heads, queries, sequences * _pairs(*alike, sight), known)
    rest = (queries - most[0]) / (sequences - 1), (keys - most[1]) / (sequences - 1)
    pairs = _pairs(most[0], most[1], sight) + (sequences - 1) * _pairs(*rest, sight)
    return _Scores(heads, queries, pairs, exact=False)


def _forward_work(args: Arguments, layout: _Layout) -> tuple[float, _Scores, list[Tensor]] | None:
    """FLOP, what they are made of, and queries, keys and values."""
    found = [args.tensor(layout.query + place) for place in range(3)]
    tensors = [tensor for tensor in found if tensor is not None]
    if len(tensors) != 3 or len({len(tensor.shape) for tensor in tensors}) != 1:
        return None
    q, k, v = tensors
    scores = _scores(args, layout, q, k)
    if scores is None:
        return None
    return 2.0 * scores.heads * scores.pairs * (q.shape[-1] + v.shape[-1]), scores, tensors


def _is_given(args: Arguments, layout: _Layout) -> bool:
    """Whether the result is among the arguments."""
    return layout.given is not None and args.tensor(layout.given) is not None


def _out_bytes(q: Tensor, v: Tensor) -> float:
    item = 2.0 if q.dtype == "fp8" else q.item_bytes  # FlashAttention-3 gives bf16 for fp8
    return q.elements / max(q.shape[-1], 1) * v.shape[-1] * item


def _forward(layout: _Layout) -> Formula:
    def formula(args: Arguments) -> Work | None:
        work = _forward_work(args, layout)
        if work is None:
            return None
        flop, scores, (q, _, v) = work
        out = 0.0 if _is_given(args, layout) else _out_bytes(q, v)
        log_sums = 4.0 * scores.heads * scores.queries
        moved = total_bytes(args.tensors()) + out + log_sums
        return Work(flop, moved, q.dtype, scores.exact)

    return formula


def _backward(layout: _Layout) -> Formula:
    def formula(args: Arguments) -> Work | None:
        work = _forward_work(args, layout)
        if work is None:
            return None
        flop, scores, tensors = work
        moved = total_bytes(args.tensors())
        if not _is_given(args, layout):
            moved += sum(tensor.elements * tensor.item_bytes for tensor in tensors)
        return Work(flop * BACKWARD_FACTOR, moved, tensors[0].dtype, scores.exact)

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
    "_flash_attention_forward": _Layout(0, 8, True, "bottom-right", 3, window=11),
    "_efficient_attention_forward": _Layout(0, 9, True, offsets=4),
    "_flash_attn_forward": _Layout(0, 5, True, "bottom-right", window=6),
    "_flash_attn_varlen_forward": _Layout(0, 9, True, "bottom-right", 3, window=10),
}
_BACKWARD = {
    "_scaled_dot_product_flash_attention_backward": _Layout(1, 11),
    "_scaled_dot_product_flash_attention_for_cpu_backward": _Layout(1, 7),
    "_scaled_dot_product_efficient_attention_backward": _Layout(1, 11),
    "_scaled_dot_product_cudnn_attention_backward": _Layout(1, 14),
    "_flash_attention_backward": _Layout(1, 11, True, "bottom-right", 6),
    "_efficient_attention_backward": _Layout(1, 14, True, offsets=6),
    "_flash_attn_backward": _Layout(1, 11, True, "bottom-right", window=12, given=6),
    "_flash_attn_varlen_backward": _Layout(1, 15, True, "bottom-right", 9, window=16, given=6),
}

# FlashAttention-3 (hopper/flash_api.cpp and flash_attn_interface.py): its ops have arguments of
# their own behind names that others have too.
_THIRD = _Layout(
    0, 24, True, "bottom-right", 7, longest=12, window=25, open=(3, 5, 10, 11, 14), given=6
)
_THIRD_BACKWARD = _Layout(
    1, 16, True, "bottom-right", 9, longest=13, window=17, open=(11, 12), given=6
)
_THIRD_BACKWARD_OP = _Layout(
    1, 16, True, "bottom-right", 6, longest=10, window=17, open=(8, 9), given=12
)

TABLE: Table = {
    **{name: ("attention", _forward(layout)) for name, layout in _FORWARD.items()},
    **{name: ("attention", _backward(layout)) for name, layout in _BACKWARD.items()},
    "flash_attn_3::fwd": ("attention", _forward(_THIRD)),
    "flash_attn_3::_flash_attn_forward": ("attention", _forward(_THIRD)),
    "flash_attn_3::bwd": ("attention", _backward(_THIRD_BACKWARD)),
    "flash_attn_3::_flash_attn_backward": ("attention", _backward(_THIRD_BACKWARD_OP)),
}
"""By the op's name without its namespace, or with it where that name alone says too little."""
