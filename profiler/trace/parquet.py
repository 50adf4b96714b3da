"""A trace as one Parquet file: its columns as they are, the rest as JSON in the file's metadata."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .columns import in_order
from .growing import mapped
from .part import Array
from .plain import COLUMNS, columns_of, described, to_text, trace_from
from .table import Category, Events, Trace

_KEY = b"boundscope"
_SUM_KEY = b"boundscope.sum"
_LAYOUT = 1
_ROWS = 1 << 16  # rows written and read at a time
_KINDS = {"uint8": np.uint8, "int16": np.int16, "int32": np.int32, "int64": np.int64}
_EMPTY = "empty"  # columns in which nothing is recorded
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


class NotStorable(Exception):
    """The trace holds something that JSON or Parquet does not."""


class _Unfit(Exception):
    """The file does not hold a trace of ours."""


def store(out: BinaryIO, trace: Trace) -> None:
    """Write a trace; raises OSError or NotStorable."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = columns_of(trace)
    empty = {name: str(c.dtype) for name, c in columns.items() if c.strides == (0,)}
    stored = {name: column for name, column in columns.items() if name not in empty}
    try:
        text = to_text(described(trace) | {_EMPTY: empty, "layout": _LAYOUT})
        schema = pa.schema(
            [
                pa.field(name, pa.from_numpy_dtype(c.dtype), nullable=False)
                for name, c in stored.items()
            ],
            metadata={_KEY: text, _SUM_KEY: _sum(text, stored)},
        )
        with pq.ParquetWriter(
            out, schema, compression="zstd", compression_level=1, use_dictionary=False,
            write_statistics=False, column_encoding=_encodings(stored),
        ) as writer:  # fmt: skip
            for begin in range(0, len(trace.events), _ROWS):
                rows = [pa.array(c[begin : begin + _ROWS]) for c in stored.values()]
                writer.write_batch(pa.RecordBatch.from_arrays(rows, schema=schema))
    except (pa.ArrowException, TypeError, ValueError, RecursionError) as error:
        raise NotStorable(str(error)) from error


def _sum(text: bytes, columns: dict[str, Array]) -> bytes:
    """Return the SHA-256 sum of everything in a file: damage anywhere is noticed."""
    total = hashlib.sha256(text)
    for name in sorted(columns):
        total.update(np.ascontiguousarray(columns[name]).data)
    return total.hexdigest().encode()


def _encodings(columns: dict[str, Array]) -> dict[str, str]:
    """Times differ little from one to the next; the rest is left to the compression."""
    return {name: "DELTA_BINARY_PACKED" if name == "start_ns" else "PLAIN" for name in columns}


def load(file: Path, path: str) -> Trace | None:
    """Return the trace in `file` as read from `path`; None where it is damaged or not our own.

    The file may be deleted meanwhile. Raises OSError.
    """
    import pyarrow as pa

    with open(os.open(file, os.O_RDONLY | _NO_FOLLOW), "rb", buffering=0) as source:
        if hasattr(os, "geteuid") and os.fstat(source.fileno()).st_uid != os.geteuid():
            return None
        try:
            return _read(source, path)
        except (pa.ArrowException, OSError, _Unfit):
            return None
        except (TypeError, ValueError, KeyError, RecursionError, MemoryError, OverflowError):
            return None


def _read(source: Any, path: str) -> Trace:
    import pyarrow.parquet as pq

    reader = pq.ParquetFile(source)
    metadata = reader.schema_arrow.metadata
    header = json.loads(metadata[_KEY])
    rows = reader.metadata.num_rows
    empty: dict[str, str] = header[_EMPTY]
    kinds = {f.name: _KINDS[str(f.type)] for f in reader.schema_arrow}
    if header["layout"] != _LAYOUT or {*empty, *kinds} != {*COLUMNS} or empty.keys() & kinds.keys():
        raise _Unfit
    columns: dict[str, Array] = {name: mapped(rows, np.dtype(kind)) for name, kind in kinds.items()}
    begin = 0
    for group in range(reader.num_row_groups):
        table = reader.read_row_group(group, use_threads=False)
        for name, target in columns.items():
            target[begin : begin + len(table)] = table.column(name).to_numpy()
        begin += len(table)
    if begin != rows or _sum(metadata[_KEY], columns) != metadata[_SUM_KEY]:
        raise _Unfit
    for name, kind in empty.items():
        columns[name] = np.broadcast_to(_KINDS[kind](-1), (rows,))
    trace = trace_from(path, header, columns)
    if not _sound(trace):
        raise _Unfit
    return trace


def _sound(trace: Trace) -> bool:
    """Whether every number points at something, and rows are in order."""
    events = trace.events
    limits = {
        "category": len(Category),
        "name": len(trace.names),
        "thread": len(trace.threads),
        "signature": len(trace.signatures),
        "args": len(trace.args),
    }
    return (
        in_order(events.start_ns, events.duration_ns)
        and int(events.duration_ns.min(initial=0)) >= 0
        and all(_within(events, name, limit) for name, limit in limits.items())
        and all(isinstance(name, str) for name in trace.names)
    )


def _within(events: Events, name: str, limit: int) -> bool:
    column = getattr(events, name)
    lowest = -1 if name in ("signature", "args") else 0
    return not len(column) or (int(column.min()) >= lowest and int(column.max()) < limit)
