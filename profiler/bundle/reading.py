"""Opens a bundle as what it is: a file from a stranger.

Every member is checked, and unpacked only into a temporary folder of our own, which is removed
when the program ends. Nothing in it is executed; everything that goes wrong is one sentence.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from ...collectors.records import Manifest
from ..diagnose import ROOFS_FILE, Diagnosed, find_roofs
from ..diagnosis import Diagnosis
from ..errors import BoundscopeError, UnusableData
from ..features import Features, derive, derive_from
from ..kept import is_sound
from ..printable import printable_struct
from ..run.load import Run
from ..run.manifest import FILE_NAME, read_manifest
from ..run.status import Status
from ..trace_run import load_traces
from . import layout
from .layout import BundleManifest, Member
from .limits import Budget, check_members, check_trace, damaged, not_a_bundle, open_zip, unsafe
from .record_limits import RecordBudget, check_records

MAX_OPEN = 16
"""Bundles that are kept unpacked at a time; opening another one gives the oldest up."""

_BLOCK = 1 << 20
_UNPACKING = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError),
    ValueError,
)
"""What `zipfile` raises for a damaged member; for names that are no UTF-8 a ValueError."""
T = TypeVar("T")


@dataclass(frozen=True)
class Bundle:
    """A bundle that was opened: where it was unpacked to, what it is, and what it says.

    `diagnosis` is the one that was made from the whole recording, on the machine that has it.
    """

    path: Path
    folder: Path
    manifest: BundleManifest
    diagnosis: Diagnosis

    @property
    def is_whole(self) -> bool:
        """Whether the data in the bundle give the stored diagnosis."""
        return self.manifest.same_from_data is True

    @property
    def run_folder(self) -> Path:
        """The run folder in it; only where its kind is "run"."""
        return self.folder / layout.RUN_FOLDER

    @property
    def traces(self) -> list[Path]:
        """The traces of a bundle that has nothing else."""
        return sorted((self.folder / layout.TRACE_FOLDER).glob("*.json.gz"))


def is_bundle(path: Path) -> bool:
    """Whether a path looks like a bundle: by its name, or by a ZIP file's first bytes."""
    if not path.is_file():
        return False
    if path.name.lower().endswith(layout.SUFFIX):
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


# opening


class _Opened:
    """Bundles that this process has unpacked; each is unpacked once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[tuple[str, int, int], Bundle] = {}
        self._folders: dict[str, tempfile.TemporaryDirectory[str]] = {}

    def open(self, path: Path) -> Bundle:
        try:
            facts = path.stat()
        except OSError as error:
            raise UnusableData(
                "no-such-path", f"{path} does not exist.", "see: boundscope runs"
            ) from error
        key = (str(path.resolve()), facts.st_mtime_ns, facts.st_size)
        with self._lock:
            if key not in self._found:
                self._make_room()
                folder = tempfile.TemporaryDirectory(prefix="boundscope-")
                try:
                    self._found[key] = unpack(path, Path(folder.name))
                except BaseException:
                    folder.cleanup()
                    raise
                self._folders[folder.name] = folder
            return self._found[key]

    def _make_room(self) -> None:
        while len(self._found) >= MAX_OPEN:
            oldest = self._found.pop(next(iter(self._found)))
            self._folders.pop(str(oldest.folder)).cleanup()


_opened = _Opened()


def open_bundle(path: Path) -> Bundle:
    """Open a bundle, or return it as opened before; raises UnusableData."""
    return _opened.open(path)


def peek(path: Path) -> tuple[Diagnosis, Manifest | None]:
    """Return the diagnosis in a bundle, and its run's manifest, without unpacking the rest.

    There is no manifest in a bundle of traces. Raises UnusableData.
    """
    with strange_data(path), open_zip(path) as file:
        check_members(path, file.infolist())
        expected = _expected(_manifest(path, file))
        diagnosis = _diagnosis(path, file, expected)
        name = f"{layout.RUN_FOLDER}/{FILE_NAME}"
        if name not in expected:
            return diagnosis, None
        try:
            data = _read(path, file, name, layout.MAX_JSON_BYTES)
        except KeyError:
            raise damaged(path, f"it has no {name}") from None
        return diagnosis, printable_struct(_decoded(path, name, data, Manifest))


def unpack(path: Path, folder: Path) -> Bundle:
    """Check a bundle and unpack it into an empty folder; raises UnusableData."""
    with strange_data(path):
        return _unpack(path, folder)


def _unpack(path: Path, folder: Path) -> Bundle:
    with open_zip(path) as file:
        members = file.infolist()
        check_members(path, members)
        manifest = _manifest(path, file)
        expected = _expected(manifest)
        if {info.filename for info in members} != {*expected, layout.MANIFEST}:
            raise damaged(path, "its files are not those that it lists")
        if any(expected[i.filename].size != i.file_size for i in members if i.filename in expected):
            raise damaged(path, "its files have other sizes than it lists")
        diagnosis = _diagnosis(path, file, expected)
        budget, records = Budget(), RecordBudget()
        for info in members:
            if info.filename.startswith((f"{layout.RUN_FOLDER}/", f"{layout.TRACE_FOLDER}/")):
                target = folder / info.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                _unpack_one(path, file, expected[info.filename], target)
                _check_contents(path, info.filename, target, budget, records)
    bundle = Bundle(path, folder, manifest, diagnosis)
    _check_kind(bundle)
    return bundle


def _expected(manifest: BundleManifest) -> dict[str, Member]:
    return {member.name: member for member in manifest.members}


def _manifest(path: Path, file: zipfile.ZipFile) -> BundleManifest:
    try:
        data = _read(path, file, layout.MANIFEST, layout.MAX_JSON_BYTES)
    except KeyError:
        raise not_a_bundle(path, f"it has no {layout.MANIFEST}") from None
    schema = _decoded(path, layout.MANIFEST, data, _Schema).schema
    if schema != layout.SCHEMA:
        raise UnusableData(
            "bundle-version",
            f"{path.name} has the format {schema}, and this boundscope reads {layout.SCHEMA}.",
            "open it with the version of boundscope that made it, or a newer one",
        )
    return printable_struct(_decoded(path, layout.MANIFEST, data, BundleManifest))


class _Schema(msgspec.Struct, frozen=True):
    schema: int


def _diagnosis(path: Path, file: zipfile.ZipFile, expected: dict[str, Member]) -> Diagnosis:
    try:
        data = _read(path, file, layout.DIAGNOSIS, layout.MAX_JSON_BYTES)
    except KeyError:
        raise damaged(path, "it has no diagnosis") from None
    member = expected.get(layout.DIAGNOSIS)
    if member is None or hashlib.sha256(data).hexdigest() != member.sha256:
        raise damaged(path, f"{layout.DIAGNOSIS} is not the one that was put in")
    diagnosis = printable_struct(_decoded(path, layout.DIAGNOSIS, data, Diagnosis))
    if not is_sound(diagnosis):
        raise damaged(path, "its diagnosis is none that boundscope makes")
    return diagnosis


def _decoded(path: Path, name: str, data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise damaged(path, f"{name} cannot be read") from error


def _read(path: Path, file: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Return a member's bytes; KeyError where there is none."""
    if file.getinfo(name).file_size > limit:
        raise unsafe(path, f"{name} is larger than any that a bundle has")
    with _member(path, file, name) as member:
        return member.read(limit + 1)


@contextmanager
def _member(path: Path, file: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    try:
        with file.open(name) as member:
            yield member
    except _UNPACKING as error:
        raise damaged(path, f"{name} cannot be unpacked") from error


def _unpack_one(path: Path, file: zipfile.ZipFile, member: Member, target: Path) -> None:
    """Write a member to `target`: no more than it says, and with the checksum that it says."""
    checksum = hashlib.sha256()
    left = member.size
    with _member(path, file, member.name) as source, target.open("xb") as out:
        while block := source.read(min(_BLOCK, left + 1)):
            left -= len(block)
            if left < 0:
                break
            checksum.update(block)
            out.write(block)
    if left or checksum.hexdigest() != member.sha256:
        raise damaged(path, f"{member.name} is not the one that was put in")


def _check_contents(
    path: Path, name: str, target: Path, budget: Budget, records: RecordBudget
) -> None:
    if name.endswith(".gz"):
        with target.open("rb") as file:
            check_trace(path, name, file, budget)
    elif name.endswith(".jsonl"):
        why = check_records(target, records)
        if why:
            raise unsafe(path, f"{name} {why}")
    elif target.stat().st_size > layout.MAX_JSON_BYTES:
        raise unsafe(path, f"{name} is larger than any that a bundle has")


def _check_kind(bundle: Bundle) -> None:
    if bundle.manifest.kind == "run":
        read_manifest(bundle.run_folder)
    elif not bundle.traces:
        raise damaged(bundle.path, "it has neither a run nor a trace")


# what is in it


def derive_bundle(bundle: Bundle) -> Features:
    """Return the features of what is in the bundle; raises UnusableData.

    Where the data are not the whole recording, the shares are those of the stored diagnosis, which
    was made from it.
    """
    with strange_data(bundle.path):
        features = derive_staged(bundle.folder, bundle.diagnosis.run.status)
    if not bundle.is_whole:
        features = _with_stored_shares(features, bundle.diagnosis)
    parts = {part.name: getattr(features, part.name) for part in fields(features)}
    return Diagnosed(**parts, diagnosis=bundle.diagnosis)


def derive_staged(folder: Path, status: Status) -> Features:
    """Return the features of an unpacked bundle by its data alone."""
    run_folder = folder / layout.RUN_FOLDER
    if (run_folder / FILE_NAME).exists():
        run = Run(run_folder, read_manifest(run_folder), status)
        # Without roofs of its own it must not be judged by this machine's.
        has_roofs = (run_folder / ROOFS_FILE).exists()
        return derive(run, find_roofs(run, measure=False) if has_roofs else None)
    traces = sorted((folder / layout.TRACE_FOLDER).glob("*.json.gz"))
    run, inputs, warnings = load_traces(traces)
    return derive_from(run, inputs, None, warnings)


def run_of_bundle(bundle: Bundle) -> Run:
    """Return the run's records; raises UnusableData."""
    with strange_data(bundle.path):
        if bundle.manifest.kind == "traces":
            return load_traces(bundle.traces)[0]
        folder = bundle.run_folder
        return Run(folder, printable_struct(read_manifest(folder)), bundle.diagnosis.run.status)


def _with_stored_shares(features: Features, stored: Diagnosis) -> Features:
    shares = {rank.rank: rank.breakdown for rank in stored.ranks}
    ranks = [
        replace(rank, shares={**rank.shares, **shares[rank.rank]}) if rank.rank in shares else rank
        for rank in features.ranks
    ]
    whole: dict[str, float] = {**features.shares, **stored.breakdown}
    return replace(features, ranks=ranks, shares=whole)


@contextmanager
def strange_data(path: Path) -> Iterator[None]:
    """Turn whatever a stranger's data lead to into one sentence."""
    try:
        yield
    except BoundscopeError:
        raise
    except Exception as error:
        raise UnusableData(
            "bundle-unusable",
            f"What is in {path.name} cannot be analysed ({type(error).__name__}).",
            "`boundscope diagnose` still shows the diagnosis that came with it",
        ) from error


def sentence_of(bundle: Bundle) -> str:
    """Say how the diagnosis that is shown stands to the data in the bundle."""
    if bundle.is_whole:
        return ""
    left: list[Any] = bundle.manifest.left_out
    if left:
        return (
            "the diagnosis was made from the whole recording; the bundle leaves out "
            f"{left[0].what}" + (f" and {len(left) - 1} more" if len(left) > 1 else "")
        )
    return "the diagnosis was made where the run was recorded"
