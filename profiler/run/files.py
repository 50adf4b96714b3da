"""Reads record files: whole lines, typed, tolerant of a torn end and of records not known yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ...collectors.records import Closed, Header, Record

_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


@dataclass(frozen=True)
class RecordFile:
    """One record file: its last header, its records in order, and how it ended.

    `skipped` counts whole lines that could not be read: unknown record types of a newer version,
    or damage. A torn last line is not counted; it is what a kill leaves behind.
    """

    path: Path
    header: Header | None
    records: list[Record] = field(default_factory=list)
    closed: bool = False
    skipped: int = 0


def read_records(path: Path) -> RecordFile:
    """Read `path`; a file that is gone or unreadable counts as empty."""
    try:
        data = path.read_bytes()
    except OSError:
        return RecordFile(path, None)
    lines = data.split(b"\n")
    torn = lines.pop()  # empty when the file ends with a whole line
    header: Header | None = None
    records: list[Record] = []
    closed, skipped = False, 0
    for line in lines:
        record = _decode(line)
        if record is None:
            skipped += bool(line.strip())
        elif isinstance(record, Header):
            header = record
        elif isinstance(record, Closed):
            closed = True
        else:
            records.append(record)
    last = _decode(torn) if torn else None  # a whole record whose newline alone is missing
    if last is not None and not isinstance(last, Header | Closed):
        records.append(last)
    return RecordFile(path, header, records, closed, skipped)


def _decode(line: bytes) -> Record | None:
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        return None
    except (ValueError, RecursionError):
        return None
