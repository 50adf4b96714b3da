"""The time of ops that write to memory fresh from the system, page by page.

The C library gives large blocks back as soon as they are freed, and asks for new ones in the next
step. Each of their pages is found, cleared and mapped at its first write, while the op waits: on a
virtual machine 1.4 to 2.1 us a page, where one that is kept takes 0.2 to 0.3 (an add over 40 MB).
The op is then limited neither by arithmetic nor by bandwidth, and nothing is wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .aftermath import charged_phases
from .held_back import MIN_READINGS, steady_span
from .metrics import series_of, within
from .run.load import Run
from .shares import MEASURED, block_shares, combine, event_overhead, host_fractions
from .trace.host import HostWindow, OpTime

if TYPE_CHECKING:
    from .features import RankFeatures

MIN_FRESH = 0.05
"""Below 5 % it costs less than is claimed."""

LARGE_BYTES = 128 * 1024
"""Ops that move less write to blocks that the C library keeps (glibc's M_MMAP_THRESHOLD)."""

FIRST_WRITES = frozenset(
    f"aten::{name}_"
    for name in ("fill", "zero", "copy", "normal", "uniform", "random", "bernoulli")
)

WORK_SLOTS = ("compute", "memory")


@dataclass(frozen=True)
class FreshPages:
    """A rank's fresh pages: how many a usual step writes, and the share of the step that they take.

    `apart_ns` is by how much longer they take in a step of the trace windows.
    """

    pages: float = 0.0
    share: float = 0.0
    apart_ns: float = 0.0


def with_fresh_pages(run: Run, rank: RankFeatures) -> RankFeatures:
    """The rank with the time of fresh pages taken from its ops and slots of work, and that of a
    usual step's pages given to `memory`. Unchanged where it is below `MIN_FRESH`, or not known.

    The pages' time in the windows is dealt out among the ops that are above their roof. Windows
    have more of it than usual steps where what the profiler held was given back.
    """
    steps = _steps_in_windows(rank)
    work = sum(rank.shares[slot] for slot in WORK_SLOTS)
    if rank.roofs is None or not steps or not work or rank.device:
        return rank
    page_ns, step_ns = rank.roofs.fresh_page_ns, float(rank.step_ms.mean()) * 1e6
    pages = pages_per_step(run, rank)
    if pages is None:
        return rank  # the windows alone do not tell: what the profiler gave back they get anew
    counted = _pages_in_windows(rank)
    taken = _dealt(rank.ops, (pages * steps if counted is None else counted) * page_ns)
    by_slot = {
        slot: sum(ns for op, ns in zip(rank.ops, taken, strict=True) if op.slot == slot)
        for slot in WORK_SLOTS
    }
    in_windows = sum(by_slot.values())
    most = work if counted is not None else min(work, in_windows / steps / step_ns)
    usual = min(pages * page_ns / step_ns, most)
    if max(usual, in_windows / (rank.window_ms * 1e6)) < MIN_FRESH:
        return rank
    ops = [replace(op, work_ns=op.work_ns - ns) for op, ns in zip(rank.ops, taken, strict=True)]
    left = {slot: 1 - ns / max(_work(rank.ops, slot), ns, 1.0) for slot, ns in by_slot.items()}
    return replace(
        _divided_anew(rank, left, usual),
        ops=ops,
        window_ms=rank.window_ms - in_windows * 1e-6,
        fresh=FreshPages(pages, usual, in_windows / steps - usual * step_ns),
    )


def _divided_anew(rank: RankFeatures, left: Mapping[str, float], fresh: float) -> RankFeatures:
    """The rank with its shares as windows divide them that have only so much left of some slots,
    and `fresh` of a step in `memory`, in the phases from which the rest was taken."""
    windows = [(window, _less(divided, left)) for window, divided in rank.windows]
    phases_ns, _ = charged_phases(rank.timeline)
    means = {phase: float(values.mean()) for phase, values in phases_ns.items()}
    overhead = event_overhead(rank.timeline, windows)
    fractions = host_fractions(windows, overhead)
    taken = {phase: _taken(rank, phase, left) for phase in fractions}
    fresh_ns = fresh * sum(means.values()) / max(sum(taken.values()), 1.0)
    for phase, fraction in fractions.items():
        part = min(1.0, fresh_ns * taken[phase] / means[phase]) if means[phase] else 0.0
        fractions[phase] = {slot: value * (1 - part) for slot, value in fraction.items()}
        fractions[phase]["memory"] = fractions[phase].get("memory", 0.0) + part
    return replace(
        rank,
        shares=combine(means, fractions, MEASURED),
        block_shares=block_shares(phases_ns, fractions, MEASURED),
        event_overhead_ns=overhead,
    )


def _less(divided: HostWindow, left: Mapping[str, float]) -> HostWindow:
    phases = {}
    for name, phase in divided.phases.items():
        slots = {slot: ns * left.get(slot, 1.0) for slot, ns in phase.slots.items()}
        gone = sum(phase.slots.values()) - sum(slots.values())
        phases[name] = replace(phase, slots=slots, wall_ns=phase.wall_ns - gone)
    return replace(divided, phases=phases)


def _taken(rank: RankFeatures, phase: str, left: Mapping[str, float]) -> float:
    """What is taken from a phase in all windows, ns; its work where nothing is taken anywhere."""
    slots = [divided.phases[phase].slots for _, divided in rank.windows]
    rates = {slot: 1 - left[slot] for slot in WORK_SLOTS}
    if not any(rates.values()):
        rates = dict.fromkeys(WORK_SLOTS, 1.0)
    return sum(one.get(slot, 0.0) * rate for one in slots for slot, rate in rates.items())


def pages_per_step(run: Run, rank: RankFeatures) -> float | None:
    """Pages that the rank's process writes for the first time in a step; None where not known.

    Runs of older versions have the faults of the whole job alone: they count where one rank without
    loader workers is the job.
    """
    name = f"rank.{rank.rank}.minor_faults_per_s"
    if not len(series_of(run, name)[1]):
        workers = series_of(run, f"rank.{rank.rank}.workers_cpu_cores")[1]
        if len(workers) or len(run.ranks) > 1:
            return None
        name = "job.minor_faults_per_s"
    values = within(run, name, *steady_span(rank))
    if len(values) < MIN_READINGS:
        return None
    # Others than ops fault, too: a checkpoint's buffers, a batch that is put together.
    working = sum(rank.shares[slot] for slot in (*WORK_SLOTS, "host", "network", "imbalance"))
    return float(np.median(values)) * float(rank.step_ms.mean()) * 1e-3 * working


def _pages_in_windows(rank: RankFeatures) -> float | None:
    """Pages written for the first time in what was divided of the trace windows; None where they
    were not counted."""
    found = 0.0
    for window, divided in rank.windows:
        if window.minor_faults < 0 or window.end_ns <= window.start_ns:
            return None
        told = sum(phase.wall_ns for phase in divided.phases.values())
        found += window.minor_faults * min(1.0, told / (window.end_ns - window.start_ns))
    return found if rank.windows else None


def _steps_in_windows(rank: RankFeatures) -> float:
    """Steps that the windows' ops stand for."""
    one = rank.per_step(1.0)
    return 1.0 / one if one else 0.0


def _work(ops: Sequence[OpTime], slot: str) -> float:
    return sum(op.work_ns for op in ops if op.slot == slot)


def _dealt(ops: Sequence[OpTime], whole_ns: float) -> list[float]:
    """`whole_ns` dealt out among the ops by their traffic: to none more than what it is above its
    roof, ns per op."""
    room = [max(0.0, op.work_ns - op.attainable_ns) if _may_be_fresh(op) else 0.0 for op in ops]
    given = [0.0] * len(ops)
    waiting = [index for index, ns in enumerate(room) if ns > 0]
    left = whole_ns
    while waiting:
        rate = left / sum(ops[index].bytes for index in waiting)
        full = [index for index in waiting if room[index] <= rate * ops[index].bytes]
        for index in full or waiting:
            given[index] = room[index] if full else rate * ops[index].bytes
        left -= sum(given[index] for index in full)
        waiting = [index for index in waiting if index not in full] if full else []
    return given


def _may_be_fresh(op: OpTime) -> bool:
    """Whether the op works on blocks that may be new: in-place ops do not, but for the first
    write to what was made empty."""
    in_place = op.name.endswith("_") and op.name not in FIRST_WRITES
    large = op.bytes >= LARGE_BYTES * op.calls
    return op.slot in WORK_SLOTS and op.attainable_ns > 0 and large and not in_place
