"""Bounds on records from a stranger, within which every analysis ends in seconds."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ...collectors.records import Frame, Record, Sample, Site, Spans, Stack, Stacks

MAX_LINE_BYTES = 8 << 20
"""A record is written four times a second; the largest real one has 0.3 MB."""

MAX_TIME_NS = 1 << 61
"""Until 2043: sums and differences of such times stay within 64 bits."""

MAX_SPANS = 8_000_000
MAX_INDEX = 1_000
"""Optimizers, loaders and windows are numbered from 0; some analyses look at each apart."""

MAX_NAMES = 20_000
"""Frames, stacks and sites of one file, and different metrics."""

_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def check_records(path: Path) -> str:
    """Say what is beyond the bounds in a file of records; "" where nothing is."""
    spans = named = 0
    metrics: set[str] = set()
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                return "has a line longer than any record"
            try:
                record = _decoder.decode(line)
            except (ValueError, RecursionError):
                continue  # it is left out when the run is read, too
            if not _times_are_near(record):
                return "has times that cannot be"
            if isinstance(record, Spans):
                spans += len(record.kind)
                if max(record.detail, default=0) > MAX_INDEX:
                    return "numbers more things than a training has"
            elif isinstance(record, Frame | Stack | Site):
                named += 1
            elif isinstance(record, Sample):
                metrics.update(record.values)
            if spans > MAX_SPANS or named > MAX_NAMES or len(metrics) > MAX_NAMES:
                return "has more records than a training leaves"
    return ""


def _times_are_near(record: Record) -> bool:
    times = [
        getattr(record, name, 0)
        for name in ("time_ns", "base_ns", "start_ns", "end_ns", "mono_ns", "wall_ns")
    ]
    if isinstance(record, Spans):
        times += [*record.start, *record.duration]
    elif isinstance(record, Stacks):
        times += [count for _, count in record.counts]
    return all(0 <= abs(time) < MAX_TIME_NS for time in times)
