"""Buffers spans in memory and writes them out from a thread of its own, twice a second."""

from __future__ import annotations

import contextlib
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
from .facts import leave_note
from .manners import UnseenThread

FLUSH_PERIOD_S = 0.5
"""At most this much is lost when the process is killed; the promise is one second. While a flush
holds the interpreter, the training waits."""

EARLY_PERIOD_S, EARLY_S = 0.25, 5.0
"""In its first seconds more often: of a run that ends soon half a second is much."""

MAX_BUFFERED_SPANS = 100_000
"""Beyond this many spans unwritten (a disk that hangs) the oldest are dropped: 20 MB are enough."""

RANK_VARIABLES = (
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)
"""Rank and size as schedulers tell them; torch's own RANK and WORLD_SIZE go before."""

JOIN_S = 2.0
"""How long the end of the process waits for a last flush or trace; a hung disk must not hold it."""

NOTE_S = 0.5
"""How long the end of the process waits for a note that its records hang."""

HANGS = "the thread that writes the records hangs"
NO_MORE = "steps, input waits and torch-profiler windows are missing from there on"

MAX_PROGRAMS = 100
"""So many programs, one after the other in one process, have a folder of their own."""

HOLD_S = 1.0
"""How long a fork waits for the flushing thread to let go of its locks."""

Span = tuple[str, int, int, int, int]
"""Kind, start (monotonic ns), duration ns, detail, thread ident."""


Place = tuple[int, int | None, int | None]
"""Rank, local rank and world size."""


def process_place(known: Place | None = None) -> Place:
    """The place of this process in its job: from torch.distributed, else what its launcher says.

    `known` holds when the process group is not there, or no more.
    """
    rank, world = _environment_int("RANK"), _environment_int("WORLD_SIZE")
    local = _environment_int("LOCAL_RANK")
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), local, distributed.get_world_size()
    if known is not None:
        return known
    for names in RANK_VARIABLES:
        if rank is None:
            rank, world = _environment_int(names[0]), _environment_int(names[1])
    return (0 if rank is None else rank), local, world


def _environment_int(name: str) -> int | None:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else None


class Recorder:
    """The spans and facts of one process on their way to `rank-<n>-<pid>/steps.jsonl`.

    `keep` and `span` are called from the training thread and must cost well under a microsecond; a
    deque's append and popleft are atomic, so no lock is taken there. Everything else happens in the
    flushing thread. `every_flush` callbacks run there too.
    """

    def __init__(self, run_folder: Path, version: str) -> None:
        self.clock = Clock()
        self.version = version
        self.run_folder = run_folder
        self.folder: Path | None = None
        self.spans: deque[Span] = deque(maxlen=MAX_BUFFERED_SPANS)
        self.keep: Callable[[Span], None] = self.spans.append
        self.records: deque[Record] = deque()
        self.every_flush: list[Callable[[], None]] = []
        self.training_thread = 0
        self.short_sleep = False
        self._writer: RecordWriter | None = None
        self._place = process_place()
        self._written_place = self._place
        self._broken = False
        self._wake = threading.Event()
        self._stopping = False
        self._flush_lock = threading.Lock()
        self._held = self._hung = False
        self._trouble = ""
        self._thread = UnseenThread(self._run)

    def start(self) -> None:
        """Start the flushing thread."""
        self._thread.start()

    def span(self, kind: str, start: int, end: int, detail: int = 0) -> None:
        """Keep one span; times are `time.monotonic_ns()`."""
        self.keep((kind, start, end - start, detail, threading.get_ident()))

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
        early_until = time.monotonic() + EARLY_S
        due = time.monotonic() + EARLY_PERIOD_S
        while not self._stopping:
            self._wake.wait(0.01 if self.short_sleep else max(0.0, due - time.monotonic()))
            self._wake.clear()
            if time.monotonic() >= due:
                self.flush()
                now = time.monotonic()
                due = now + (EARLY_PERIOD_S if now < early_until else FLUSH_PERIOD_S)
            for callback in list(self.every_flush):
                try:
                    callback()
                except Exception:
                    self.every_flush.remove(callback)
                    self.crashed("inside", "a part of the inside collectors stopped")

    def flush(self) -> None:
        """Write what is buffered; when that fails (full disk, folder gone), stop for good."""
        if not self._flush_lock.acquire(timeout=HOLD_S):
            return
        try:
            if self._broken:
                self.spans.clear()
                self.records.clear()
                return
            self._write_out()
        except Exception as error:
            self._broken = True
            self._trouble = f"the records could not be written: {type(error).__name__}: {error}"
            self._tell_trouble()
        finally:
            self._flush_lock.release()

    def _tell_trouble(self) -> None:
        """Say in another file of the run folder why there are no more records, if that works."""
        if self._trouble and self.run_folder.is_dir():
            gap = Gap(self.clock.now_ns(), "inside", "crashed", self._trouble, NO_MORE)
            with contextlib.suppress(Exception):
                leave_note(self.run_folder, self.version, gap)
                self._trouble = ""

    @property
    def writes(self) -> bool:
        """Whether what is recorded still reaches the disk."""
        return not self._broken

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

    def find_place(self) -> None:
        """Ask again for this process's rank, as long as its process group is there."""
        self._place = process_place(self._place)

    def _open(self) -> None:
        self.find_place()
        place = self._place
        if self._writer is not None and place == self._written_place:
            return
        if self._writer is None:
            self.folder = self._new_folder(f"rank-{place[0]}-{os.getpid()}")
        assert self.folder is not None
        if self._writer is not None:
            self._writer.abandon()
        self._written_place = place
        self._writer = RecordWriter(
            self.folder / "steps.jsonl",
            "inside",
            self.clock,
            version=self.version,
            rank=place[0],
            local_rank=place[1],
            world_size=place[2],
        )

    def _new_folder(self, name: str) -> Path:
        """A folder that nobody wrote to: a process that became another program keeps its pid."""
        folder = self.run_folder / name
        for again in range(2, MAX_PROGRAMS):
            if not (folder / "steps.jsonl").exists():
                break
            folder = self.run_folder / f"{name}-{again}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _take_spans(self) -> Spans | None:
        count = len(self.spans)
        if not count:
            return None
        if count == MAX_BUFFERED_SPANS:
            self.gap("inside", "crashed", "the disk hung", f"at most {count} spans were kept")
        taken = [self.spans.popleft() for _ in range(count)]
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
        """Write the rest and the closing line; safe to call twice, and never longer than JOIN_S."""
        self._stopping = True
        self._wake.set()
        deadline = time.monotonic() + JOIN_S
        ended = self._thread.join(JOIN_S)
        if not ended:
            self.gap("inside", "crashed", HANGS, NO_MORE)
        if not self._flush_lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            self._tell_hang()
            return
        try:
            if not self._broken:
                self._write_out()
                if self._writer is not None:
                    self._writer.close()
            self._tell_trouble()
        finally:
            self._broken = True
            self._flush_lock.release()

    def _tell_hang(self) -> None:
        """From a thread of its own: where a write hangs, the next one may hang as well."""
        self._trouble = HANGS
        helper = UnseenThread(self._tell_trouble)
        helper.start()
        helper.join(NOTE_S)

    def hold(self) -> None:
        """Before a fork: no flush from here on, so that the child inherits no lock of ours.

        Waited for once: where the disk hangs, each later fork must not wait again.
        """
        self._held = self._flush_lock.acquire(timeout=0 if self._hung else HOLD_S)
        self._hung = not self._held

    def release(self) -> None:
        """After the fork, in the parent."""
        if self._held:
            self._held = False
            self._flush_lock.release()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's file without writing to it."""
        self._stopping = True
        self._broken = True
        if self._writer is not None:
            self._writer.abandon()
