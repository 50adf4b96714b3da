"""Columns and plain JSON between our own processes: length, header, then the columns' bytes."""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

import numpy as np

from .growing import mapped
from .part import Array, Part

_LENGTH = struct.Struct("<8sQ")
_MAGIC = b"bscope\x01\n"
_KINDS = {kind: np.dtype(kind) for kind in ("|u1", "<i2", "<i4", "<i8")}


class BrokenFrame(Exception):
    """The other process ended early, or sent something else."""


def write_frame(out: BinaryIO, header: dict[str, Any], columns: dict[str, Array]) -> None:
    """Write one frame; a column without a recorded value (all -1) takes no bytes."""
    described, buffers = [], []
    for name, values in columns.items():
        kind = values.dtype.newbyteorder("<").str if values.dtype.itemsize > 1 else "|u1"
        empty = kind != "|u1" and not _recorded(values)
        described.append([name, kind, len(values), empty])
        if not empty:
            buffers.append(np.ascontiguousarray(values, _KINDS[kind]))
    text = json.dumps(header | {"columns": described}).encode()
    out.write(_LENGTH.pack(_MAGIC, len(text)) + text)
    for buffer in buffers:
        out.write(buffer.data.cast("B"))
    out.flush()


def _recorded(values: Array) -> bool:
    """Whether any value is not -1, "not recorded"."""
    return values.strides != (0,) and bool((values != -1).any())


def read_frame(source: BinaryIO) -> tuple[dict[str, Any], dict[str, Array]] | None:
    """Return the next frame's header and columns; None at the end of the stream.

    Raises BrokenFrame where the stream ends inside a frame or holds something else.
    """
    start = source.read(_LENGTH.size)
    if not start:
        return None
    if len(start) < _LENGTH.size:
        raise BrokenFrame
    magic, length = _LENGTH.unpack(start)
    if magic != _MAGIC:
        raise BrokenFrame
    text = source.read(length)
    if len(text) < length:
        raise BrokenFrame
    header = json.loads(text)
    columns = {
        name: _column(source, _KINDS[kind], count, empty)
        for name, kind, count, empty in header.pop("columns")
    }
    return header, columns


def _column(source: BinaryIO, kind: np.dtype[Any], count: int, empty: bool) -> Array:
    if empty:
        return np.broadcast_to(kind.type(-1), (count,))
    values = mapped(count, kind)
    view = values.data.cast("B")
    while len(view):
        got = source.readinto(view)  # type: ignore[attr-defined]
        if not got:
            raise BrokenFrame
        view = view[got:]
    return values


def part_header(part: Part) -> dict[str, Any]:
    """Return what a part holds besides columns, as JSON can hold it."""
    return {
        "names": part.names,
        "threads": part.threads,
        "thread_names": part.thread_names,
        # JSON text in unknown encoding: a character a byte
        "signatures": [[text.decode("latin-1") for text in key] for key in part.signatures],
        "rests": [text.decode("latin-1") for text in part.rests],
        "notes": part.notes,
    }


def part_from(header: dict[str, Any], columns: dict[str, Array]) -> Part:
    """Return the part that `part_header` and its columns came from."""
    return Part(
        columns,
        header["names"],
        [(pid, tid) for pid, tid in header["threads"]],
        [(pid, tid, name) for pid, tid, name in header["thread_names"]],
        [tuple(text.encode("latin-1") for text in key) for key in header["signatures"]],
        [text.encode("latin-1") for text in header["rests"]],
        [(slug, text, count) for slug, text, count in header["notes"]],
    )
