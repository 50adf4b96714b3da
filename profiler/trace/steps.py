"""The steps of a trace: marked ones, else optimizer steps, else a repeating pattern, else none."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .device import device_work
from .intervals import nest
from .table import Category, Int32, Int64, Trace, looked_up

StepSource: TypeAlias = Literal["profiler", "optimizer", "pattern", "window"]

MIN_REPEATS = 3
MIN_PATTERN = 8
"""Events a pattern must have: shorter ones are loops over tensors, not training steps."""
PATTERN_MATCH = 0.95
"""Share of events that must be the same one period later; logging now and then breaks a few."""
REPETITION_MATCH = 0.75
"""Share of a single repetition's events that must be those of a typical one: a short one that logs
has less than `PATTERN_MATCH`. A validation batch has the forward half in common."""
MAX_PATTERN_EVENTS = 50_000
"""Events in which the pattern is looked for; its repetitions are counted among all of them."""

_MARK = re.compile(r"ProfilerStep#(\d{1,18})$", re.ASCII)
"""A step's number has to fit 64 bits: a longer one is damage, and its name marks no step."""
_OPTIMIZER = re.compile(r"Optimizer\.step#")
_BACKWARD = re.compile(r"autograd::engine::evaluate_function")
_HOST_RANGES = (Category.ANNOTATION, Category.CPU_OP)


@dataclass(frozen=True)
class Steps:
    """Steps in order of time. `source` says what they were found by; `number` is the trace's own
    number where it has one, else counts from 0. Times as in `Events.start_ns`; `on_device` where
    they are those of device work, not of the host."""

    source: StepSource
    start_ns: Int64
    end_ns: Int64
    number: Int64
    on_device: bool = False

    def __len__(self) -> int:
        return len(self.start_ns)


def find_steps(trace: Trace) -> Steps:
    """Return the steps of a trace; with source "window", one step over all of it."""
    return trace.once("steps", _find_steps)


def _find_steps(trace: Trace) -> Steps:
    return (
        _marked(trace)
        or _by_optimizer(trace)
        or _by_pattern(trace)
        or Steps("window", *_window(trace), np.zeros(1, np.int64))
    )


def _names_like(trace: Trace, pattern: re.Pattern[str]) -> npt.NDArray[np.bool_]:
    return np.fromiter(
        (pattern.match(name) is not None for name in trace.names), np.bool_, len(trace.names)
    )


def _host_events(trace: Trace, pattern: re.Pattern[str]) -> Int64:
    """Return the indices of host ranges whose name matches, in order of time."""
    events = trace.events
    names = _names_like(trace, pattern)
    if not names.any():
        return np.empty(0, np.int64)
    chosen = looked_up(names, events.name) & events.of(*_HOST_RANGES)
    return np.flatnonzero(chosen)


def _marked(trace: Trace) -> Steps | None:
    """Read `ProfilerStep#N`; one that several threads carry at one time counts once.

    The same number at another time is another step: of a second profiler, or a second trace in
    the file.
    """
    events = trace.events
    rows = _host_events(trace, _MARK)
    ends: dict[int, int] = {}
    kept, numbers = [], []
    for row in rows.tolist():
        match = _MARK.match(trace.names[events.name[row]])
        number = int(match.group(1)) if match else -1
        start = int(events.start_ns[row])
        if start <= ends.get(number, start - 1):
            continue
        ends[number] = start + int(events.duration_ns[row])
        kept.append(row)
        numbers.append(number)
    if not kept:
        return None
    start_ns = events.start_ns[kept]
    return Steps(
        "profiler", start_ns, start_ns + events.duration_ns[kept], np.array(numbers, np.int64)
    )


def _by_optimizer(trace: Trace) -> Steps | None:
    """Take the time from the end of one optimizer step to the end of the next.

    Optimizer steps with no backward between them belong to one step: several optimizers.
    """
    events = trace.events
    rows = _host_events(trace, _OPTIMIZER)
    if len(rows) < 2:
        return None
    start = events.start_ns[rows]
    end = start + events.duration_ns[rows]
    backward = events.start_ns[_host_events(trace, _BACKWARD)]
    if len(backward):
        seen = np.searchsorted(backward, start)
        last = np.append(seen[1:] > seen[:-1], True)
        end = end[last]
    if len(end) < 2:
        return None
    return Steps("optimizer", end[:-1], end[1:], np.arange(len(end) - 1, dtype=np.int64))


def _by_pattern(trace: Trace) -> Steps | None:
    """Find a sequence of top-level ops, or of kernels where no host ran, that repeats."""
    for on_device, find in ((False, _top_level_ops), (True, _busiest_stream)):
        rows = find(trace)
        found = _period(trace.events.name[rows[:MAX_PATTERN_EVENTS]])
        if found is not None:
            return replace(_repetitions(trace, rows, *found), on_device=on_device)
    return None


def _repetitions(trace: Trace, rows: Int64, first: int, period: int) -> Steps:
    """Make steps of the full repetitions: each ends where the next begins, or with its own last
    event where none follows."""
    count = (len(rows) - first) // period
    blocks = rows[first : first + count * period].reshape(count, period)
    kept = _alike(trace.events.name[blocks])
    starts = trace.events.start_ns[blocks[:, 0]]
    ends = trace.events.start_ns[blocks]
    ends += trace.events.duration_ns[blocks]
    last = ends.max(axis=1)
    followed = np.append(kept[1:], False)
    end = np.where(followed, np.append(starts[1:], last[-1]), last)
    number = np.arange(np.count_nonzero(kept), dtype=np.int64)
    return Steps("pattern", starts[kept], end[kept], number)


def _alike(names: Int32) -> npt.NDArray[np.bool_]:
    """Which rows hold the names of a typical row, each as often, but for a few.

    Typical is the row that the next one repeats best, among those in which the pattern was found.
    In any order: an event more or less shifts all that follow, and does not end the pattern.
    """
    first = names[: max(2, MAX_PATTERN_EVENTS // names.shape[1])]
    typical = int((first[1:] == first[:-1]).sum(axis=1).argmax()) if len(first) > 1 else 0
    wanted, counts = np.unique(names[typical], return_counts=True)
    place = np.minimum(np.searchsorted(wanted, names), len(wanted) - 1)
    row, column = np.nonzero(wanted[place] == names)
    size = len(names) * len(wanted)
    found = np.bincount(row * len(wanted) + place[row, column], minlength=size)
    common = np.minimum(found.reshape(len(names), len(wanted)), counts).sum(axis=1)
    return np.asarray(common >= REPETITION_MATCH * names.shape[1])


def _top_level_ops(trace: Trace) -> Int64:
    events = trace.events
    ops = np.flatnonzero(events.of(Category.CPU_OP))
    if not len(ops):
        return ops
    threads = events.thread[ops]
    ops = ops[threads == np.bincount(threads).argmax()]
    nested = nest(events.start_ns[ops], events.duration_ns[ops])
    top: Int64 = ops[nested.parent < 0]
    return top


def _busiest_stream(trace: Trace) -> Int64:
    events = trace.events
    kernels = np.flatnonzero(device_work(trace))
    if not len(kernels):
        return kernels
    threads = events.thread[kernels]
    stream: Int64 = kernels[threads == np.bincount(threads).argmax()]
    return stream


def _period(names: Int32) -> tuple[int, int] | None:
    """Return (index of the first full repetition, events a repetition), or None.

    Candidates are the distances between occurrences of the rarer names, smallest first.
    """
    if len(names) < MIN_REPEATS * MIN_PATTERN:
        return None
    values, counts = np.unique(names, return_counts=True)
    candidates = set()
    for name in values[(counts >= MIN_REPEATS)][np.argsort(counts[counts >= MIN_REPEATS])][:20]:
        places = np.flatnonzero(names == name)
        candidates.add(int(np.median(np.diff(places))))
    for period in sorted(candidates):
        if period < MIN_PATTERN or period * MIN_REPEATS > len(names):
            continue
        same = names[period:] == names[:-period]
        # What comes before the pattern sets in (start-up) is not held against it.
        first = int(np.argmax(np.convolve(same, np.ones(MIN_PATTERN), "valid") == MIN_PATTERN))
        same = same[first:]
        if len(same) >= (MIN_REPEATS - 1) * period and same.mean() >= PATTERN_MATCH:
            return first, period
    return None


def _window(trace: Trace) -> tuple[Int64, Int64]:
    events = trace.events
    inside = events.category != Category.TRACE
    if not inside.any():
        inside = np.ones(len(events), np.bool_)
    if not len(events):
        return np.zeros(1, np.int64), np.zeros(1, np.int64)
    start = events.start_ns[inside]
    end = start + events.duration_ns[inside]
    return np.array([start.min()], np.int64), np.array([end.max()], np.int64)
