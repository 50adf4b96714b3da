"""The events of a trace as they stand in the file, with everything that a viewer needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..redact import kinds
from ..redact.known import Known
from ..trace.decode import AnyEvent, EventDecoder
from ..trace.document import Documents
from ..trace.notes import Notes
from ..trace.source import blocks

NOTHING = msgspec.Raw(b"")
"""Compared by identity where an event is written: a field that is this object is left out."""
Float = npt.NDArray[np.float64]

_PARENTS = (*(parent.encode() for parent in kinds.HOME_PARENTS), b"\\\\Users\\\\")
_USERS = tuple(
    (parent, re.compile(re.escape(parent) + rb"([A-Za-z0-9_][\w.@+-]*)")) for parent in _PARENTS
)
"""What begins with a plain word is found many times faster than by one pattern for all."""

_ESCAPED_SLASH = b"\\/"


class WholeEvent(msgspec.Struct, gc=False, omit_defaults=True):
    """One event of a trace; numbers keep their text, so that no digit is lost."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    pid: int | str = -1
    tid: int | str = -1
    ts: msgspec.Raw = NOTHING
    dur: msgspec.Raw = NOTHING
    id: msgspec.Raw = NOTHING
    bp: str = ""
    s: str = ""
    args: msgspec.Raw = NOTHING

    @property
    def start_us(self) -> float:
        """When it begins, µs; NaN where that is no number."""
        return _number(self.ts)

    @property
    def duration_us(self) -> float:
        """How long it takes, µs; 0 where that is not said."""
        return _number(self.dur) if self.dur else 0.0


def _number(raw: msgspec.Raw) -> float:
    try:
        return float(bytes(raw).strip(b'"'))
    except ValueError:
        return float("nan")


_starts = msgspec.json.Decoder(list[float | None])


def starts_us(events: Sequence[WholeEvent]) -> Float:
    """Return when each event begins, µs; NaN where that is no number."""
    try:
        values = _starts.decode(b"[" + b",".join([event.ts or b"null" for event in events]) + b"]")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return np.array([event.start_us for event in events], np.float64)
    return np.array(values, np.float64)


Sink = Callable[[Sequence[WholeEvent]], None]


class _WholeDecoder(EventDecoder):
    """Decodes whole events where the JSON is good; damaged ones lose what the reader drops."""

    def __init__(self, notes: Notes) -> None:
        super().__init__(notes)
        self.exact = True
        self._whole = msgspec.json.Decoder(list[WholeEvent])

    def decode(self, chunk: bytes | memoryview) -> Sequence[Any] | None:
        try:
            return self._whole.decode(b"".join((b"[", chunk, b"]")))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return super().decode(chunk)


class _WholeDocuments(Documents):
    def _events(self, stream: Any, decoder: EventDecoder) -> bool:
        return super()._events(stream, _WholeDecoder(decoder._notes))


def read_events(path: Path, sink: Sink, known: Known | None = None) -> dict[str, Any]:
    """Feed every event of the trace to `sink`; return what stands beside the events.

    With `known`, the names of users are learnt from paths on the way. Raises UnusableData where
    the file is no trace.
    """
    notes = Notes()
    metadata: dict[str, Any] = {}

    def take(events: Sequence[AnyEvent | WholeEvent]) -> None:
        sink([event if isinstance(event, WholeEvent) else _whole(event) for event in events])

    pieces: Iterable[bytes] = blocks(path, notes)
    if known is not None:
        pieces = _learning(pieces, known)
    _WholeDocuments(notes, take, metadata.update).read(pieces)
    return metadata


def _whole(event: AnyEvent) -> WholeEvent:
    """Return an event that had to be mended; its flow, if it was one, is lost."""
    ts = event.ts
    if not isinstance(ts, msgspec.Raw):
        ts = msgspec.Raw(msgspec.json.encode(ts))
    return WholeEvent(
        ph=event.ph,
        cat=event.cat,
        name=event.name,
        pid=event.pid,
        tid=event.tid,
        ts=ts,
        dur=msgspec.Raw(msgspec.json.encode(event.dur)),
        args=event.args,
    )


def _learning(pieces: Iterable[bytes], known: Known) -> Iterator[bytes]:
    """Learn users from the plain bytes: faster than from each event's texts."""
    for piece in pieces:
        plain = piece.replace(_ESCAPED_SLASH, b"/") if _ESCAPED_SLASH in piece else piece
        for parent, pattern in _USERS:
            if parent in plain:
                names = set(pattern.findall(plain))
                known.users.update(name.decode("utf-8", "replace") for name in names)
        yield piece
