"""Where a trace's start-up ends: one-time calls of the runtime that no steady step has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .device import device_time
from .idle import COPY, SYNCHRONISE, matching
from .intervals import covered
from .steps import Steps
from .table import Category, Int64, Trace

STARTUP_CALL_NS = 100_000_000
"""A runtime call that takes this long while the device idles makes a context, loads a module or
sets a library up. In public traces those take 0.26 to 30 s; the longest allocator call of a warm
process takes 20 ms."""

BUSY_SHARE = 0.01
"""A launch can also last because the queue is full: then the device works meanwhile."""


def startup_calls(trace: Trace) -> Int64:
    """The events of one-time calls, in order of time; waits and copies are none."""
    events = trace.events
    calls = events.of(Category.RUNTIME, Category.DRIVER)
    calls &= events.duration_ns >= STARTUP_CALL_NS
    if not calls.any():
        return np.empty(0, np.int64)
    rows = np.flatnonzero(calls & ~matching(trace, SYNCHRONISE) & ~matching(trace, COPY))
    device = device_time(trace)
    if device is None:
        return rows
    start = events.start_ns[rows]
    busy = covered(device.busy, start, start + events.duration_ns[rows])
    return rows[busy <= BUSY_SHARE * events.duration_ns[rows]]


def startup_end(trace: Trace, start_ns: int, end_ns: int) -> int | None:
    """The end of the last one-time call that begins in the window, ns; None without one."""
    rows = startup_calls(trace)
    starts = trace.events.start_ns[rows]
    ends = starts + trace.events.duration_ns[rows]
    inside = (starts < end_ns) & (ends > start_ns)
    return int(ends[inside].max()) if inside.any() else None


def warm_steps(trace: Trace, steps: Steps) -> Steps:
    """The steps after start-up: without the leading ones that hold a one-time call.

    Only calls in the first half of the steps count, so that a late one takes no steady step away.
    """
    if len(steps) < 2:
        return steps
    middle = int(steps.start_ns[(len(steps) + 1) // 2])
    end = startup_end(trace, int(steps.start_ns[0]), middle)
    if end is None:
        return steps
    warm = steps.start_ns >= end
    if not warm.any():
        return steps
    return replace(
        steps,
        start_ns=steps.start_ns[warm],
        end_ns=steps.end_ns[warm],
        number=steps.number[warm],
    )
