"""Stack samples taken from inside, where a sampler outside is not allowed to look.

The sampling thread needs the interpreter lock for each sample, so it is slower and biased towards
moments at which the lock is free; it is the fallback, and says so.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from types import FrameType

from ..records import MAIN_THREAD, STACKS_MARKER, Frame, Gap, Stack, Stacks
from ..writer import RecordWriter
from .manners import UnseenThread
from .recorder import JOIN_S, Recorder

PERIOD_S = 0.1
MAX_DEPTH = 80
WRITE_EVERY_S = 1.0


class StackSampler:
    """Samples this process's threads once the collector outside asks for it by a marker file."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._frames: dict[tuple[str, str, int], int] = {}
        self._stacks: dict[tuple[int, ...], int] = {}
        self._new: list[Frame | Stack] = []
        self._writer: RecordWriter | None = None
        self._thread: UnseenThread | None = None
        self._stopping = threading.Event()
        recorder.every_flush.append(self.look)

    def look(self) -> None:
        """Start sampling when the marker is there."""
        folder = self._recorder.folder
        if folder is None or self._writer is not None or not (folder / STACKS_MARKER).exists():
            return
        self._writer = RecordWriter(folder / "stacks.jsonl", "stacks", self._recorder.clock)
        self._writer.write(
            Gap(
                self._recorder.clock.now_ns(),
                "stacks",
                "no-permission",
                "py-spy may not look into this process",
                "stacks are sampled from inside, ten times a second, loader workers not at all",
            )
        )
        self._thread = UnseenThread(self._run)
        self._thread.start()

    def _run(self) -> None:
        assert self._writer is not None
        counts: Counter[int] = Counter()
        start = self._recorder.clock.now_ns()
        written = time.monotonic()
        try:
            while not self._stopping.wait(PERIOD_S):
                frame = sys._current_frames().get(self._recorder.training_thread)
                if frame is not None:
                    counts[self._intern(frame)] += 1
                if time.monotonic() - written >= WRITE_EVERY_S:
                    end = self._recorder.clock.now_ns()
                    self._write(counts, start, end)
                    counts, start, written = Counter(), end, time.monotonic()
            self._write(counts, start, self._recorder.clock.now_ns())
            self._writer.close()
        except Exception:
            self._recorder.crashed("stacks", "no stack samples from here on")

    def _intern(self, frame: FrameType) -> int:
        ids: list[int] = []
        current: FrameType | None = frame
        while current is not None and len(ids) < MAX_DEPTH:
            code = current.f_code
            key = (code.co_name, code.co_filename, current.f_lineno)
            known = self._frames.get(key)
            if known is None:
                known = self._frames[key] = len(self._frames)
                self._new.append(Frame(known, *key))
            ids.append(known)
            current = current.f_back
        stack = tuple(reversed(ids))
        index = self._stacks.get(stack)
        if index is None:
            index = self._stacks[stack] = len(self._stacks)
            self._new.append(Stack(index, list(stack)))
        return index

    def _write(self, counts: Counter[int], start: int, end: int) -> None:
        assert self._writer is not None
        new, self._new = self._new, []
        stacks = Stacks(
            start_ns=start,
            end_ns=end,
            interval_ns=int(PERIOD_S * 1e9),
            pid=self._writer.pid,
            thread=self._recorder.training_thread,
            counts=list(counts.items()),
            thread_name=MAIN_THREAD,
        )
        self._writer.write(*new, stacks)

    def close(self) -> None:
        """Stop sampling and write out what is left."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)
