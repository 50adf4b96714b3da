"""What happens to a run from outside: signals, disks, folders, clocks, devices, memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .checks import assert_named, assert_unharmed, diagnosis, lost_s
from .harness import BOUNDSCOPE, ENDING_S, SCRIPTS, Case, Runs, busy, finish, members, until

MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")


def training_of(process: subprocess.Popen[bytes]) -> int:
    """The training below `process`, or `process` itself where it is the training."""
    for pid in members(process.pid):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if len(words) > 1 and words[1].endswith(b"training.py"):
            return pid
    return process.pid


PROMISE_S = 1.0
"""Of a training that is killed no more is lost."""

STEPS_NOTED = 100
"""Of 220: 0.6 s of training, so that what a flush each quarter of a second has not written is the
smaller part also on a busy machine."""


def trains(cwd: Path) -> Callable[[], bool]:
    """Whether the training is in its steps, by the notes that it takes itself."""
    notes = cwd / "notes"
    return lambda: notes.exists() and notes.stat().st_size > 8 * STEPS_NOTED


def ends_at_step(*numbers: int, to_launcher: bool = True) -> Callable[..., None]:
    """Send signals to the first process, or to the training itself, in the middle of it."""

    def act(process: subprocess.Popen[bytes], cwd: Path) -> None:
        until(trains(cwd))
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid if to_launcher else training_of(process), number)
            time.sleep(0.3)

    return act


def kills_the_launcher(process: subprocess.Popen[bytes], cwd: Path) -> None:
    """SIGKILL for boundscope alone; then the training is waited for."""
    until(trains(cwd))
    process.kill()
    until(lambda: "trained" in (cwd / "stdout").read_text(), ENDING_S * 6)


def removes_the_folder(process: subprocess.Popen[bytes], cwd: Path) -> None:
    until(trains(cwd))
    shutil.rmtree(cwd / "run", ignore_errors=True)


def noted(name: str, *words: str, **more: object) -> Case:
    return Case(name, ("--notes", *words), **more)


SIGNALS = [
    noted(f"{signal.Signals(numbers[0]).name}-{len(numbers)}-{'launcher' if up else 'training'}",
          act=ends_at_step(*numbers, to_launcher=up), status="killed", steps=20)
    for numbers, up in (
        ((signal.SIGTERM,), True),
        ((signal.SIGINT,), True),
        ((signal.SIGINT, signal.SIGINT), True),
        ((signal.SIGTERM,), False),
        ((signal.SIGKILL,), False),
        ((signal.SIGSEGV,), False),
    )
]  # fmt: skip


@pytest.mark.parametrize("case", SIGNALS, ids=str)
def test_a_signal_(case: Case, runs: Runs) -> None:
    plain, wrapped = runs.plain(case), runs.wrapped(case)

    assert wrapped.code == plain.code != 0
    assert last_line(wrapped.stderr) == last_line(plain.stderr)
    assert wrapped.left == plain.left
    found = diagnosis(wrapped)
    assert found["run"]["status"] == case.status
    assert found["run"]["steps"] >= case.steps
    assert steps_agree(wrapped.stdout, plain.stdout)


def last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def steps_agree(one: str, other: str) -> bool:
    """Whether two trainings that were ended at different steps had the same losses up to there."""
    pairs = list(zip(one.splitlines()[:-1], other.splitlines()[:-1], strict=False))
    return all(a == b for a, b in pairs)


WINDOWS = [
    noted(f"{how}-in-a-profiler-window", "--trick", f"{how}-in-a-profiler-window", status=status)
    for how, status in (("leaves", "failed"), ("dies", "killed"))
]  # fmt: skip


@pytest.mark.parametrize("case", WINDOWS, ids=str)
def test_a_training_that_(case: Case, runs: Runs) -> None:
    """It ends where a window is open, and without boundscope, which opens it, some steps later."""
    plain, wrapped = runs.plain(case), runs.wrapped(case)

    assert wrapped.code == plain.code != 0
    assert wrapped.stderr == plain.stderr
    assert wrapped.left == plain.left
    assert (wrapped.cwd / "notes").stat().st_size < (plain.cwd / "notes").stat().st_size
    assert steps_agree(wrapped.stdout, plain.stdout)
    assert diagnosis(wrapped)["run"]["status"] == case.status
    assert lost_s(wrapped) < PROMISE_S * busy()


OUTSIDE = [
    noted("launcher-killed", act_wrapped=kills_the_launcher, status="killed"),
]


@pytest.mark.parametrize("case", OUTSIDE, ids=str)
def test_the_training_goes_on_with_the_(case: Case, runs: Runs) -> None:
    plain, wrapped = runs.plain(case), runs.wrapped(case)

    assert (wrapped.stdout, wrapped.stderr) == (plain.stdout, plain.stderr)
    assert wrapped.left == plain.left
    assert wrapped.code == -signal.SIGKILL
    found = diagnosis(wrapped)
    assert found["run"]["status"] == case.status
    assert found["run"]["steps"] >= case.steps


FOLDER = noted("folder-removed", act_wrapped=removes_the_folder)


@pytest.mark.parametrize("case", [FOLDER], ids=str)
def test_a_run_folder_that_vanishes_is_not_missed(case: Case, runs: Runs) -> None:
    assert_unharmed(case, runs)


FILE_BYTES = 36 << 10
"""More than is set aside for the last manifest, and less than the records of 700 steps: a full disk
as any user can have one."""


def no_disk() -> str:
    return "" if os.geteuid() == 0 and shutil.which("mount") else "mounting a tmpfs needs root"


def fills_the_disk(process: subprocess.Popen[bytes], cwd: Path) -> None:
    """The run folder's own small file system gets full in the middle of the training."""
    until(trains(cwd))
    filler = cwd / "run" / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def on_a_small_disk(process: subprocess.Popen[bytes], cwd: Path) -> None:
    fills_the_disk(process, cwd)
    process.wait()
    subprocess.run(["cp", "-r", str(cwd / "run"), str(cwd / "kept")], check=True)
    subprocess.run(["umount", str(cwd / "run")], check=True)
    (cwd / "run").rmdir()
    (cwd / "kept").rename(cwd / "run")


def mounts_a_small_disk(cwd: Path, wrapped: bool) -> None:
    if not wrapped:
        return
    (cwd / "run").mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(cwd / "run")]
    subprocess.run(command, check=True)


DISK = noted(
    "disk-full", before=mounts_a_small_disk, act_wrapped=on_a_small_disk, needs=no_disk,
    gap=("inside", "crashed"), steps=15,  # at step 100; what was not yet written out is lost
)  # fmt: skip

FILES = noted(
    "files-may-not-grow", "--steps", "700", file_bytes=FILE_BYTES, gap=("inside", "crashed"),
)  # fmt: skip


CLOCKS = [
    # Forward by an hour after the clocks were taken, or back: all that matters is the difference.
    Case(f"clock-{name}-{side}", ("--optimizer",), needs=lambda: "",
         **{side: f"clock:{seconds}"}, steps=100)
    for name, seconds in (("an-hour-back", 3600), ("an-hour-forward", -3600))
    for side in ("inside", "launcher")
]  # fmt: skip

NVML = [
    Case(f"nvml-{how}", ("--wait-ms", "20"), gap=("gpu", "crashed"), needs=lambda: "",
         environment=(("PYTHONPATH", str(SCRIPTS / "nvml")), ("FAKE_NVML", how)))
    for how in ("is-lost", "breaks", "hangs")
]  # fmt: skip


def no_memory_group() -> str:
    if os.geteuid() == 0 and os.access(MEMORY_GROUPS / "cgroup.procs", os.W_OK):
        return ""
    return "no cgroup (v1) for memory that this user may divide"


def joins_a_small_group(process: subprocess.Popen[bytes], cwd: Path) -> None:
    """All of the run, the launcher too, gets 450 MB: the kernel kills whoever holds most."""
    group = MEMORY_GROUPS / f"boundscope-{process.pid}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(450 << 20))
        for pid in members(process.pid):
            (group / "cgroup.procs").write_text(str(pid))
        process.wait(60)
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


MEMORY = Case(
    "memory-group-full", ("--trick", "takes-all-memory"), act=joins_a_small_group,
    needs=no_memory_group, status="killed",
)  # fmt: skip


@pytest.mark.parametrize("case", [DISK, FILES, *CLOCKS, *NVML, MEMORY], ids=str)
def test_with_(case: Case, runs: Runs) -> None:
    wrapped = assert_unharmed(case, runs)

    found = diagnosis(wrapped)
    assert found["run"]["status"] == case.status
    assert found["run"]["steps"] >= case.steps
    assert sum(found["breakdown"].values()) == pytest.approx(1.0)
    assert_named(found, case)


STARTS = 5


def test_some_starts_in_a_row_leave_nothing_behind(tmp_path: Path) -> None:
    """The short form of `benchmarks/faults.py starts`."""
    known = {"manifest.json", "diagnosis.json", "host.jsonl", "network.jsonl", "storage.jsonl"}
    known |= {"stacks.jsonl", "gpu.jsonl", "power.jsonl", "roofs.json"}
    for number in range(STARTS):
        cwd = tmp_path / str(number)
        words = [BOUNDSCOPE, "run", "-o", "run", sys.executable, "-c", "print('started')"]

        done = finish(words, cwd, {}, [])

        assert (done.code, done.stdout) == (0, "started\n"), done.stderr
        assert done.left == ()
        assert {path.name for path in done.run.rglob("*") if path.is_file()} <= known
        assert {path.name for path in cwd.iterdir()} == {"run", "stdout", "stderr", "tmp"}
