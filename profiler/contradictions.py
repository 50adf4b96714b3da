"""Where the evidence speaks against itself, or is not the job's own: what lowers the confidence.

Each finding of this kind is a warning with a slug of docs/warnings.md; `doubt` says how much of the
confidence is left, and which of them leave no verdict at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..collectors.records import Window
from .alike import MAX_EVENT_OVERHEAD_NS, UNLIKE, telling_steps
from .diagnosis import Warning_
from .metrics import within
from .run.load import Run
from .stalls import unlike_on_device
from .timeline import WORK_PHASES, Timeline
from .trace.device_division import DeviceWindow
from .trace.host import HostWindow

BUSY_IN_TRACE, IDLE_IN_METRICS = 0.3, 0.02
"""NVML counts a device as utilised while any kernel runs, over 1/6 to 1 s: below 2 % none ran."""
BUSY_IN_METRICS, IDLE_IN_TRACE = 0.5, 0.05

MIN_READINGS = 3
"""Fewer readings, one a second, may lie between two windows."""

STOLEN = 0.05
"""Share of the CPU time that a hypervisor gave to others; 5 % is the least that is claimed."""

SETTLING = 1.5
"""The first third of the steps against the last: still so much faster at the end is start-up."""

SETTLED_STEPS = 60
"""With more steps than this a slow beginning is a trend of the run, not its start-up."""

APART_SHARE = 0.5
"""Of the time from first to last arrivals at all collectives, the first one has most."""

APART_OF_WINDOW = 0.05
"""Of the window: a smaller wait changes no share by as much as is claimed."""

APART_COLLECTIVES = 3
"""Among fewer collectives the first one has most by chance."""

LEFT = {
    "busy-host": 0.7,
    "stolen-cpu": 0.8,
    "window-unlike-run": 0.5,
    "trace-against-metrics": 0.4,
    "still-starting": 0.0,
    "overloaded-host": 0.3,
}
"""What each leaves of the confidence. The order is argued, the figures are not measured: other
programs scale all slots alike unless they take cores that the loader or a second thread needs; a
window of other steps says nothing of the rest; a device that two sources describe in opposite ways
leaves one of them wrong."""


def doubt(warnings: Sequence[Warning_]) -> float:
    """The factor that the warnings of this module leave of the confidence."""
    slugs = {warning.slug for warning in warnings}
    return float(np.prod([LEFT[slug] for slug in slugs if slug in LEFT]))


def unlike_windows(
    line: Timeline,
    windows: Sequence[tuple[Window, HostWindow]],
    rank: int,
    apart_ns: float = 0.0,
) -> list[Warning_]:
    """A warning where profiled steps do other work than the run's unprofiled ones.

    `apart_ns`: what is known to be in a profiled step and not in another one.
    """
    calm = line.calm
    if calm.sum() < 3 or not windows:
        return []
    usual = sum(float(np.median(line.phase_ns[phase][calm])) for phase in WORK_PHASES)
    seen = [
        (sum(p.wall_ns for p in divided.phases.values()) / steps, _events(divided) / steps)
        for window, divided in windows
        if (steps := telling_steps(line, window)) >= 1
    ]
    if not seen or usual <= 0:
        return []
    work = float(np.median([value for value, _ in seen])) - apart_ns
    cost = float(np.median([events for _, events in seen])) * MAX_EVENT_OVERHEAD_NS
    if usual / UNLIKE <= work <= (usual + cost) * UNLIKE:
        return []
    return [_window_unlike(rank, "work", work, usual)]


def unlike_device_windows(
    line: Timeline, windows: Sequence[Window], profiler_share: float, rank: int
) -> list[Warning_]:
    """The same beside a device: whole steps, since what the device does shows in no phase."""
    found = unlike_on_device(line, windows, profiler_share)
    return [] if found is None else [_window_unlike(rank, "take", *found)]


def _window_unlike(rank: int, what: str, seen_ns: float, usual_ns: float) -> Warning_:
    text = (
        f"rank {rank}: the steps in the trace window {what} {seen_ns * 1e-6:.3g} ms, the others "
        f"{usual_ns * 1e-6:.3g} ms: the window may not show what the run spends its time on"
    )
    return Warning_("window-unlike-run", text)


def _events(divided: HostWindow) -> int:
    return sum(phase.events for phase in divided.phases.values())


def trace_against_metrics(run: Run, windows: Sequence[DeviceWindow], rank: int) -> list[Warning_]:
    """A warning where the trace has the device busy and NVML idle, or the other way round."""
    if not windows:
        return []
    begin, end = windows[0].start_ns, windows[-1].end_ns
    names = {
        name
        for table in run.metrics
        for name in table.series
        if name.startswith("gpu.") and name.endswith(".utilization_percent")
    }
    # The run's steady seconds around the windows: a window may lie between two readings.
    readings = [within(run, name, begin - 2_000_000_000, end + 2_000_000_000) for name in names]
    known = [float(np.mean(values)) / 100 for values in readings if len(values) >= MIN_READINGS]
    if not known:
        return []
    told = max(known)
    whole = sum(window.wall_ns for window in windows)
    busy = sum(window.device.busy_ns for window in windows) / whole if whole else 0.0
    agrees = not (
        (busy >= BUSY_IN_TRACE and told <= IDLE_IN_METRICS)
        or (busy <= IDLE_IN_TRACE and told >= BUSY_IN_METRICS)
    )
    if agrees:
        return []
    text = (
        f"rank {rank}: the trace has the device busy for {busy:.0%} of its window, the driver's "
        f"metrics for {told:.0%}: one of them is not of this job or of this time"
    )
    return [Warning_("trace-against-metrics", text)]


def started_apart(skews_ns: Sequence[int], window_ns: float) -> list[Warning_]:
    """A warning where most waiting for late ranks is at the first collective that all recorded.

    `skews_ns`: from first to last arrival at each of them, in order of time. A profiler that starts
    in one rank before the next makes that wait itself.
    """
    if len(skews_ns) < APART_COLLECTIVES:
        return []
    first, whole = skews_ns[0], sum(skews_ns)
    if first <= APART_SHARE * whole or first < APART_OF_WINDOW * window_ns:
        return []
    text = (
        f"{first * 1e-6:.3g} of the {whole * 1e-6:.3g} ms by which ranks arrive apart are at the "
        "first collective that all recorded: it may come from profilers starting apart, and be no "
        "part of a usual step"
    )
    return [Warning_("ranks-started-apart", text)]


def stolen_cpu(run: Run) -> list[Warning_]:
    """A warning where the hypervisor kept the CPU from the whole machine."""
    found = []
    for table in run.metrics:
        values = table.series.get("host.steal_percent", (None, np.empty(0)))[1]
        if len(values) >= MIN_READINGS and float(np.mean(values)) / 100 > STOLEN:
            text = (
                f"the hypervisor gave {float(np.mean(values)) / 100:.0%} of the CPU time of "
                f"{table.host} to others: step times are theirs as much as the job's"
            )
            found.append(Warning_("stolen-cpu", text))
    return found


def still_starting(line: Timeline) -> list[Warning_]:
    """A warning where steps get faster until the end: all of the run is start-up."""
    steps = line.duration_ns[line.steady]
    if line.source == "trace" or not 5 <= len(steps) < SETTLED_STEPS:
        return []
    third = max(1, len(steps) // 3)
    first, last = float(np.median(steps[:third])), float(np.median(steps[-third:]))
    # The last third must itself still fall: a slow beginning that has ended is cut off as start-up.
    middle = float(np.median(steps[third : 2 * third]))
    if first < SETTLING * last or middle < SETTLING**0.5 * last:
        return []
    text = (
        f"rank {line.rank}: steps still get faster, from {first * 1e-6:.3g} ms to "
        f"{last * 1e-6:.3g} ms: all {len(steps)} of them may be start-up"
    )
    return [Warning_("still-starting", text)]
