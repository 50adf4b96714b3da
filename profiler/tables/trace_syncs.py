"""Where the host waits for the device: calls that synchronise, by op and by place in the code."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...collectors.origins import TORCH_PARTS
from ..trace.device import device_work
from ..trace.device_division import DeviceWindow
from ..trace.idle import COPY, host_calls, is_wait, matching
from ..trace.intervals import covered, nest, subtract
from ..trace.kernels import launching_calls
from ..trace.table import Category, Int64, Trace

MAX_STACK = 8
"""Frames kept of a stack, innermost first."""

_BLOCK_ROWS = 1 << 20

_PYTHON, _CPU_OP = int(Category.PYTHON), int(Category.CPU_OP)

_LIBRARIES = ("torch/", "<", "threading.py", "contextlib.py", "nn.Module: ", "autograd/")
_INSTALLED = re.compile(f"(?:site|dist)-packages/|/{TORCH_PARTS}")


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


def sync_spots(trace: Trace, divided: DeviceWindow, most: int | None = None) -> list[SyncSpot]:
    """Places that synchronise within a window, those that wait longest first.

    Calls that wait by name, and copies whose call returns only after the copy has ended; of more
    than `most`, those in which the device idles longest.
    """
    events = trace.events
    rows = _synchronising(trace, (divided.start_ns, divided.end_ns))
    if not len(rows):
        return []
    whole = (np.array([divided.start_ns]), np.array([divided.end_ns]))
    idle_time = subtract(whole, divided.device.busy)
    if most is not None and len(rows) > most:
        idle = covered(idle_time, events.start_ns[rows], _end(trace, rows))
        rows = np.sort(rows[np.argsort(-idle, kind="stable")[:most]])
    contexts = _contexts(trace, rows)
    start, end = events.start_ns[rows], _end(trace, rows)
    idle = covered(idle_time, start, end)
    groups: dict[tuple[int, _Context], list[int]] = defaultdict(list)
    for index, (name, context) in enumerate(zip(events.name[rows].tolist(), contexts, strict=True)):
        groups[name, context].append(index)
    waited = end - start
    spots = []
    for (name, context), members in groups.items():
        stack = tuple(trace.names[frame] for frame in context.frames) or context.text
        spots.append(
            SyncSpot(
                call=trace.names[name],
                op=trace.names[context.op] if context.op >= 0 else "",
                frame=_own_frame(stack),
                stack=stack[:MAX_STACK],
                calls=len(members),
                waited_ms=float(waited[members].sum()) * 1e-6,
                idle_ms=float(idle[members].sum()) * 1e-6,
            )
        )
    return sorted(spots, key=lambda spot: -spot.waited_ms)


def _synchronising(trace: Trace, window: tuple[int, int]) -> Int64:
    """The calls of the launching threads in the window that wait for the device."""
    events = trace.events
    inside = (events.start_ns >= window[0]) & (events.start_ns < window[1])
    inside &= host_calls(trace)
    named = np.fromiter(map(is_wait, trace.names), np.bool_, len(trace.names))
    waits = inside & named[events.name]
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


class _Context(NamedTuple):
    """What is around an event, as indices into the names.

    `op` is the outermost op, -1 without one; `frames` the Python frames, innermost first; `text`
    the stack that the nearest op recorded as text, () where there is none.
    """

    op: int = -1
    frames: tuple[int, ...] = ()
    text: tuple[str, ...] = ()


_OUTSIDE = _Context()


def _contexts(trace: Trace, rows: Int64) -> list[_Context]:
    """The context of each of these calls."""
    events = trace.events
    found = dict.fromkeys(rows.tolist(), _OUTSIDE)
    for thread in np.unique(events.thread[rows]).tolist():
        mine = _around(trace, thread, rows[events.thread[rows] == thread])
        parents = nest(events.start_ns[mine], events.duration_ns[mine]).parent.tolist()
        kinds, names = events.category[mine].tolist(), events.name[mine].tolist()
        steps = {name for name in set(names) if trace.names[name].startswith("ProfilerStep#")}
        inside: list[_Context] = []  # what each event makes of its own context, for those in it
        for row, parent, kind, name in zip(mine.tolist(), parents, kinds, names, strict=True):
            context = inside[parent] if parent >= 0 else _OUTSIDE  # a parent comes before it
            if row in found:
                found[row] = context
            if kind == _PYTHON:
                context = context._replace(frames=(name, *context.frames))
            elif kind == _CPU_OP and name not in steps:
                op = name if context.op < 0 else context.op
                context = _Context(op, context.frames, _call_stack(trace, row) or context.text)
            inside.append(context)
    return [found[row] for row in rows.tolist()]


def _around(trace: Trace, thread: int, calls: Int64) -> Int64:
    """The calls, which are of this thread, and its ops and Python frames that hold any of them.

    In blocks: the result takes memory, the events do not.
    """
    events = trace.events
    begins = events.start_ns[calls]  # the rows of a trace are in order of time
    found = [calls]
    for first in range(0, len(events), _BLOCK_ROWS):
        block = slice(first, first + _BLOCK_ROWS)
        kinds = np.isin(events.category[block], (Category.CPU_OP, Category.PYTHON))
        mine = first + np.flatnonzero(kinds & (events.thread[block] == thread))
        start = events.start_ns[mine]
        inside = np.searchsorted(begins, start, side="left")
        holds = inside < np.searchsorted(begins, start + events.duration_ns[mine], side="right")
        found.append(mine[holds])
    return np.unique(np.concatenate(found))


def _call_stack(trace: Trace, row: int) -> tuple[str, ...]:
    """The stack that traces of 2021 and 2022 keep in an op's arguments, innermost first."""
    args = int(trace.events.args[row])
    text = trace.args[args].get("Call stack") if args >= 0 else None
    return tuple(part for part in text.split(";") if part) if isinstance(text, str) else ()


def _own_frame(stack: tuple[str, ...]) -> str:
    """The innermost frame that is no library's; "" where there is none."""
    return next((frame for frame in stack if not _is_library(frame)), "")


def _is_library(frame: str) -> bool:
    return frame.startswith(_LIBRARIES) or _INSTALLED.search(frame) is not None
