"""Facts of a device's trace windows that the rules need beside the division of time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .alike import MAX_EVENT_OVERHEAD_NS
from .trace.copies import copy_kinds, is_pageable
from .trace.device_division import launching_threads
from .trace.idle import on_threads, running
from .trace.intervals import clip, total, union
from .trace.table import Category, Trace, looked_up

BLOCKING_NS = 50_000
"""A runtime call of this length waits for the device: a launch takes 5 to 20 us, and a copy or a
synchronisation that finds its stream empty no longer."""

_MAY_BLOCK = re.compile(
    r"Synchronize|EventQuery|QueueSync|Launch|Memcpy|memcpy|Memset|EnqueueKernel"
    r"|^(?:ur|pi)(?:Events?Wait|QueueFinish)|Enqueue\w*(?:MemBuffer|Fill)",
    re.IGNORECASE,
)


OCCUPANCY = "est. achieved occupancy %"
"""What Kineto's CUDA builds record with each kernel."""


@dataclass(frozen=True)
class DeviceFacts:
    """Means over the windows of a rank.

    `host_path`: share of the time in which no launching thread waits for the device, of which
    `profiler_share` at most is the profiler's own cost. `pageable`:
    share of host-to-device copy time that comes from pageable memory. `occupancy`: of kernels by
    their time, 0 to 1; None where the trace has none.
    """

    host_path: float = 0.0
    profiler_share: float = 0.0
    pageable: float = 0.0
    occupancy: float | None = None


def device_facts(windows: Sequence[tuple[Trace, tuple[int, int]]]) -> DeviceFacts:
    """The facts of a rank's windows, each a trace and its begin and end, ns."""
    if not windows:
        return DeviceFacts()
    known = [value for value in (occupancy(trace) for trace, _ in windows) if value is not None]
    return DeviceFacts(
        host_path=float(np.mean([host_path(trace, window) for trace, window in windows])),
        profiler_share=float(np.mean([profiler_share(trace, window) for trace, window in windows])),
        pageable=float(np.mean([pageable_share(trace) for trace, _ in windows])),
        occupancy=float(np.mean(known)) if known else None,
    )


def profiler_share(trace: Trace, window: tuple[int, int]) -> float:
    """The most that recording the launching threads' events may have cost, as share of the window.

    Recording Python functions costs less an event, but there are more of them: they count alike.
    """
    events = trace.events
    kinds = (Category.CPU_OP, Category.RUNTIME, Category.DRIVER, Category.PYTHON)
    mine = events.of(*kinds) & on_threads(trace, launching_threads(trace))
    mine &= (events.start_ns >= window[0]) & (events.start_ns < window[1])
    return min(1.0, int(mine.sum()) * MAX_EVENT_OVERHEAD_NS / max(1, window[1] - window[0]))


def pageable_share(trace: Trace) -> float:
    """Share of the time of copies to the device whose source is pageable; 0 where none is told."""
    events = trace.events
    copies = np.flatnonzero(events.of(Category.MEMCPY))
    to_device = [kind == "host-to-device" for kind in copy_kinds(trace, copies)]
    copies = copies[np.array(to_device, np.bool_)]
    pageable = np.fromiter(map(is_pageable, trace.names), np.bool_, len(trace.names))
    whole = int(events.duration_ns[copies].sum())
    slow = int(events.duration_ns[copies[pageable[events.name[copies]]]].sum())
    return slow / whole if whole else 0.0


def occupancy(trace: Trace) -> float | None:
    """Mean achieved occupancy of the kernels by their time, 0 to 1; None where not recorded."""
    events = trace.events
    recorded = np.array([_number(arguments.get(OCCUPANCY)) for arguments in trace.args])
    kernels = np.flatnonzero(events.of(Category.KERNEL) & (events.args >= 0))
    if not len(recorded) or not len(kernels):
        return None
    values = recorded[events.args[kernels]]
    times = events.duration_ns[kernels]
    known = values >= 0
    if not times[known].sum():
        return None
    return float((values[known] * times[known]).sum() / times[known].sum()) / 100


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else -1.0


def host_path(trace: Trace, window: tuple[int, int]) -> float:
    """Share of a window, ns, in which no launching thread waits for its device.

    The host's own way through a step: without any device work it would take this long.
    """
    events = trace.events
    calls = events.of(Category.RUNTIME, Category.DRIVER)
    if not calls.any():
        return 0.0
    may_block = np.fromiter(
        (_MAY_BLOCK.search(name) is not None for name in trace.names), np.bool_, len(trace.names)
    )
    blocked = calls & (events.duration_ns >= BLOCKING_NS)
    blocked &= looked_up(may_block, events.name)
    threads = launching_threads(trace)
    blocked &= on_threads(trace, threads)
    starts = events.start_ns[blocked]
    waits = clip(union(starts, starts + events.duration_ns[blocked]), *window)
    # Where the device still works off what was launched, the host may be done with the window.
    ran = clip(running(trace, threads), *window)
    return (total(ran) - total(waits)) / max(1, window[1] - window[0])
