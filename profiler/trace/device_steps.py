"""The steps of a trace as the device works them, which runs behind the host that marks them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .device import device_work
from .kernels import by_external_id, launching_calls
from .launches import launch_names
from .steps import Steps
from .table import Category, Int64, Trace, looked_up

UNRECORDED_NS = 1_000_000
"""Work that begins so long after the call that launched it, on a device of which nothing is
recorded until then, waited for work of before the recording. An idle device begins within 3 to
20 us; what is loaded or set up first takes its time inside the call."""


def device_steps(trace: Trace, steps: Steps) -> Steps:
    """The steps from the end of one's device work to the end of the next one's.

    A step's work is what its host range launches, however much later it runs: a step ends with the
    host's mark or with the last of that work, whichever is later, and the next begins where it
    ends, or with its own mark. So does torch-tb-profiler ("update_device_steps"). Steps of traces
    without device work, and those that were found on the device, stay as they are.
    """
    work = np.flatnonzero(device_work(trace))
    if steps.source == "window" or steps.on_device or not len(work):
        return steps
    launched = launch_ns(trace, work)
    ended = trace.events.start_ns[work] + trace.events.duration_ns[work]
    place = np.searchsorted(steps.start_ns, launched, side="right") - 1
    inside = (place >= 0) & (launched < steps.end_ns[np.maximum(place, 0)])
    end = steps.end_ns.copy()
    np.maximum.at(end, place[inside], ended[inside])
    end = np.maximum.accumulate(end)
    first = _device_free(trace, work, launched, int(steps.start_ns[0]))
    start = np.maximum(steps.start_ns, np.append(first, end[:-1]))
    return replace(steps, start_ns=np.minimum(start, end), end_ns=end)


def device_window(trace: Trace, begin_ns: int, end_ns: int) -> tuple[int, int]:
    """The window in which the device does what the host launched from `begin_ns` to `end_ns`."""
    begin, end = np.array([begin_ns], np.int64), np.array([end_ns], np.int64)
    host = Steps("profiler", begin, end, np.zeros(1, np.int64))
    steps = device_steps(trace, host)
    return int(steps.start_ns[0]), int(steps.end_ns[0])


def launch_ns(trace: Trace, work: Int64) -> Int64:
    """When each row of device work was launched, ns: the start of its call.

    Where no call is linked to it: the start of the op that has its external id; else of the last
    call before it that launches anything; else its own.
    """
    events = trace.events
    starts = events.start_ns[work]
    calls = launching_calls(trace, work)
    by_id = (calls < 0) & (events.external_id[work] > 0)
    calls[by_id] = by_external_id(trace, work[by_id])
    result = np.where(calls >= 0, events.start_ns[np.maximum(calls, 0)], starts)
    unlinked = np.flatnonzero(calls < 0)
    if len(unlinked):
        launches = events.of(Category.RUNTIME, Category.DRIVER) & looked_up(
            launch_names(trace), events.name
        )
        times = events.start_ns[launches]
        place = np.searchsorted(times, starts[unlinked], side="right") - 1
        known = place >= 0
        result[unlinked[known]] = times[place[known]]
    return result


def _device_free(trace: Trace, work: Int64, launched: Int64, begin_ns: int) -> int:
    """When the device is done with what was launched before `begin_ns`, ns; it may be before."""
    events = trace.events
    earlier = work[launched < begin_ns]
    if len(earlier):
        return int((events.start_ns[earlier] + events.duration_ns[earlier]).max())
    call = int(launching_calls(trace, work[:1])[0])  # the rows are in order of time
    start = int(events.start_ns[work[0]])
    if call < 0:
        return begin_ns
    waited = start - int(events.start_ns[call] + events.duration_ns[call])
    return start if waited >= UNRECORDED_NS else begin_ns
