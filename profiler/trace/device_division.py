"""Divides the time of one rank's device trace: exclusive, exhaustive, by interval algebra.

While the device works, its time belongs to what limits the work; while only communication or a
copy runs, to that; while it is idle, to what the launching threads did meanwhile. A wait of the
host that the device's queue hides costs nothing and is charged nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from ..machine.roofs import Roofs
from .copies import copy_kinds
from .device import DeviceTime, device_time
from .heap import give_back_heap
from .idle import (
    COPY,
    IDLE_CAUSES,
    IDLE_SLOTS,
    SYNCHRONISE,
    each_cause,
    host_calls,
    launching_threads,
    matching,
    spans_of,
)
from .intervals import EMPTY, Union, intersect, one_after_another, subtract, total, union
from .kernels import ENCLOSING, KernelTime, kernel_times
from .table import Category, Trace

__all__ = [
    "IDLE_CAUSES",
    "IDLE_SLOTS",
    "DeviceWindow",
    "PeerCopy",
    "SyncCall",
    "divide_device",
    "launching_threads",
]


@dataclass(frozen=True)
class SyncCall:
    """Synchronising calls of one name: number and the time of them in which the device idled."""

    name: str
    calls: int
    idle_ns: int


@dataclass(frozen=True)
class PeerCopy:
    """One copy from device to device: bytes and duration as the trace has them."""

    bytes: int
    duration_ns: int

    @property
    def bandwidth(self) -> float:
        """Bytes/s; 0 where the trace does not tell."""
        return self.bytes / self.duration_ns * 1e9 if self.bytes > 0 and self.duration_ns else 0.0


@dataclass(frozen=True)
class DeviceWindow:
    """One rank's window: `slots_ns` sum to its length; `idle_ns` splits the device's idle time."""

    start_ns: int
    end_ns: int
    slots_ns: dict[str, float]
    idle_ns: dict[str, float]
    device: DeviceTime
    kernels: list[KernelTime]
    synchronisations: list[SyncCall]
    copies_ns: dict[str, float] = field(default_factory=dict)
    peer_copies: list[PeerCopy] = field(default_factory=list)

    @property
    def wall_ns(self) -> int:
        """Length of the window."""
        return self.end_ns - self.start_ns


def divide_device(
    trace: Trace,
    window: tuple[int, int],
    roofs: Roofs | None,
    transfers: Union | None = None,
) -> DeviceWindow | None:
    """Divide the window [begin, end), ns, of a trace with device work; None where there is none.

    `transfers`: the time in which collectives really moved bytes (every rank had arrived); exposed
    communication outside it is `imbalance`. Without it all of it is `network`.
    """
    device = device_time(trace, window)
    if device is None:
        return None
    give_back_heap()
    whole = (np.array([window[0]]), np.array([window[1]]))
    kernels = kernel_times(trace, window, roofs)
    trace.forget(ENCLOSING)  # the division of idle time takes most memory
    give_back_heap()
    slots: dict[str, float] = defaultdict(float)
    for slot, share in _limits(kernels).items():
        slots[slot] += device.compute_ns * share
    exposed = device.exposed_communication
    moving = exposed if transfers is None else intersect(exposed, transfers)
    slots["network"] += total(moving)
    slots["imbalance"] += total(exposed) - total(moving)
    copies = _exposed_copies(trace, device)
    for kind, value in copies.items():
        slots[COPY_SLOTS[kind]] += value
    idle_union = subtract(whole, device.busy)
    idle_ns, synchronising = {}, EMPTY
    for cause, parts in each_cause(trace, idle_union):
        idle_ns[cause] = float(sum(map(total, parts)))
        slots[IDLE_SLOTS[cause]] += idle_ns[cause]
        if cause == "synchronisation":
            synchronising = one_after_another(parts)
    return DeviceWindow(
        start_ns=window[0],
        end_ns=window[1],
        slots_ns=dict(slots),
        idle_ns=idle_ns,
        device=device,
        kernels=kernels,
        synchronisations=_sync_calls(trace, synchronising),
        copies_ns=copies,
        peer_copies=_peer_copies(trace, window),
    )


def _limits(kernels: list[KernelTime]) -> dict[str, float]:
    """Share of computing time by what limits it."""
    times: dict[str, float] = defaultdict(float)
    for kernel in kernels:
        times[kernel.slot] += kernel.duration_ns
    whole = sum(times.values())
    return {slot: value / whole for slot, value in times.items()} if whole else {"compute": 1.0}


COPY_SLOTS = {
    "host-to-device": "input",
    "device-to-host": "host",
    "device-to-device": "memory",
    "peer-to-peer": "network",
    "memset": "memory",
    "unknown": "other",
}
"""The slot of exposed copies by direction. Where that is not known, so is the cause."""


def _exposed_copies(trace: Trace, device: DeviceTime) -> dict[str, float]:
    """Exposed copy time by direction; directions that overlap share it in proportion."""
    exposed = device.exposed_copies
    length = total(exposed)
    if not length:
        return {}
    events = trace.events
    copies = np.flatnonzero(events.of(Category.MEMCPY, Category.MEMSET))
    kinds = np.array(copy_kinds(trace, copies))
    by_kind: dict[str, float] = {}
    for kind in np.unique(kinds).tolist():
        mine = copies[kinds == kind]
        spans = union(events.start_ns[mine], events.start_ns[mine] + events.duration_ns[mine])
        by_kind[kind] = total(intersect(exposed, spans))
    whole = sum(by_kind.values())
    return {kind: value * length / whole for kind, value in by_kind.items() if value > 0}


def _peer_copies(trace: Trace, window: tuple[int, int]) -> list[PeerCopy]:
    events = trace.events
    rows = np.flatnonzero(events.of(Category.MEMCPY))
    rows = rows[(events.start_ns[rows] >= window[0]) & (events.start_ns[rows] < window[1])]
    return [
        PeerCopy(int(events.bytes[row]), int(events.duration_ns[row]))
        for row, kind in zip(rows.tolist(), copy_kinds(trace, rows), strict=True)
        if kind == "peer-to-peer"
    ]


def _sync_calls(trace: Trace, idle: Union) -> list[SyncCall]:
    events = trace.events
    mask = host_calls(trace) & (matching(trace, SYNCHRONISE) | matching(trace, COPY))
    found = []
    for name in np.unique(events.name[mask]):
        mine = mask & (events.name == name)
        seen = total(intersect(idle, spans_of(trace, mine)))
        found.append(SyncCall(trace.names[name], int(mine.sum()), seen))
    return sorted(found, key=lambda call: -call.idle_ns)
