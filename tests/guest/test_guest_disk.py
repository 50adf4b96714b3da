"""The training goes on unharmed when the run folder vanishes or its disk is full."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from boundscope.profiler.run.files import read_records

from .conftest import SCRIPTS, guest_environment

LIMIT_S = 60


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 KiB."""
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def start(run: Path, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / "long.py")],
        cwd=cwd, env=guest_environment(run), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_full_disk_stops_the_recording_and_nothing_else(tiny_disk: Path, tmp_path: Path) -> None:
    training = start(tiny_disk / "run", tmp_path)

    stdout, stderr = training.communicate(timeout=LIMIT_S)

    (steps,) = (tiny_disk / "run").glob("rank-*/steps.jsonl")
    room = os.statvfs(tiny_disk)
    file = read_records(steps)
    assert (training.returncode, stdout, stderr) == (0, "1500 steps\n", "")
    assert room.f_bavail * room.f_frsize < 20_000  # it really was full
    assert file.header is not None
    assert file.skipped == 0
    assert not file.closed
    assert not list((tiny_disk / "run").glob("rank-*/*.partial*"))


def test_a_run_folder_that_vanishes_is_not_missed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    training = start(run, tmp_path)
    deadline = time.monotonic() + LIMIT_S
    while not list(run.glob("rank-*/steps.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    shutil.rmtree(run)

    stdout, stderr = training.communicate(timeout=LIMIT_S)

    assert (training.returncode, stdout, stderr) == (0, "1500 steps\n", "")
    assert not run.exists()
