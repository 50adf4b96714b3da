"""A bundle is the run: made in one command, opened elsewhere, with the same verdict."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boundscope.collectors.records import Gap
from boundscope.profiler.bundle import layout, writing
from boundscope.profiler.bundle.reading import derive_bundle, derive_staged, open_bundle
from boundscope.profiler.bundle.summary import AIM, MAX_COMMENT, escaped
from boundscope.profiler.bundle.writing import make_bundle
from boundscope.profiler.commands.bundle import parse_size
from boundscope.profiler.diagnose import diagnose_features, diagnose_path
from boundscope.profiler.errors import UsageError
from boundscope.profiler.run.manifest import read_manifest, write_manifest
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.steps import find_steps
from boundscope.profiler.trace.table import Trace

from .bundle_material import TRAINING, everything_in, record

CORPUS = os.environ.get("BOUNDSCOPE_CORPUS", "")
FOREIGN = (
    "kineto_tb/resnet50_num_workers_0",
    "param/dlrm_kineto",
    "hta/cpu_only",
    "gpupuzzlers/d2h_sync/addition_second_sum.json.gz",
    "derived_corrupt/nan_inf_value.json.gz",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("recorded")
    script = home / "train.py"
    shutil.copy(TRAINING, script)
    return record(home / "run", str(script), "--steps", "60")


@pytest.fixture(scope="module")
def large(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with a trace window that takes 2 MB even when packed."""
    folder = tmp_path_factory.mktemp("large") / "run"
    shutil.copytree(run, folder)
    path = folder.glob("rank-*/trace-1.json.gz").__next__()
    trace = json.loads(gzip.decompress(path.read_bytes()))
    events = trace["traceEvents"]
    spans = [event for event in events if event["ph"] == "X" and event["cat"] == "cpu_op"]
    for number in range(1, 13):
        for event in spans:
            args = {**event["args"], "Ev Idx": hash((number, event["ts"])) % 10**12}
            events.append({**event, "dur": 0.001, "ts": event["ts"] + number / 1000, "args": args})
    path.write_bytes(gzip.compress(json.dumps(trace).encode(), 1))
    return folder


def command(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "boundscope", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
    )


def figures(diagnosis: Any) -> dict[str, Any]:
    """A diagnosis without the texts in which names stand."""
    found: dict[str, Any] = json.loads(msgspec.json.encode(diagnosis, enc_hook=float))
    found["run"] = {k: v for k, v in found["run"].items() if k not in ("id", "name")}
    found["verdict"].pop("headline")
    found["warnings"] = [warning["slug"] for warning in found["warnings"]]
    for finding in found["findings"]:
        for place in finding["where"]:
            place.pop("file", None)
            place.pop("function", None)
        for evidence in finding["evidence"]:
            evidence.pop("text")
    return found


def signatures(trace: Trace) -> list[Any]:
    return [trace.signatures[i] if i >= 0 else None for i in trace.events.signature.tolist()]


def test_the_command_writes_the_file_and_prints_the_text_for_the_issue(
    run: Path, tmp_path: Path
) -> None:
    # When
    done = command("bundle", str(run), folder=tmp_path)

    # Then
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run.boundscope.zip").exists()
    assert "run.boundscope.zip" in done.stdout
    assert "PyTorch version:" in done.stdout
    assert len(done.stdout) < AIM + 100 < MAX_COMMENT
    assert "Redacted" in done.stderr


def test_a_preview_says_what_would_be_redacted_and_writes_nothing(
    run: Path, tmp_path: Path
) -> None:
    done = command("bundle", str(run), "--preview", folder=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "Would be in the bundle" in done.stderr
    assert "e.g. train.py" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_bundle_gives_the_same_verdict_to_the_digit_without_the_original(
    run: Path, tmp_path: Path
) -> None:
    # Given
    said = json.loads(command("diagnose", "--json", str(run)).stdout)
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    path = tmp_path / "elsewhere" / "x.boundscope.zip"
    path.parent.mkdir()
    assert command("bundle", str(moved), "-o", str(path)).returncode == 0
    shutil.rmtree(moved)

    # When
    shown = json.loads(command("diagnose", "--json", str(path), folder=path.parent).stdout)

    # Then
    assert figures(shown) == figures(said)
    assert shown["verdict"]["headline"] == said["verdict"]["headline"]
    assert str(tmp_path) not in json.dumps(shown)


def test_a_diagnosis_made_anew_from_the_bundle_is_the_stored_one(run: Path, tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(run, tmp_path / "x.boundscope.zip").path)

    anew = diagnose_features(derive_staged(bundle.folder, bundle.diagnosis.run.status))

    assert bundle.manifest.same_from_data is True
    assert anew == bundle.diagnosis


def test_a_bundle_compares_like_its_run(run: Path, tmp_path: Path) -> None:
    path = make_bundle(run, tmp_path / "x.boundscope.zip").path

    done = command("compare", "--json", str(run), str(path), "--fail-over", "1%")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["change"] == 0
    assert all(slot["base_ms"] == slot["new_ms"] for slot in found["slots"])
    assert found["base"]["bound"] == found["new"]["bound"]


def test_the_trace_in_the_bundle_has_the_events_of_the_run(run: Path, tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(run, tmp_path / "x.boundscope.zip").path)

    for path in run.glob("rank-*/trace-*.json.gz"):
        ours = read_trace(bundle.run_folder / path.parent.name / path.name)
        theirs = read_trace(path)
        assert ours.warnings == theirs.warnings == []
        assert ours.names == theirs.names
        assert (ours.events.start_ns == theirs.events.start_ns).all()
        assert (ours.events.duration_ns == theirs.events.duration_ns).all()
        assert signatures(ours) == signatures(theirs)


def test_a_trace_that_does_not_fit_is_cut_to_whole_steps_and_the_manifest_says_so(
    large: Path, tmp_path: Path
) -> None:
    # When
    limit = 500_000
    made = make_bundle(large, tmp_path / "x.boundscope.zip", max_bytes=limit)

    # Then
    assert made.size <= limit
    assert any("trace window 1 of rank 0" in left.what for left in made.manifest.left_out)
    bundle = open_bundle(made.path)
    path = next(bundle.run_folder.glob("rank-*/trace-1.json.gz"))
    trace = json.loads(gzip.decompress(path.read_bytes()))
    kept = find_steps(read_trace(path))
    steps = {e["name"] for e in trace["traceEvents"] if e["name"].startswith("ProfilerStep#")}
    assert 1 <= len(steps) == len(kept)
    begin, end = int(kept.start_ns[0]), int(kept.end_ns[-1])
    base = trace["baseTimeNanoseconds"]
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            assert begin - 1_000 <= base + event["ts"] * 1000 <= end + 1_000


def test_the_verdict_of_a_cut_recording_is_that_of_the_whole(large: Path, tmp_path: Path) -> None:
    # Given
    said = diagnose_path(large)
    path = make_bundle(large, tmp_path / "x.boundscope.zip", max_bytes=500_000).path

    # When
    bundle = open_bundle(path)
    features = derive_bundle(bundle)

    # Then
    assert bundle.manifest.same_from_data is None
    assert figures(bundle.diagnosis) == figures(said)
    assert diagnose_features(features) == bundle.diagnosis
    assert features.shares == said.breakdown
    told = command("diagnose", str(path))
    assert "note: the diagnosis was made from the whole recording" in told.stderr


def test_what_the_verdict_needs_least_goes_first(large: Path, tmp_path: Path) -> None:
    """The traces are cut, then left out; steps, manifest and diagnosis stay to the last."""
    contents = {}
    for limit in (2_500_000, 300_000, 125_000):
        made = make_bundle(large, tmp_path / f"{limit}.boundscope.zip", max_bytes=limit)
        assert made.size <= limit
        contents[limit] = {member.name for member in made.manifest.members}
        assert layout.DIAGNOSIS in contents[limit]
        assert any(name.endswith("steps.jsonl") for name in contents[limit])

    assert contents[2_500_000] >= contents[300_000] >= contents[125_000]
    assert not any(name.endswith(".gz") for name in contents[125_000])


def test_a_bundle_that_cannot_hold_the_run_is_a_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        make_bundle(run, tmp_path / "x.boundscope.zip", max_bytes=2_000)

    assert caught.value.slug == "bundle-too-small"
    assert list(tmp_path.iterdir()) == []


def test_flows_are_kept_where_both_their_ends_are(tmp_path: Path) -> None:
    # Given: of three launches the last one's kernel was not recorded
    events: list[dict[str, Any]] = []
    for number in range(3):
        at = 100.0 * number
        host, device = {"pid": 1, "tid": 1}, {"pid": 0, "tid": 7}
        name = {"cat": "ac2g", "name": "ac2g", "id": number}
        step = {"cat": "user_annotation", "name": f"ProfilerStep#{number}"}
        call = {"cat": "cuda_runtime", "name": "cudaLaunchKernel"}
        kernel = {"cat": "kernel", "name": "k"}
        link = {"args": {"correlation": number}}
        events += [
            {"ph": "X", **step, **host, "ts": at, "dur": 90},
            {"ph": "X", **call, **host, **link, "ts": at + 1, "dur": 2},
            {"ph": "s", **name, **host, "ts": at + 1},
            {"ph": "X", **kernel, **device, **link, "ts": at + 9, "dur": 5},
        ]
        if number < 2:
            events.append({"ph": "f", "bp": "e", **name, **device, "ts": at + 9})
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": events}))

    # When
    made = make_bundle(path, tmp_path / "x.boundscope.zip")

    # Then
    trace = json.loads(everything_in(made.path)["traces/rank-0-0.json.gz"])
    flows = [(e["ph"], e["id"]) for e in trace["traceEvents"] if e["ph"] in "sf"]
    assert sorted(flows) == [("f", 0), ("f", 1), ("s", 0), ("s", 1)]
    assert all(e["bp"] == "e" for e in trace["traceEvents"] if e["ph"] == "f")


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_trace_keeps_its_verdict_to_the_digit(name: str, tmp_path: Path) -> None:
    if not CORPUS:
        pytest.skip("BOUNDSCOPE_CORPUS is not set: no foreign traces")
    said = diagnose_path(Path(CORPUS) / name)

    made = make_bundle(Path(CORPUS) / name, tmp_path / "x.boundscope.zip")

    assert figures(open_bundle(made.path).diagnosis) == figures(said)
    assert made.manifest.same_from_data is (not name.startswith("derived_corrupt"))


def test_a_run_that_goes_on_can_be_bundled_and_stays_running(run: Path, tmp_path: Path) -> None:
    # Given: its launcher was on this machine and is gone: it was killed
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    manifest = read_manifest(folder)
    write_manifest(folder, msgspec.structs.replace(manifest, status="running", ended_ns=0))

    # When
    bundle = open_bundle(make_bundle(folder, tmp_path / "x.boundscope.zip").path)

    # Then
    assert bundle.diagnosis.run.status == "killed"
    assert read_manifest(bundle.run_folder).status == "killed"


def test_an_older_run_without_roofs_is_not_judged_by_the_readers_machine(
    run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    path = make_bundle(folder, tmp_path / "x.boundscope.zip").path
    bundle = open_bundle(path)

    roofs = bundle.run_folder / "roofs.json"
    roofs.unlink(missing_ok=True)
    features = derive_staged(bundle.folder, "finished")

    assert all(rank.roofs is None for rank in features.ranks)


@pytest.mark.parametrize("by_this_version", [True, False])
def test_of_large_traces_only_this_versions_diagnosis_is_taken_as_it_is(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_this_version: bool
) -> None:
    # Given: a kept diagnosis that says something else than the data do
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    monkeypatch.setattr(writing, "CHECKED_BYTES", 0)
    kept = json.loads((folder / "diagnosis.json").read_bytes())
    kept["verdict"]["headline"] = "As it was kept."
    kept["program"] = kept["program"] if by_this_version else "another"
    (folder / "diagnosis.json").write_text(json.dumps(kept))

    # When
    made = make_bundle(folder, tmp_path / "x.boundscope.zip")

    # Then
    assert (made.diagnosis.verdict.headline == "As it was kept.") is by_this_version


def test_members_of_a_run_on_one_host_are_named_apart(run: Path, tmp_path: Path) -> None:
    made = make_bundle(run, tmp_path / "x.boundscope.zip")

    said = [member.what for member in made.manifest.members if "rank" not in member.what]
    assert len(said) == len(set(said))


def test_a_bundle_is_not_bundled_again(run: Path, tmp_path: Path) -> None:
    path = make_bundle(run, tmp_path / "x.boundscope.zip").path

    done = command("bundle", str(path))

    assert done.returncode == 2
    assert "already-a-bundle" in done.stderr


def test_a_place_that_cannot_be_written_is_a_sentence(run: Path, tmp_path: Path) -> None:
    done = command("bundle", str(run), "-o", str(tmp_path / "none" / "x.boundscope.zip"))

    assert done.returncode == 2
    assert "bundle-not-written" in done.stderr


@pytest.mark.parametrize(
    ("text", "size"),
    [("25MB", 25_000_000), ("800 kB", 800_000), ("1GiB", 1 << 30), ("77", 77), ("1.5m", 1_500_000)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "-1MB", "0", "25XB"])
def test_what_is_no_size_is_a_sentence(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_the_archive_is_plain_and_says_nothing_of_the_maker(run: Path, tmp_path: Path) -> None:
    path = make_bundle(run, tmp_path / "x.boundscope.zip").path

    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert all(layout.MEMBER.fullmatch(name) for name in file.namelist())


def test_markdown_shows_names_as_they_are() -> None:
    assert escaped("a_b* <x>") == r"a\_b\* \<x\>"
    assert "@user" not in escaped("cc @user")
    assert "http://" not in escaped("see http://a.invalid/x")
    assert "\n" not in escaped("two\nlines")


def test_a_killed_runs_gaps_with_tracebacks_are_in_it(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    manifest = read_manifest(folder)
    detail = f'Traceback\n  File "{folder}/x.py", line 3, in f\nValueError: torn'
    gap = Gap(manifest.started_ns, "host", "crashed", detail, "no host metrics")
    write_manifest(folder, msgspec.structs.replace(manifest, gaps=[*manifest.gaps, gap]))

    bundle = open_bundle(make_bundle(folder, tmp_path / "x.boundscope.zip").path)

    told = next(m for m in bundle.diagnosis.missing if m.collector == "host")
    assert "ValueError: torn" in told.detail
    assert str(folder) not in told.detail
