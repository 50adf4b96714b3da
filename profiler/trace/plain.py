"""A trace without its columns as plain JSON: for the cache and between our own processes."""

from __future__ import annotations

import json
from typing import Any

from .arguments import as_tuple
from .part import Array
from .table import Events, Signature, Thread, Trace, TraceWarning

COLUMNS = tuple(Events.__dataclass_fields__)


def described(trace: Trace) -> dict[str, Any]:
    """Return everything of `trace` but path and events, as JSON can hold it."""
    return {
        "names": trace.names,
        "threads": [[t.pid, t.tid, t.name, t.is_device] for t in trace.threads],
        "signatures": [[s.dims, s.types, s.strides, s.concrete] for s in trace.signatures],
        "args": trace.args,
        "epoch": trace.epoch,
        "metadata": trace.metadata,
        "warnings": [[w.slug, w.text, w.count] for w in trace.warnings],
    }


def trace_from(path: str, header: dict[str, Any], columns: dict[str, Array]) -> Trace:
    """Return the trace that `described` and its columns came from."""
    return Trace(
        path=path,
        events=Events(**{name: columns[name] for name in COLUMNS}),
        names=header["names"],
        threads=[Thread(*row) for row in header["threads"]],
        signatures=[Signature(*map(as_tuple, row)) for row in header["signatures"]],
        args=header["args"],
        epoch=header["epoch"],
        metadata=header["metadata"],
        warnings=[TraceWarning(*row) for row in header["warnings"]],
    )


def columns_of(trace: Trace) -> dict[str, Array]:
    """Return the columns of a trace by name."""
    return {name: getattr(trace.events, name) for name in COLUMNS}


def to_text(header: dict[str, Any]) -> bytes:
    """Return a header as ASCII JSON; NaN and lone surrogates come back as they were."""
    return json.dumps(header, separators=(",", ":")).encode("ascii")
