"""From the bytes of some events to typed events: fast where they are good JSON, else one by one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from .notes import Notes

EMPTY_ARGS = msgspec.Raw(b"{}")


class Event(msgspec.Struct, gc=False):
    """One trace event. `ts` and `dur` are µs, NaN where missing; `args` stays undecoded."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    ts: float = math.nan
    dur: float = math.nan
    pid: int | str = -1
    tid: int | str = -1
    args: msgspec.Raw = EMPTY_ARGS


class ExactEvent(msgspec.Struct, gc=False):
    """An event whose `ts` is kept as text: µs since 1970 with decimals exceed a double's digits."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    ts: msgspec.Raw = msgspec.Raw(b"")
    dur: float = math.nan
    pid: int | str = -1
    tid: int | str = -1
    args: msgspec.Raw = EMPTY_ARGS


AnyEvent = Event | ExactEvent


class _LooseEvent(msgspec.Struct, gc=False):
    ph: Any = ""
    cat: Any = ""
    name: Any = ""
    ts: msgspec.Raw = msgspec.Raw(b"")
    dur: Any = math.nan
    pid: Any = -1
    tid: Any = -1
    args: msgspec.Raw = EMPTY_ARGS


_FIRST_KEYS = ("ph", "name", "cat", "ts", "dur", "pid", "tid", "args", "bp")
_SAMPLE_EVENTS = 200

_LONG_FRACTION = re.compile(rb'"ts"\s*:\s*"?\d{14,}\.\d')
"""µs with 14 digits and decimals: half a unit in the last place of a double is over 1 ns."""

_NOT_A_NUMBER = re.compile(rb"([:\[,]\s*)[-+]?(?:nan(?:\([^)]*\))?|inf(?:inity)?)\b", re.IGNORECASE)
_ESCAPE = re.compile(rb'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})|\\')
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_SEPARATOR = re.compile(r"[\s,\0]*")
_LIST_END = re.compile(rb'\}\s*\](?=\s*(?:,\s*"\w+"\s*:|\}\s*$))')
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_STRING_TIME = re.compile(rb'"(?:ts|dur)"\s*:\s*"')
_MAX_JOINED = 8  # pieces put together again where a boundary was found inside an event
_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_loose_list = msgspec.json.Decoder(list[_LooseEvent])
_loose_one = msgspec.json.Decoder(_LooseEvent)
_python = json.JSONDecoder(strict=False)


def boundary(first_keys: Iterable[str]) -> re.Pattern[bytes]:
    """Return the pattern of the place where one event ends and the next begins.

    A quote inside a string is escaped, so that no string can hold a match. A list of objects with
    such keys inside `args` could, and then decoding fails and goes on event by event.
    """
    keys = "|".join(re.escape(key) for key in sorted(first_keys))
    return re.compile(rb"\}(\s*,\s*)(?=\{\s*\"(?:" + keys.encode() + rb")\"\s*:)")


@dataclass
class Pieces:
    """Events found one by one; `used` bytes of the chunk, up to the list's end where `closed`."""

    events: list[AnyEvent]
    used: int
    closed: bool = False


class EventDecoder:
    """Decodes the events of one document; what it mended or dropped is in `notes`."""

    def __init__(self, notes: Notes, layout: tuple[bool, list[str]] | None = None) -> None:
        """`layout` is that of another decoder for the same events."""
        self._notes = notes
        self.exact, self._first_keys = layout or (False, list(_FIRST_KEYS))
        self.boundary = boundary(self._first_keys)
        self._events = msgspec.json.Decoder(list[Event])
        self._exact_events = msgspec.json.Decoder(list[ExactEvent])

    def look_at(self, sample: bytes) -> None:
        """Learn from the first bytes of the events how they are laid out."""
        self.exact = self.exact or _LONG_FRACTION.search(sample) is not None
        text = sample.decode("utf-8", "replace")
        keys = set(_FIRST_KEYS)
        at = 0
        for _ in range(_SAMPLE_EVENTS):
            try:
                value, at = _python.raw_decode(text, _after_separator(text, at))
            except (ValueError, RecursionError):
                break
            if isinstance(value, dict) and value:
                keys.add(next(iter(value)))
        self._first_keys = sorted(keys)
        self.boundary = boundary(keys)

    @property
    def layout(self) -> tuple[bool, list[str]]:
        """What `look_at` found: (time stamps need more digits than a double has, first keys)."""
        return self.exact, self._first_keys

    def decode(self, chunk: bytes | memoryview) -> Sequence[AnyEvent] | None:
        """Decode a chunk of whole events, separated by commas; None where it is not that."""
        text = b"".join((b"[", chunk, b"]"))
        try:
            return self._strict(text)
        except _MALFORMED:
            pass
        try:
            return self._loose(text)
        except _MALFORMED:
            pass
        mended = self.mend(text)
        if mended is None:
            return None
        text, fixes = mended
        try:
            events = self._loose(text)
        except _MALFORMED:
            return None
        self._note_fixes(fixes)
        return events

    def _strict(self, text: bytes) -> Sequence[AnyEvent]:
        return self._exact_events.decode(text) if self.exact else self._events.decode(text)

    def _loose(self, text: bytes) -> Sequence[AnyEvent]:
        loose = _loose_list.decode(text)
        self._notes.add(
            "string-time-stamps",
            "Time stamps are written as strings.",
            len(_STRING_TIME.findall(text)),
        )
        return [event for event in map(self._tightened, loose) if event is not None]

    def _note_fixes(self, fixes: dict[str, int]) -> None:
        texts = {
            "not-finite-values": "NaN or infinite values stand in the trace; read as missing.",
            "bad-escapes": "Strings hold backslashes that are not escaped.",
            "bad-encoding": "Bytes that are not UTF-8 were replaced.",
        }
        for slug, count in fixes.items():
            self._notes.add(slug, texts[slug], count)

    @staticmethod
    def mend(text: bytes) -> tuple[bytes, dict[str, int]] | None:
        """Repair what JSON does not allow but tools write; None where there was nothing."""
        fixes: dict[str, int] = {}
        try:
            text.decode()
        except UnicodeDecodeError:
            text = text.decode("utf-8", "replace").encode()
            fixes["bad-encoding"] = 1
        text, count = _NOT_A_NUMBER.subn(rb"\1null", text)
        if count:
            fixes["not-finite-values"] = count
        bad = sum(1 for match in _ESCAPE.finditer(text) if len(match.group()) == 1)
        if bad:
            text = _ESCAPE.sub(lambda m: m.group() if len(m.group()) > 1 else b"\\\\", text)
            fixes["bad-escapes"] = bad
        text, count = _CONTROL.subn(b" ", text)
        if count:
            fixes["bad-encoding"] = fixes.get("bad-encoding", 0) + count
        return (text, fixes) if fixes else None

    def _tightened(self, loose: _LooseEvent) -> AnyEvent | None:
        """Give a loosely typed event its types; None, counted, where its time is not a number."""
        ph = loose.ph if isinstance(loose.ph, str) else ""
        ts = bytes(loose.ts).strip(b'" ')
        if _NUMBER.fullmatch(ts) is None:
            if ph == "X":
                self._notes.add("unreadable-times", "Events whose time is not a number: left out.")
            if ph != "M":  # names of threads and processes hold at any time
                return None
            ts = b"0"
        kind: type[Event] | type[ExactEvent] = Event
        when: Any = float(ts)
        if self.exact:
            kind, when = ExactEvent, msgspec.Raw(ts)
        return kind(
            ph,
            loose.cat if isinstance(loose.cat, str) else "",
            loose.name if isinstance(loose.name, str) else "",
            when,
            _duration(loose.dur),
            _identity(loose.pid),
            _identity(loose.tid),
            loose.args,
        )

    def one_by_one(self, chunk: bytes, final: bool) -> Pieces:
        """Decode a chunk event by event, leaving out, and counting, what cannot be read.

        Unless it is the `final` chunk of the file, an unreadable end stays unused: the rest of the
        event may be in the next.
        """
        matches = list(self.boundary.finditer(chunk))
        begins = [0, *(match.end() for match in matches)]
        ends = [*(match.start() + 1 for match in matches), len(chunk)]
        events: list[AnyEvent] = []
        index = 0
        while index < len(begins):
            for stop in range(index, min(index + _MAX_JOINED, len(begins))):
                found = self._piece(chunk[begins[index] : ends[stop]])
                if found is not None:
                    break
            else:
                if not final and index + _MAX_JOINED > len(begins):
                    return Pieces(events, begins[index])
                stop, found = index, self._unreadable(chunk[begins[index] : ends[index]])
            events += found.events
            if found.closed:
                return Pieces(events, begins[index] + found.used, closed=True)
            index = stop + 1
        return Pieces(events, len(chunk))

    def _unreadable(self, piece: bytes) -> Pieces:
        if piece.strip(b"\x00 \r\n\t,"):
            self._notes.add("unreadable-events", "Events that are not JSON: left out.")
        end = _LIST_END.search(piece)
        return Pieces([], end.end() if end else len(piece), closed=end is not None)

    def _piece(self, piece: bytes) -> Pieces | None:
        """Decode a piece: one event, or several with the end of their list; None if it is none."""
        try:
            event = self._tightened(_loose_one.decode(piece))
        except _MALFORMED:
            pass
        else:
            return Pieces([] if event is None else [event], len(piece))
        found = self._values(piece)
        if found is None:
            mended = self.mend(piece)
            if mended is not None:
                found = self._values(mended[0])
            if mended is None or found is None:
                return None
            self._note_fixes(mended[1])
            if found.closed:  # where the list ends in the original, by the bytes that follow
                found.used = max(0, len(piece) - (len(mended[0]) - found.used))
        return found

    def _values(self, piece: bytes) -> Pieces | None:
        """Decode events up to the end of their list; None where the first is no JSON."""
        text = piece.decode("latin-1")  # a character a byte: places in text are places in bytes
        events: list[AnyEvent] = []
        at = _after_separator(text, 0)
        while at < len(text) and text[at] != "]":
            try:
                _, end = _python.raw_decode(text, at)
            except (ValueError, RecursionError):
                if not events:
                    return None
                self._notes.add("unreadable-events", "Events that are not JSON: left out.")
                break
            event = self._converted(piece[at:end])
            if event is not None:
                events.append(event)
            at = _after_separator(text, end)
        closed = text[at : at + 1] == "]"
        return Pieces(events, at + 1 if closed else len(piece), closed)

    def _converted(self, text: bytes) -> AnyEvent | None:
        """Decode one event that Python's more tolerant decoder could read."""
        mended = self.mend(text)
        for candidate, fixes in ((text, {}), mended or (b"", {})):
            try:
                event = self._tightened(_loose_one.decode(candidate))
            except _MALFORMED:
                continue
            self._note_fixes(fixes)
            return event
        self._notes.add("unreadable-events", "Events that are not JSON: left out.")
        return None


def _after_separator(text: str, at: int) -> int:
    match = _SEPARATOR.match(text, at)
    return match.end() if match else at


def _duration(value: Any) -> float:
    """A duration, µs; NaN, as for a missing one, for what is not a number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _identity(value: Any) -> int | str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and math.isfinite(value):
        return int(value)
    return -1
