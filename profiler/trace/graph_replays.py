"""Replays of CUDA graphs: one launch, many pieces of work, of which the profiler may lose some."""

from __future__ import annotations

import numpy as np

from .device import device_work
from .table import Int64, Trace, TraceWarning

GRAPH = "graph id"
"""The graph that a piece of device work belongs to, 0 for none (CUPTI, CUpti_ActivityKernel9)."""

LOST_SHARE = 0.01
"""As for launches (`trace.health`)."""


def graph_of(trace: Trace, rows: Int64) -> Int64:
    """The id of the graph that each of `rows` was replayed from, 0 where none is recorded."""
    ids = np.array([_number(args.get(GRAPH)) for args in trace.args] or [0], np.int64)
    args = trace.events.args[rows]
    return np.where(args >= 0, ids[np.maximum(args, 0)], 0)


def lost_in_replays(trace: Trace) -> list[TraceWarning]:
    """Find replays with fewer pieces of work than others of the same graph.

    A graph's work is the same in each replay. The last replay may run on when the window closes.
    """
    events = trace.events
    rows = np.flatnonzero(device_work(trace) & (events.correlation >= 0))
    graphs = graph_of(trace, rows)
    rows, graphs = rows[graphs > 0], graphs[graphs > 0]
    if not len(rows):
        return []
    keys = np.stack([graphs, events.correlation[rows].astype(np.int64)], axis=1)
    replays, first, counts = np.unique(keys, axis=0, return_index=True, return_counts=True)
    last = int(np.argmax(events.start_ns[rows[first]]))
    graph = replays[:, 0]
    _, place = np.unique(graph, return_inverse=True)
    place = place.reshape(-1)
    most = np.zeros(len(counts), np.int64)
    np.maximum.at(most, place, counts)
    missing = most[place] - counts
    missing[last] = 0
    lost, whole = int(missing.sum()), int(most[place].sum())
    if lost <= LOST_SHARE * whole:
        return []
    text = (
        f"{lost / whole:.0%} of the work of CUDA graphs is missing in some of their replays: the "
        "profiler lost work."
    )
    return [TraceWarning("lost-device-records", text, lost)]


def _number(value: object) -> int:
    known = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**62
    return value if known else 0  # type: ignore[return-value]
