"""How far the host runs ahead of a device: launch delays, and the depth of the launch queue.

A piece of work (kernel, copy, memset, collective) is in the queue from the start of the call that
launches it to its own end. An empty queue means that the device waits for the host; a deep one
hides what the host does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .device import device_work
from .device_steps import device_steps
from .intervals import Union, covered, subtract, union
from .kernels import launching_calls
from .steps import find_steps
from .table import Int64, Trace

Float = npt.NDArray[np.float64]

DRAINED_SHARE = 0.05
"""A step in which the queue is empty for less than this counts as fed: see MIN_SHARE of the
rules."""


@dataclass(frozen=True)
class LaunchQueue:
    """The launch queue of one device over a window, ns.

    `depth[i]` pieces of work are launched and not finished from `time_ns[i]` to `time_ns[i + 1]`
    (the last until the window's end). `delay_ns` has one entry for each piece of work that is
    linked to its launch: from the call's start to the work's. `step_empty` is the share of each
    step in which the queue is empty. `starved` counts the work that found the queue empty.
    """

    device: int
    window: tuple[int, int]
    time_ns: Int64
    depth: Int64
    work: int
    starved: int
    delay_ns: Int64
    step_number: Int64
    step_empty: Float

    @property
    def empty_share(self) -> float:
        """Share of the window in which nothing is launched and unfinished."""
        return self._share(self.depth == 0)

    @property
    def mean_depth(self) -> float:
        """Depth averaged over the window."""
        lengths = self._lengths()
        whole = int(lengths.sum())
        return float((self.depth * lengths).sum()) / whole if whole else 0.0

    @property
    def max_depth(self) -> int:
        """The most that was ever in the queue."""
        return int(self.depth.max()) if len(self.depth) else 0

    @property
    def median_delay_ns(self) -> float | None:
        """Median launch delay; None where no work is linked to its launch."""
        return float(np.median(self.delay_ns)) if len(self.delay_ns) else None

    @property
    def p90_delay_ns(self) -> float | None:
        """Launch delay that nine in ten stay below; None where no work is linked to its launch."""
        return float(np.quantile(self.delay_ns, 0.9)) if len(self.delay_ns) else None

    @property
    def starved_share(self) -> float:
        """Share of the work that was launched into an empty queue: nothing hid its launch."""
        return self.starved / self.work if self.work else 0.0

    @property
    def drained_steps(self) -> float:
        """Share of the steps whose queue is empty for at least `DRAINED_SHARE` of them."""
        return float(np.mean(self.step_empty >= DRAINED_SHARE)) if len(self.step_empty) else 0.0

    def _lengths(self) -> Int64:
        return np.diff(np.append(self.time_ns, self.window[1]))

    def _share(self, chosen: npt.NDArray[np.bool_]) -> float:
        lengths = self._lengths()
        whole = int(lengths.sum())
        return float(lengths[chosen].sum()) / whole if whole else 0.0


def launch_queues(trace: Trace, window: tuple[int, int] | None = None) -> list[LaunchQueue]:
    """The queue of each device that worked; the window defaults to the trace's steps.

    Where nothing marks a step, it is the time from the first launch to the end of the last work.
    Work without a link to its launch counts from its own start.
    """
    events, steps = trace.events, device_steps(trace, find_steps(trace))
    work = np.flatnonzero(device_work(trace))
    if not len(work):
        return []
    calls = launching_calls(trace, work)
    starts = events.start_ns[work]
    ends = starts + events.duration_ns[work]
    entered = np.minimum(events.start_ns[np.maximum(calls, 0)], starts)
    entered[calls < 0] = starts[calls < 0]
    if window is None and steps.source == "window":
        window = (int(entered.min()), int(ends.max()))
    window = window or (int(steps.start_ns[0]), int(steps.end_ns[-1]))
    inside = (ends > window[0]) & (starts < window[1])
    work, calls, starts, ends, entered = (a[inside] for a in (work, calls, starts, ends, entered))
    bounds = (np.maximum(steps.start_ns, window[0]), np.minimum(steps.end_ns, window[1]))
    found = []
    for device in np.unique(events.device[work]).tolist():
        mine = events.device[work] == device
        linked = mine & (calls >= 0)
        time_ns, depth = queue_depth(entered[mine], ends[mine], window)
        queued = union(entered[mine], ends[mine])
        found.append(
            LaunchQueue(
                device=int(device),
                window=window,
                time_ns=time_ns,
                depth=depth,
                work=int(mine.sum()),
                starved=len(queued[0]),
                delay_ns=starts[linked] - entered[linked],
                step_number=steps.number,
                step_empty=_empty_share(queued, window, bounds),
            )
        )
    return found


def queue_depth(entered: Int64, ended: Int64, window: tuple[int, int]) -> tuple[Int64, Int64]:
    """(times, depths) of the step function that counts what has entered and not ended, ns.

    The first time is the window's start. Work that enters where other work ends follows it.
    """
    low, high = window
    points = np.concatenate((np.clip(entered, low, high), np.clip(ended, low, high)))
    change = np.ones(len(points), np.int8)
    change[len(entered) :] = -1
    order = np.argsort(points, kind="stable")
    points, change = points[order], change[order]
    del order
    chosen = points < high  # of several at one time the last
    chosen[:-1] &= points[1:] > points[:-1]
    times, depths = points[chosen], np.cumsum(change, dtype=np.int64)[chosen]
    if not len(times) or times[0] > low:
        times, depths = np.append(low, times), np.append(0, depths)
    return times, depths


def _empty_share(queued: Union, window: tuple[int, int], steps: Union) -> Float:
    whole = (np.array([window[0]]), np.array([window[1]]))
    lengths = np.maximum(steps[1] - steps[0], 0)
    empty = covered(subtract(whole, queued), steps[0], np.maximum(steps[0], steps[1]))
    share: Float = np.divide(empty, lengths, out=np.zeros(len(lengths)), where=lengths > 0)
    return share
