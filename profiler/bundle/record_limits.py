"""Bounds on records from a stranger, within which every analysis ends in seconds."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ...collectors.records import Frame, Record, Sample, Site, Spans, Stack, Stacks, Window
from ..redact.records import WINDOW_FILE
from ..run.sound import is_sound

MAX_LINE_BYTES = 8 << 20
"""A record is written four times a second; the largest real one has 0.3 MB."""

MAX_SPANS = 8_000_000
MAX_INDEX = 1_000
"""Optimizers, loaders and windows are numbered from 0; some analyses look at each apart."""

MAX_NAMES = 20_000
"""Frames, stacks and sites of one file, and different metrics."""

MAX_BYTES = 512 << 20
"""Memory that all records of a bundle may take once they are read: 16 million spans, or 5 million
values of metrics. Records of a bundle of 25 MB, the default, come to half of that."""

SPAN_BYTES = 25
SAMPLE_BYTES, VALUE_BYTES = 250, 100
STACKS_BYTES, COUNT_BYTES = 300, 130
STACK_BYTES, FRAME_BYTES = 150, 40
RECORD_BYTES = 300
"""Of spans: their columns. Of the others: the Python objects as `sys.getsizeof` has them in
CPython 3.10 to 3.13, rounded up: a value of a sample is a key, a float and its place in a dict; a
count of a stack is a pair and two numbers. Texts come on top, as long as their line."""

_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


class RecordBudget:
    """What all records of a bundle may take together, bytes."""

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self.left = limit

    def take(self, record: Record, line_bytes: int) -> bool:
        """Take the memory of a record that was read; False where there is no more."""
        self.left -= memory_bytes(record, line_bytes)
        return self.left >= 0


def memory_bytes(record: Record, line_bytes: int) -> int:
    """Return about how much memory a record takes that stood in a line of so many bytes."""
    if isinstance(record, Spans):
        return RECORD_BYTES + SPAN_BYTES * len(record.start)
    if isinstance(record, Sample):
        return SAMPLE_BYTES + VALUE_BYTES * len(record.values)
    if isinstance(record, Stacks):
        return STACKS_BYTES + COUNT_BYTES * len(record.counts)
    if isinstance(record, Stack):
        return STACK_BYTES + FRAME_BYTES * len(record.frames)
    return RECORD_BYTES + line_bytes


def check_records(path: Path, budget: RecordBudget) -> str:
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
            why = strange(record)
            if why:
                return why
            if isinstance(record, Spans):
                spans += len(record.kind)
            elif isinstance(record, Frame | Stack | Site):
                named += 1
            elif isinstance(record, Sample):
                metrics.update(record.values)
            within = spans <= MAX_SPANS and named <= MAX_NAMES and len(metrics) <= MAX_NAMES
            if not within or not budget.take(record, len(line)):
                return "has more records than a training leaves"
    return ""


def strange(record: Record) -> str:
    """Say what no recorder ever writes in a record; "" where all is well."""
    if not is_sound(record):
        return "has numbers that cannot be"
    if isinstance(record, Spans):
        if max(record.detail, default=0) > MAX_INDEX:
            return "numbers more things than a training has"
        lengths = {len(record.kind.encode()), len(record.start), len(record.duration)}
        lengths |= {len(record.detail), *filter(None, [len(record.thread)])}
        if len(lengths) > 1:
            return "has columns of different lengths"
    if isinstance(record, Window) and record.file and not WINDOW_FILE.fullmatch(record.file):
        return "names a trace that lies elsewhere"
    return ""
