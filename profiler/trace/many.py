"""Several trace files side by side over the cores."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import UnusableData
from .reader import read_trace
from .table import Trace

MIN_PARALLEL_BYTES = 8_000_000
"""Bytes of all files below which another process costs more than it saves: starting one and
sending its columns back takes about 0.4 s, in which one process reads 4 MB of gzip."""


def read_traces(paths: Sequence[Path]) -> list[Trace | UnusableData]:
    """Read trace files, in the order given; a file that cannot be read gives its error."""
    workers = min(_cores(), len(paths))
    if workers < 2 or sum(map(_size, paths)) < MIN_PARALLEL_BYTES:
        return [_read(path) for path in paths]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(_read_apart, paths))


def _read(path: Path) -> Trace | UnusableData:
    try:
        return read_trace(path)
    except UnusableData as error:
        return error


def _read_apart(path: Path) -> Trace | UnusableData:
    """Read in a process of its own.

    Not by `multiprocessing`: it would run the caller's script again, or copy its threads half-way.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(path)],
        stdout=subprocess.PIPE,
        check=False,
        env=os.environ | {"PYTHONSAFEPATH": "1"},  # modules of the working folder stay out
    )
    if done.returncode != 0:
        return _read(path)
    trace: Trace = pickle.loads(done.stdout)  # noqa: S301 - written by our own process
    return trace


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
    trace = _read(Path(sys.argv[1]))
    if isinstance(trace, UnusableData):
        return 1
    pickle.dump(trace, sys.stdout.buffer, protocol=5)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
