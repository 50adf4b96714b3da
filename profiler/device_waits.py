"""Where a rank's host waits for its device and how far it runs ahead: facts beside the division.

Both take a walk over the trace: only windows whose device idles are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .tables.trace_syncs import SyncSpot, sync_spots
from .trace.device_division import DeviceWindow
from .trace.launch_queue import DRAINED_SHARE, launch_queues
from .trace.table import Trace

MAX_CALLS = 5_000
"""Calls of a window whose place is looked up: those that idle longest; a fraction of a second."""

MAX_SPOTS = 3
"""Places of one rank that are kept: those that idle longest."""

Divided = tuple[Trace, DeviceWindow]


@dataclass(frozen=True)
class QueueFacts:
    """The launch queue in the windows in which the device idles, `work` pieces of device work.

    `mean_depth`: pieces launched and not finished, averaged over time and devices; `starved`: share
    of the work that was launched into an empty queue; `delay_ns`: median time from a launch to the
    work's begin, None where no work is linked to its launch.
    """

    work: int
    mean_depth: float
    starved: float
    delay_ns: float | None


@dataclass(frozen=True)
class DeviceWaits:
    """What is known of a rank; `queue` is None and `spots` empty where its device hardly idles."""

    queue: QueueFacts | None = None
    spots: tuple[SyncSpot, ...] = ()


def device_waits(windows: Sequence[Divided]) -> DeviceWaits:
    """The facts of a rank's windows."""
    idle = [(trace, window) for trace, window in windows if _idles(window)]
    spots = [spot for trace, window in idle for spot in sync_spots(trace, window, MAX_CALLS)]
    spots = [spot for spot in spots if spot.idle_ms > 0]
    spots.sort(key=lambda spot: -spot.idle_ms)
    return DeviceWaits(_queue(idle), tuple(spots[:MAX_SPOTS]))


def _idles(window: DeviceWindow) -> bool:
    idle = window.wall_ns - window.device.busy_ns
    return window.wall_ns > 0 and idle >= DRAINED_SHARE * window.wall_ns


def _queue(windows: Sequence[Divided]) -> QueueFacts | None:
    queues = [
        queue
        for trace, window in windows
        for queue in launch_queues(trace, (window.start_ns, window.end_ns))
    ]
    work = sum(queue.work for queue in queues)
    if not work:
        return None
    delays = np.concatenate([queue.delay_ns for queue in queues])
    return QueueFacts(
        work=work,
        mean_depth=float(np.mean([queue.mean_depth for queue in queues])),
        starved=sum(queue.starved for queue in queues) / work,
        delay_ns=float(np.median(delays)) if len(delays) else None,
    )
