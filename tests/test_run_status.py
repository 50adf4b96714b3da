"""A run's status is true also when nobody came to write it down; `boundscope runs` shows it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from boundscope.collectors.records import Gap, Manifest
from boundscope.collectors.writer import Clock, RecordWriter
from boundscope.profiler.diagnosis import Diagnosis, RunSummary, StepTime, Verdict
from boundscope.profiler.errors import UnusableData
from boundscope.profiler.ranks import RankWatch
from boundscope.profiler.run.manifest import read_manifest, write_manifest
from boundscope.profiler.run.status import effective_status, process_start_ticks

BOUNDSCOPE = str(Path(sys.executable).parent / "boundscope")
NOW_NS = 1_800_000_000 * 10**9


def manifest(**changes: object) -> Manifest:
    facts: dict[str, object] = {
        "schema": 1,
        "id": "abc",
        "name": "train",
        "command": ["train.py"],
        "cwd": "/",
        "started_ns": NOW_NS - 3600 * 10**9,
        "status": "running",
        "launcher_pid": os.getpid(),
        "launcher_start_ticks": process_start_ticks(os.getpid()),
        "host": socket.gethostname(),
        "version": "1",
    }
    return Manifest(**{**facts, **changes})


def ended_process() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["true"])
    process.wait()
    return process


def test_a_run_whose_launcher_lives_is_running() -> None:
    assert effective_status(manifest()) == "running"


def test_a_run_whose_launcher_is_gone_was_killed() -> None:
    assert effective_status(manifest(launcher_pid=ended_process().pid)) == "killed"


def test_a_pid_that_is_used_again_does_not_revive_a_run() -> None:
    ticks = process_start_ticks(os.getpid())
    assert ticks is not None
    assert effective_status(manifest(launcher_start_ticks=ticks - 1)) == "killed"


def test_a_launcher_that_is_a_zombie_is_gone() -> None:
    process = subprocess.Popen(["sleep", "60"])
    ticks = process_start_ticks(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet reaped

    status = effective_status(manifest(launcher_pid=process.pid, launcher_start_ticks=ticks))

    process.wait()
    assert status == "killed"


@pytest.mark.parametrize("status", ["finished", "failed", "killed"])
def test_a_status_that_was_written_down_is_believed(status: str) -> None:
    assert effective_status(manifest(status=status, launcher_pid=1)) == status


@pytest.mark.parametrize(("age_s", "status"), [(5, "running"), (59, "running"), (61, "killed")])
def test_a_run_of_another_host_goes_by_its_newest_record(
    tmp_path: Path, age_s: int, status: str
) -> None:
    for name, age in (("old.jsonl", 1000), ("new.jsonl", age_s)):
        file = tmp_path / "node-far" / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
        os.utime(file, ns=(NOW_NS - age * 10**9,) * 2)

    assert effective_status(manifest(host="far"), tmp_path, now_ns=NOW_NS) == status


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = manifest(exit_code=3, environment={"python": {"python": "3.11"}})

    write_manifest(tmp_path, written)

    assert read_manifest(tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("content", "slug"),
    [(None, "no-manifest"), ("", "broken-manifest"), ('{"schema": 1}', "broken-manifest")],
)
def test_a_missing_or_broken_manifest_is_an_error_with_a_slug(
    tmp_path: Path, content: str | None, slug: str
) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)

    with pytest.raises(UnusableData) as caught:
        read_manifest(tmp_path)

    assert caught.value.slug == slug


def test_ranks_of_this_host_that_live_are_found(tmp_path: Path) -> None:
    here = socket.gethostname()
    gone = ended_process().pid
    watch = RankWatch(tmp_path)
    before = watch.look()

    for name, host in (
        (f"rank-0-{os.getpid()}", here),
        (f"rank-1-{gone}", here),
        ("rank-2-1", "far"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "steps.jsonl").write_text(f'{{"t":"header","host":"{host}"}}\n')

    assert before == {}
    assert watch.look() == {os.getpid(): 0}


def test_a_rank_folder_whose_first_file_comes_later_is_found(tmp_path: Path) -> None:
    rank = tmp_path / f"rank-3-{os.getpid()}"
    watch = RankWatch(tmp_path)
    rank.mkdir()
    before = watch.look()

    (rank / "steps.jsonl").write_text(f'{{"t":"header","host":"{socket.gethostname()}"}}\n')

    assert before == {}
    assert watch.look() == {os.getpid(): 3}


def test_a_process_that_learns_its_rank_late_is_called_by_it(tmp_path: Path) -> None:
    """Both made a loader before their process group: both folders are of rank 0."""
    other = subprocess.Popen(["sleep", "60"])
    folders = {pid: tmp_path / f"rank-0-{pid}" for pid in (os.getpid(), other.pid)}
    for folder in folders.values():
        folder.mkdir()
        RecordWriter(folder / "steps.jsonl", "inside", Clock(), rank=0).abandon()
    watch = RankWatch(tmp_path)
    for _ in range(20):  # longer than the folder is listed again after a change
        before = watch.look()

    writer = RecordWriter(folders[other.pid] / "steps.jsonl", "inside", Clock(), rank=1)
    writer.write(Gap(1, "gpu", "no-driver"))
    writer.abandon()
    after = watch.look()
    other.kill()
    other.wait()

    assert before == {os.getpid(): 0, other.pid: 0}
    assert after == {os.getpid(): 0, other.pid: 1}


def listed(folder: Path) -> list[str]:
    done = subprocess.run(
        [BOUNDSCOPE, "runs", str(folder)], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.splitlines()


def test_runs_lists_each_run_oldest_first(tmp_path: Path) -> None:
    ended = time.time_ns()
    for name, started_s, extra in (
        ("second", 100, {"status": "failed", "ended_ns": ended}),
        ("first", 5000, {"status": "finished", "ended_ns": ended - 3_000_000_000_000}),
        ("third", 10, {"launcher_pid": ended_process().pid}),
    ):
        (tmp_path / name).mkdir()
        started = ended - started_s * 10**9
        write_manifest(tmp_path / name, manifest(name=name, started_ns=started, **extra))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    (tmp_path / "no run").mkdir()

    lines = listed(tmp_path)

    assert [line.split()[3] for line in lines[2:]] == ["first", "second", "third"]
    assert "unreadable" in lines[1]
    assert "33 min 20 s" in lines[2]
    assert "finished" in lines[2]
    assert "1 min 40 s" in lines[3]
    assert "failed" in lines[3]
    assert "killed" in lines[4]


def test_runs_shows_the_stored_verdict(tmp_path: Path) -> None:
    diagnosis = Diagnosis(
        schema=1,
        run=RunSummary("abc", "finished", 0, 2, 120, StepTime(31.2, 35.0), [], 4.1),
        verdict=Verdict("network", 0.93, "compute", "Network-bound."),
        breakdown={},
        ranks=[],
        findings=[],
        missing=[],
    )
    write_manifest(tmp_path, manifest(name="my-run", status="finished"))
    (tmp_path / "diagnosis.json").write_bytes(msgspec.json.encode(diagnosis))

    (line,) = listed(tmp_path)[1:]

    assert line.split()[-4:] == ["2", "120", "finished", "network"]
    assert f" {tmp_path.name} (my-run) " in line


def test_runs_says_when_there_are_none(tmp_path: Path) -> None:
    assert listed(tmp_path) == [f"No runs in {tmp_path}. Start one: boundscope run train.py"]
