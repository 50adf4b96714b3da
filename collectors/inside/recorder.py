"""Buffers spans in memory and writes them out from a thread of its own, twice a second."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ..records import Gap, Memory, Process, Reason, Record, Site, Spans, Window
from ..writer import Clock, RecordWriter

FLUSH_PERIOD_S = 0.4
"""At most this much is lost when the process is killed; the promise is one second."""

MAX_BUFFERED_SPANS = 200_000
"""Beyond this many spans unwritten (a stuck disk), new ones are dropped and counted."""

Span = tuple[str, int, int, int, int]
"""Kind, start (monotonic ns), duration ns, detail, thread ident."""


def process_rank() -> tuple[int, int | None, int | None]:
    """Rank, local rank and world size: from torch.distributed, else the launcher's variables."""
    rank, world = _environment_int("RANK"), _environment_int("WORLD_SIZE")
    local = _environment_int("LOCAL_RANK")
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        rank, world = distributed.get_rank(), distributed.get_world_size()
    if rank is None:
        rank, world = _environment_int("SLURM_PROCID"), _environment_int("SLURM_NTASKS")
    return (0 if rank is None else rank), local, world


def _environment_int(name: str) -> int | None:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else None


class Recorder:
    """The spans and facts of one process on their way to `rank-<n>-<pid>/steps.jsonl`.

    `span` is called from the training thread and must cost well under a microsecond; a deque's
    append and popleft are atomic, so no lock is taken there. Everything else happens in the
    flushing thread. `every_flush` callbacks run there too.
    """

    def __init__(self, run_folder: Path, version: str) -> None:
        self.clock = Clock()
        self.version = version
        self.run_folder = run_folder
        self.folder: Path | None = None
        self.spans: deque[Span] = deque()
        self.records: deque[Record] = deque()
        self.every_flush: list[Callable[[], None]] = []
        self.dropped = 0
        self.training_thread = 0
        self.short_sleep = False
        self._writer: RecordWriter | None = None
        self._written_rank: tuple[int, int | None, int | None] = (0, None, None)
        self._broken = False
        self._wake = threading.Event()
        self._stopping = False
        self._flush_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="boundscope", daemon=True)

    def start(self) -> None:
        """Start the flushing thread."""
        self._thread.start()

    def span(self, kind: str, start: int, end: int, detail: int = 0) -> None:
        """Keep one span; times are `time.monotonic_ns()`."""
        self.spans.append((kind, start, end - start, detail, threading.get_ident()))

    def record(self, record: Site | Window | Gap | Memory | Process) -> None:
        """Keep a record to be written with the next flush."""
        self.records.append(record)

    def gap(self, collector: str, reason: Reason, detail: str, effect: str) -> None:
        """Say that a collector stopped or cannot work."""
        self.record(Gap(self.clock.now_ns(), collector, reason, detail, effect))

    def crashed(self, collector: str, effect: str) -> None:
        """Record the exception being handled as the end of `collector`."""
        self.gap(collector, "crashed", traceback.format_exc(limit=6), effect)

    def wake(self) -> None:
        """Let the flushing thread look again now."""
        self._wake.set()

    def _run(self) -> None:
        due = time.monotonic() + FLUSH_PERIOD_S
        while not self._stopping:
            self._wake.wait(0.01 if self.short_sleep else max(0.0, due - time.monotonic()))
            self._wake.clear()
            for callback in list(self.every_flush):
                try:
                    callback()
                except Exception:
                    self.every_flush.remove(callback)
                    self.crashed("inside", "a part of the inside collectors stopped")
            if time.monotonic() >= due:
                self.flush()
                due = time.monotonic() + FLUSH_PERIOD_S

    def flush(self) -> None:
        """Write what is buffered; on a full or vanished disk, stop writing for good."""
        with self._flush_lock:
            if self._broken:
                self.spans.clear()
                self.records.clear()
                return
            try:
                self._write_out()
            except Exception:
                self._broken = True

    def _write_out(self) -> None:
        batch: list[Record] = []
        for _ in range(len(self.records)):
            batch.append(self.records.popleft())
        spans = self._take_spans()
        if spans is not None:
            batch.append(spans)
        if not batch and self._writer is not None:
            return
        self._open()
        if self._writer is not None and batch:
            self._writer.write(*batch)

    def _open(self) -> None:
        rank = process_rank()
        if self._writer is not None and rank == self._written_rank:
            return
        if self._writer is None:
            self.folder = self.run_folder / f"rank-{rank[0]}-{os.getpid()}"
            self.folder.mkdir(parents=True, exist_ok=True)
        assert self.folder is not None
        if self._writer is not None:
            self._writer.abandon()
        self._written_rank = rank
        self._writer = RecordWriter(
            self.folder / "steps.jsonl",
            "inside",
            self.clock,
            version=self.version,
            rank=rank[0],
            local_rank=rank[1],
            world_size=rank[2],
        )

    def _take_spans(self) -> Spans | None:
        count = len(self.spans)
        if not count:
            return None
        taken = [self.spans.popleft() for _ in range(min(count, MAX_BUFFERED_SPANS))]
        base = taken[0][1]
        main = self.training_thread
        foreign = any(span[4] != main for span in taken)
        return Spans(
            base_ns=base + self.clock.offset_ns,
            kind="".join(span[0] for span in taken),
            start=[span[1] - base for span in taken],
            duration=[span[2] for span in taken],
            detail=[span[3] for span in taken],
            thread=[0 if span[4] == main else 1 for span in taken] if foreign else [],
        )

    def close(self) -> None:
        """Write the rest and the closing line; safe to call twice."""
        self._stopping = True
        self._wake.set()
        self.flush()
        if self._writer is not None and not self._broken:
            self._writer.close()
            self._broken = True

    def abandon(self) -> None:
        """In a forked child: let go of the parent's file without writing to it."""
        self._stopping = True
        self._broken = True
        if self._writer is not None:
            self._writer.abandon()
