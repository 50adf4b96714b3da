"""One large plain file in several processes: each takes the next span that nobody has.

The parts are put together in the order of the file, with the numbers of names, threads and shapes
that a single reader would have given: the result is the same to the byte. Where a span holds more
than well-formed events, or a process fails, the file is read on from there by one reader.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from .decode import EventDecoder
from .heap import KEEPING
from .part import Part
from .source import Progress
from .span import Span, SpanReader
from .wire import BrokenFrame, part_from, read_frame

SPAN_BYTES = 8 << 20
"""Bytes a span. With 16 MB, the parts under way took 20 MB more (measured, 1 GB, two processes)."""

END_BYTES = 1 << 20
"""Bytes at the end of the file that are left to the single reader: the list's end and what
follows it. Real footers are under 10 kB."""

BYTES_A_PROCESS = 800_000_000
"""A process beside the first for each of these. One takes 50 MB while the file is read, of which
nothing is left when the events are divided: two processes need 0.24 of a file of 1 GB at any time
(benchmarks/ingest.py), as one does."""

_AHEAD = 2  # spans that another process has been given and not answered: it never waits for us

Found = tuple[Part, int] | None
"""A span's part and where the next event begins; None where it can't be read by itself."""


def processes_for(size: int, cores: int) -> int:
    """Return how many processes read a plain file of `size` bytes."""
    return max(1, min(cores, 1 + size // BYTES_A_PROCESS))


def spans_of(begin: int, end: int) -> list[Span]:
    """Cut [begin, end) into spans; `begin` is an event's first byte."""
    cuts = list(range(begin, end, SPAN_BYTES))
    return [
        Span(cut, min(cut + SPAN_BYTES, end), aligned=index == 0) for index, cut in enumerate(cuts)
    ]


def read_split(
    path: Path, begin: int, decoder: EventDecoder, processes: int, progress: Progress | None = None
) -> Iterator[tuple[int, Part, int]]:
    """Yield (reader, part, where the next event begins) in the order of the file.

    `begin` is the first event's first byte. Ends at the first span that takes a single reader, or
    `END_BYTES` before the end. Raises OSError.
    """
    size = path.stat().st_size
    spans = spans_of(begin, size - END_BYTES)
    own = SpanReader(path, decoder.layout)
    with contextlib.closing(own), _Helpers(path, decoder, spans, processes - 1) as helpers:
        held: dict[int, tuple[int, Found]] = {}
        for index, span in enumerate(spans):
            while index not in held:
                mine = None if helpers.waiting() else helpers.schedule.take()
                if mine is None:
                    number, reader, found = helpers.answer()
                    held[number] = reader, found
                else:
                    held[mine] = 0, own.read(spans[mine])
            reader, found = held.pop(index)
            if found is None:
                return
            if progress is not None:
                progress(span.end, size)
            yield reader, *found


class _Schedule:
    """Which span comes next; several threads ask."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._next = 0
        self._lock = threading.Lock()

    def take(self) -> int | None:
        """Return the next span that nobody has; None where there is none left."""
        with self._lock:
            index = self._next
            self._next += 1
        return index if index < self._count else None


class _Helpers:
    """The other processes, a thread for each that reads its answers."""

    def __init__(self, path: Path, decoder: EventDecoder, spans: list[Span], count: int) -> None:
        self.schedule = _Schedule(len(spans))
        self._spans = spans
        self._answers: queue.SimpleQueue[tuple[int, int, Found]] = queue.SimpleQueue()
        setting = json.dumps({"path": str(path.absolute()), "layout": decoder.layout})
        self._children = [_start(setting) for _ in range(count)]

    def __enter__(self) -> _Helpers:
        for reader, child in enumerate(self._children, start=1):
            threading.Thread(target=self._serve, args=(reader, child), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()
        for child in self._children:
            child.communicate()

    def waiting(self) -> bool:
        """Whether an answer is there to be taken."""
        return not self._answers.empty()

    def answer(self) -> tuple[int, int, Found]:
        """Return (span, reader, what it found) of the next answer."""
        return self._answers.get()

    def _serve(self, reader: int, child: subprocess.Popen[bytes]) -> None:
        """Keep a process in work; each span given to it is answered, with None if it fails."""
        given: list[int] = []
        try:
            while True:
                while len(given) < _AHEAD and (index := self.schedule.take()) is not None:
                    given.append(index)
                    _give(child, self._spans[index])
                if not given:
                    return
                found = _part(cast(BinaryIO, child.stdout))
                self._answers.put((given.pop(0), reader, found))
                if found is None:
                    return
        except (OSError, ValueError, KeyError, BrokenFrame):
            return
        finally:
            for index in given:
                self._answers.put((index, reader, None))


def _start(setting: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.span_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # modules of the working folder stay out
        env=os.environ | KEEPING | {"PYTHONSAFEPATH": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    with contextlib.suppress(OSError):
        _write(child, setting.encode())
    return child


def _give(child: subprocess.Popen[bytes], span: Span) -> None:
    _write(child, json.dumps(span).encode())


def _write(child: subprocess.Popen[bytes], line: bytes) -> None:
    assert child.stdin is not None
    child.stdin.write(line + b"\n")
    child.stdin.flush()


def _part(source: BinaryIO) -> Found:
    frame = read_frame(source)
    if frame is None:
        raise BrokenFrame
    header, columns = frame
    following = header.pop("next")
    return None if following is None else (part_from(header, columns), following)
