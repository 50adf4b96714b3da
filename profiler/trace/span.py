"""One span of a plain file: its whole events as a part, wherever in the file it lies."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from .decode import EventDecoder
from .document import last_boundary
from .notes import Notes
from .part import Part
from .source import BLOCK_BYTES
from .spans import EventReader

_TAIL_BYTES = 64 << 10  # read behind a span's end, where its last event mostly ends
_MAX_EVENT_BYTES = 32 << 20  # an event that is longer is no event; real ones are under 100 kB


class Span(NamedTuple):
    """Bytes [begin, end) of a file; `aligned` where `begin` is an event's first byte.

    Its events are those that start after the first boundary at or behind `begin`, up to the first
    boundary at or behind `end`: spans that touch hold every event once.
    """

    begin: int
    end: int
    aligned: bool


class SpanReader:
    """Reads spans of one file, in any order; numbers go on from span to span."""

    def __init__(self, path: Path, decoder: tuple[bool, list[str]]) -> None:
        """`decoder`: how the events are laid out (`EventDecoder.layout`)."""
        self._file = path.open("rb", buffering=0)
        self._notes = Notes()
        self._decoder = EventDecoder(self._notes, decoder)
        self._reader = EventReader(self._notes)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, span: Span) -> tuple[Part, int] | None:
        """Return the span's events, and where the next event begins.

        None where something stands there that takes more than whole, well-formed events: a list's
        end, damage. The reader is of no more use then.
        """
        boundary = self._decoder.boundary
        self._file.seek(span.begin)
        data, offset = self._file.read(BLOCK_BYTES), span.begin
        if not span.aligned:
            first = boundary.search(data)
            if first is None:
                return None
            if span.begin + first.start() >= span.end:
                return self._taken(), span.begin + first.end()
            data, offset = data[first.end() :], span.begin + first.end()
        while offset + len(data) <= span.end:
            cut = last_boundary(boundary, data)
            if cut is not None:
                if not self._add(data, cut[0]):
                    return None
                data, offset = data[cut[1] :], offset + cut[1]
            more = self._file.read(min(BLOCK_BYTES, span.end - offset - len(data) + _TAIL_BYTES))
            if not more or len(data) > _MAX_EVENT_BYTES:
                return None
            data += more
        return self._last(data, offset, span.end)

    def _last(self, data: bytes, offset: int, end: int) -> tuple[Part, int] | None:
        while True:
            last = self._decoder.boundary.search(data, max(0, end - offset))
            if last is not None:
                if not self._add(data, last.start() + 1):
                    return None
                return self._taken(), offset + last.end()
            more = self._file.read(BLOCK_BYTES)
            if not more or len(data) > _MAX_EVENT_BYTES:
                return None
            data += more

    def _add(self, data: bytes, size: int) -> bool:
        events = self._decoder.decode(memoryview(data)[:size])
        if events is None:
            return False
        self._reader.add(events)
        return True

    def _taken(self) -> Part:
        part = self._reader.take()
        part.notes = self._notes.take()
        return part
