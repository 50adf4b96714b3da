"""The table of a whole trace: parts of it come in, sorted columns go out."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from .arguments import signatures_of, tensor_bytes
from .growing import GrowingTable, mapped
from .notes import Notes
from .part import NUMBERED, Interner, Part, Renumbering, SignatureKey
from .spans import MAX_DURATION_NS
from .table import DEVICE_WORK, Category, Events, Int64, Signature, Thread

_SAMPLE_ROWS = 1 << 18
_EPOCH_NS = 10**18
"""Time stamps above this (2001) are since 1970; clocks since boot stay far below."""

_ALWAYS = ("start_ns", "duration_ns", "category", "name", "thread")

_COLLECTIVE = re.compile(r"(?:gloo|mpi|ucc|nccl|rccl|xccl|hccl):")
"""Annotations that torch's process groups put around a collective."""

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


class Columns:
    """Takes parts in the order of the file, gives the sorted table."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._names = Interner[str]()
        self._threads = Interner[tuple[str, str]]()
        self._thread_names: dict[tuple[str, str], str] = {}
        self._signatures = Interner[SignatureKey]()
        self._rests = Interner[bytes]()
        self._renumber: dict[tuple[int, str], Renumbering] = defaultdict(Renumbering)
        self._table = GrowingTable(
            _EVENT_COLUMNS,
            sparse=tuple(name for name in _EVENT_COLUMNS if name not in _ALWAYS),
            narrow=("correlation", "external_id", "bytes", "device", "stream", *NUMBERED),
        )
        self._document_start = 0

    def add(self, part: Part, reader: int = 0) -> None:
        """Take the next part; `reader` tells whose numbers its columns have."""
        for slug, text, count in part.notes:
            self._notes.add(slug, text, count)
        self._thread_names.update({(pid, tid): name for pid, tid, name in part.thread_names})
        fresh = (
            [self._names[key] for key in part.names],
            [self._threads[key] for key in part.threads],
            [self._signatures[key] for key in part.signatures],
            [self._rests[key] for key in part.rests],
        )
        for column, numbers in zip(NUMBERED, fresh, strict=True):
            self._renumber[reader, column].extend(numbers)
        if part.columns:
            renumbered = {
                column: self._renumber[reader, column](part.columns[column]) for column in NUMBERED
            }
            self._table.append(part.columns | renumbered)

    def end_document(self, base_ns: int) -> None:
        """Place the events since the last document's end on the epoch: `base_ns` is their zero.

        Without a base they wait for that of the next document: a damaged list can end too early.
        """
        if base_ns:
            start = self._table.column("start_ns")[self._document_start :]
            start[start < _EPOCH_NS] += base_ns
            self._document_start = self._table.rows

    def finish(self) -> Finished:
        """Return (events sorted, names, threads, signatures, args) and forget the parts."""
        self._drop_absurd_starts()
        start, duration = self._table.column("start_ns"), self._table.column("duration_ns")
        order = _time_order(start, duration)
        if order is not None:
            del start, duration
            self._table.reorder(order)
        names = list(self._names)
        signatures = signatures_of(self._signatures)
        _fill_collective_bytes(self._table, names, signatures)
        events = Events(**self._table.take())
        return (
            events,
            names,
            self._thread_rows(events),
            signatures,
            [msgspec.json.decode(rest) for rest in self._rests],
        )

    def _drop_absurd_starts(self) -> None:
        """Leave out events more than a day from the middle of the trace."""
        start = self._table.column("start_ns")
        if not len(start):
            return
        middle = int(np.median(start[:: 1 + len(start) // _SAMPLE_ROWS]))
        if (
            int(start.min()) < middle - MAX_DURATION_NS
            or int(start.max()) > middle + MAX_DURATION_NS
        ):
            near = (start >= middle - MAX_DURATION_NS) & (start <= middle + MAX_DURATION_NS)
            self._notes.add(
                "absurd-time-stamps",
                "Events at a time that cannot be: left out.",
                int(np.count_nonzero(~near)),
            )
            self._table.keep(near)

    def _thread_rows(self, events: Events) -> list[Thread]:
        count = len(self._threads)
        on_device = np.zeros(count, np.bool_)
        device = events.of(*DEVICE_WORK, Category.DEVICE_ANNOTATION)
        on_device[np.unique(events.thread[device])] = True
        return [
            Thread(pid, tid, self._thread_names.get((pid, tid), ""), bool(is_device))
            for (pid, tid), is_device in zip(self._threads, on_device.tolist(), strict=True)
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
        table.widen("bytes", max(found.values()))
        table.column("bytes")[rows] = [found[index] for index in used]


def is_epoch(start_ns: Int64) -> bool:
    """Whether the time stamps are since 1970."""
    return len(start_ns) > 0 and int(start_ns[0]) > _EPOCH_NS


def _time_order(start: Int64, duration: Int64) -> npt.NDArray[np.int32] | None:
    """Return the order by (start, -duration), stable; None where the rows have it already."""
    if in_order(start, duration):
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


def in_order(start: Int64, duration: Int64) -> bool:
    """Whether rows are sorted by (start, -duration)."""
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
