"""Loader workers that are started again for every epoch."""

from __future__ import annotations

import numpy as np

from ...collectors.records import SpanKind
from ..diagnosis import Evidence, Finding, Fix, Place
from ..features import RankFeatures
from ..text import duration, percent
from ..workers import worker_count
from ._loader import loader_of
from .base import MIN_SHARE, Evidenced

FINDINGS = ("workers-restarted",)

MIN_RESTARTS = 2
"""One restart in the steady state may be the only one."""


def find(case: Evidenced) -> list[Finding]:
    """One finding when making the loader's iterators anew takes a twentieth of the steady time.

    The cost is what an epoch's start takes more than other batches: making the workers, and the
    first batch, which nothing read ahead.
    """
    rank = max(case.features.ranks, key=_cost_ns)
    cost, starts = _cost_ns(rank), _restarts(rank)
    share = restart_share(rank)
    if share < MIN_SHARE:
        return []
    loader = loader_of(case, rank)
    if not loader.workers or loader.facts.get("persistent_workers") == "True":
        return []
    site = rank.data.site("loader", int(rank.data.spans.of(SpanKind.LOADER_START).detail[-1]))
    where = [] if site is None else [Place(rank=rank.rank, file=site.file, line=site.line)]
    return [
        case.finding(
            id="workers-restarted",
            bound="input",
            title="The loader's workers are started again for every epoch",
            share=min(share, case.scores["input"]),
            evidence=[
                Evidence(
                    f"{len(starts)} starts of {loader.workers} workers cost {duration(cost * 1e-9)}"
                    f", {percent(share)} of the steady time",
                    "input.restart_s",
                    round(cost * 1e-9, 4),
                    "s",
                    "steps",
                )
            ],
            where=where,
            fixes=[
                Fix(
                    "Keep the workers between epochs",
                    "They and their prefetched batches then live as long as the loader.",
                    loader.call(num_workers=loader.workers, persistent_workers=True),
                    round(share, 4),
                )
            ],
        )
    ]


def restart_share(rank: RankFeatures) -> float:
    """Share of a rank's steady time that starting workers again costs."""
    if len(_restarts(rank)) < MIN_RESTARTS or not worker_count(rank):
        return 0.0
    line = rank.timeline
    whole = float(line.duration_ns[line.steady].sum())
    return _cost_ns(rank) / whole if whole else 0.0


def _restarts(rank: RankFeatures) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """When iterators were made in the steady state, ns."""
    line = rank.timeline
    starts = rank.data.spans.of(SpanKind.LOADER_START).start_ns
    return starts[starts >= line.start_ns[line.steady][0]] if line.steady.any() else starts[:0]


def _cost_ns(rank: RankFeatures) -> float:
    """Making the iterators, and what their first batches take more than the median one."""
    made = rank.data.spans.of(SpanKind.LOADER_START)
    waits = rank.data.spans.of(SpanKind.LOADER)
    restarts = _restarts(rank)
    if not len(restarts) or not len(waits):
        return 0.0
    cost = float(made.duration_ns[np.isin(made.start_ns, restarts)].sum())
    first = np.searchsorted(waits.start_ns, restarts)
    first = first[first < len(waits)]
    usual = float(np.median(waits.duration_ns))
    return cost + float(np.maximum(0.0, waits.duration_ns[first] - usual).sum())
