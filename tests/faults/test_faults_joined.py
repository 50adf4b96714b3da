"""Launchers of one job join one run folder; launchers of other jobs are told that it is taken."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from boundscope.profiler.jobs import job_key
from boundscope.profiler.run.load import load_run
from boundscope.profiler.run.manifest import read_members

from .harness import BOUNDSCOPE, SCRIPTS, clean_environment

LIMIT_S = 60
WAITING = """
import os, pathlib, sys, time
mine = os.environ.get("SLURM_PROCID") or os.environ.get("RANK", "0")
pathlib.Path(f"up-{mine}").touch()
while len(list(pathlib.Path(".").glob("up-*"))) < 2:
    time.sleep(0.02)
time.sleep(1.2)
sys.exit(int(mine) * int(os.environ.get("FAIL", "0")))
"""


def slurm(rank: int, step: str = "0") -> dict[str, str]:
    """What srun tells a task: a step of two on this host."""
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_ID": step,
        "SLURM_PROCID": str(rank),
        "SLURM_NTASKS": "2",
    }


def begin(folder: Path, environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    command = [BOUNDSCOPE, "run", "-o", "shared", *words]
    return subprocess.Popen(
        command, cwd=folder, env={**clean_environment(), **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def both(folder: Path, *environments: dict[str, str]) -> list[tuple[int, str, str]]:
    (folder / "train.py").write_text(WAITING)
    started = [begin(folder, environment, "train.py") for environment in environments]
    ended = [(one, *one.communicate(timeout=LIMIT_S)) for one in started]
    return [(one.returncode, out, err) for one, out, err in ended]


@pytest.mark.parametrize(
    "common",
    [slurm(0), {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}],
    ids=["slurm-step", "rendezvous"],
)
def test_two_launchers_of_one_job_keep_one_run(tmp_path: Path, common: dict[str, str]) -> None:
    name = "SLURM_PROCID" if "SLURM_PROCID" in common else "RANK"
    results = both(tmp_path, {**common, name: "0"}, {**common, name: "1"})

    run = load_run(tmp_path / "shared")
    (member,) = read_members(run.folder)
    headers = [path.read_text().count('"t":"header"') for path in run.folder.glob("node-*/*.jsonl")]
    assert [code for code, _, _ in results] == [0, 0]
    assert sorted(bool(err) for _, _, err in results) == [False, True]  # one of them reports
    assert run.status == "finished"
    assert (member.id, member.exit_code) == (run.manifest.id, 0)
    assert set(headers) == {1}  # one writer for each file of the host
    assert not list(run.folder.rglob(".*"))


def test_a_job_is_as_good_as_its_worst_launcher(tmp_path: Path) -> None:
    results = both(tmp_path, {**slurm(0), "FAIL": "3"}, {**slurm(1), "FAIL": "3"})

    assert [code for code, _, _ in results] == [0, 3]
    assert load_run(tmp_path / "shared").status == "failed"


@pytest.mark.parametrize(
    "environments",
    [
        ({"RANK": "0"}, {"RANK": "1"}),
        (slurm(0, step="0"), slurm(1, step="1")),
    ],
    ids=["no-job", "other-step"],
)
def test_launchers_of_different_jobs_are_kept_apart(
    tmp_path: Path, environments: tuple[dict[str, str], ...]
) -> None:
    (tmp_path / "train.py").write_text("import time; time.sleep(1.5)")
    started = [begin(tmp_path, environment, "train.py") for environment in environments]
    errors = [one.communicate(timeout=LIMIT_S)[1] for one in started]

    assert sorted(one.returncode for one in started) == [0, 2]
    assert sum("error[run-exists]" in error for error in errors) == 1


def test_another_command_of_the_same_job_does_not_join(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import time; time.sleep(1.5)")
    (tmp_path / "other.py").write_text("")
    first = begin(tmp_path, slurm(0), "train.py")
    while not (tmp_path / "shared" / "manifest.json").exists():
        pass
    second = begin(tmp_path, slurm(1), "other.py")

    assert "error[run-exists]" in second.communicate(timeout=LIMIT_S)[1]
    assert second.returncode == 2
    first.communicate(timeout=LIMIT_S)
    assert first.returncode == 0


def test_the_same_job_does_not_join_a_run_that_has_ended(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    ended = [begin(tmp_path, slurm(0), "train.py").communicate(timeout=LIMIT_S) for _ in range(2)]

    assert "error[run-exists]" in ended[1][1]


def test_two_joined_trainings_are_two_ranks(tmp_path: Path) -> None:
    words = ("--no-report", str(SCRIPTS / "training.py"), "--steps", "60", "--wait-ms", "20")
    ranks = [begin(tmp_path, slurm(rank), *words) for rank in (0, 1)]
    outputs = [one.communicate(timeout=LIMIT_S)[0] for one in ranks]

    run = load_run(tmp_path / "shared")
    assert [one.returncode for one in ranks] == [0, 0]
    assert outputs[0] == outputs[1]
    assert [rank.rank for rank in run.ranks] == [0, 1]
    assert run.world_size == 2
    assert all(rank.closed for rank in run.ranks)


def test_a_job_is_known_by_its_step_or_its_rendezvous() -> None:
    assert job_key({}) == ""
    assert job_key({"SLURM_JOB_ID": "1"}) == ""  # the batch script itself: steps follow each other
    assert job_key(slurm(0)) == job_key(slurm(1)) != job_key(slurm(0, step="1"))
    assert job_key({**slurm(0), "SLURM_RESTART_COUNT": "1"}) != job_key(slurm(0))


def test_a_home_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text((SCRIPTS / "training.py").read_text())
    (tmp_path / "tricks.py").write_text((SCRIPTS / "tricks.py").read_text())
    home = {"HOME": "/proc/self", "XDG_CACHE_HOME": "/proc/self/cache"}  # holds for root too
    command = [BOUNDSCOPE, "run", "-o", "run", "train.py", "--steps", "120"]

    done = subprocess.run(
        command, cwd=tmp_path, env={**clean_environment(), **home}, text=True,
        capture_output=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip

    stored = json.loads((tmp_path / "run" / "diagnosis.json").read_text())
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "trained")
    assert "Traceback" not in done.stderr
    assert "warning[report-failed]" not in done.stderr
    assert stored["run"]["steps"] >= 100
