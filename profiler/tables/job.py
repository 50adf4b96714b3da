"""The ranks of a job side by side: step times, waits for each other, collectives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..features import Features
from ..timeline import Timeline
from ..trace.collectives import Collective, clock_offsets, is_complete, paired, to_intervals
from ..trace.intervals import total
from .trace_collectives import CollectiveUse, Exchange, link_of, uses_of

Float = npt.NDArray[np.float64]

MAX_COLUMNS = 120
"""Columns of the heat map of step times: steps are put together until they fit."""


@dataclass(frozen=True)
class StepGrid:
    """Median step time, ms, of each rank (row) in each stretch of steps (column); NaN: none."""

    ranks: list[int]
    first_step: list[int]
    step_ms: Float


@dataclass(frozen=True)
class WaitGrid:
    """`wait_ms[i, j]`: what rank i waited for rank j in the collectives that all recorded, a step.

    `collectives` is how many those were, `steps` over how many steps.
    """

    ranks: list[int]
    wait_ms: Float
    collectives: int
    steps: int


def step_grid(lines: Mapping[int, Timeline]) -> StepGrid:
    """Return the step times of all ranks; steps are paired by their number."""
    ranks = sorted(lines)
    count = max((len(lines[rank]) for rank in ranks), default=0)
    edges = np.linspace(0, count, min(count, MAX_COLUMNS) + 1).astype(int)
    grid = np.full((len(ranks), max(0, len(edges) - 1)), np.nan)
    for row, rank in enumerate(ranks):
        duration = np.asarray(lines[rank].duration_ns, np.float64) * 1e-6
        duration[~lines[rank].steady] = np.nan
        for column, (begin, end) in enumerate(pairwise(edges.tolist())):
            part = duration[begin:end]
            if np.isfinite(part).any():
                grid[row, column] = np.nanmedian(part)
    return StepGrid(ranks, [int(edge) + 1 for edge in edges[:-1]], grid)


def wait_grid(features: Features) -> WaitGrid | None:
    """Return who waited for whom; None unless several ranks recorded common collectives."""
    by_rank = _by_rank(features)
    ranks = sorted(by_rank)
    groups = [group for group in paired(by_rank) if is_complete(group, ranks)]
    if len(ranks) < 2 or not groups:
        return None
    ahead = _ahead(features, by_rank)
    place = {rank: index for index, rank in enumerate(ranks)}
    parts: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for group in groups:
        arrivals = {rank: c.start_ns - ahead[rank] for rank, c in group.items()}
        late = max(arrivals, key=lambda rank: arrivals[rank])
        for rank, arrived in arrivals.items():
            end = group[rank].end_ns - ahead[rank]
            if min(arrivals[late], end) > arrived:
                parts[place[rank], place[late]].append((arrived, min(arrivals[late], end)))
    waits = np.zeros((len(ranks), len(ranks)))
    for pair, waited in parts.items():  # several can be in flight: each moment counts once
        waits[pair] = total(to_intervals(waited))
    steps = len({next(iter(group.values())).step for group in groups})
    return WaitGrid(ranks, waits * 1e-6 / max(1, steps), len(groups), steps)


def job_collectives(features: Features) -> list[CollectiveUse]:
    """Return the collectives by operation, group and size, the most exposed first."""
    by_rank = _by_rank(features)
    if not by_rank:
        return []
    hosts = {rank.data.host for rank in features.ranks}
    device = next((rank.roofs.device for rank in features.ranks if rank.roofs), "")
    return uses_of(
        Exchange(
            by_rank=by_rank,
            ahead=_ahead(features, by_rank),
            unhidden={rank.rank: rank.unhidden for rank in features.ranks},
            world=max(features.run.world_size, len(by_rank)),
            link=link_of(device) if len(hosts) <= 1 else ("", None),
        )
    )


def _by_rank(features: Features) -> dict[int, list[Collective]]:
    return {rank.rank: rank.collectives for rank in features.ranks if rank.collectives}


def _ahead(features: Features, by_rank: dict[int, list[Collective]]) -> dict[int, int]:
    """What each rank's clock is ahead: nothing on one host."""
    hosts = {rank.data.host for rank in features.ranks}
    if len(hosts) == 1 and "" not in hosts:
        return dict.fromkeys(by_rank, 0)
    return clock_offsets(by_rank)
