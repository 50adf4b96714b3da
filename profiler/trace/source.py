"""The bytes of a trace file in blocks: plain or gzip, whole or cut short."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import UnusableData
from .notes import Notes

BLOCK_BYTES = 1 << 20
"""Uncompressed bytes a block. A reader's process takes 44 MB, with 2 MB 51 MB, and no less time."""

_COMPRESSED_BYTES = 256 << 10
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 31  # zlib: 15 bits of window, plus 16 for a gzip header
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}

Progress = Callable[[int, int], None]
"""Called with (bytes of the file read, bytes of the file)."""


def is_plain(path: Path) -> bool:
    """Whether the file's bytes are the text's own: neither gzip nor with a byte-order mark."""
    try:
        with path.open("rb") as file:
            first = file.read(3)
    except OSError:
        return False
    return not first.startswith((_GZIP_MAGIC, codecs.BOM_UTF8, *_UTF16))


def plain_blocks(path: Path, start: int, progress: Progress | None = None) -> Iterator[bytes]:
    """Yield the bytes of a plain file from `start` on in blocks; raises as `blocks`."""
    with unreadable(path), path.open("rb") as file:
        size = path.stat().st_size
        file.seek(start)
        for block in _plain(file):
            if progress is not None:
                progress(file.tell(), size)
            yield block


def blocks(path: Path, notes: Notes, progress: Progress | None = None) -> Iterator[bytes]:
    """Yield the uncompressed bytes of `path` in blocks, UTF-8, without a byte-order mark.

    Raises UnusableData (`trace-unreadable`, `trace-empty`) where there is nothing to read.
    """
    with unreadable(path), path.open("rb") as file:
        size = path.stat().st_size
        if size == 0:
            raise UnusableData(
                "trace-empty", f"{path.name} is empty.", "Was the export interrupted?"
            )
        yield from _decoded(_raw(file, size, notes, progress), notes)


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Turn an OSError into UnusableData (`trace-unreadable`)."""
    try:
        yield
    except OSError as error:
        raise UnusableData(
            "trace-unreadable",
            f"{path} cannot be read: {error.strerror or error}.",
            "Give the path of a Kineto trace (.json or .json.gz).",
        ) from error


def _raw(file: BinaryIO, size: int, notes: Notes, progress: Progress | None) -> Iterator[bytes]:
    magic = file.read(2)
    file.seek(0)
    pieces = _gunzip(file, notes) if magic == _GZIP_MAGIC else _plain(file)
    for piece in pieces:
        if progress is not None:
            progress(file.tell(), size)
        yield piece


def _plain(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block


def _gunzip(file: BinaryIO, notes: Notes) -> Iterator[bytes]:
    """Decompress member after member; what a damaged member gave before the damage stands."""
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    held: list[bytes] = []
    held_bytes = 0
    while True:
        data = inflater.unconsumed_tail or file.read(_COMPRESSED_BYTES)
        if not data:
            break
        before = inflater.copy()
        try:
            out = inflater.decompress(data, BLOCK_BYTES - held_bytes)
        except zlib.error:
            notes.add("gzip-damaged", "The gzip data is damaged; what comes after is lost.")
            held += _until_damage(before, data)
            break
        held.append(out)
        held_bytes += len(out)
        if held_bytes >= BLOCK_BYTES:
            yield b"".join(held)
            held, held_bytes = [], 0
        if inflater.eof:
            rest = inflater.unused_data
            if len(rest) < len(_GZIP_MAGIC):  # the next member's first byte ended a read
                rest += file.read(_COMPRESSED_BYTES)
            if not rest.startswith(_GZIP_MAGIC):
                if rest.strip(b"\0"):
                    notes.add("trailing-bytes", "Bytes after the end of the trace are ignored.")
                break
            file.seek(-len(rest), 1)
            inflater = zlib.decompressobj(_GZIP_WINDOW)
    if not inflater.eof and "gzip-damaged" not in notes:
        notes.add("gzip-truncated", "The gzip file ends early; the end of the trace is lost.")
    tail = b"".join(held) + _flush(inflater)
    if tail:
        yield tail


def _until_damage(inflater: zlib._Decompress, data: bytes) -> list[bytes]:
    """What comes before the damage in `data`: zlib drops it where a call meets the damage.

    In ever smaller calls, each of which ends before the damage or is repeated with half the size;
    the last byte before a false check sum stays lost.
    """
    found: list[bytes] = []
    size = BLOCK_BYTES
    while size:
        before = inflater.copy()
        try:
            out = inflater.decompress(data, size)
        except zlib.error:
            inflater, size = before, size // 2
            continue
        found.append(out)
        data = inflater.unconsumed_tail
        if not out:
            break
    return found


def _flush(inflater: zlib._Decompress) -> bytes:
    try:
        return inflater.flush()
    except zlib.error:
        return b""


def _decoded(pieces: Iterator[bytes], notes: Notes) -> Iterator[bytes]:
    """Strip a byte-order mark; turn UTF-16 into UTF-8."""
    first = next(pieces, b"")
    if first.startswith(codecs.BOM_UTF8):
        notes.add("byte-order-mark", "The file starts with a byte-order mark.")
        first = first[len(codecs.BOM_UTF8) :]
    encoding = _UTF16.get(first[:2])
    if encoding is None:
        yield first
        yield from pieces
        return
    notes.add("byte-order-mark", "The file is UTF-16 with a byte-order mark.")
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    yield decoder.decode(first[2:]).encode()
    for piece in pieces:
        yield decoder.decode(piece).encode()
    yield decoder.decode(b"", final=True).encode()
