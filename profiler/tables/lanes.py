"""What ran when within a trace window, as lanes of boxes; of any stretch only what can be seen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..timeline import Timeline
from ..trace.collectives import Collective, device_collectives, host_collectives
from ..trace.costs import family
from ..trace.device import device_work
from ..trace.host import COMPUTE_FAMILIES, training_thread
from ..trace.intervals import nest
from ..trace.table import DEVICE_WORK, Category, Trace
from .longest import PHASE_WORDS

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]

MAX_ROWS = 10
"""Rows of one lane: ops nest to about eight; what is deeper is counted and left out."""

MAX_PYTHON_ROWS = 24
MAX_LANES = 20
PIXELS = 1_200
MAX_BOXES = 3_000
"""More boxes than this take a browser over a tenth of a second to lay out."""

NO_NAME = -1
HOST_WORK = (
    Category.CPU_OP,
    Category.ANNOTATION,
    Category.RUNTIME,
    Category.DRIVER,
    Category.SYNC,
    Category.LOADER,
)
KINDS = ("input", "network", "compute", "memory", "host", "storage", "evaluation", "none")
"""What a box is coloured by: a slot, or "none" for ranges and phases that belong to none."""

PHASE_KINDS = {
    "loader": "input",
    "storage": "storage",
    "evaluation": "evaluation",
    "garbage": "host",
}
BY_FAMILY = {"communication": "network", "view": "host", "alloc": "host", "other": "none"}
_BY_NAME = (
    (re.compile(r".*(enumerate\(DataLoader\)|DataLoaderIter\.__next__)", re.IGNORECASE), "input"),
    (re.compile(r"ProfilerStep#|Optimizer\.|autograd::engine|## Call"), "none"),
    (re.compile(r"(cuda|cu|hip|mtia|xpu|ze)[A-Z]"), "host"),
)


@dataclass(frozen=True)
class Row:
    """Boxes side by side, sorted by start; `name` is an index into `Lanes.names`."""

    start_ns: Int64
    end_ns: Int64
    name: Int32


@dataclass(frozen=True)
class Lane:
    """A host thread, a stream, the collectives or the phases of the steps: a row for each depth.

    `deeper` is how many events are nested too deep to be shown.
    """

    label: str
    what: str  # "phases", "collectives", "thread", "python" or "stream"
    rows: list[Row]
    deeper: int = 0

    def between(self, begin_ns: int, end_ns: int) -> Lane | None:
        """Return the lane down to the deepest row in which anything lies in [begin, end)."""
        used = [n for n, row in enumerate(self.rows) if _cut(row, begin_ns, end_ns) is not None]
        return replace(self, rows=self.rows[: used[-1] + 1]) if used else None


@dataclass(frozen=True)
class Lanes:
    """All lanes of a window. `kinds` is an index into `KINDS` for each name."""

    names: list[str]
    kinds: Bytes
    lanes: list[Lane]
    left_out: int = 0


@dataclass(frozen=True)
class Boxes:
    """What is drawn of a stretch: one entry a box, in columns.

    `row` counts over all shown lanes. `count` is how many events a box stands for: where it is
    over one, `name` is `NO_NAME` and `kind` that of most of their time.
    """

    row: Int32
    start_ns: Int64
    end_ns: Int64
    name: Int32
    kind: Bytes
    count: Int64

    def __len__(self) -> int:
        return len(self.row)


# --- building ----------------------------------------------------------------------------------


class _Names:
    """Interns names with their kind."""

    def __init__(self, names: Iterable[str] = (), kinds: Iterable[int] = ()) -> None:
        self.names = list(names)
        self.kinds = list(kinds)
        self._index: dict[tuple[str, int], int] = {}

    def add(self, name: str, kind: str) -> int:
        """Return the index of a name."""
        key = (name, KINDS.index(kind))
        if key not in self._index:
            self._index[key] = len(self.names)
            self.names.append(name)
            self.kinds.append(key[1])
        return self._index[key]


def lanes(line: Timeline, trace: Trace | None) -> Lanes:
    """Return the lanes of a window; without a trace, the phases of the steps alone."""
    if trace is None:
        names = _Names()
        return _made(names, [_phases(line, names)], 0)
    used = np.zeros(len(trace.names), np.bool_)
    used[np.unique(trace.events.name)] = True
    kinds = [_kind(name) if u else "none" for name, u in zip(trace.names, used, strict=True)]
    names = _Names(trace.names, [KINDS.index(kind) for kind in kinds])
    main = training_thread(trace)
    on_device = bool(device_work(trace).any())
    found = device_collectives(trace) if on_device else host_collectives(trace, main)
    first = [_phases(line, names), *_collectives(found, names)]
    threads = _threads(trace, main)
    return _made(names, [*first, *threads[:MAX_LANES]], max(0, len(threads) - MAX_LANES))


def _made(names: _Names, lanes: list[Lane], left_out: int) -> Lanes:
    return Lanes(names.names, np.asarray(names.kinds, np.uint8), lanes, left_out)


def _kind(name: str) -> str:
    """The slot that an event's name speaks for: a colour to find one's way, no verdict."""
    for pattern, kind in _BY_NAME:
        if pattern.match(name):
            return kind
    found = family(name)
    return "compute" if found in COMPUTE_FAMILIES else BY_FAMILY.get(found, "memory")


def _phases(line: Timeline, names: _Names) -> Lane:
    starts, ends, index = [], [], []
    for phase, (start, end) in line.phase_intervals.items():
        known = names.add(PHASE_WORDS[phase], PHASE_KINDS.get(phase, "none"))
        starts.append(start)
        ends.append(end)
        index.append(np.full(len(start), known, np.int32))
    row = _row(np.concatenate(starts), np.concatenate(ends), np.concatenate(index))
    return Lane("phases of the step", "phases", [row])


def _row(start: Int64, end: Int64, name: Int32) -> Row:
    order = np.argsort(start, kind="stable")
    return Row(start[order], end[order], name[order])


def _collectives(found: Sequence[Collective], names: _Names) -> list[Lane]:
    if not found:
        return []
    index = [names.add(c.name, "network") for c in found]
    start = np.asarray([c.start_ns for c in found], np.int64)
    end = np.asarray([c.end_ns for c in found], np.int64)
    rows = _rows(start, end, np.asarray(index, np.int32), MAX_ROWS)
    return [Lane("collectives", "collectives", rows[0], rows[1])]


def _rows(start: Int64, end: Int64, name: Int32, most: int) -> tuple[list[Row], int]:
    """Lay events of one thread out in rows by their depth."""
    order = np.lexsort((start - end, start))
    start, end, name = start[order], end[order], name[order]
    nested = nest(start, end - start)
    end = nested.end_ns
    rows = []
    for depth in range(min(most, int(nested.depth.max()) + 1)):
        here = nested.depth == depth
        rows.append(Row(start[here], end[here], name[here]))
    return rows, int((nested.depth >= most).sum())


def _threads(trace: Trace, main: int) -> list[Lane]:
    """Host threads and streams: the training thread first, streams last, the busier ones first."""
    events = trace.events
    made: list[tuple[tuple[int, int], Lane]] = []
    groups = (
        ("thread", HOST_WORK, MAX_ROWS, 1),
        ("python", (Category.PYTHON,), MAX_PYTHON_ROWS, 2),
        ("stream", DEVICE_WORK, MAX_ROWS, 3),
    )
    for what, categories, most, place in groups:
        mine = np.flatnonzero(np.isin(events.category, categories))
        threads = events.thread[mine]
        for thread in np.unique(threads).tolist():
            chosen = mine[threads == thread]
            start = events.start_ns[chosen]
            end = start + events.duration_ns[chosen]
            rows, deeper = _rows(start, end, events.name[chosen], most)
            lane = Lane(_label(trace, thread, what, main), what, rows, deeper)
            top = place if thread != main else place - 1
            busy = int((rows[0].end_ns - rows[0].start_ns).sum())
            made.append(((top, -busy), lane))
    return [lane for _, lane in sorted(made, key=lambda item: item[0])]


def _label(trace: Trace, thread: int, what: str, main: int) -> str:
    known = trace.threads[thread]
    if what == "stream":
        return known.tid if known.tid.startswith("stream") else f"stream {known.tid}"
    role = "training thread" if thread == main else known.name or "thread"
    label = role if known.tid in role else f"{role} {known.tid}"
    return f"Python of {label}" if what == "python" else label


# --- looking -----------------------------------------------------------------------------------


def shown_lanes(every: Lanes, begin_ns: int, end_ns: int, *, python: bool = False) -> list[Lane]:
    """Return the lanes in which anything lies between begin and end."""
    return [
        part
        for lane in every.lanes
        if python or lane.what != "python"
        if (part := lane.between(begin_ns, end_ns)) is not None
    ]


def _cut(row: Row, begin_ns: int, end_ns: int) -> slice | None:
    low = int(np.searchsorted(row.end_ns, begin_ns, side="right"))
    high = int(np.searchsorted(row.start_ns, end_ns, side="left"))
    return slice(low, high) if high > low else None


def visible(every: Lanes, shown: Sequence[Lane], begin_ns: int, end_ns: int) -> Boxes:
    """Return the boxes between begin and end, those narrower than a pixel put together.

    Where a screen full of pixels would still be over `MAX_BOXES`, the pixels are made coarser.
    """
    pixel = max(1, (end_ns - begin_ns) // PIXELS)
    rows = [row for lane in shown for row in lane.rows]
    while True:
        parts = [
            part
            for number, row in enumerate(rows)
            if (part := _boxes(every, row, number, (begin_ns, end_ns), pixel)) is not None
        ]
        count = sum(len(part) for part in parts)
        if count <= MAX_BOXES or pixel > end_ns - begin_ns:
            return _joined(parts)
        pixel *= 2


def _boxes(every: Lanes, row: Row, number: int, span: tuple[int, int], pixel: int) -> Boxes | None:
    cut = _cut(row, *span)
    if cut is None:
        return None
    start, end, name = row.start_ns[cut], row.end_ns[cut], row.name[cut]
    narrow = end - start < pixel
    kind = every.kinds[name]
    wide = ~narrow
    whole = Boxes(
        np.full(int(wide.sum()), number, np.int32),
        start[wide],
        end[wide],
        name[wide],
        kind[wide],
        np.ones(int(wide.sum()), np.int64),
    )
    if not narrow.any():
        return whole
    merged = _merged((start[narrow], end[narrow]), name[narrow], kind[narrow], number, pixel)
    return _joined([whole, merged])


def _merged(span: tuple[Int64, Int64], name: Int32, kind: Bytes, number: int, pixel: int) -> Boxes:
    """Put narrow boxes together: those of one pixel, then pixels in a row of the same kind."""
    start, end = span
    cell = start // pixel
    first = np.flatnonzero(np.diff(cell, prepend=cell[0] - 1))
    main = _main_kind(end - start, kind, first)
    cells = cell[first]
    fresh = np.ones(len(first), np.bool_)
    fresh[1:] = (np.diff(cells) > 1) | (main[1:] != main[:-1])
    begin = first[fresh]
    stop = np.append(begin[1:], len(start))
    count = stop - begin
    return Boxes(
        np.full(len(begin), number, np.int32),
        start[begin],
        np.maximum(end[stop - 1], start[begin] + 1),
        np.where(count == 1, name[begin], NO_NAME).astype(np.int32),
        main[fresh],
        count.astype(np.int64),
    )


def _main_kind(duration: Int64, kind: Bytes, first: Int64) -> Bytes:
    """The kind that takes most of the time of each group of boxes."""
    times = [np.add.reduceat(np.where(kind == k, duration, 0), first) for k in range(len(KINDS))]
    return np.asarray(np.argmax(times, axis=0), np.uint8)


def _joined(parts: Sequence[Boxes]) -> Boxes:
    if not parts:
        empty = np.empty(0, np.int64)
        small = np.empty(0, np.int32)
        return Boxes(small, empty, empty, small, np.empty(0, np.uint8), empty)
    return Boxes(
        np.concatenate([part.row for part in parts]),
        np.concatenate([part.start_ns for part in parts]),
        np.concatenate([part.end_ns for part in parts]),
        np.concatenate([part.name for part in parts]),
        np.concatenate([part.kind for part in parts]),
        np.concatenate([part.count for part in parts]),
    )
