"""Read a torch-profiler trace (Kineto JSON of 2021 to now, plain or gzip) into columns."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UnusableData
from .columns import Columns, is_epoch
from .decode import AnyEvent, EventDecoder
from .document import Documents
from .heap import give_back_heap, kept_heap
from .notes import Notes
from .source import Progress, blocks, is_plain, plain_blocks, unreadable
from .spans import EventReader
from .split import read_split
from .table import Trace


def read_trace(path: Path, progress: Progress | None = None, processes: int = 1) -> Trace:
    """Read one trace file; what was wrong with the file is in the trace's `warnings`.

    `progress` is called with (bytes read, bytes of the file). `processes` share the work on a
    plain file, with the same result; `split.processes_for` says how many pay. Raises UnusableData
    with the slug `trace-unreadable`, `trace-empty` or `not-a-trace`.
    """
    with _no_cyclic_collection(), kept_heap():
        return _read(Path(path), progress, processes)


def _read(path: Path, progress: Progress | None, processes: int) -> Trace:
    notes = Notes()
    columns = Columns(notes)
    reader = EventReader(notes)
    metadata: dict[str, Any] = {}

    def decoded(events: Sequence[AnyEvent]) -> None:
        reader.add(events)
        columns.add(reader.take())

    def ended(values: dict[str, Any]) -> None:
        metadata.update(values)
        columns.end_document(_base_ns(values))

    def ahead(begin: int, decoder: EventDecoder) -> Iterator[bytes]:
        following = begin
        with unreadable(path):
            for number, part, end in read_split(path, begin, decoder, processes, progress):
                columns.add(part, 1 + number)  # 0 is the reader of this process
                following = end
        return plain_blocks(path, following, progress)

    splits = processes > 1 and is_plain(path)
    Documents(notes, decoded, ended, ahead if splits else None).read(blocks(path, notes, progress))
    give_back_heap()
    events, names, threads, signatures, args = columns.finish()
    if not len(events):
        if not metadata:
            raise UnusableData(
                "not-a-trace",
                f"{path.name} holds no trace events.",
                "A Kineto trace is JSON with a `traceEvents` list.",
            )
        notes.add("no-events", "The trace holds no events with a duration.")
    return Trace(
        path=str(path),
        events=events,
        names=names,
        threads=threads,
        signatures=signatures,
        args=args,
        epoch=is_epoch(events.start_ns),
        metadata=metadata,
        warnings=notes.warnings(),
    )


def _base_ns(metadata: dict[str, Any]) -> int:
    """Return the time that `ts` counts from, ns since 1970; 0 where it is not recorded."""
    value = metadata.get("baseTimeNanoseconds", 0)
    try:
        base = int(value)
    except (TypeError, ValueError, OverflowError):
        return 0
    return base if 0 <= base < 2**62 else 0


@contextmanager
def _no_cyclic_collection() -> Iterator[None]:
    """Switch cyclic garbage collection off: decoded events hold no cycles, but many objects."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
