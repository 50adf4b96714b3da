"""The outer form of a trace: what stands before the events, the events in chunks, what follows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..errors import UnusableData
from .decode import AnyEvent, EventDecoder
from .notes import Notes

_EVENTS_KEY = re.compile(rb'"traceEvents"\s*:\s*\[')
_FIRST_EVENT = re.compile(rb'\{\s*"(?:ph|name|cat|ts|dur|pid|tid|args|bp)"\s*:')
_SCALAR = re.compile(r'"(\w+)"\s*:\s*("(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true|false)')
_MAX_HEADER = 64 << 20
"""Bytes looked through for the events; real headers are under 100 kB."""
_MAX_CARRY = 32 << 20
"""Bytes without an event boundary after which the slow decoder looks at them."""
_MAX_FOOTER = 8 << 20
"""Bytes after the events that are looked at as one object; real footers are under 10 kB."""
_PADDING = "\0 \r\n\t"
_MAX_DOCUMENTS = 256
_TAILS = (1 << 14, 1 << 18)
"""Bytes at the end of a block in which its last event boundary is looked for, then in all of it."""
_SAMPLE_BYTES = 1 << 20
"""Bytes of the first events that tell how they are laid out."""
_python = json.JSONDecoder(strict=False)

Sink = Callable[[Sequence[AnyEvent]], None]

Ahead = Callable[[int, EventDecoder], Iterator[bytes]]
"""Takes the first event's place in the file and how events are laid out; reads many events by
itself, and returns the bytes from the next event on."""


class Documents:
    """Feeds the events of one file, document after document, to `sink`.

    `ended` is called with the metadata at each document's end.
    """

    def __init__(
        self,
        notes: Notes,
        sink: Sink,
        ended: Callable[[dict[str, Any]], None],
        ahead: Ahead | None = None,
    ) -> None:
        self._notes = notes
        self._sink = sink
        self._ended = ended
        self._ahead = ahead
        self._count = 0
        self._bare_list = False

    def read(self, blocks: Iterable[bytes]) -> int:
        """Read every document; returns how many there were.

        Raises UnusableData (`not-a-trace`) where no events and no trace form are found.
        """
        stream = _Stream(blocks)
        if not stream.more():
            raise UnusableData("trace-empty", "The file is empty.", "Was the export interrupted?")
        while self._count < _MAX_DOCUMENTS and self._one(stream):
            self._count += 1
            if self._count == 2:
                self._notes.add(
                    "concatenated-files",
                    "The file holds more than one trace; they are read as one.",
                )
        if self._count == 0:
            raise UnusableData(
                "not-a-trace",
                "The file holds no trace events.",
                "A Kineto trace is JSON with a `traceEvents` list.",
            )
        return self._count

    def _one(self, stream: _Stream) -> bool:
        self._bare_list = False
        metadata = self._header(stream)
        if metadata is None:
            return False
        if self._events(stream, EventDecoder(self._notes)):
            metadata |= self._footer(stream.take(), stream)
        else:
            self._notes.add("truncated", "The trace ends early; what was there is read.")
        self._ended(metadata)
        return True

    # before the events

    def _header(self, stream: _Stream) -> dict[str, Any] | None:
        while True:
            data = stream.data
            start = len(data) - len(data.lstrip())
            if data[start : start + 1] == b"[":
                stream.drop(start + 1)
                self._bare_list = True
                return {}
            match = _EVENTS_KEY.search(data)
            if match is not None:
                stream.drop(match.end())
                return self._header_values(data[start : match.start()])
            if len(data) > _MAX_HEADER or not stream.more():
                break
        return self._headless(stream)

    def _header_values(self, text: bytes) -> dict[str, Any]:
        head = text.decode("utf-8", "replace").rstrip().rstrip(",")
        try:
            value = _python.decode(head + "}")
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        self._notes.add("damaged-header", "What stands before the events is damaged.")
        return dict(_scalars(head))

    def _headless(self, stream: _Stream) -> dict[str, Any] | None:
        """Find events in a file whose beginning is lost."""
        text = stream.data.decode("utf-8", "replace").strip(_PADDING)
        first = _FIRST_EVENT.search(stream.data)
        if first is not None and b'"ph"' in stream.data:
            stream.drop(first.start())
            self._notes.add("damaged-header", "What stands before the events is damaged.")
            return {}
        if self._count:
            if text:
                self._notes.add("trailing-bytes", "Bytes after the end of the trace are ignored.")
            stream.drop(len(stream.data))
            return None
        if text.startswith("{") and '"schemaVersion"' in text:
            self._notes.add("truncated", "The trace ends before its first event.")
            stream.drop(len(stream.data))
            return dict(_scalars(text))
        return None

    # the events

    def _events(self, stream: _Stream, decoder: EventDecoder) -> bool:
        """Feed the sink; returns whether the list of events was closed."""
        while not stream.data.strip() and stream.more():
            pass
        decoder.look_at(stream.data[:_SAMPLE_BYTES])
        self._read_ahead(stream, decoder)
        while True:
            cut = last_boundary(decoder.boundary, stream.data)
            if cut is not None:
                events = decoder.decode(memoryview(stream.data)[: cut[0]])
                if events is not None:
                    self._sink(events)
                    stream.drop(cut[1])
                elif self._slowly(stream, decoder, cut[0], final=False):
                    return True
            elif len(stream.data) > _MAX_CARRY and self._slowly(
                stream, decoder, len(stream.data), final=True
            ):
                return True
            if not stream.more():
                return self._slowly(stream, decoder, len(stream.data), final=True)

    def _read_ahead(self, stream: _Stream, decoder: EventDecoder) -> None:
        if self._ahead is not None and self._count == 0:
            skipped = len(stream.data) - len(stream.data.lstrip())
            stream.restart(self._ahead(stream.offset() + skipped, decoder))
            stream.more()

    def _slowly(self, stream: _Stream, decoder: EventDecoder, size: int, final: bool) -> bool:
        """Decode `size` bytes event by event; returns whether the list of events ended there."""
        found = decoder.one_by_one(stream.data[:size], final)
        self._sink(found.events)
        stream.drop(found.used)
        return found.closed

    # after the events

    def _footer(self, text: bytes, stream: _Stream) -> dict[str, Any]:
        while True:
            body = text.decode("utf-8", "replace").lstrip()
            if not body.strip(_PADDING):
                if stream.more():
                    text += stream.take()
                    continue
                return {} if self._bare_list else self._torn_footer("")
            if body[0] in "[{":  # a bare list, and then another document
                stream.put_back(body.encode())
                return {}
            try:
                value, end = _python.raw_decode("{" + body.lstrip(","))
            except (ValueError, RecursionError):
                if len(text) < _MAX_FOOTER and stream.more():
                    text += stream.take()
                    continue
                if '"ph"' in body:  # events after the end of the events: read on as another trace
                    stream.put_back(text)
                return self._torn_footer(body[:_MAX_HEADER])
            stream.put_back(("{" + body.lstrip(","))[end:].encode())
            return value if isinstance(value, dict) else {}

    def _torn_footer(self, body: str) -> dict[str, Any]:
        self._notes.add("missing-footer", "The end of the file, after the events, is damaged.")
        return dict(_scalars(body))


class _Stream:
    """The bytes not yet used, and how to get more."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._fed = 0
        self.data = b""

    def more(self) -> bool:
        """Append the next block; False at the end of the file."""
        for block in self._blocks:
            if block:
                self._fed += len(block)
                self.data = self.data + block if self.data else block
                return True
        return False

    def offset(self) -> int:
        """Return where in the file `data` begins, as long as nothing was put back."""
        return self._fed - len(self.data)

    def restart(self, blocks: Iterable[bytes]) -> None:
        """Go on with other blocks."""
        self._blocks = iter(blocks)
        self.data = b""

    def drop(self, count: int) -> None:
        self.data = self.data[count:]

    def take(self) -> bytes:
        data, self.data = self.data, b""
        return data

    def put_back(self, data: bytes) -> None:
        self.data = data


def last_boundary(boundary: re.Pattern[bytes], data: bytes) -> tuple[int, int] | None:
    """Return (end of the last event that another follows, start of that one); None without one."""
    for size in (*_TAILS, len(data)):
        last = None
        for match in boundary.finditer(data, max(0, len(data) - size)):
            last = match
        if last is not None:
            return last.start() + 1, last.end()
        if size >= len(data):
            break
    return None


def _scalars(text: str) -> list[tuple[str, Any]]:
    """Return what can be saved of a torn object: its keys with plain values."""
    return [(key, json.loads(value)) for key, value in _SCALAR.findall(text) if _plain(value)]


def _plain(value: str) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return False
    return True
