"""The ranks of a job side by side: step times, waits for each other, collectives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..features import Features
from ..timeline import Timeline
from ..trace.collectives import Collective, clock_offsets, is_complete, paired, to_intervals
from ..trace.intervals import total

Float = npt.NDArray[np.float64]

MAX_COLUMNS = 120
"""Columns of the heat map of step times: steps are put together until they fit."""

BUS_FACTORS: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "allreduce": lambda n: 2 * (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_gather": lambda n: float(n - 1),
    "allgather": lambda n: float(n - 1),
    "all_to_all": lambda n: (n - 1) / n,
    "alltoall": lambda n: (n - 1) / n,
    "broadcast": lambda _: 1.0,
    "reduce": lambda _: 1.0,
    "send_recv": lambda _: 1.0,
}
"""Bus bytes for each byte that one rank puts in (nccl-tests, PERFORMANCE.md). There all-gather
counts the gathered size, n times what one rank puts in."""


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


@dataclass(frozen=True)
class CollectiveRow:
    """Collectives of one name and size. Times in ms are means over ranks and calls.

    `moving_ms` counts from the last rank's arrival, `waiting_ms` is what the mean rank waited for
    it; they are of the collectives that every rank recorded, where there are such.
    `bus_bytes_per_s` is busbw as nccl-tests define it, None where size or factor is unknown.
    """

    name: str
    bytes: int
    calls: int
    moving_ms: float
    waiting_ms: float
    bus_bytes_per_s: float | None


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


def collective_rows(features: Features) -> list[CollectiveRow]:
    """Return the collectives by name and size, those that took longest first."""
    by_rank = _by_rank(features)
    if not by_rank:
        return []
    ahead = _ahead(features, by_rank)
    sums: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    groups = paired(by_rank)
    common = [group for group in groups if is_complete(group, by_rank)]
    for group in common or groups:
        complete = is_complete(group, by_rank)
        last = max(c.start_ns - ahead[rank] for rank, c in group.items())
        for rank, c in group.items():
            arrived = min(max(last + ahead[rank], c.start_ns), c.end_ns) if complete else c.start_ns
            sums[c.name, c.bytes].append((c.end_ns - arrived, arrived - c.start_ns))
    world = max(features.run.world_size, len(by_rank))
    rows = [_collective(key, times, len(by_rank), world) for key, times in sums.items()]
    return sorted(rows, key=lambda row: -row.calls * (row.moving_ms + row.waiting_ms))


def _collective(
    key: tuple[str, int], times: list[tuple[float, float]], ranks: int, world: int
) -> CollectiveRow:
    name, size = key
    moving, waiting = (float(np.mean(part)) for part in zip(*times, strict=True))
    factor = BUS_FACTORS.get(name.split(":")[-1].lower().lstrip("_"))
    rate = None
    if factor is not None and size > 0 and moving > 0 and world > 1:
        rate = size * factor(world) / (moving * 1e-9)
    return CollectiveRow(name, size, len(times) // ranks or 1, moving * 1e-6, waiting * 1e-6, rate)


def _by_rank(features: Features) -> dict[int, list[Collective]]:
    return {rank.rank: rank.collectives for rank in features.ranks if rank.collectives}


def _ahead(features: Features, by_rank: dict[int, list[Collective]]) -> dict[int, int]:
    """What each rank's clock is ahead: nothing on one host."""
    hosts = {rank.data.host for rank in features.ranks}
    if len(hosts) == 1 and "" not in hosts:
        return dict.fromkeys(by_rank, 0)
    return clock_offsets(by_rank)
