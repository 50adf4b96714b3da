"""Reads record files: whole lines, typed, tolerant of a torn end and of records not known yet."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from ...collectors.records import Closed, Header, Record
from .sound import is_sound

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


def read_records(path: Path, take: Callable[[Record], bool] | None = None) -> RecordFile:
    """Read `path`; a file that is gone or unreadable counts as empty.

    So does a link, and what lies in a linked folder: nothing that writes records makes one, and
    among those that somebody sent it may lead anywhere.

    A record for which `take` returns True is not kept: so the spans of a long run need not all
    lie in memory as Python objects.
    """
    result = RecordFile(path, None)
    if path.is_symlink() or path.parent.is_symlink() or not os.path.isfile(path):
        return result
    try:
        with path.open("rb") as file:
            for line in file:
                result = _add(result, line, take)
    except OSError:
        return result
    return result


def read_whole(path: Path) -> bytes:
    """Return what is in a file; raises OSError, also for a pipe or a device, which may not end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return path.read_bytes()


def _add(result: RecordFile, line: bytes, take: Callable[[Record], bool] | None) -> RecordFile:
    record = _decode(line)
    whole = line.endswith(b"\n")
    if record is None:
        damaged = whole and bool(line.strip())
        return replace(result, skipped=result.skipped + 1) if damaged else result
    if isinstance(record, Header | Closed):
        if not whole:
            return result
        if isinstance(record, Closed):
            return replace(result, closed=True)
        return replace(result, header=record)
    # A whole record whose newline alone is missing counts too.
    if take is None or not take(record):
        result.records.append(record)
    return result


def _decode(line: bytes) -> Record | None:
    try:
        record = _decoder.decode(line)
    except (ValueError, RecursionError):
        return None
    return record if is_sound(record) else None
