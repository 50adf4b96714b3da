"""Where the host waits for the device: calls that synchronise, by op and by place in the code."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ..trace.device import device_work
from ..trace.device_division import DeviceWindow
from ..trace.idle import COPY, SYNCHRONISE, host_calls, matching
from ..trace.intervals import covered, nest, subtract
from ..trace.kernels import launching_calls
from ..trace.table import Category, Int32, Int64, Trace

MAX_STACK = 8
"""Frames kept of a stack, innermost first."""

_QUERY = re.compile("Query")
"""Asks whether an event has come to pass, and returns at once."""

_Place: TypeAlias = tuple[int, int, tuple[int, ...], tuple[str, ...]]

_LIBRARIES = ("torch/", "<", "threading.py", "contextlib.py", "nn.Module: ", "autograd/")


@dataclass(frozen=True)
class SyncSpot:
    """Synchronising calls of one kind at one place, ms.

    `op` is the outermost op around the call ("aten::item"), `stack` the Python frames around it
    ("train.py(31): step"), innermost first, empty where none are recorded; `frame` the innermost
    one that is no library's. `waited_ms` is the time in the calls, `idle_ms` the part of it in
    which the device had nothing to do.
    """

    call: str
    op: str
    frame: str
    stack: tuple[str, ...]
    calls: int
    waited_ms: float
    idle_ms: float


def sync_spots(trace: Trace, divided: DeviceWindow) -> list[SyncSpot]:
    """Places that synchronise within a window, those that wait longest first.

    Calls that wait by name, and copies whose call returns only after the copy has ended.
    """
    events = trace.events
    rows = _synchronising(trace, (divided.start_ns, divided.end_ns))
    if not len(rows):
        return []
    ops, frames, texts = _context(trace, rows)
    start, end = events.start_ns[rows], events.start_ns[rows] + events.duration_ns[rows]
    whole = (np.array([divided.start_ns]), np.array([divided.end_ns]))
    idle = covered(subtract(whole, divided.device.busy), start, end)
    groups: dict[_Place, list[int]] = defaultdict(list)
    for index, row in enumerate(rows.tolist()):
        groups[int(events.name[row]), ops[index], frames[index], texts[index]].append(index)
    spots = []
    for (name, op, around, text), members in groups.items():
        stack = tuple(trace.names[frame] for frame in around) or text
        spots.append(
            SyncSpot(
                call=trace.names[name],
                op=trace.names[op] if op >= 0 else "",
                frame=_own_frame(stack),
                stack=stack[:MAX_STACK],
                calls=len(members),
                waited_ms=float((end - start)[members].sum()) * 1e-6,
                idle_ms=float(idle[members].sum()) * 1e-6,
            )
        )
    return sorted(spots, key=lambda spot: -spot.waited_ms)


def _synchronising(trace: Trace, window: tuple[int, int]) -> Int64:
    """The calls of the launching threads in the window that wait for the device."""
    events = trace.events
    inside = (events.start_ns >= window[0]) & (events.start_ns < window[1])
    inside &= host_calls(trace)
    waits = inside & matching(trace, SYNCHRONISE) & ~matching(trace, _QUERY)
    copies = inside & matching(trace, COPY)
    if copies.any():
        work = np.flatnonzero(device_work(trace))
        calls = launching_calls(trace, work)
        work, calls = work[calls >= 0], calls[calls >= 0]
        after = _end(trace, calls) >= _end(trace, work)
        waits[calls[after & copies[calls]]] = True
    return np.flatnonzero(waits)


def _end(trace: Trace, rows: Int64) -> Int64:
    end: Int64 = trace.events.start_ns[rows] + trace.events.duration_ns[rows]
    return end


def _context(
    trace: Trace, rows: Int64
) -> tuple[list[int], list[tuple[int, ...]], list[tuple[str, ...]]]:
    """For each call: the outermost op's name, the Python frames' names from the innermost out, and
    the stack that an op around it recorded as text; -1 and () where there is none."""
    events = trace.events
    place = {row: index for index, row in enumerate(rows.tolist())}
    ops = [-1] * len(rows)
    frames: list[tuple[int, ...]] = [()] * len(rows)
    texts: list[tuple[str, ...]] = [()] * len(rows)
    around = np.isin(events.category, (Category.CPU_OP, Category.PYTHON))
    around[rows] = True
    for thread in np.unique(events.thread[rows]).tolist():
        mine = np.flatnonzero(around & (events.thread == thread))
        parent = nest(events.start_ns[mine], events.duration_ns[mine]).parent
        for index in np.flatnonzero(np.isin(mine, rows)).tolist():
            chain = _ancestors(mine, parent, index)
            at = place[int(mine[index])]
            above = [row for row in chain if events.category[row] == Category.CPU_OP]
            above = [row for row in above if not _is_step(trace, row)]
            ops[at] = int(events.name[above[-1]]) if above else -1
            python = [row for row in chain if events.category[row] == Category.PYTHON]
            frames[at] = tuple(int(events.name[row]) for row in python)
            if not python:
                texts[at] = next((s for s in (_call_stack(trace, row) for row in above) if s), ())
    return ops, frames, texts


def _ancestors(rows: Int64, parent: Int32, index: int) -> list[int]:
    chain = []
    above = int(parent[index])
    while above >= 0:
        chain.append(int(rows[above]))
        above = int(parent[above])
    return chain


def _is_step(trace: Trace, row: int) -> bool:
    name: str = trace.names[trace.events.name[row]]
    return name.startswith("ProfilerStep#")


def _call_stack(trace: Trace, row: int) -> tuple[str, ...]:
    """The stack that traces of 2021 and 2022 keep in an op's arguments, innermost first."""
    args = int(trace.events.args[row])
    text = trace.args[args].get("Call stack") if args >= 0 else None
    return tuple(part for part in text.split(";") if part) if isinstance(text, str) else ()


def _own_frame(stack: tuple[str, ...]) -> str:
    """The innermost frame that is no library's; "" where there is none."""
    return next((frame for frame in stack if not _is_library(frame)), "")


def _is_library(frame: str) -> bool:
    return frame.startswith(_LIBRARIES) or "site-packages/" in frame or "/torch/" in frame
