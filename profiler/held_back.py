"""The time in which a rank had work but no core: by the CPU quota, or by too many threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .diagnosis import SLOTS, Slot
from .metrics import growth_of, within
from .recorded_facts import count_in, first_number
from .run.load import Float, Run

if TYPE_CHECKING:
    from .features import RankFeatures

MIN_READINGS = 3
"""Fewer readings, one a second, may be of the start alone."""

MIN_HELD = 0.05
"""Below 5 % it costs less than is claimed."""

OVERSUBSCRIBED = 1.25
"""Threads for cores: one more on four is within what a scheduler evens out."""


def steady_span(rank: RankFeatures) -> tuple[int, int]:
    """Begin and end of the steady state, ns."""
    line = rank.timeline
    begin = int(line.start_ns[line.steady][0]) if line.steady.any() else int(line.start_ns[0])
    return begin, int(line.end_ns[-1])


def threads_of(rank: RankFeatures) -> int:
    """Threads that the rank's ops run in; 1 where it is not known."""
    process = rank.data.process
    return count_in(process.facts, "threads", 1) if process is not None else 1


def cores_of(run: Run) -> float:
    """Cores that the job may use; 0 where nothing is recorded."""
    return first_number(run.manifest.environment.get("limits", {}).get("cores", ""))


def run_delay(run: Run, rank: RankFeatures) -> float:
    """Share of the steady state in which the rank's main thread was ready without a core."""
    name = f"rank.{rank.rank}.main_run_delay_share"
    values: Float = within(run, name, *steady_span(rank))
    return float(values.mean()) if len(values) >= MIN_READINGS else 0.0


def throttled(run: Run, rank: RankFeatures) -> tuple[float, float]:
    """Share of the steady state that the CPU quota held the job, and of periods that it ran out in.

    The kernel's counter adds up the time of every core's queue, so it is bounded by the periods.
    """
    span = steady_span(rank)
    grown = growth_of(run, "cgroup.cpu_throttled_us", *span)
    periods = within(run, "cgroup.cpu_throttled_share", *span)
    if grown is None or not grown[1] or len(periods) < MIN_READINGS:
        return 0.0, 0.0
    often = float(np.mean(periods))
    return min(grown[0] * 1e-6 / grown[1], often), often


def oversubscribed(run: Run, ranks: Sequence[RankFeatures]) -> int:
    """Threads that calculate on the first rank's host where the cores are too few; else 0."""
    host = ranks[0].data.host if ranks else ""
    threads = sum(threads_of(rank) for rank in ranks if rank.data.host == host)
    cores = cores_of(run)
    return threads if cores and threads >= OVERSUBSCRIBED * cores else 0


def thread_delay(run: Run, ranks: Sequence[RankFeatures], rank: RankFeatures) -> float:
    """The main thread's wait for a core that threads beyond the cores explain; 0 without such.

    Threads that share cores fairly wait 1 - cores / threads of the time: more than that is others'.
    """
    threads = oversubscribed(run, ranks)
    if not threads:
        return 0.0
    return min(run_delay(run, rank), 1 - cores_of(run) / threads)


def held_share(run: Run, rank: RankFeatures) -> float:
    """Share of the rank's step in which its job's CPU quota kept it from a core.

    What other programs take is no cause that the job can remove, and what its own threads take from
    each other may be work that has to be done anyway. 0 beside a device.
    """
    if rank.device or rank.timeline.source == "trace":
        return 0.0
    held = throttled(run, rank)[0]
    return held if held >= MIN_HELD else 0.0


def hold_back(rank: RankFeatures, held: float) -> RankFeatures:
    """The rank with the time without a core moved from its work slots to `host`."""
    if held <= 0:
        return rank
    return replace(move(rank, held, ("compute", "memory", "host", "other"), "host"), held=held)


def move(rank: RankFeatures, share: float, sources: Sequence[Slot], target: Slot) -> RankFeatures:
    """The rank with `share` of its step moved from some slots, in proportion, to another one."""
    row = np.array([[rank.shares[slot] for slot in SLOTS]])
    moved = _moved(row, share, sources, target)[0]
    shares = {slot: float(moved[i]) for i, slot in enumerate(SLOTS)}
    blocks = _moved(rank.block_shares, share, sources, target)
    return replace(rank, shares=shares, block_shares=blocks)


def _moved(rows: Float, share: float, sources: Sequence[Slot], target: Slot) -> Float:
    """Rows of shares with `share` taken from the sources, as far as they hold it."""
    result: Float = rows.copy()
    columns = [SLOTS.index(slot) for slot in sources]
    held = result[:, columns].sum(axis=1)
    taken = np.minimum(share, held)
    kept = np.divide(held - taken, held, out=np.ones(len(held)), where=held > 0)
    result[:, columns] *= kept[:, None]
    result[:, SLOTS.index(target)] += taken
    return result
