"""Divides the time of one rank's device trace: exclusive, exhaustive, by interval algebra.

While the device works, its time belongs to what limits the work; while only communication or a
copy runs, to that; while it is idle, to what the launching threads did meanwhile. A wait of the
host that the device's queue hides costs nothing and is charged nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..machine.roofs import Roofs
from .device import DeviceTime, device_time
from .intervals import EMPTY, Union, intersect, subtract, total, union
from .kernels import KernelTime, kernel_times, launches
from .table import Category, Trace

Mask = npt.NDArray[np.bool_]

IDLE_CAUSES = (
    "loader",
    "garbage",
    "allocator",
    "synchronisation",
    "copy",
    "launch",
    "dispatch",
    "python",
    "nothing-seen",
)
"""In order of precedence where several hold at one time."""

IDLE_SLOTS = {
    "loader": "input",
    "garbage": "host",
    "allocator": "memory",
    "synchronisation": "host",
    "copy": "host",
    "launch": "host",
    "dispatch": "host",
    "python": "host",
    "nothing-seen": "other",
}

_LOADER = re.compile(r"enumerate\(DataLoader\)|DataLoaderIter\.__next__", re.IGNORECASE)
_GARBAGE = re.compile(r"^(Python GC|gc\.|GC$)")
_ALLOCATOR = re.compile(r"^(cuda|hip)(Malloc|Free|HostAlloc|HostRegister|MallocAsync|MemCreate)")
_SYNCHRONISE = re.compile(
    r"(cuda|hip|mtia|xpu)?(Device|Stream|Event|Ctx)Synchronize|cudaEventQuery|zeCommandQueueSync"
    r"|zeEventHostSynchronize|piQueueFinish"
)
_COPY = re.compile(r"^(cuda|hip)Mem(cpy|set)(?!.*Kernel)")


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
    whole = (np.array([window[0]]), np.array([window[1]]))
    kernels = kernel_times(trace, window, roofs)
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
    idle, synchronisations = _idle(trace, idle_union)
    for cause, value in idle.items():
        slots[IDLE_SLOTS[cause]] += value
    return DeviceWindow(
        start_ns=window[0],
        end_ns=window[1],
        slots_ns=dict(slots),
        idle_ns=idle,
        device=device,
        kernels=kernels,
        synchronisations=synchronisations,
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
    "unknown": "host",
}


def copy_kind(name: str) -> str:
    """Direction of a copy from its event's name ("Memcpy HtoD (Pageable -> Device)")."""
    lowered = name.lower()
    for mark, kind in (
        ("memset", "memset"),
        ("fillbuffer", "memset"),
        ("htod", "host-to-device"),
        ("hosttodevice", "host-to-device"),
        ("dtoh", "device-to-host"),
        ("devicetohost", "device-to-host"),
        ("ptop", "peer-to-peer"),
        ("peer", "peer-to-peer"),
        ("dtod", "device-to-device"),
        ("devicetodevice", "device-to-device"),
    ):
        if mark in lowered:
            return kind
    return "unknown"


def _exposed_copies(trace: Trace, device: DeviceTime) -> dict[str, float]:
    """Exposed copy time by direction; directions that overlap share it in proportion."""
    exposed = device.exposed_copies
    length = total(exposed)
    if not length:
        return {}
    events = trace.events
    copies = np.isin(events.category, (Category.MEMCPY, Category.MEMSET))
    by_kind: dict[str, float] = defaultdict(float)
    for name in np.unique(events.name[copies]):
        mine = copies & (events.name == name)
        spans = union(events.start_ns[mine], events.start_ns[mine] + events.duration_ns[mine])
        by_kind[copy_kind(trace.names[name])] += total(intersect(exposed, spans))
    whole = sum(by_kind.values())
    return {kind: value * length / whole for kind, value in by_kind.items() if value > 0}


def _peer_copies(trace: Trace, window: tuple[int, int]) -> list[PeerCopy]:
    events = trace.events
    rows = np.flatnonzero(events.category == Category.MEMCPY)
    rows = rows[(events.start_ns[rows] >= window[0]) & (events.start_ns[rows] < window[1])]
    return [
        PeerCopy(int(events.bytes[row]), int(events.duration_ns[row]))
        for row in rows.tolist()
        if copy_kind(trace.names[events.name[row]]) == "peer-to-peer"
    ]


def _idle(trace: Trace, idle: Union) -> tuple[dict[str, float], list[SyncCall]]:
    """Split the device's idle time by what the launching threads did."""
    events = trace.events
    threads = launching_threads(trace)
    on_host = np.isin(events.thread, threads)
    calls = on_host & np.isin(events.category, (Category.RUNTIME, Category.DRIVER))
    ranges = np.isin(events.category, (Category.CPU_OP, Category.ANNOTATION, Category.PYTHON))
    named = {
        "loader": _matching(trace, _LOADER) & ranges | (events.category == Category.LOADER),
        "garbage": _matching(trace, _GARBAGE) & ranges,
        "allocator": _matching(trace, _ALLOCATOR) & calls,
        "synchronisation": _matching(trace, _SYNCHRONISE) & calls,
        "copy": _matching(trace, _COPY) & calls,
        "launch": calls,
        "dispatch": on_host & (events.category == Category.CPU_OP),
        "python": _between(trace, threads),
    }
    left, result = idle, {}
    sync_idle: Union = EMPTY
    for cause, mask in named.items():
        spans = union(events.start_ns[mask], events.start_ns[mask] + events.duration_ns[mask])
        if cause == "python":
            spans = _alive(trace, mask)
        taken = intersect(left, spans)
        if cause == "synchronisation":
            sync_idle = taken
        if total(taken):
            result[cause] = float(total(taken))
        left = subtract(left, spans)
    if total(left):
        result["nothing-seen"] = float(total(left))
    return result, _sync_calls(trace, named["synchronisation"] | named["copy"], sync_idle)


def launching_threads(trace: Trace) -> npt.NDArray[np.int32]:
    """Host threads that launch device work; where no call is recorded, those that run ops."""
    events = trace.events
    calls = np.isin(events.category, (Category.RUNTIME, Category.DRIVER))
    linked = calls & launches(trace)
    for mask in (linked, calls, events.category == Category.CPU_OP):
        if mask.any():
            return np.unique(events.thread[mask])
    return np.empty(0, np.int32)


def _matching(trace: Trace, pattern: re.Pattern[str]) -> Mask:
    found = np.fromiter(
        (pattern.search(name) is not None for name in trace.names), np.bool_, len(trace.names)
    )
    return found[trace.events.name] if len(found) else np.zeros(len(trace.events), np.bool_)


def _between(trace: Trace, threads: npt.NDArray[np.int32]) -> Mask:
    """Everything the launching threads record; between it they run Python."""
    host = np.isin(
        trace.events.category,
        (Category.CPU_OP, Category.ANNOTATION, Category.PYTHON, Category.RUNTIME, Category.DRIVER),
    )
    return np.asarray(np.isin(trace.events.thread, threads) & host)


def _alive(trace: Trace, mask: Mask) -> Union:
    """From a thread's first to its last recorded event it ran something, if only Python."""
    events = trace.events
    starts, ends = [], []
    for thread in np.unique(events.thread[mask]):
        mine = mask & (events.thread == thread)
        starts.append(int(events.start_ns[mine].min()))
        ends.append(int((events.start_ns[mine] + events.duration_ns[mine]).max()))
    return union(np.asarray(starts, np.int64), np.asarray(ends, np.int64))


def _sync_calls(trace: Trace, mask: Mask, idle: Union) -> list[SyncCall]:
    events = trace.events
    found = []
    for name in np.unique(events.name[mask]):
        mine = mask & (events.name == name)
        spans = union(events.start_ns[mine], events.start_ns[mine] + events.duration_ns[mine])
        found.append(SyncCall(trace.names[name], int(mine.sum()), total(intersect(idle, spans))))
    return sorted(found, key=lambda call: -call.idle_ns)
