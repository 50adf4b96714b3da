"""Traces once read, kept as Parquet in the user's cache folder, so that they open at once again.

A file stands for the trace whose bytes have its SHA-256 sum, read by this very version of the
reader: a trace that was changed in any way, and a reader that was, miss it. That is more than size
and time stamps would promise (a copy can keep both), and costs 0.6 s for 1 GB. The folder lies in
the user's own cache, not beside the trace: what came with a stranger's trace is never trusted.
Every file may be deleted at any time; one that is damaged, not ours or not whole is passed over.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from .heap import give_back_heap
from .reader import read_trace
from .source import Progress
from .table import Trace

SWITCH = "BOUNDSCOPE_TRACE_CACHE"
"""Environment variable: "off", "0" or "no" switches the cache off."""

MAX_TOTAL_BYTES = 2 << 30
"""Bytes of all files together; past it the least recently used ones go. A trace of 1 GB takes
50 to 100 MB."""

MIN_EVENTS = 750_000
"""Events below which a trace is not kept: that is about 250 MB of JSON, read again in 2 s, and
pyarrow alone would take more memory than reading it does."""

_LEFT_OVER_S = 3600.0  # after this the part of a writer that was killed is removed
_SETTLED_NS = 2 * 10**9  # a file changed within this may change again within one tick of its clock
_HASH_BYTES = 1 << 20
_SUFFIX = ".parquet"
READER_MODULES = (
    "arguments", "categories", "columns", "decode", "document", "growing", "notes", "parquet",
    "part", "plain", "reader", "source", "span", "spans", "split", "table",
)  # fmt: skip
"""Modules whose source decides what is read: when one changes, nothing kept before is used."""

_later: ContextVar[list[tuple[TraceCache, str, Trace]] | None] = ContextVar("_later", default=None)


class _Stamp(NamedTuple):
    """What changes when a file is written or replaced."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int


def cached_trace(path: Path, progress: Progress | None = None, processes: int = 1) -> Trace:
    """Return the trace in `path`, from the cache where it is there, else as `read_trace` does.

    What is read is kept for the next time. No failure of the cache is an error.
    """
    cache = user_cache()
    if cache is None:
        return read_trace(path, progress, processes)
    kept = cache.find(path)
    if kept is not None:
        return kept
    digest = _sum_of(path)
    if digest is None:
        return read_trace(path, progress, processes)
    with digest:
        trace = read_trace(path, progress, processes)
        if len(trace.events) >= MIN_EVENTS:
            name = digest.result()
            if name is not None:
                cache.keep_now_or_later(name, trace)
        return trace


@contextlib.contextmanager
def stored_at_the_end() -> Iterator[None]:
    """Within, what is read is kept only at the end: the answer first, the cache after it.

    After an error nothing is kept.
    """
    waiting: list[tuple[TraceCache, str, Trace]] = []
    token = _later.set(waiting)
    try:
        yield
    finally:
        _later.reset(token)
    if waiting:
        give_back_heap()  # what the analysis left
    while waiting:
        cache, name, trace = waiting.pop()
        cache.keep(name, trace)


def user_cache() -> TraceCache | None:
    """Return the user's cache; None where it is switched off or pyarrow is missing."""
    import importlib.util

    if os.environ.get(SWITCH, "").strip().lower() in ("off", "0", "no", "false"):
        return None
    if importlib.util.find_spec("pyarrow") is None:
        return None
    from ..machine.calibrate import cache_folder

    return TraceCache(cache_folder() / "traces")


class TraceCache:
    """Traces in one folder, a file each: `<size>-<SHA-256>-<reader>.parquet`."""

    def __init__(self, folder: Path, max_total_bytes: int = MAX_TOTAL_BYTES) -> None:
        self._folder = folder
        self._max_total_bytes = max_total_bytes

    def find(self, path: Path) -> Trace | None:
        """Return the trace kept for these bytes by this reader; None where there is none."""
        with contextlib.suppress(OSError):
            size = path.stat().st_size
            # most traces are read for the first time: then no sum is needed
            if not any(self._folder.glob(f"{size}-*-{reader_version()}{_SUFFIX}")):
                return None
            with _Sum(path) as digest:
                name = digest.result(settled=False)  # it is read now: what was before has no part
            return None if name is None else self._load(name, path)
        return None

    def _load(self, name: str, path: Path) -> Trace | None:
        from .parquet import load

        file = self._folder / name
        try:
            trace = load(file, str(path))
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):
            if trace is None:
                file.unlink()
            else:
                os.utime(file)
        return trace

    def keep_now_or_later(self, name: str, trace: Trace) -> None:
        """Keep a trace, at the end where `stored_at_the_end` asks for it."""
        waiting = _later.get()
        if waiting is None:
            self.keep(name, trace)
        else:
            waiting.append((self, name, trace))

    def keep(self, name: str, trace: Trace) -> None:
        """Write a trace whole or not at all, and make room; not where nothing can be written."""
        from .parquet import NotStorable, store

        part = ""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(prefix=".", suffix=".part", dir=self._folder)
            with os.fdopen(handle, "wb") as out:
                store(out, trace)
            os.replace(part, self._folder / name)
            self._make_room()
        except (OSError, NotStorable):
            if part:
                with contextlib.suppress(OSError):
                    os.unlink(part)

    def _make_room(self) -> None:
        now = time.time()
        found = []
        for file in self._folder.iterdir():
            with contextlib.suppress(OSError):
                stat = file.stat()
                if file.name.endswith(_SUFFIX):
                    found.append((stat.st_mtime, stat.st_size, file))
                elif file.name.endswith(".part") and now - stat.st_mtime > _LEFT_OVER_S:
                    file.unlink()
        total = 0
        for _, size, file in sorted(found, reverse=True):
            total += size
            if total > self._max_total_bytes:
                with contextlib.suppress(OSError):
                    file.unlink()


@functools.lru_cache(maxsize=1)
def reader_version() -> str:
    """Return a short sum over the source of all that decides what is read; raises OSError."""
    total = hashlib.sha256()
    for name in READER_MODULES:
        total.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return total.hexdigest()[:12]


class _Sum:
    """The SHA-256 sum of a file, taken in a thread beside other work."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = _stamp(path)
        self._began_ns = time.time_ns()
        self._sum = hashlib.sha256()
        self._read = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Sum:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join()

    def result(self, settled: bool = True) -> str | None:
        """Return the file's name in the cache; None where the file changed meanwhile.

        `settled`: also None where it was written so lately that another change need not show.
        """
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._read == self._before.size and _stamp(self._path) == self._before:
                age_ns = self._began_ns - self._before.modified_ns
                return self._name() if age_ns >= _SETTLED_NS or not settled else None
        return None

    def _name(self) -> str:
        return f"{self._before.size}-{self._sum.hexdigest()}-{reader_version()}{_SUFFIX}"

    def _run(self) -> None:
        with contextlib.suppress(OSError), self._path.open("rb", buffering=0) as file:
            buffer = memoryview(bytearray(_HASH_BYTES))
            while not self._stopped and (count := file.readinto(buffer)):
                self._sum.update(buffer[:count])
                self._read += count


def _sum_of(path: Path) -> _Sum | None:
    try:
        return _Sum(path)
    except OSError:
        return None


def _stamp(path: Path) -> _Stamp:
    stat = path.stat()
    return _Stamp(stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
