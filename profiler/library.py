"""What lies in the folders that are served: runs and traces, and how each stands."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from ..collectors.records import Manifest
from .diagnose import find_roofs
from .diagnosis import Diagnosis
from .errors import UnusableData
from .features import Features, derive, derive_from
from .kept import read_diagnosis
from .program import fingerprint
from .run.files import read_whole
from .run.load import RANK_FOLDER, RankData, Run, load_rank, load_run
from .run.manifest import FILE_NAME, read_manifest
from .run.status import effective_status, newest_record_ns
from .trace_run import SUFFIXES, load_traces, trace_files

PATHS_VARIABLE = "BOUNDSCOPE_DASHBOARD_PATHS"
"""Environment variable by which the served paths reach the dashboard: a JSON list."""

DIAGNOSIS_FILE = "diagnosis.json"
BUNDLE_SUFFIX = ".boundscope.zip"
MAX_DEPTH = 4
"""Runs are looked for so many folders below a given one."""

MAX_FOLDERS = 5_000
"""After so many folders the search ends: somebody gave a home folder, not one of runs."""

SNIFFED_BYTES = 1 << 16

COPY_SLACK_NS = 60_000_000_000
"""A copied run has its files in any order: within a minute the diagnosis counts as the newer."""

_RANK = re.compile(r"(?:rank|worker|trainer)[-_]?(\d+)", re.IGNORECASE)

Kind = Literal["run", "trace", "traces", "bundle"]


@dataclass(frozen=True)
class Source:
    """Something that can be diagnosed. `key` names it in an address, unique among the served."""

    key: str
    path: Path
    kind: Kind

    @property
    def files(self) -> list[Path]:
        """The trace files of a source that has nothing else."""
        if self.kind == "bundle":
            from .bundle.reading import open_bundle

            return open_bundle(self.path).traces
        return [] if self.kind == "run" else trace_files(self.path)

    @property
    def stamp(self) -> int:
        """When anything of it was last written, ns: the key of what is computed from it."""
        if self.kind == "bundle":
            return _mtime_ns(self.path)
        if self.kind != "run":
            return max((_mtime_ns(path) for path in self.files), default=0)
        named = (self.path / FILE_NAME, self.path / DIAGNOSIS_FILE)
        return max(newest_record_ns(self.path), *(_mtime_ns(path) for path in named))


@dataclass(frozen=True)
class Entry:
    """A source as the list of runs shows it; what is not known is None or empty.

    `change` is the change of the median step time against the run of the same name before.
    `is_current` is False where another version made the diagnosis: its page may say otherwise.
    """

    source: Source
    name: str
    started_ns: int
    duration_s: float | None
    status: str
    diagnosis: Diagnosis | None
    command: str = ""
    change: float | None = None
    is_current: bool = True

    @property
    def step_ms(self) -> float | None:
        """Median step time."""
        step = self.diagnosis.run.step_ms if self.diagnosis is not None else None
        return step.median if step is not None else None


def find_sources(roots: Sequence[Path]) -> list[Source]:
    """Return every run and trace in `roots`; links that lead out of them are left out."""
    found: dict[Path, Source] = {}
    for number, root in enumerate(roots):
        home = root.resolve()
        prefix = f"{number}:" if len(roots) > 1 else ""
        for path, kind in _walk(home):
            real = path.resolve()
            if real != home and home not in real.parents:
                continue
            key = path.relative_to(home).as_posix() if path != home else path.name
            found.setdefault(real, Source(prefix + key, path, kind))
    return sorted(found.values(), key=lambda source: source.key)


def _walk(root: Path) -> Iterator[tuple[Path, Kind]]:
    if root.is_file():
        yield root, "bundle" if root.name.endswith(BUNDLE_SUFFIX) else "trace"
        return
    waiting = [(root, 0)]
    for _ in range(MAX_FOLDERS):
        if not waiting:
            return
        folder, depth = waiting.pop()
        if os.path.isfile(folder / FILE_NAME):  # False too where it may not be looked at
            yield folder, "run"
            continue
        yield from _traces_in(folder)
        if depth < MAX_DEPTH:
            waiting += [(child, depth + 1) for child in _subfolders(folder)]


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []


def _traces_in(folder: Path) -> Iterator[tuple[Path, Kind]]:
    """A folder whose traces are named by rank is one job; other traces stand for themselves."""
    yield from ((path, "bundle") for path in _bundles_in(folder))
    try:
        files = [path for path in trace_files(folder) if not path.is_symlink()]
    except OSError:
        return
    traces = [path for path in files if _looks_like_trace(path)]
    ranks = [match[1] for path in traces if (match := _RANK.search(path.name))]
    if len(traces) > 1 and len(traces) == len(files) == len(set(ranks)):
        yield folder, "traces"
    else:
        for path in traces:
            yield path, "trace"


def _bundles_in(folder: Path) -> list[Path]:
    try:
        found = sorted(folder.glob(f"*{BUNDLE_SUFFIX}"))
    except OSError:
        return []
    return [path for path in found if os.path.isfile(path) and not path.is_symlink()]


def _looks_like_trace(path: Path) -> bool:
    if not path.name.endswith(SUFFIXES):
        return False
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(SNIFFED_BYTES)
    except (OSError, EOFError, zlib.error):
        return False
    return b'"traceEvents"' in head or b'"ph"' in head


def list_entries(sources: Sequence[Source]) -> list[Entry]:
    """Return the sources as rows, newest first, each with its change against the one before."""
    entries = sorted((_entry(source) for source in sources), key=lambda entry: entry.started_ns)
    last: dict[str, float] = {}
    rows = []
    for entry in entries:
        before, now = last.get(entry.name), entry.step_ms
        change = now / before - 1 if now and before else None
        rows.append(replace(entry, change=change))
        if now:
            last[entry.name] = now
    return rows[::-1]


def _entry(source: Source) -> Entry:
    if source.kind == "bundle":
        return _bundle_entry(source)
    if source.kind != "run":
        started = _mtime_ns(source.path)
        return Entry(source, source.path.name, started, None, "trace", None)
    try:
        manifest = read_manifest(source.path)
    except UnusableData:
        return Entry(source, source.path.name, 0, None, "unreadable", None)
    diagnosis = stored_diagnosis(source)
    return Entry(
        source=source,
        name=manifest.name or source.path.name,
        started_ns=manifest.started_ns,
        duration_s=_duration_s(manifest),
        status=effective_status(manifest, source.path),
        diagnosis=diagnosis,
        command=" ".join(manifest.command),
        is_current=diagnosis is None or _is_current(source),
    )


def check(source: Source) -> None:
    """Raise UnusableData where a run or bundle cannot be listed, with what is wrong."""
    if source.kind == "run":
        read_manifest(source.path)
    elif source.kind == "bundle":
        from .bundle.reading import peek

        peek(source.path)


def _bundle_entry(source: Source) -> Entry:
    """A bundle is listed by its diagnosis alone: it is unpacked when it is opened."""
    from .bundle.reading import peek

    written = _mtime_ns(source.path)
    try:
        diagnosis, manifest = peek(source.path)
    except UnusableData:
        return Entry(source, source.path.name, written, None, "unreadable", None)
    name, status = diagnosis.run.name or source.path.name, diagnosis.run.status
    if manifest is None:
        return Entry(source, name, written, None, status, diagnosis)
    took = _duration_s(manifest)
    command = " ".join(manifest.command)
    return Entry(source, name, manifest.started_ns, took, status, diagnosis, command)


def _duration_s(manifest: Manifest) -> float | None:
    if not manifest.ended_ns:
        return None
    return (manifest.ended_ns - manifest.started_ns) * 1e-9


def stored_diagnosis(source: Source) -> Diagnosis | None:
    """Return the diagnosis kept with a run that ended; None when there is none or it is older."""
    if source.kind == "bundle":
        from .bundle.reading import open_bundle

        return open_bundle(source.path).diagnosis
    path = source.path / DIAGNOSIS_FILE
    newest = newest_record_ns(source.path)
    if source.kind != "run" or _mtime_ns(path) + COPY_SLACK_NS < newest:
        return None
    return read_diagnosis(path)


class _MadeBy(msgspec.Struct):
    program: str = ""


def current_diagnosis(source: Source) -> Diagnosis | None:
    """Return the kept diagnosis where `boundscope diagnose` would say the same today.

    That of a run only where this very program made it: another version's rules may judge
    otherwise. That of a bundle always: it is what `diagnose` shows of one.
    """
    if source.kind == "run" and not _is_current(source):
        return None
    return stored_diagnosis(source)


def _is_current(source: Source) -> bool:
    try:
        kept = msgspec.json.decode(read_whole(source.path / DIAGNOSIS_FILE), type=_MadeBy)
    except (OSError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return False
    return kept.program == fingerprint()


def derive_source(source: Source) -> Features:
    """Return the features of a source: reads its traces; raises UnusableData."""
    if source.kind == "bundle":
        from .bundle.reading import derive_bundle, open_bundle

        return derive_bundle(open_bundle(source.path))
    if source.kind == "run":
        run = load_run(source.path)
        return derive(run, find_roofs(run, measure=False))
    run, inputs, warnings = load_traces(source.files)
    return derive_from(run, inputs, None, warnings)


def open_run(source: Source) -> Run:
    """Return a run's records; traces have none, and are not read for that."""
    if source.kind == "bundle":
        from .bundle.reading import open_bundle, run_of_bundle

        return run_of_bundle(open_bundle(source.path))
    return load_run(source.path) if source.kind == "run" else _run_of_traces(source)


def _run_of_traces(source: Source) -> Run:
    name = source.path.name
    manifest = Manifest(
        schema=1,
        id=name,
        name=name,
        command=[],
        cwd="",
        started_ns=0,
        status="finished",
        launcher_pid=0,
        launcher_start_ticks=0,
        host="",
        version="",
    )
    run = Run(source.path.parent, manifest, "finished")
    # Known already: beside a trace there may be folders that look like a run's.
    for nothing in ("ranks", "metrics", "processes", "gaps", "_node_files"):
        run.__dict__[nothing] = []
    run.__dict__["stacks"] = {}
    return run


def rank_numbers(source: Source) -> list[int]:
    """Return the ranks that a run's folder names, without reading what they recorded."""
    found = (RANK_FOLDER.fullmatch(path.name) for path in source.path.glob("rank-*-*"))
    return sorted({int(match[1]) for match in found if match is not None})


def open_rank(source: Source, rank: int) -> RankData | None:
    """Return what one rank of a run recorded, the others left unread; None without steps.

    After a restart it is the process that took most steps, as in `Run.ranks`.
    """
    found = [load_rank(path) for path in sorted(source.path.glob(f"rank-{rank}-*"))]
    return max(found, key=lambda data: data.steps_seen, default=None)


def unpacked(source: Source) -> Source:
    """Return the run in a bundle of one, where it was unpacked to; another source as it is."""
    if source.kind != "bundle":
        return source
    from .bundle.reading import open_bundle

    bundle = open_bundle(source.path)
    if bundle.manifest.kind != "run":
        return source
    return Source(source.key, bundle.run_folder, "run")


def trace_near(source: Source, rank: int, span_ns: tuple[int, int]) -> Path | None:
    """Return the trace of a rank that covers most of [begin, end); None where none does.

    Of a foreign trace: the rank's file. Raises UnusableData.
    """
    if source.kind == "bundle":
        from .bundle.reading import strange_data

        with strange_data(source.path):
            return _trace_near(unpacked(source), rank, span_ns)
    return _trace_near(source, rank, span_ns)


def _trace_near(source: Source, rank: int, span_ns: tuple[int, int]) -> Path | None:
    if source.kind != "run":
        return _file_of_rank(source.files, rank)
    found: list[tuple[int, Path]] = []
    data = open_rank(source, rank)
    for window in data.windows if data is not None else ():
        path = data.trace_path(window) if data is not None else None
        common = min(window.end_ns, span_ns[1]) - max(window.start_ns, span_ns[0])
        if path is not None and common > 0:
            found.append((common, path))
    return max(found)[1] if found else None


def _file_of_rank(files: Sequence[Path], rank: int) -> Path | None:
    named = [path for path in files if (m := _RANK.search(path.name)) and int(m[1]) == rank]
    if named:
        return named[0]
    return files[rank] if rank < len(files) else (files[0] if len(files) == 1 else None)


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def derive_path(path: Path) -> Features:
    """Return the features of a run folder, a bundle, a trace or a folder of rank traces.

    Raises UnusableData when it is none of them.
    """
    if not path.exists():
        raise UnusableData("no-such-path", f"{path} does not exist.", "see: boundscope runs")
    if (path / FILE_NAME).exists():
        return derive_source(Source(path.name, path, "run"))
    if path.is_file() and path.name.endswith(BUNDLE_SUFFIX):
        return derive_source(Source(path.name, path, "bundle"))
    if not trace_files(path):
        raise UnusableData(
            "nothing-to-diagnose",
            f"{path} is neither a run folder nor does it hold traces (.json, .json.gz).",
            "name the folder that boundscope run made, or a torch-profiler trace",
        )
    return derive_source(Source(path.name, path, "traces"))
