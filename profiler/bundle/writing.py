"""Makes a bundle: redacts, cuts what does not fit, and says what was left out."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ... import __version__
from ..diagnose import diagnose_features
from ..diagnosis import Diagnosis
from ..errors import BoundscopeError, UnusableData, UsageError
from ..library import Source, current_diagnosis, derive_source
from ..redact import Known, Redactor
from ..redact.diagnosis import redacted_diagnosis
from ..redact.records import ALLOWED_VARIABLES
from ..run.load import Run, load_run
from ..run.manifest import FILE_NAME
from ..trace_run import load_traces, trace_files
from . import layout
from .layout import BundleManifest, LeftOut, Member
from .naming import own_name, shown_name
from .record_limits import MAX_BYTES, RecordBudget, check_records
from .stage import RecordSource, discover, of_this_machine, record_sources, stage_run
from .summary import environment_text, to_issue
from .trace_cut import Cut, Survey, survey, write_cut

RESERVED_BYTES = 96 * 1024
"""Room for the bundle's own manifest, diagnosis and texts."""

BYTES_PER_MEMBER = 400
"""Of `bundle.json` and of the ZIP file's own list."""

MIN_TRACE_BYTES = 60_000
"""One step of a real trace has 20 to 200 kB; below this another rank's trace is worth more."""

RECORDS_SHARE = 0.6
"""Share of the room that the records may take before those go that the verdict needs least."""

CHECKED_BYTES = 60_000_000
"""Unpacked bytes of traces up to which the bundle is diagnosed once more, in about 3 s."""

GZIP_RATIO = 12
"""Of traces as the run packs them, at gzip's level 1."""

NEED = {"host": 3, "process": 3, "stacks": 4, "gpu": 5, "network": 5, "storage": 6, "power": 6}
"""What the verdict needs of a node's records, least last; steps come before them."""
LEAST = 7
ALWAYS = 2

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """A bundle that was made: where, how large, what is in it, and the text for the issue.

    `called` is the file's name in that text: its own, without what is private in it.
    """

    path: Path
    called: str
    size: int
    manifest: BundleManifest
    diagnosis: Diagnosis
    markdown: str


@dataclass
class _Work:
    """What is being put together below `folder`."""

    folder: Path
    redactor: Redactor
    diagnosis: Diagnosis
    members: list[tuple[str, Path, str]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    exact: bool = True
    unpacked: int = 0

    def add(self, path: Path, what: str) -> None:
        """Take a staged file into the bundle under its own name."""
        self.members.append((path.relative_to(self.folder).as_posix(), path, what))

    def leave(self, what: str, reason: str) -> None:
        """Note that something stays behind; the stored diagnosis then knows more than the data."""
        self.left_out.append(LeftOut(what, reason))
        self.exact = False


@dataclass(frozen=True)
class _Trace:
    """A trace to cut: its place in the bundle, the rank, and how it is called."""

    path: Path
    target: str
    what: str


def make_bundle(
    path: Path,
    target: Path,
    *,
    max_bytes: int = layout.DEFAULT_MAX_BYTES,
    keep: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> Made:
    """Make the bundle of a run folder, a trace or a folder of traces, and write it to `target`.

    A `target` that is a folder gets a file named after the run, without what is private in that.
    `keep` names groups of `redact.KEEPABLE` that are not redacted. Raises UnusableData where
    there is nothing to bundle, UsageError where it can't be written.
    """
    tell = progress or (lambda _text: None)
    if path.name.endswith(layout.SUFFIX) and path.is_file():
        raise UsageError(
            "already-a-bundle", f"{path} is a bundle already.", "send it as it is, or open it"
        )
    if not path.exists():
        raise UnusableData("no-such-path", f"{path} does not exist.", "see: boundscope runs")
    with tempfile.TemporaryDirectory(prefix="boundscope-") as folder:
        place = Path(folder) / "bundle"
        place.mkdir()
        bundle = _bundle_run if (path / FILE_NAME).exists() else _bundle_traces
        work, run = bundle(path, place, max_bytes, keep, tell)
        if target.is_dir():
            target /= own_name(path, work.redactor)
        tell("Putting it together")
        return _pack(work, run, target, max_bytes, keep)


def _bundle_run(
    path: Path, place: Path, max_bytes: int, keep: frozenset[str], tell: Progress
) -> tuple[_Work, Run]:
    run = load_run(path)
    tell("Diagnosing")
    diagnosis = _diagnosis_of(run)
    tell("Reading the records")
    sources = record_sources(path)
    known, files = discover(run.manifest, sources)
    traces = _traces_of(run, diagnosis)
    surveys = _surveys(traces, known, tell)
    work = _Work(place, _redactor(known, keep), diagnosis)
    for file in sorted(files):
        work.redactor.remember_file(file)
    written = stage_run(run, sources, work.redactor, place / layout.RUN_FOLDER)
    room = _take_records(work, written, max_bytes - RESERVED_BYTES)
    _take_traces(work, traces, surveys, room, tell)
    work.diagnosis = redacted_diagnosis(diagnosis, work.redactor)
    tell("Checking")
    return work, run


def _diagnosis_of(run: Run) -> Diagnosis:
    """Diagnose as `boundscope diagnose` would; of large traces, take what is kept with the run,
    where this version made it.
    """
    source = Source(run.folder.name, run.folder, "run")
    paths = [rank.trace_path(window) for rank in run.ranks for window in rank.windows]
    size = sum(_unpacked_estimate(path) for path in paths if path is not None)
    kept = current_diagnosis(source) if size > CHECKED_BYTES else None
    if kept is not None and kept.run.status == run.status:
        return kept
    return diagnose_features(derive_source(source))


def _unpacked_estimate(path: Path) -> int:
    size = path.stat().st_size
    return size * GZIP_RATIO if path.suffix == ".gz" else size


def _redactor(known: Known, keep: frozenset[str]) -> Redactor:
    return Redactor(known, keep, ALLOWED_VARIABLES)


def _bundle_traces(
    path: Path, place: Path, max_bytes: int, keep: frozenset[str], tell: Progress
) -> tuple[_Work, Run]:
    files = trace_files(path)
    if not files:
        raise UnusableData(
            "nothing-to-diagnose",
            f"{path} is neither a run folder nor does it hold traces (.json, .json.gz).",
            "name the folder that boundscope run made, or a torch-profiler trace",
        )
    tell("Diagnosing")
    run, inputs, warnings = load_traces(files)
    from ..features import derive_from

    diagnosis = diagnose_features(derive_from(run, inputs, None, warnings))
    ranks = {trace.path: item.data.rank for item in inputs for _, trace in item.traces}
    del inputs
    known = of_this_machine()
    (place / layout.TRACE_FOLDER).mkdir()
    traces = [
        _Trace(
            file,
            f"{layout.TRACE_FOLDER}/rank-{ranks[str(file)]}-{number}.json.gz",
            f"trace of rank {ranks[str(file)]}",
        )
        for number, file in enumerate(files)
        if str(file) in ranks
    ]
    surveys = _surveys(traces, known, tell)
    work = _Work(place, _redactor(known, keep), diagnosis)
    if len(traces) < len(files):
        work.leave(f"{len(files) - len(traces)} files", "they cannot be read as traces")
    _take_traces(work, traces, surveys, max_bytes - RESERVED_BYTES, tell)
    name = Path(traces[0].target).name
    work.diagnosis = redacted_diagnosis(diagnosis, work.redactor, name)
    return work, run


# records


def _take_records(
    work: _Work, written: Sequence[tuple[RecordSource | None, Path]], room: int
) -> int:
    """Take the records that fit, the most needed first; return the room that is left."""
    named = {place.rank for finding in work.diagnosis.findings for place in finding.where}
    sized = [
        (_need(source, named), packed_size(path), source, path)
        for source, path in written
        if path.exists()
    ]
    sized.sort(key=lambda item: (item[0], item[3]))
    limit = room * RECORDS_SHARE
    budget = RecordBudget(MAX_BYTES // 2)  # as of traces: well below what is read
    taken = 0
    for need, packed, source, path in sized:
        size = packed + BYTES_PER_MEMBER
        if need > 0 and taken + size > (room if need <= ALWAYS else limit):
            work.leave(_what(source, path, work.redactor), "it did not fit")
            continue
        rest = RecordBudget(budget.left)
        if source is not None and check_records(path, rest):
            work.leave(_what(source, path, work.redactor), "it has more records than a bundle may")
            continue
        budget = rest
        taken += size
        work.add(path, _what(source, path, work.redactor))
    if taken > room:
        raise UsageError(
            "bundle-too-small",
            "Not even the diagnosis fits into a bundle of this size.",
            "give it more room with --max-size",
        )
    return room - taken


def _need(source: RecordSource | None, named: set[int | None]) -> int:
    if source is None:
        return 0
    if source.rank is not None and not source.collector:
        return 1 if source.rank in named or source.rank == 0 else 2
    return NEED.get(source.collector, LEAST)


def _what(source: RecordSource | None, path: Path, redactor: Redactor) -> str:
    if source is None:
        return "manifest of the run" if path.name == FILE_NAME else "roofs of its machine"
    if source.rank is not None:
        kind = "stack samples" if source.collector else "steps"
        return f"{kind} of rank {source.rank}"
    names = {"stacks": "stack samples", "process": "processes"}
    kind = names.get(source.collector, f"metrics: {source.collector or 'others'}")
    return f"{kind} of {redactor.host(source.host, '')}"


def packed_size(path: Path) -> int:
    """Return about how many bytes a file takes in the bundle."""
    packer = zlib.compressobj(6)
    size = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            size += len(packer.compress(block))
    return size + len(packer.flush())


# traces


def _traces_of(run: Run, diagnosis: Diagnosis) -> list[_Trace]:
    """Return the run's traces, those first that the verdict stands on."""
    named = [
        place.rank
        for finding in diagnosis.findings
        for place in finding.where
        if place.rank is not None
    ]
    order = {rank: place for place, rank in reversed(list(enumerate([*named, 0])))}
    found: dict[str, _Trace] = {}  # by target: records may name a trace twice
    for rank in sorted(run.ranks, key=lambda rank: (order.get(rank.rank, len(order)), rank.rank)):
        for window in sorted(rank.windows, key=lambda window: (-window.steps, window.index)):
            path = rank.trace_path(window)
            if path is not None and not path.is_symlink():
                name = path.name.removesuffix(".gz") + ".gz"
                target = f"{layout.RUN_FOLDER}/{rank.folder.name}/{name}"
                what = f"trace window {window.index} of rank {rank.rank}"
                found.setdefault(target, _Trace(path, target, what))
    return list(found.values())


def _surveys(traces: Sequence[_Trace], known: Known, tell: Progress) -> list[Survey | None]:
    found: list[Survey | None] = []
    for number, trace in enumerate(traces, start=1):
        tell(f"Looking through trace {number} of {len(traces)}")
        try:
            found.append(survey(trace.path, known))
        except BoundscopeError:
            found.append(None)
    return found


def _take_traces(
    work: _Work,
    traces: Sequence[_Trace],
    surveys: Sequence[Survey | None],
    room: int,
    tell: Progress,
) -> None:
    """Cut the traces to the room; the smallest come first and leave theirs to the others."""
    usable = [(t, s) for t, s in zip(traces, surveys, strict=True) if s is not None]
    for trace, found in zip(traces, surveys, strict=True):
        if found is None:
            work.leave(trace.what, "it cannot be read as a trace")
    fitting = usable[: max(1, room // MIN_TRACE_BYTES)] if room > MIN_TRACE_BYTES else []
    for trace, _ in usable[len(fitting) :]:
        work.leave(trace.what, "it did not fit")
    fitting.sort(key=lambda pair: pair[1].path.stat().st_size)
    unpacked = layout.MAX_TRACE_BYTES
    for number, (trace, found) in enumerate(fitting):
        left = len(fitting) - number
        tell(f"Cutting trace {number + 1} of {len(fitting)}")
        path = work.folder / trace.target
        path.parent.mkdir(exist_ok=True)
        share = min(room // left, unpacked // left)
        cut = write_cut(found, path, work.redactor, share) if share > 0 else None
        if cut is None:
            path.unlink(missing_ok=True)
            work.leave(trace.what, "not one step of it fits")
            continue
        room -= cut.size + BYTES_PER_MEMBER
        unpacked -= cut.unpacked
        work.unpacked += cut.unpacked
        _note_cut(work, trace, cut)
        work.add(path, _cut_words(trace, cut))


def _note_cut(work: _Work, trace: _Trace, cut: Cut) -> None:
    if cut.whole:
        return
    kept = (
        f"steps: {cut.steps - cut.steps_kept} of {cut.steps}" if cut.steps else "part of the time"
    )
    work.leave(f"{trace.what}: {kept}", "it did not fit as a whole")


def _cut_words(trace: _Trace, cut: Cut) -> str:
    if cut.whole or not cut.steps:
        return f"{trace.what}, {cut.events:,} events"
    return f"{trace.what}, {cut.steps_kept} of {cut.steps} steps, {cut.events:,} events"


# the file


def _pack(work: _Work, run: Run, target: Path, max_bytes: int, keep: frozenset[str]) -> Made:
    same = _same_from_data(work, run) if work.exact else None
    (work.folder / layout.DIAGNOSIS).write_bytes(
        msgspec.json.format(msgspec.json.encode(work.diagnosis), indent=1)
    )
    manifest = _staged_manifest(work)
    (work.folder / layout.ENVIRONMENT).write_text(environment_text(work.diagnosis, manifest))
    called = shown_name(target, work.redactor)
    markdown = to_issue(work.diagnosis, manifest, called)
    (work.folder / layout.REPORT).write_text(markdown)
    for name, what in (
        (layout.DIAGNOSIS, "diagnosis"),
        (layout.REPORT, "text for the issue"),
        (layout.ENVIRONMENT, "environment"),
    ):
        work.add(work.folder / name, what)
    made = BundleManifest(
        schema=layout.SCHEMA,
        kind="run" if manifest is not None else "traces",
        version=__version__,
        made_ns=time.time_ns(),
        members=[_member(*member) for member in sorted(work.members)],
        left_out=work.left_out,
        redacted=work.redactor.report(),
        kept=sorted(keep),
        same_from_data=same,
    )
    size = _write_zip(work, made, target, max_bytes)
    return Made(target, called, size, made, work.diagnosis, markdown)


def _staged_manifest(work: _Work) -> Run | None:
    folder = work.folder / layout.RUN_FOLDER
    return load_run(folder) if folder.exists() else None


def _same_from_data(work: _Work, run: Run) -> bool | None:
    """Diagnose what is in the bundle, and compare; None where that would take too long."""
    if work.unpacked > CHECKED_BYTES:
        return None
    from .reading import derive_staged

    try:
        made = diagnose_features(derive_staged(work.folder, run.status))
    except BoundscopeError:
        return False
    return made == work.diagnosis


def _member(name: str, path: Path, what: str) -> Member:
    data = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            data.update(block)
    return Member(name, path.stat().st_size, data.hexdigest(), what)


def _write_zip(work: _Work, made: BundleManifest, target: Path, max_bytes: int) -> int:
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, allowZip64=False) as file:
            text = msgspec.json.format(msgspec.json.encode(made), indent=1)
            file.writestr(_info(layout.MANIFEST), text, zipfile.ZIP_DEFLATED, 6)
            for name, path, _ in sorted(work.members):
                kind = zipfile.ZIP_STORED if name.endswith(".gz") else zipfile.ZIP_DEFLATED
                file.writestr(_info(name), path.read_bytes(), kind, 6)
        size = part.stat().st_size
        if size > max_bytes:
            raise UsageError(
                "bundle-too-small",
                f"The bundle does not fit into {max_bytes:,} bytes.",
                "give it more room with --max-size",
            )
        part.replace(target)
    except OSError as error:
        raise UsageError(
            "bundle-not-written",
            f"{target} cannot be written: {error.strerror or error}.",
            "choose another place with -o",
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return size


def _info(name: str) -> zipfile.ZipInfo:
    """A member without the time and the rights of the file that it was made of."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o600 << 16
    return info
