"""Makes digests: small ones at once, large ones in a process of their own.

A trace of 1 GB takes seconds and hundreds of MB to analyse. In a process beside the server, other
pages stay quick meanwhile, and the memory goes back when it ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from ..compare import Comparison, compare
from ..errors import BoundscopeError, UnusableData
from ..library import Source, derive_source, open_rank, trace_near, unpacked
from ..preparation import settle
from ..timeline import Timeline, build_timeline
from ..trace.cache import cached_trace
from ..trace_run import load_traces
from . import job, store, window

APART_FROM_BYTES = 6 << 20
"""Bytes of traces from which a process of its own is worth its start of half a second: about half
a second of reading."""

FAILED = 3


def job_of(source: Source, stamp: int, *, keep: bool = True) -> job.Job:
    """Return the digest of a source's features; `keep` is False for a run that goes on.

    Raises UnusableData as `derive_source` does.
    """
    if not keep:
        return job.job(derive_source(source), steps=source.kind != "run")
    folder = store.folder_for(source.path, stamp, "job")
    if not folder.exists():
        with _of_a_stranger(source):
            _make(["job", source.kind, source.key, str(source.path), str(folder)], _size(source))
    store.used(folder)
    return msgspec.json.decode((folder / "job.json").read_bytes(), type=job.Job)


def window_of(
    source: Source, stamp: int, line: Timeline, span_ns: tuple[int, int]
) -> tuple[window.Window, Path] | None:
    """Return the trace window around a stretch of time, and its file; None where there is none.

    Raises UnusableData where the trace cannot be read.
    """
    with _of_a_stranger(source):
        file = trace_near(source, line.rank, span_ns)
        if file is None:
            return None
        try:
            facts = file.stat()
        except OSError:  # the run has just ended, and packs it
            return None
        # A bundle is unpacked to another place each time; its own path stays.
        home = source.path if source.kind == "bundle" else file.parent
        what = f"window-{line.rank}-{file.parent.name}-{file.name}-{facts.st_size}"
        what += f"-{facts.st_mtime_ns}" if source.kind != "bundle" else ""
        folder = store.folder_for(home, stamp, what)
        if not folder.exists():
            own = unpacked(source)
            words = ["window", own.kind, own.key, str(own.path), str(folder)]
            _make([*words, str(line.rank), str(file)], facts.st_size)
        store.used(folder)
        return window.read(folder), file


def _of_a_stranger(source: Source) -> AbstractContextManager[None]:
    """What a stranger's bundle holds may end an analysis in any error: it becomes a sentence."""
    if source.kind != "bundle":
        return contextlib.nullcontext()
    from ..bundle.reading import strange_data

    return strange_data(source.path)


def comparison(base: Source, new: Source, stamps: tuple[int, int]) -> Comparison:
    """Return what changed between two sources; raises UnusableData as `compare` does."""
    folder = store.folder_for(base.path, stamps[0], f"compare-{new.path.resolve()}-{stamps[1]}")
    if not folder.exists():
        words = ["compare", base.kind, base.key, str(base.path), str(folder)]
        with _of_a_stranger(base), _of_a_stranger(new):
            _make([*words, new.kind, new.key, str(new.path)], _size(base) + _size(new))
    store.used(folder)
    return msgspec.json.decode((folder / "comparison.json").read_bytes(), type=Comparison)


def _size(source: Source) -> int:
    """Bytes of the source's traces."""
    own = unpacked(source)
    files = own.files if own.kind != "run" else own.path.glob("rank-*/trace-*.json*")
    return sum(file.stat().st_size for file in files)


def _make(words: list[str], size: int) -> None:
    if size < APART_FROM_BYTES:
        _do(words)
        return
    done = subprocess.run(
        [sys.executable, "-m", __name__, *words],
        stdout=subprocess.PIPE,
        check=False,
        env=os.environ | {"PYTHONSAFEPATH": "1"},  # modules of the working folder stay out
    )
    if done.returncode == FAILED:
        raise _as_it_was(UnusableData, done.stdout)
    if done.returncode != 0:
        raise UnusableData(
            "analysis-failed",
            f"The analysis ended with exit code {done.returncode}.",
            "try: boundscope diagnose --debug on the same path; memory may have run out",
        )


def _as_it_was(kind: type[BoundscopeError], said: bytes) -> BoundscopeError:
    """Return the error that the other process wrote out."""
    slug, message, hint = msgspec.json.decode(said, type=tuple[str, str, str])
    return kind(slug, message, hint)


def _do(words: list[str]) -> None:
    what, kind, key, path, folder, *rest = words
    source = Source(key, Path(path), kind)  # type: ignore[arg-type]
    if what == "job":
        made = job.job(derive_source(source), steps=source.kind != "run")
        store.keep(Path(folder), lambda part: _write(part / "job.json", store.encode(made)))
    elif what == "window":
        seen = _window(source, int(rest[0]), Path(rest[1]))
        store.keep(Path(folder), lambda part: window.write(seen, part))
    else:
        other = Source(rest[1], Path(rest[2]), rest[0])  # type: ignore[arg-type]
        found = compare(derive_source(source), derive_source(other))
        store.keep(Path(folder), lambda part: _write(part / "comparison.json", store.encode(found)))


def _write(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def _window(source: Source, rank: int, file: Path) -> window.Window:
    if source.kind != "run":
        _, inputs, _ = load_traces([file])
        return window.window(inputs[0].line, inputs[0].traces[0][1])
    data = open_rank(source, rank)
    line = build_timeline(data) if data is not None else None
    if line is None:
        raise UnusableData("no-steps", f"Rank {rank} recorded no steps.")
    trace = cached_trace(file)
    return window.window(settle(line, [trace]), trace, file.parents[1])


def _main() -> int:
    try:
        _do(sys.argv[1:])
    except BoundscopeError as error:
        answer = msgspec.json.encode((error.slug, error.message, error.hint))
        sys.stdout.buffer.write(answer)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(_main())
