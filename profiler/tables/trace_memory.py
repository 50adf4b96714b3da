"""Memory of a trace that recorded the allocator: curves, peak, what was live there, growth."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from ..trace.intervals import nest
from ..trace.memory_events import DEVICE_TYPES, MemoryEvents
from ..trace.steps import find_steps
from ..trace.table import Category, Int64, Trace

MIN_STEPS = 3
"""Growth needs two steps beside the first, which fills what stays."""


@dataclass(frozen=True)
class MemoryCurve:
    """Allocated bytes of one device over time, a point an event.

    `reserved` is what the allocator holds from the driver, None where not recorded.
    `absolute` is False where the trace has no totals (2021): bytes then count from the start of
    the recording. `growth_per_step` is the median change from the end of one step to that of the
    next, the first left out; None with fewer than `MIN_STEPS` marked steps.
    """

    device: str
    time_ns: Int64
    allocated: Int64
    reserved: Int64 | None
    absolute: bool
    growth_per_step: float | None
    rows: Int64

    @property
    def peak_bytes(self) -> int:
        """The most that was allocated."""
        return int(self.allocated.max())

    @property
    def peak_ns(self) -> int:
        """When that was first reached."""
        return int(self.time_ns[self.allocated.argmax()])


@dataclass(frozen=True)
class LiveMemory:
    """Blocks live at a device's peak that one op allocated; `op` "" where no op was running."""

    op: str
    blocks: int
    bytes: int


def memory_curves(trace: Trace, events: MemoryEvents) -> list[MemoryCurve]:
    """One curve a device, accelerators first; empty where nothing is recorded."""
    steps = find_steps(trace)
    keys = events.device_type.astype(np.int64) << 32 | (events.device.astype(np.int64) + 1)
    curves = []
    for key in sorted(np.unique(keys).tolist(), key=lambda key: (key >> 32 == 0, key)):
        rows = np.flatnonzero(keys == key)
        absolute = bool((events.allocated[rows] >= 0).all())
        allocated = events.allocated[rows] if absolute else np.cumsum(events.bytes[rows])
        reserved = events.reserved[rows]
        held = absolute and bool((reserved >= 0).all()) and bool(reserved.any())
        ends = steps.end_ns if steps.source in ("profiler", "optimizer") else np.empty(0, np.int64)
        curves.append(
            MemoryCurve(
                device=_device(int(events.device_type[rows[0]]), int(events.device[rows[0]])),
                time_ns=events.time_ns[rows],
                allocated=allocated,
                reserved=reserved if held else None,
                absolute=absolute,
                growth_per_step=_growth(events.time_ns[rows], allocated, ends),
                rows=rows,
            )
        )
    return curves


def live_at_peak(trace: Trace, events: MemoryEvents, curve: MemoryCurve) -> list[LiveMemory]:
    """What was live at the curve's peak, by the op that allocated it, most bytes first.

    "(before the recording)" holds what no recorded event allocated. Empty where the trace has no
    addresses, so that a freed block cannot be told from another.
    """
    last = int(curve.allocated.argmax()) + 1
    rows = curve.rows[:last]
    if not len(rows) or (events.address[rows] < 0).any():
        return []
    live: dict[int, int] = {}
    sizes = events.bytes[rows].tolist()
    for row, size, address in zip(rows.tolist(), sizes, events.address[rows].tolist(), strict=True):
        if size > 0:
            live[address] = row
        else:
            live.pop(address, None)
    held = np.array(sorted(live.values()), np.int64)
    groups: dict[str, list[int]] = defaultdict(list)
    for row, op in zip(held.tolist(), _ops_at(trace, events, held), strict=True):
        groups[op].append(int(events.bytes[row]))
    found = [LiveMemory(op, len(blocks), sum(blocks)) for op, blocks in groups.items()]
    before = curve.peak_bytes - sum(item.bytes for item in found)
    if curve.absolute and before > 0:
        found.append(LiveMemory("(before the recording)", 0, before))
    return sorted(found, key=lambda item: -item.bytes)


def _device(kind: int, ordinal: int) -> str:
    name = DEVICE_TYPES.get(kind, f"type {kind}")
    return name if ordinal < 0 else f"{name}:{ordinal}"


def _growth(time_ns: Int64, allocated: Int64, ends: Int64) -> float | None:
    if len(ends) < MIN_STEPS:
        return None
    last = np.searchsorted(time_ns, ends, side="right") - 1
    if last[0] < 0:
        return None
    return float(np.median(np.diff(allocated[last])[1:]))


def _ops_at(trace: Trace, memory: MemoryEvents, rows: Int64) -> list[str]:
    """The innermost op on the event's thread at its time, "" where none runs."""
    events = trace.events
    found = [""] * len(rows)
    is_op = events.of(Category.CPU_OP)
    is_step = np.fromiter((n.startswith("ProfilerStep#") for n in trace.names), np.bool_)
    for thread in np.unique(memory.thread[rows]).tolist():
        ops = np.flatnonzero(is_op & (events.thread == thread) & ~is_step[events.name])
        if thread < 0 or not len(ops):
            continue
        start = events.start_ns[ops]
        nested = nest(start, events.duration_ns[ops])
        for index in np.flatnonzero(memory.thread[rows] == thread).tolist():
            time = int(memory.time_ns[rows[index]])
            op = int(np.searchsorted(start, time, side="right")) - 1
            while op >= 0 and nested.end_ns[op] < time:
                op = int(nested.parent[op])
            found[index] = trace.names[events.name[ops[op]]] if op >= 0 else ""
    return found
