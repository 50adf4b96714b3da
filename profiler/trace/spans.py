"""From decoded events to columns, chunk by chunk, so that no more than a chunk is ever objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from .arguments import ArgumentReader
from .categories import category_of, depends_on_name
from .decode import AnyEvent, ExactEvent
from .notes import Notes
from .part import Array, Interner, Part, joined
from .table import DEVICE_WORK, Int64

_IS_WORK = np.zeros(256, np.bool_)
_IS_WORK[list(DEVICE_WORK)] = True
_BY_NAME_TOO = 255  # category code of events whose category depends on their name
MAX_DURATION_NS = 86_400 * 10**9
"""A day: no profiler's window and no event of it lasts that long."""
_MAX_EXACT_US = 9.0e15  # beyond this a double's µs are no longer whole numbers

_THREE_DECIMALS = re.compile(rb"(?:\d{1,15}\.\d{3},)*")

_SILENT_PHASES = frozenset("XstfiIPCnbeNOD")
"""Phases without a duration that no figure needs (flows, instants, counters), and "X", which is
read apart."""


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


class EventReader:
    """Takes decoded events, gives them as columns with numbers of its own."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._names = Interner[str]()
        self._categories = _Categories()
        self._threads = _Threads()
        self._thread_names: list[tuple[str, str, str]] = []
        self._arguments = ArgumentReader(notes)
        self._parts: list[dict[str, Array]] = []

    def add(self, events: Sequence[AnyEvent]) -> None:
        """Take a chunk of events."""
        spans = [event for event in events if event.ph == "X"]
        if len(spans) != len(events):
            self._others([event for event in events if event.ph not in _SILENT_PHASES])
        if spans:
            self._parts.append(self._spans(spans))

    def take(self) -> Part:
        """Return what came since the last call; its notes stay in `notes`."""
        parts, self._parts = self._parts, []
        thread_names, self._thread_names = self._thread_names, []
        return Part(
            joined(parts),
            self._names.take_fresh(),
            self._threads.rows.take_fresh(),
            thread_names,
            self._arguments.signatures.take_fresh(),
            self._arguments.rests.take_fresh(),
        )

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
            self._thread_names.append((str(event.pid), str(event.tid), name))

    def _spans(self, spans: list[Any]) -> dict[str, Array]:
        count = len(spans)
        names = [event.name for event in spans]
        category = np.fromiter(
            map(self._categories.__getitem__, [event.cat for event in spans]), np.uint8, count
        )
        for index in np.flatnonzero(category == _BY_NAME_TOO).tolist():
            category[index] = category_of(spans[index].cat, names[index])
        part: dict[str, Array] = {
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
        return part

    def _durations(self, spans: list[Any]) -> Int64:
        micros = np.fromiter([event.dur for event in spans], np.float64, len(spans))
        negative = micros < 0
        missing = np.isnan(micros)
        absurd = micros >= MAX_DURATION_NS / 1000
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
        if missing.any():
            self._notes.add(
                "unreadable-durations",
                "Durations that are missing or not numbers: read as 0.",
                int(np.count_nonzero(missing)),
            )
        micros[negative | absurd | missing] = 0.0
        return np.rint(micros * 1000).astype(np.int64)

    def _place_on_streams(self, part: dict[str, Array], spans: list[Any]) -> None:
        """Take device and stream from the row where the arguments do not have them."""
        work = _IS_WORK[part["category"]]
        for column, row in (("device", "pid"), ("stream", "tid")):
            values = part[column]
            values[~work] = -1
            for index in np.flatnonzero(work & (values < 0)).tolist():
                values[index] = _trailing_number(getattr(spans[index], row))


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
    for index, text in enumerate(texts):
        value = _nanos(bytes(text))
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
