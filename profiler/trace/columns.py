"""From decoded events to columns, chunk by chunk, so that no more than a chunk is ever objects."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from .arguments import ArgumentReader, tensor_bytes
from .categories import category_of, depends_on_name
from .decode import AnyEvent, ExactEvent
from .growing import GrowingTable, mapped
from .notes import Notes
from .table import DEVICE_WORK, Category, Events, Int64, Signature, Thread

_K = TypeVar("_K", bound=Hashable)

_BY_NAME_TOO = 255  # category code of events whose category depends on their name
_SAMPLE_ROWS = 1 << 18
_DAY_NS = 86_400 * 10**9
_MAX_EXACT_US = 9.0e15  # beyond this a double's µs are no longer whole numbers
_EPOCH_NS = 10**18
"""Time stamps above this (2001) are since 1970; clocks since boot stay far below."""

_THREE_DECIMALS = re.compile(rb"(?:\d{1,15}\.\d{3},)*")

_ALWAYS = ("start_ns", "duration_ns", "category", "name", "thread")

_COLLECTIVE = re.compile(r"(?:gloo|mpi|ucc|nccl|rccl|xccl|hccl):")
"""Annotations that torch's process groups put around a collective."""

_SILENT_PHASES = frozenset("XstfiIPCnbeNOD")
"""Phases without a duration that no figure needs (flows, instants, counters), and "X", which is
read apart."""

_EVENT_COLUMNS: dict[str, type[Any]] = {
    "start_ns": np.int64,
    "duration_ns": np.int64,
    "category": np.uint8,
    "name": np.int32,
    "thread": np.int32,
    "device": np.int32,
    "stream": np.int32,
    "correlation": np.int64,
    "external_id": np.int64,
    "signature": np.int32,
    "args": np.int32,
    "bytes": np.int64,
}


Finished: TypeAlias = tuple[Events, list[str], list[Thread], list[Signature], list[dict[str, Any]]]


class Interner(dict[_K, int], Generic[_K]):
    """Numbers keys in the order first seen."""

    def __missing__(self, key: _K) -> int:
        index = self[key] = len(self)
        return index


class _Categories(dict[str, int]):
    def __missing__(self, cat: str) -> int:
        code = _BY_NAME_TOO if depends_on_name(cat) else int(category_of(cat, ""))
        self[cat] = code
        return code


class _Threads(dict[tuple[int | str, int | str], int]):
    """Numbers threads; 7 and "7" are the same thread id."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = Interner[tuple[str, str]]()

    def __missing__(self, key: tuple[int | str, int | str]) -> int:
        index = self[key] = self.rows[(str(key[0]), str(key[1]))]
        return index


class Columns:
    """Takes events, gives the sorted table."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._names = Interner[str]()
        self._categories = _Categories()
        self._threads = _Threads()
        self._thread_names: dict[tuple[str, str], str] = {}
        self._arguments = ArgumentReader(notes)
        self._table = GrowingTable(
            _EVENT_COLUMNS,
            sparse=tuple(name for name in _EVENT_COLUMNS if name not in _ALWAYS),
            narrow=("correlation", "external_id"),
        )
        self._document_start = 0

    def add(self, events: Sequence[AnyEvent]) -> None:
        """Take a chunk of events."""
        spans = [event for event in events if event.ph == "X"]
        if len(spans) != len(events):
            self._others([event for event in events if event.ph not in _SILENT_PHASES])
        if spans:
            self._spans(spans)

    def end_document(self, base_ns: int) -> None:
        """Place the events since the last document's end on the epoch: `base_ns` is their zero.

        Without a base they wait for that of the next document: a damaged list can end too early.
        """
        if base_ns:
            start = self._table.column("start_ns")[self._document_start :]
            start[start < _EPOCH_NS] += base_ns
            self._document_start = self._table.rows

    def _others(self, events: Sequence[AnyEvent]) -> None:
        pairs = unknown = 0
        for event in events:
            if event.ph == "M":
                if event.name == "thread_name":
                    self._name_thread(event)
            elif event.ph in ("B", "E"):
                pairs += 1
            else:
                unknown += 1
        self._notes.add("unknown-phases", "Events of a kind that is not known: left out.", unknown)
        self._notes.add(
            "unpaired-events", "Begin and end events (B, E) are not read; Kineto has none.", pairs
        )

    def _name_thread(self, event: AnyEvent) -> None:
        name = self._arguments.decoded(event.args).get("name", "")
        if isinstance(name, str) and name:
            self._thread_names[(str(event.pid), str(event.tid))] = name

    def _spans(self, spans: list[Any]) -> None:
        count = len(spans)
        names = [event.name for event in spans]
        category = np.fromiter(
            map(self._categories.__getitem__, [event.cat for event in spans]), np.uint8, count
        )
        for index in np.flatnonzero(category == _BY_NAME_TOO).tolist():
            category[index] = category_of(spans[index].cat, names[index])
        part: dict[str, npt.NDArray[Any]] = {
            "category": category,
            "name": np.fromiter(map(self._names.__getitem__, names), np.int32, count),
            "thread": np.fromiter(
                map(
                    self._threads.__getitem__,
                    zip([e.pid for e in spans], [e.tid for e in spans], strict=True),
                ),
                np.int32,
                count,
            ),
        }
        start, placed = _starts(spans)
        part["start_ns"] = start
        part["duration_ns"] = self._durations(spans)
        part |= self._arguments.read(category, spans)
        self._place_on_streams(part, spans)
        if not placed.all():
            self._notes.add(
                "absurd-time-stamps",
                "Events at a time that cannot be: left out.",
                int(np.count_nonzero(~placed)),
            )
            part = {key: column[placed] for key, column in part.items()}
        self._table.append(part)

    def _durations(self, spans: list[Any]) -> Int64:
        micros = np.fromiter([event.dur for event in spans], np.float64, len(spans))
        negative = micros < 0
        absurd = ~(micros < _DAY_NS / 1000)  # a duration that is not a number counts, too
        if negative.any():
            self._notes.add(
                "negative-durations",
                "Events that end before they begin: their duration is read as 0.",
                int(np.count_nonzero(negative)),
            )
        if absurd.any():
            self._notes.add(
                "absurd-durations",
                "Events longer than a day: their duration is read as 0.",
                int(np.count_nonzero(absurd)),
            )
        micros[negative | absurd] = 0.0
        return np.rint(micros * 1000).astype(np.int64)

    def _place_on_streams(self, part: dict[str, npt.NDArray[Any]], spans: list[Any]) -> None:
        """Take device and stream from the row where the arguments do not have them."""
        work = np.isin(part["category"], DEVICE_WORK)
        for column, row in (("device", "pid"), ("stream", "tid")):
            values = part[column]
            values[~work] = -1
            for index in np.flatnonzero(work & (values < 0)).tolist():
                values[index] = _trailing_number(getattr(spans[index], row))

    def finish(
        self,
    ) -> tuple[Events, list[str], list[Thread], list[Signature], list[dict[str, Any]]]:
        """Return (events sorted, names, threads, signatures, args) and forget the chunks."""
        self._drop_absurd_starts()
        start, duration = self._table.column("start_ns"), self._table.column("duration_ns")
        order = _time_order(start, duration)
        if order is not None:
            del start, duration
            self._table.reorder(order)
        names = list(self._names)
        signatures = self._arguments.signatures()
        _fill_collective_bytes(self._table, names, signatures)
        events = Events(**self._table.take())
        return (
            events,
            names,
            self._thread_rows(events),
            signatures,
            self._arguments.others(),
        )

    def _drop_absurd_starts(self) -> None:
        """Leave out events more than a day from the middle of the trace."""
        start = self._table.column("start_ns")
        if not len(start):
            return
        middle = int(np.median(start[:: 1 + len(start) // _SAMPLE_ROWS]))
        if int(start.min()) < middle - _DAY_NS or int(start.max()) > middle + _DAY_NS:
            near = (start >= middle - _DAY_NS) & (start <= middle + _DAY_NS)
            self._notes.add(
                "absurd-time-stamps",
                "Events at a time that cannot be: left out.",
                int(np.count_nonzero(~near)),
            )
            self._table.keep(near)

    def _thread_rows(self, events: Events) -> list[Thread]:
        count = len(self._threads.rows)
        on_device = np.zeros(count, np.bool_)
        device = np.isin(events.category, (*DEVICE_WORK, Category.DEVICE_ANNOTATION))
        on_device[np.unique(events.thread[device])] = True
        return [
            Thread(pid, tid, self._thread_names.get((pid, tid), ""), bool(is_device))
            for (pid, tid), is_device in zip(self._threads.rows, on_device.tolist(), strict=True)
        ]


def _fill_collective_bytes(
    table: GrowingTable, names: list[str], signatures: list[Signature]
) -> None:
    """Set the bytes of host-side collectives ("gloo:all_reduce") from their recorded shapes."""
    chosen = np.fromiter((_COLLECTIVE.match(n) is not None for n in names), np.bool_, len(names))
    if not chosen.any() or not signatures:
        return
    name, signature, sizes = map(table.column, ("name", "signature", "bytes"))
    rows = np.flatnonzero(chosen[name] & (signature >= 0) & (sizes < 0))
    if len(rows):
        used = signature[rows].tolist()
        found = {index: tensor_bytes(signatures[index]) for index in set(used)}
        table.make_writable("bytes")
        table.column("bytes")[rows] = [found[index] for index in used]


def is_epoch(start_ns: Int64) -> bool:
    """Whether the time stamps are since 1970."""
    return len(start_ns) > 0 and int(start_ns[0]) > _EPOCH_NS


def _time_order(start: Int64, duration: Int64) -> npt.NDArray[np.int32] | None:
    """Return the order by (start, -duration), stable; None where the rows have it already."""
    if _in_order(start, duration):
        return None
    order = _start_order(start)
    begin = 0
    while begin < len(order):  # in blocks that no run of equal starts crosses
        end = min(begin + _SAMPLE_ROWS, len(order))
        while end < len(order) and start[order[end]] == start[order[end - 1]]:
            end += 1
        block = order[begin:end]
        starts, durations = start[block], duration[block]
        tied = starts[1:] == starts[:-1]
        if np.any(tied & (durations[1:] > durations[:-1])):
            order[begin:end] = block[np.lexsort((-durations, starts))]
        begin = end
    return order


def _in_order(start: Int64, duration: Int64) -> bool:
    for begin in range(0, len(start), _SAMPLE_ROWS):
        starts = start[begin : begin + _SAMPLE_ROWS + 1]
        durations = duration[begin : begin + _SAMPLE_ROWS + 1]
        later = starts[1:] > starts[:-1]
        if not np.all(later | ((starts[1:] == starts[:-1]) & (durations[1:] <= durations[:-1]))):
            return False
    return True


def _start_order(start: Int64) -> npt.NDArray[np.int32]:
    """Return the stable order by start.

    Start and row are sorted as one number where they fit into 63 bits (4 million rows of up to 36
    minutes do): that needs a third of the memory of `argsort`, and less time.
    """
    first = int(start.min())
    bits = len(start).bit_length()
    if (int(start.max()) - first).bit_length() + bits > 63:
        return np.argsort(start, kind="stable").astype(np.int32)
    packed = mapped(len(start), np.dtype(np.int64))
    np.subtract(start, first, out=packed)
    packed <<= bits
    order = mapped(len(start), np.dtype(np.int32))
    for begin in range(0, len(start), _SAMPLE_ROWS):
        packed[begin : begin + _SAMPLE_ROWS] |= np.arange(
            begin, min(begin + _SAMPLE_ROWS, len(start))
        )
    packed.sort()
    packed &= (1 << bits) - 1
    order[:] = packed
    return order


def _starts(spans: list[Any]) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Return start times in ns, and which of them are times at all."""
    if spans and isinstance(spans[0], ExactEvent):
        return _exact_starts([event.ts for event in spans])
    micros = np.fromiter([event.ts for event in spans], np.float64, len(spans))
    placed = np.abs(micros) < _MAX_EXACT_US
    micros[~placed] = 0.0
    # The product of the whole number would round where the sum does not: split at the point.
    whole = np.floor(micros)
    nanos = whole.astype(np.int64) * 1000
    return nanos + np.rint((micros - whole) * 1000).astype(np.int64), placed


def _exact_starts(texts: list[msgspec.Raw]) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Read µs as decimal text to ns, without rounding."""
    joined = b",".join(texts)
    everywhere = np.ones(len(texts), np.bool_)
    if _three_decimals(joined, len(texts)):
        values = msgspec.json.decode(b"[" + joined.replace(b".", b"") + b"]", type=list[int])
        return np.array(values, np.int64), everywhere
    nanos = np.zeros(len(texts), np.int64)
    for index, text in enumerate(joined.split(b",")):
        value = _nanos(text)
        if value is None:
            everywhere[index] = False
        else:
            nanos[index] = value
    return nanos, everywhere


def _three_decimals(joined: bytes, count: int) -> bool:
    return _THREE_DECIMALS.fullmatch(joined + b",") is not None and joined.count(b".") == count


def _nanos(text: bytes) -> int | None:
    whole, _, fraction = text.strip(b'" ').partition(b".")
    try:
        if b"e" in fraction.lower() or b"e" in whole.lower():
            value = round(float(text) * 1000)
        else:
            sign = -1 if whole.startswith(b"-") else 1
            value = int(whole) * 1000 + sign * int((fraction + b"000")[:3])
    except (ValueError, OverflowError):
        return None
    return value if abs(value) < 2**62 else None


def _trailing_number(row: int | str) -> int:
    """Return the number in a row's id: 7 of 7, "7" and "stream 7"; -1 where there is none."""
    last = str(row).rsplit(maxsplit=1)[-1:]
    try:
        number = int(last[0]) if last else -1
    except ValueError:
        return -1
    return number if 0 <= number < 2**31 else -1
