"""Several trace files side by side over the cores, and one large file in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import UnusableData
from .cache import cached_trace, stored_at_the_end, user_cache
from .plain import columns_of, described, trace_from
from .source import Progress, is_plain
from .split import processes_for
from .table import Trace
from .wire import BrokenFrame, read_frame, write_frame

MIN_PARALLEL_BYTES = 8_000_000
"""Bytes of all files below which another process costs more than it saves: starting one and
sending its columns back takes about 0.4 s, in which one process reads 4 MB of gzip."""

_TELL_EVERY_S = 0.2
_READ = "read so far"

_watcher: ContextVar[Progress | None] = ContextVar("_watcher", default=None)


@contextmanager
def watched(progress: Progress) -> Iterator[None]:
    """Within, `read_traces` reports to `progress`: (bytes read, bytes of all files)."""
    token = _watcher.set(progress)
    try:
        yield
    finally:
        _watcher.reset(token)


def read_traces(paths: Sequence[Path]) -> list[Trace | UnusableData]:
    """Read trace files, in the order given; a file that cannot be read gives its error."""
    tally = _Tally([_size(path) for path in paths], _watcher.get())
    workers = min(_cores(), len(paths))
    if workers < 2 or tally.total < MIN_PARALLEL_BYTES:
        return [_read(path, tally, index) for index, path in enumerate(paths)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(_read_apart, paths, [tally] * len(paths), range(len(paths))))


class _Tally:
    """How much of several files has been read; several threads tell."""

    def __init__(self, sizes: list[int], watcher: Progress | None) -> None:
        self.sizes = sizes
        self.total = sum(sizes)
        self._read = [0] * len(sizes)
        self._watcher = watcher
        self._lock = threading.Lock()

    def reached(self, index: int, position: int) -> None:
        """Note that `position` bytes of one file have been read."""
        if self._watcher is not None:
            with self._lock:
                self._read[index] = position
                self._watcher(sum(self._read), self.total)


def _read(path: Path, tally: _Tally, index: int) -> Trace | UnusableData:
    size = tally.sizes[index]
    processes = processes_for(size, _cores()) if is_plain(path) else 1
    try:
        return cached_trace(path, lambda position, _: tally.reached(index, position), processes)
    except UnusableData as error:
        return error
    finally:
        tally.reached(index, size)


def _read_apart(path: Path, tally: _Tally, index: int) -> Trace | UnusableData:
    """Take it from the cache, else read in a process of its own.

    Not by `multiprocessing`: it would run the caller's script again, or copy its threads half-way.
    """
    cache = user_cache()
    trace = cache.find(path) if cache is not None else None
    if trace is None:
        trace = _from_child(path, lambda position: tally.reached(index, position))
    if trace is None:
        return _read(path, tally, index)
    tally.reached(index, tally.sizes[index])
    return trace


def _from_child(path: Path, reached: Callable[[int], None]) -> Trace | None:
    """Read in a child; None where that fails."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__, str(path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONSAFEPATH": "1"},  # modules of the working folder stay out
    ) as child:
        try:
            while (frame := read_frame(cast(BinaryIO, child.stdout))) is not None:
                header, columns = frame
                if _READ not in header:
                    return trace_from(str(path), header, columns)
                reached(header[_READ])
            return None
        except (BrokenFrame, OSError, ValueError, KeyError, TypeError):
            child.kill()
            return None


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _main() -> int:
    """Write frames that say how far it is, and then one with the trace."""
    told = time.monotonic()

    def tell(position: int, _: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _TELL_EVERY_S:
            told = time.monotonic()
            write_frame(sys.stdout.buffer, {_READ: position}, {})

    with stored_at_the_end():
        try:
            trace = cached_trace(Path(sys.argv[1]), tell)
        except UnusableData:
            return 1  # the parent reads it again, and says what is wrong
        write_frame(sys.stdout.buffer, described(trace), columns_of(trace))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
