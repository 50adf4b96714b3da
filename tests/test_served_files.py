"""What is served is what lies in the given folders: no run can name a file beyond its own."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boundscope.collectors.records import Window
from boundscope.profiler.bundle import layout
from boundscope.profiler.bundle.writing import make_bundle
from boundscope.profiler.errors import UnusableData
from boundscope.profiler.library import Source, find_sources, list_entries, trace_near
from boundscope.profiler.run.files import read_records
from boundscope.profiler.run.load import load_rank, load_run

from .written_run import BEGIN_NS, MS, STEP_MS, STEPS, steps, trace, window, with_window, write_run

SPAN = (BEGIN_NS + 30 * STEP_MS * MS, BEGIN_NS + 31 * STEP_MS * MS)


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A trace of somebody else, beside what is served."""
    file = tmp_path / "outside" / "private.json"
    file.parent.mkdir()
    file.write_text(json.dumps(trace()))
    return file


def absolute(private: Path, _rank: Path) -> str:
    return str(private)


def upwards(private: Path, rank: Path) -> str:
    return os.path.relpath(private, rank)


def link(private: Path, rank: Path) -> str:
    (rank / "trace-9.json").symlink_to(private)
    return "trace-9.json"


def too_long(_private: Path, _rank: Path) -> str:
    return "x" * 5_000


@pytest.mark.parametrize("named", [absolute, upwards, link, too_long, lambda *_: ".."])
def test_a_run_that_names_a_trace_beyond_its_folder_has_none(
    tmp_path: Path, private: Path, named: Callable[[Path, Path], str]
) -> None:
    # Given
    folder = write_run(tmp_path / "served" / "run")
    rank = folder / "rank-0-7"
    name = named(private, rank)
    with (rank / "steps.jsonl").open("ab") as file:
        file.write(encoded(name))

    # When
    (source,) = find_sources([tmp_path / "served"])
    data = load_rank(rank)

    # Then
    assert [data.trace_path(one) for one in data.windows] == [None]
    assert trace_near(source, 0, SPAN) is None


def encoded(name: str) -> bytes:
    import msgspec

    return b"".join(msgspec.json.encode(record) + b"\n" for record in window(name))


def test_a_rank_folder_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    # Given: a run beside the served folder, and one in it whose rank is a link to that one's
    other = with_window(tmp_path / "outside")
    folder = write_run(tmp_path / "served" / "run", steps(0, STEPS))
    (folder / "rank-1-8").symlink_to(other / "rank-0-7")

    # When
    data = load_rank(folder / "rank-1-8")

    # Then
    assert data.steps_seen == 0
    assert data.windows == []
    assert len(load_run(folder).ranks) == 1


@pytest.mark.parametrize("name", ["rank-0-7/steps.jsonl", "rank-0-7/stacks.jsonl"])
def test_records_that_are_links_are_not_read(tmp_path: Path, name: str) -> None:
    # Given: a run beside the served folder, and one in it with a link to that one's records
    own, other = write_run(tmp_path / "served" / "run"), write_run(tmp_path / "outside")
    (other / name).write_bytes((other / "rank-0-7" / "steps.jsonl").read_bytes())
    (own / name).unlink(missing_ok=True)
    (own / name).symlink_to(other / name)

    # Then
    assert read_records(other / name).records
    assert read_records(own / name).records == []


def test_a_trace_in_the_ranks_own_folder_is_found_packed_or_not(tmp_path: Path) -> None:
    # Given
    folder = with_window(tmp_path / "run")
    plain = folder / "rank-0-7" / "trace-0.json"

    # When
    source = Source("run", folder, "run")
    found = trace_near(source, 0, SPAN)

    # Then
    assert found == plain
    packed = plain.with_name("trace-0.json.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert trace_near(source, 0, SPAN) == packed


def test_a_bundle_that_names_a_trace_beyond_itself_is_refused(
    tmp_path: Path, private: Path
) -> None:
    # Given: a good bundle, then a window in its records that names a private trace
    run = write_run(tmp_path / "run")
    made = make_bundle(run, tmp_path / "x.boundscope.zip").path
    with zipfile.ZipFile(made) as file:
        members = {name: file.read(name) for name in file.namelist()}
    (records,) = (name for name in members if name.endswith("steps.jsonl"))
    members[records] += encoded(str(private))
    rewrite(made, members)

    # When
    with pytest.raises(UnusableData) as raised:
        trace_near(Source("x", made, "bundle"), 0, SPAN)

    # Then
    assert raised.value.slug == "bundle-unsafe"


def rewrite(path: Path, members: dict[str, bytes]) -> None:
    """Write the bundle anew with a manifest that lists its members as they are."""
    manifest: dict[str, Any] = json.loads(members[layout.MANIFEST])
    manifest["members"] = [
        {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in members.items()
        if name != layout.MANIFEST
    ]
    members[layout.MANIFEST] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)


def test_a_bundle_made_of_a_run_packs_no_trace_from_elsewhere(
    tmp_path: Path, private: Path
) -> None:
    # Given
    run = write_run(tmp_path / "run", steps(0, STEPS), *window(str(private)))

    # When
    made = make_bundle(run, tmp_path / "x.boundscope.zip")

    # Then
    assert not [member for member in made.manifest.members if member.name.endswith(".gz")]


def test_a_damaged_packed_trace_does_not_hide_the_others(tmp_path: Path) -> None:
    # Given: bytes flipped in the middle of the packed data
    good = gzip.compress(json.dumps(trace()).encode() * 50)
    damaged = bytearray(good)
    for place in range(20, 60):
        damaged[place] ^= 0xFF
    (tmp_path / "good.json.gz").write_bytes(good)
    (tmp_path / "damaged.json.gz").write_bytes(bytes(damaged))
    write_run(tmp_path / "run")

    # When
    found = find_sources([tmp_path])

    # Then
    assert [source.key for source in found] == ["good.json.gz", "run"]
    assert len(list_entries(found)) == 2


def test_a_folder_that_may_not_be_looked_into_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given: as for a user who is not root, whom the mode of the folder would not stop
    write_run(tmp_path / "run")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "trace.json").write_text('{"traceEvents": []}')
    real = os.stat

    def stat(path: Any, *words: Any, **more: Any) -> os.stat_result:
        if str(tmp_path / "secret") + os.sep in os.fspath(path):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *words, **more)

    monkeypatch.setattr(os, "stat", stat)

    # Then
    assert [source.key for source in find_sources([tmp_path])] == ["run"]


def test_a_window_whose_file_has_no_name_has_no_trace(tmp_path: Path) -> None:
    data = load_rank(with_window(tmp_path / "run") / "rank-0-7")

    assert data.trace_path(Window(0, 0, 1, 0, 1)) is None
