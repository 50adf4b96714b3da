"""What the trace says of a host that keeps its device waiting: its launch queue, its waits."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..diagnosis import Evidence, Place
from ..features import RankFeatures
from ..tables.trace_syncs import SyncSpot
from ..text import duration, milliseconds, percent, plural

_FRAME = re.compile(r"^(.+)\((\d+)\): (.+)$")
"""A Python frame as torch's profiler names it: "train.py(31): step"."""


def queue_evidence(rank: RankFeatures) -> list[Evidence]:
    """How far the host runs ahead: the depth of the launch queue, and the launch delay."""
    queue = rank.waits.queue
    if queue is None:
        return []
    found = [
        Evidence(
            f"{queue.mean_depth:.1f} pieces of work are launched and unfinished on average; "
            f"{percent(queue.starved)} are launched into an empty queue",
            "host.queue_depth",
            round(queue.mean_depth, 3),
            "launches",
            "trace",
        )
    ]
    if queue.delay_ns is not None:
        found.append(
            Evidence(
                f"a launch takes {duration(queue.delay_ns * 1e-9)} to reach the device (median)",
                "host.launch_delay_us",
                round(queue.delay_ns * 1e-3, 3),
                "us",
                "trace",
            )
        )
    return found


def spot_evidence(rank: RankFeatures) -> list[Evidence]:
    """The calls that the device idles in for longest."""
    return [_spot(spot) for spot in rank.waits.spots[:1]]


def _spot(spot: SyncSpot) -> Evidence:
    of_op = f" in {spot.op}" if spot.op else ""
    at = f" at {spot.frame}" if spot.frame else ""
    return Evidence(
        f"{plural(spot.calls, 'call')} of {spot.call}{of_op}{at} wait "
        f"{milliseconds(spot.waited_ms)} in the trace, the device idle for "
        f"{milliseconds(spot.idle_ms)} of it",
        "host.sync_idle_ms",
        round(spot.idle_ms, 4),
        "ms",
        "trace",
    )


def with_spots(rank: RankFeatures, lines: Sequence[Place]) -> list[Place]:
    """The ops and lines that wait for the device; `lines` of stack samples where they name none."""
    places = [_place(rank.rank, spot) for spot in rank.waits.spots]
    if any(place.file for place in places):
        return places
    return [*places, *(place for place in lines if place.file or not places)]


def _place(rank: int, spot: SyncSpot) -> Place:
    frame = _FRAME.match(spot.frame)
    op = spot.op or None
    if frame is None:
        return Place(rank=rank, op=op)
    return Place(rank=rank, file=frame[1], line=int(frame[2]), function=frame[3], op=op)
