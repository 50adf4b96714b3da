"""Records and lists of files in a bundle from a stranger, and what makes a bundle of a bad run."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boundscope.collectors.records import (
    Frame,
    Gap,
    Memory,
    Record,
    Sample,
    Spans,
    Stack,
    Stacks,
    Window,
)
from boundscope.profiler.bundle import layout, record_limits, writing
from boundscope.profiler.bundle.reading import derive_bundle, open_bundle, unpack
from boundscope.profiler.bundle.record_limits import memory_bytes
from boundscope.profiler.bundle.writing import make_bundle
from boundscope.profiler.diagnose import diagnose_run
from boundscope.profiler.errors import UnusableData
from boundscope.profiler.library import find_sources, list_entries
from boundscope.profiler.run.load import load_run

from .bundle_material import PEAK_KIB

ROOT = Path(__file__).resolve().parents[1]
Members = dict[str, bytes]
STEPS = "run/rank-0-7/steps.jsonl"
decode = msgspec.json.Decoder(Record).decode
encode = msgspec.json.encode


@pytest.fixture
def run(tmp_path: Path) -> Path:
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    folder: Path = importlib.import_module("benchmarks.small_run").write_run(tmp_path / "run")
    return folder


@pytest.fixture
def members(run: Path, tmp_path: Path) -> Members:
    path = make_bundle(run, tmp_path / "good.boundscope.zip").path
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def written(path: Path, members: Members, size: Callable[[bytes], int] = len) -> Path:
    """The members as a bundle whose manifest lists them, each with the size that `size` gives."""
    manifest = json.loads(members[layout.MANIFEST])
    manifest["members"] = [
        {"name": name, "size": size(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in members.items()
        if name != layout.MANIFEST
    ]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in {**members, layout.MANIFEST: json.dumps(manifest).encode()}.items():
            file.writestr(name, data)
    return path


def changed(data: bytes, edit: Callable[[Any], Any]) -> bytes:
    return b"".join(encode(edit(decode(line))) + b"\n" for line in data.splitlines())


def slug_of(path: Path) -> str:
    try:
        derive_bundle(open_bundle(path))
    except UnusableData as error:
        return error.slug if "\n" not in error.message else error.message
    return ""


# --- the list of members --------------------------------------------------------------------------


def test_a_size_that_is_not_that_of_the_member_is_refused_before_anything_is_unpacked(
    members: Members, tmp_path: Path
) -> None:
    """A size below zero would have a member read at once, however large it is."""
    path = written(tmp_path / "x.boundscope.zip", members, lambda data: -5 if data else 0)
    place = tmp_path / "unpacked"
    place.mkdir()

    with pytest.raises(UnusableData) as caught:
        unpack(path, place)

    assert caught.value.slug == "bundle-damaged"
    assert list(place.iterdir()) == []


def test_a_damaged_bundle_in_a_folder_does_not_keep_the_others_from_the_list(
    members: Members, tmp_path: Path
) -> None:
    # Given: a name that says it is UTF-8, and is not
    folder = tmp_path / "runs"
    folder.mkdir()
    path = written(folder / "bad.boundscope.zip", members)
    written(folder / "good.boundscope.zip", members)
    with zipfile.ZipFile(path) as file:
        at = file.getinfo(layout.DIAGNOSIS).header_offset
    data = bytearray(path.read_bytes())
    data[at + 7] |= 0x08  # in the local header alone: the list of members still reads well
    data[at + 30] = 0xFF
    path.write_bytes(bytes(data))

    entries = {entry.source.key: entry for entry in list_entries(find_sources([folder]))}

    assert entries["bad.boundscope.zip"].status == "unreadable"
    assert entries["good.boundscope.zip"].diagnosis is not None


# --- windows that name files ----------------------------------------------------------------------

ELSEWHERE = ("/etc/hostname", "../node-host-1/host.jsonl", "../../x", "a/trace-0.json", "x.json")


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_window_that_names_a_file_elsewhere_is_refused(
    members: Members, tmp_path: Path, name: str
) -> None:
    def edit(record: Any) -> Any:
        return msgspec.structs.replace(record, file=name) if isinstance(record, Window) else record

    members[STEPS] = changed(members[STEPS], edit)

    assert slug_of(written(tmp_path / "x.boundscope.zip", members)) == "bundle-unsafe"


def test_a_trace_that_is_recorded_twice_is_put_in_once(run: Path, tmp_path: Path) -> None:
    # Given: a window whose line was written twice
    steps = run / "rank-0-7" / "steps.jsonl"
    lines = steps.read_bytes().splitlines(keepends=True)
    again = [line for line in lines if isinstance(decode(line), Window)]
    steps.write_bytes(b"".join([*lines[:-1], *again, lines[-1]]))

    # When
    made = make_bundle(run, tmp_path / "x.boundscope.zip")

    # Then
    assert again
    assert slug_of(made.path) == ""


@pytest.mark.parametrize("kind", ["absolute", "above", "pipe", "link"])
def test_a_bundle_has_nothing_of_what_a_window_names_elsewhere(
    run: Path, tmp_path: Path, kind: str
) -> None:
    # Given: a trace that is no part of the run, and a window of the run that names it
    outside = tmp_path / "outside.json"
    own = run / "rank-0-7" / "trace-0.json"
    trace = {"traceEvents": [{"ph": "X", "name": "not-of-this-run", "ts": 1, "dur": 1}]}
    outside.write_text(json.dumps(trace))
    names = {"absolute": str(outside), "above": "../../outside.json"}
    own.with_name("trace-0.json.gz").unlink()
    if kind == "pipe":
        os.mkfifo(own)  # nobody writes: whoever reads it waits for ever
    elif kind == "link":
        own.symlink_to(outside)
    steps = own.with_name("steps.jsonl")

    def edit(record: Any) -> Any:
        file = names.get(kind, "trace-0.json")
        return msgspec.structs.replace(record, file=file) if isinstance(record, Window) else record

    steps.write_bytes(changed(steps.read_bytes(), edit))

    # When
    made = make_bundle(run, tmp_path / "x.boundscope.zip")

    # Then
    with zipfile.ZipFile(made.path) as file:
        assert not [name for name in file.namelist() if name.startswith("run/rank-0-7/trace")]
        assert not any(b"not-of-this-run" in file.read(name) for name in file.namelist())
    assert slug_of(made.path) == ""


def test_pipes_in_a_run_folder_are_not_waited_for(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "CHECKED_BYTES", 0)  # so that a kept diagnosis is looked for
    for name in (
        "roofs.json", "diagnosis.json", "rank-1-8/steps.jsonl", "node-host/host.jsonl",
        "node-host/stacks-8-rank-1-50000000.part", "node-other/launcher-9.json",
    ):  # fmt: skip
        (run / name).unlink()
        os.mkfifo(run / name)

    assert diagnose_run(run).run.steps == 80
    assert load_run(run).gaps
    assert slug_of(make_bundle(run, tmp_path / "x.boundscope.zip").path) == ""


# --- how much there may be ------------------------------------------------------------------------

PROGRAM = f"""
import sys
from pathlib import Path
from boundscope.profiler.bundle.reading import derive_bundle, open_bundle
from boundscope.profiler.errors import BoundscopeError
slug = ""
try:
    derive_bundle(open_bundle(Path(sys.argv[1])))
except BoundscopeError as error:
    slug = error.slug
{PEAK_KIB}
print(slug, peak_kib)
"""
MOST_BYTES = 600 << 20
MOST_S = 60.0


def repeated(record: Record, count: int) -> bytes:
    return (encode(record) + b"\n") * count


BOMBS = {
    "gaps": repeated(Gap(1, "host", "crashed"), 400_000),
    "memory": repeated(Memory(1, 0, 1, 1, 1, 0, 0), 400_000),
    "samples": repeated(Sample(1, {str(n): 1.0 for n in range(300)}), 5_000),
    "stacks": repeated(Stacks(1, 2, 1, 7, 7, [(0, 1)] * 1_000), 1_000),
    "frames in stacks": repeated(Stack(0, [0] * 9_000), 5_000),
    "spans": repeated(Spans(1, "l" * 9_000, [0] * 9_000, [0] * 9_000, [0] * 9_000), 800),
}
FILES = 6
"""So many files of each: within the bounds of one file, and past those of a bundle."""


@pytest.mark.parametrize("kind", BOMBS)
def test_more_records_than_a_bundle_has_are_refused_within_seconds(
    members: Members, tmp_path: Path, kind: str
) -> None:
    for number in range(FILES):
        members[f"run/node-x/own-{number}.jsonl"] = BOMBS[kind]
    path = written(tmp_path / "x.boundscope.zip", members)

    began = time.process_time(), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)],
        capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-2000:]
    slug, _, kib = done.stdout.rpartition(" ")
    assert slug == "bundle-unsafe"
    assert int(kib) << 10 < MOST_BYTES
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert time.monotonic() - began[1] < MOST_S * busy


@pytest.mark.parametrize(
    "record",
    [
        Gap(10**18, "host", "crashed", "a detail of some length", "an effect"),
        Sample(10**18, {f"host.cpu.{n}.percent": n + 0.5 for n in range(100)}),
        Stacks(10**18, 10**18, 10**7, 7, 7, [(n, n + 300) for n in range(300)]),
        Stack(5_000, list(range(300, 400))),
        Frame(1, "a_function_of_some_length", "/home/somebody/project/train.py", 12),
        Memory(10**18, 0, 2**34, 2**34, 2**34, 0, 0),
    ],
    ids=lambda record: type(record).__name__,
)
def test_records_take_no_more_memory_than_is_reckoned_with(record: Record) -> None:
    line = encode(record)
    count = 2_000

    tracemalloc.start()
    kept = [decode(line) for _ in range(count)]
    took, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(kept) == count
    assert took / count < memory_bytes(record, len(line)) < 6 * took / count


def odd(record: Any) -> Any:
    """Spans of which one has no duration."""
    if isinstance(record, Spans):
        return msgspec.structs.replace(record, duration=record.duration[1:])
    return record


def test_columns_of_different_lengths_are_refused_and_never_written(
    run: Path, members: Members, tmp_path: Path
) -> None:
    stranger = {**members, STEPS: changed(members[STEPS], odd)}
    steps = run / "rank-1-8" / "steps.jsonl"
    steps.write_bytes(changed(steps.read_bytes(), odd))

    made = make_bundle(run, tmp_path / "own.boundscope.zip")

    assert slug_of(written(tmp_path / "x.boundscope.zip", stranger)) == "bundle-unsafe"
    assert slug_of(made.path) == ""


def test_records_beyond_what_may_be_read_are_left_out_when_a_bundle_is_made(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given: room for the records of the small run, and not for another 20,000
    monkeypatch.setattr(record_limits, "MAX_BYTES", 4 << 20)
    monkeypatch.setattr("boundscope.profiler.bundle.writing.MAX_BYTES", 4 << 20)
    with (run / "node-host" / "network.jsonl").open("ab") as file:
        file.write(repeated(Gap(1, "network", "crashed"), 20_000))

    # When
    made = make_bundle(run, tmp_path / "x.boundscope.zip")

    # Then
    left = {item.what: item.reason for item in made.manifest.left_out}
    assert left == {"metrics: network of host-1": "it has more records than a bundle may"}
    assert slug_of(made.path) == ""


def test_a_number_that_no_clock_has_is_damage_and_not_an_error(run: Path) -> None:
    steps = run / "rank-0-7" / "steps.jsonl"
    line = b'{"t":"memory","time_ns":%d,"device":0,"allocated":1,"reserved":1,"peak_allocated":1}'
    with steps.open("ab") as file:
        file.write(line % 2**70 + b"\n")
        file.write(encode(Spans(2**60, "l", [2**63 - 1], [1], [0])) + b"\n")

    assert diagnose_run(run).run.steps == 80
    manifest = run / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"schema": 1', b'"schema": 1' + b"0" * 30))
    with pytest.raises(UnusableData, match="numbers that cannot be"):
        diagnose_run(run)


def test_the_file_of_a_bundle_is_named_after_the_run_without_what_is_private(
    run: Path, tmp_path: Path
) -> None:
    # Given: a folder called after its user and its host
    private = run.with_name("somebody-on-gpu01-lr")
    run.rename(private)
    manifest = private / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"host": "host"', '"host": "gpu01.a.example"'))
    place = tmp_path / "made"
    place.mkdir()

    # When
    made = make_bundle(private, place)
    chosen = make_bundle(private, tmp_path / "of-gpu01.boundscope.zip")

    # Then
    assert made.path == place / "user-1-on-host-1-lr.boundscope.zip"
    assert made.called == made.path.name
    assert chosen.called == "of-host-1.boundscope.zip"
    with zipfile.ZipFile(chosen.path) as file:
        assert not any(b"gpu01" in file.read(name) for name in file.namelist())
    assert "gpu01" not in chosen.markdown
    shutil.rmtree(place)
