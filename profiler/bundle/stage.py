"""A recording redacted into a folder of its own: the records of a run, and what is known of it."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path

import msgspec

from ...collectors.pyspy import read_part
from ...collectors.records import Header, Manifest, Process, Record
from ..diagnose import ROOFS_FILE, find_roofs
from ..redact import Known, Redactor
from ..redact.records import files_of, learn, redacted, redacted_manifest, redacted_roofs
from ..run.load import RANK_FOLDER, Run
from ..run.manifest import FILE_NAME
from .record_limits import strange

_NODE = re.compile(r"node-(.+)")
_RECORDS = re.compile(r"([a-z]+)(-\d+)?\.jsonl")
_COLLECTORS = frozenset({"gpu", "host", "network", "power", "process", "stacks", "storage"})
_PART = re.compile(r"stacks-.*\.part")

_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True)
class RecordSource:
    """One file of records in the run: where it lies, and what it will be called in the bundle.

    `rank` is set for a rank's own file, `collector` for one of a node.
    """

    path: Path
    host: str = ""
    folder: str = ""
    name: str = ""
    rank: int | None = None
    collector: str = ""


def record_sources(folder: Path) -> list[RecordSource]:
    """Return the record files of a run, by their form; nothing else in the folder is taken."""
    found: list[RecordSource] = []
    for child in sorted(folder.iterdir()):
        if child.is_symlink() or not child.is_dir():
            continue
        node, rank = _NODE.fullmatch(child.name), RANK_FOLDER.fullmatch(child.name)
        if node is not None:
            found += _of_node(child, node[1])
        elif rank is not None:
            found += _of_rank(child, int(rank[1]))
    return found


def _of_node(folder: Path, host: str) -> Iterator[RecordSource]:
    unknown = parts = 0
    for path in _files(folder):
        match = _RECORDS.fullmatch(path.name)
        if match is not None and match[1] in _COLLECTORS:
            yield RecordSource(path, host, "", path.name, None, match[1])
        elif path.suffix == ".jsonl":
            unknown += 1
            yield RecordSource(path, host, "", f"records-{unknown}.jsonl", None, "")
        elif _PART.fullmatch(path.name):
            parts += 1
            yield RecordSource(path, host, "", f"stacks-{parts}.jsonl", None, "stacks")


def _of_rank(folder: Path, rank: int) -> Iterator[RecordSource]:
    for number, path in enumerate(_files(folder)):
        if path.name == "steps.jsonl":
            yield RecordSource(path, "", folder.name, path.name, rank)
        elif path.name.startswith("stacks") and path.suffix == ".jsonl":
            yield RecordSource(path, "", folder.name, f"stacks-{number}.jsonl", rank, "stacks")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())


def read(source: RecordSource) -> Iterator[Record]:
    """Yield the records of a file that can be read; a torn or unknown line is left out."""
    if source.path.suffix == ".part":
        yield Header(1, "stacks", source.host, 0, 0, 0)
        yield from read_part(source.path)
        return
    try:
        with source.path.open("rb") as file:
            for line in file:
                try:
                    yield _decoder.decode(line)
                except (ValueError, RecursionError):
                    continue
    except OSError:
        return


def discover(manifest: Manifest, sources: Iterable[RecordSource]) -> tuple[Known, set[str]]:
    """Return what is known to be private in a run, and the files of code that it names."""
    known = of_this_machine()
    learn(known, manifest)
    files = set(files_of(manifest))
    scripts = [word for word in manifest.command if word.endswith(".py")]
    known.projects.update(str(Path(manifest.cwd, word).parent) for word in scripts)
    for source in sources:
        if source.host:
            known.hosts.add(source.host)
        for record in read(source):
            learn(known, record)
            files.update(files_of(record))
            if isinstance(record, Process) and record.argv and record.argv[0].endswith(".py"):
                known.projects.add(str(Path(manifest.cwd, record.argv[0]).parent))
    known.projects.discard("")
    return known, files


def of_this_machine() -> Known:
    """Return the names of the user and the host that make the bundle."""
    known = Known(hosts={socket.gethostname()})
    try:
        known.users.add(getpass.getuser())
    except (KeyError, OSError):  # a container's user without a name
        known.users.update(filter(None, [os.environ.get("USER")]))
    known.look_at(f"{Path.home()}/")
    return known


def stage_run(
    run: Run, sources: Iterable[RecordSource], redactor: Redactor, into: Path
) -> list[tuple[RecordSource | None, Path]]:
    """Write the redacted manifest, roofs and records below `into`; return what was written.

    The manifest says how the run stands now: the reader's machine can't look for its launcher.
    """
    into.mkdir(parents=True)
    manifest = msgspec.structs.replace(run.manifest, status=run.status)
    written: list[tuple[RecordSource | None, Path]] = [(None, into / FILE_NAME)]
    text = msgspec.json.encode(redacted_manifest(manifest, redactor))
    (into / FILE_NAME).write_bytes(msgspec.json.format(text, indent=1))
    roofs = find_roofs(run, measure=False)
    if roofs is not None:
        kept = msgspec.json.encode(redacted_roofs(roofs, redactor))
        (into / ROOFS_FILE).write_bytes(msgspec.json.format(kept, indent=1))
        written.append((None, into / ROOFS_FILE))
    for source in sources:
        folder = source.folder or f"node-{redactor.host(source.host, 'folders')}"
        path = into / _safe(folder) / source.name
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as file:
            for record in filterfalse(strange, read(source)):
                file.write(_encoder.encode(redacted(record, redactor)) + b"\n")
        written.append((source, path))
    return written


def _safe(folder: str) -> str:
    """A kept host's name as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", folder)[:100]
