"""Whether a trace can be believed: what is missing or impossible in it, before anything is derived.

Every finding is a `TraceWarning` whose slug has a section in docs/trace-health.md, and lowers the
confidence of the verdict (`confidence_left`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .device import device_work
from .graph_replays import lost_in_replays
from .intervals import group_rows, total, union, union_of_rows
from .launches import launch_names
from .steps import find_steps
from .table import Category, Int64, Trace, TraceWarning, contains, looked_up

LOST_SHARE = 0.01
"""Launches without a device record before it is said. Of 45 healthy public traces none has one,
empty memsets apart; a window that closes over running kernels can lose the last few."""
EARLY_SHARE = 0.001
EARLY_NS = 1_000
"""A kernel may seem to begin up to this much before its launch: clocks are read to 1 us in the
traces of 2021 to 2023."""
OVERLAP_SHARE = 0.001
"""Share of device time that overlaps on one stream. Healthy public traces stay below 1e-6; kernels
launched as dependents of one another may overlap a little."""
UNLINKED_SHARE = 0.5
"""Device work without a host event. NCCL and graph replays leave up to 0.31 in healthy traces."""
ZERO_SHARE = 0.01
OVERHEAD_SHARE = 0.05
"""The profiler's own time within the window: from 5 % on it can turn a verdict."""
SLOWED_SHARE = 0.10
"""Profiled steps against unprofiled ones, median against median."""
MIN_UNPROFILED = 10
"""Fewer unprofiled steps do not say what is usual."""
USUAL_QUANTILE = 0.9
"""Steps differ by themselves: the median of three profiled ones is above this quantile of the
others by chance in 3 windows of 100, that of five in 1."""

_SAMPLE = 4096

PENALTIES: dict[str, float] = {
    "truncated": 0.2,
    "gzip-truncated": 0.1,
    "gzip-damaged": 0.3,
    "damaged-header": 0.05,
    "missing-footer": 0.05,
    "trailing-bytes": 0.02,
    "concatenated-files": 0.2,
    "unreadable-events": 0.2,
    "unreadable-arguments": 0.1,
    "unreadable-times": 0.2,
    "unreadable-durations": 0.2,
    "absurd-time-stamps": 0.2,
    "absurd-durations": 0.3,
    "negative-durations": 0.3,
    "unpaired-events": 0.3,
    "unknown-phases": 0.1,
    "not-finite-values": 0.02,
    "bad-escapes": 0.02,
    "bad-encoding": 0.05,
    "string-time-stamps": 0.0,
    "byte-order-mark": 0.0,
    "no-events": 1.0,
    "lost-device-records": 0.5,
    "work-before-launch": 0.3,
    "zero-durations": 0.2,
    "overlapping-work": 0.5,
    "unlinked-work": 0.2,
    "no-host-events": 0.3,
    "device-not-recorded": 0.8,
    "profiler-overhead": 0.2,
    "profiler-slows": 0.2,
    "coarse-time-stamps": 0.05,
}
"""How much of the confidence each finding takes. A judgement, not a measurement: what changes the
division of time takes most, what was mended without loss takes next to nothing."""


OTHER_PENALTY = 0.1
"""What a warning without a weight of its own takes."""


@dataclass(frozen=True)
class Health:
    """What is wrong with a trace, and how much confidence is left, 0 to 1."""

    warnings: list[TraceWarning]
    confidence: float


def check(trace: Trace, unprofiled_ns: npt.NDArray[np.float64] | None = None) -> Health:
    """Check a trace; `unprofiled_ns` are the durations of the steps outside the profiler, where
    they are known."""
    found = list(trace.warnings)
    work = device_work(trace)
    if work.any():
        found += _device_warnings(trace, work)
    else:
        found += _unseen(trace)
    found += _overhead(trace)
    found += _slowed(trace, unprofiled_ns)
    if len(trace.events) and _coarse(trace):
        found.append(
            TraceWarning(
                "coarse-time-stamps",
                "Times are whole microseconds: short kernels and gaps are off by up to 1 us each.",
            )
        )
    return Health(found, confidence_left(warning.slug for warning in found))


def _coarse(trace: Trace) -> bool:
    """Whether all times are whole microseconds."""
    start = trace.events.start_ns
    return not np.any(start[:_SAMPLE] % 1000) and not np.any(start % 1000)


def confidence_left(slugs: Iterable[str]) -> float:
    """Return the share of confidence that warnings with these slugs leave; each counts once."""
    left = 1.0
    for slug in set(slugs):
        left *= 1.0 - PENALTIES.get(slug, OTHER_PENALTY)
    return left


def _device_warnings(trace: Trace, work: npt.NDArray[np.bool_]) -> list[TraceWarning]:
    found = _linkage(trace, work)
    found += lost_in_replays(trace)
    found += _zeros(trace, work)
    found += _overlaps(trace, work)
    return found


def _linkage(trace: Trace, work: npt.NDArray[np.bool_]) -> list[TraceWarning]:
    events = trace.events
    calls = events.of(Category.RUNTIME, Category.DRIVER)
    host = events.of(Category.CPU_OP, Category.ANNOTATION) | calls
    count = int(np.count_nonzero(work))
    if not host.any():
        text = "Only device work is recorded: what the host did, and why the device waits, is open."
        return [TraceWarning("no-host-events", text)]
    correlation = events.correlation[work]
    by_call = contains(events.correlation[calls], correlation)
    external = events.external_id[work]
    by_op = (external > 0) & contains(events.external_id[host], external)
    unlinked = int(np.count_nonzero(~by_call & ~by_op))
    found = []
    if unlinked > UNLINKED_SHARE * count:
        text = f"{unlinked / count:.0%} of the device work is not linked to a host event."
        found.append(TraceWarning("unlinked-work", text, unlinked))
    launches = calls & looked_up(launch_names(trace), events.name)
    silent = ~contains(correlation, events.correlation[launches])
    # Work that says no launch may be what a silent launch started: not lost then.
    lost = int(np.count_nonzero(silent)) - int(np.count_nonzero(~by_call))
    if lost > LOST_SHARE * np.count_nonzero(launches):
        share = lost / np.count_nonzero(launches)
        text = f"{share:.0%} of the launches have no device record: the profiler lost work."
        found.append(TraceWarning("lost-device-records", text, lost))
    return found + _early(trace, np.flatnonzero(work)[by_call], np.flatnonzero(calls))


def _unseen(trace: Trace) -> list[TraceWarning]:
    """Find launches where no device work is recorded at all."""
    calls = trace.events.of(Category.RUNTIME, Category.DRIVER)
    launched = int(np.count_nonzero(calls & looked_up(launch_names(trace), trace.events.name)))
    if not launched:
        return []
    text = f"No device work is recorded, yet {launched} calls launched some: what ran is open."
    return [TraceWarning("device-not-recorded", text, launched)]


def _early(trace: Trace, linked: Int64, calls: Int64) -> list[TraceWarning]:
    """Find work that begins before the call that launched it."""
    if not len(linked):
        return []
    events = trace.events
    order = calls[np.argsort(events.correlation[calls], kind="stable")]
    place = np.searchsorted(events.correlation[order], events.correlation[linked])
    lead = events.start_ns[order[place]] - events.start_ns[linked]
    early = int(np.count_nonzero(lead > EARLY_NS))
    if early <= EARLY_SHARE * len(linked):
        return []
    text = (
        f"{early} of {len(linked)} kernels and copies begin before their launch, by up to "
        f"{int(lead.max()) / 1000:.0f} us: host and device clocks do not agree."
    )
    return [TraceWarning("work-before-launch", text, early)]


def _zeros(trace: Trace, work: npt.NDArray[np.bool_]) -> list[TraceWarning]:
    events = trace.events
    if _coarse(trace):
        return []  # whole microseconds: short kernels are 0
    negative = sum(w.count for w in trace.warnings if w.slug == "negative-durations")
    zero = int(np.count_nonzero(events.duration_ns[work] == 0)) - negative
    if zero <= ZERO_SHARE * np.count_nonzero(work):
        return []
    return [TraceWarning("zero-durations", "Device work without a duration.", zero)]


def _overlaps(trace: Trace, work: npt.NDArray[np.bool_]) -> list[TraceWarning]:
    """Find work that runs on one stream together with other work, which a stream excludes."""
    events = trace.events
    start = events.start_ns[work]
    end = start + events.duration_ns[work]
    lanes = events.device[work].astype(np.int64) << 32 | events.stream[work].astype(np.int64)
    whole = doubled = count = 0
    for rows in group_rows(lanes).values():
        begins, ends = start[rows], end[rows]
        lane_sum = int(np.sum(ends - begins))
        whole += lane_sum
        doubled += lane_sum - total(union(begins, ends))
        if len(begins) > 1:
            count += int(np.count_nonzero(begins[1:] < np.maximum.accumulate(ends)[:-1]))
    if doubled <= OVERLAP_SHARE * whole:
        return []
    text = (
        f"{count} kernels or copies begin while another still runs on their stream, which cannot "
        f"be: {doubled / 1e6:.1f} ms are counted more than once."
    )
    return [TraceWarning("overlapping-work", text, count)]


def _overhead(trace: Trace) -> list[TraceWarning]:
    events = trace.events
    own = events.of(Category.OVERHEAD)
    if not own.any():
        return []
    taken = total(union_of_rows(events.start_ns, events.duration_ns, own))
    whole = union_of_rows(events.start_ns, events.duration_ns)
    window = int(whole[1][-1] - whole[0][0]) if len(whole[0]) else 0
    if taken <= OVERHEAD_SHARE * window:
        return []
    text = f"The profiler itself took {taken / window:.0%} of the recorded time."
    return [TraceWarning("profiler-overhead", text, int(np.count_nonzero(own)))]


def _slowed(trace: Trace, unprofiled_ns: npt.NDArray[np.float64] | None) -> list[TraceWarning]:
    if unprofiled_ns is None or len(unprofiled_ns) < MIN_UNPROFILED:
        return []
    steps = find_steps(trace)
    if steps.source not in ("profiler", "optimizer"):
        return []
    profiled = float(np.median(steps.end_ns - steps.start_ns))
    usual = float(np.median(unprofiled_ns))
    if usual <= 0 or profiled <= np.quantile(unprofiled_ns, USUAL_QUANTILE):
        return []
    share = profiled / usual - 1.0
    if share <= SLOWED_SHARE:
        return []
    text = f"Steps under the profiler take {share:.0%} longer than the others."
    return [TraceWarning("profiler-slows", text)]
