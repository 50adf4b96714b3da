"""Memory that is given back to the system after each use, and handed out anew, page by page."""

from __future__ import annotations

from ..diagnosis import Evidence, Finding, Fix, Place
from ..features import RankFeatures
from ..text import milliseconds, scaled
from .base import MIN_SHARE, Evidenced

FINDINGS = ("fresh-pages",)


def find(case: Evidenced) -> list[Finding]:
    """One finding for the rank whose ops write to fresh memory most."""
    rank = max(case.features.ranks, key=lambda rank: rank.fresh.share, default=None)
    if rank is None or rank.roofs is None or rank.fresh.share < MIN_SHARE:
        return []
    ops = _longest(rank)
    return [
        case.finding(
            id="fresh-pages",
            bound="memory",
            share=case.fresh_share(rank),
            title="Ops write to memory that the system hands out anew in each step",
            evidence=_evidence(rank),
            where=[Place(rank=rank.rank, op=op) for op in ops] or [Place(rank=rank.rank)],
            fixes=[_KEEP, _ANOTHER, _IN_PLACE],
        )
    ]


def _longest(rank: RankFeatures) -> list[str]:
    """The op from which most of the pages' time was taken."""
    taken = [(op.self_ns - op.work_ns, op.name) for op in rank.ops if op.attainable_ns > 0]
    return [max(taken)[1]] if taken else []


def _evidence(rank: RankFeatures) -> list[Evidence]:
    assert rank.roofs is not None
    pages, ns = rank.fresh.pages, rank.roofs.fresh_page_ns
    size = pages * rank.roofs.page_bytes
    spent = rank.fresh.share * float(rank.step_ms.mean())
    return [
        Evidence(
            f"a step writes to {pages:,.0f} fresh pages, {scaled(size, 'B')}",
            "memory.fresh_pages",
            round(pages, 1),
            "pages",
            "metrics",
        ),
        Evidence(
            f"each takes {ns / 1e3:.1f} us more on this machine than one that is kept: "
            f"{milliseconds(spent)} of every step",
            "memory.fresh_page_ms",
            round(spent, 4),
            "ms",
            "metrics",
        ),
    ]


_KEEP = Fix(
    "Let the C library keep freed memory",
    "glibc gives large blocks back as soon as they are freed. Nothing of the script changes; the "
    "process keeps its peak of memory. On two cores a network with 24 MB tensors took 73 instead "
    "of 152 ms a step.",
    "MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 python train.py",
)

_ANOTHER = Fix(
    "Preload an allocator that keeps its pages",
    "jemalloc and tcmalloc hold what was freed for seconds or for good.",
    "LD_PRELOAD=libjemalloc.so.2 MALLOC_CONF=dirty_decay_ms:-1,muzzy_decay_ms:-1 python train.py",
)

_IN_PLACE = Fix(
    "Write results into tensors that are there",
    "In-place ops, `out=`, zero_grad(set_to_none=False), a fused optimizer.",
    "x.mul_(scale).add_(shift).relu_()",
)
