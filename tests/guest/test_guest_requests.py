"""A window and stack samples on demand: a marker in the rank folder asks for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from boundscope.collectors.records import (
    MAIN_THREAD,
    STACKS_MARKER,
    TRACE_MARKER,
    Frame,
    Gap,
    Stacks,
)
from boundscope.profiler.run.files import RecordFile, read_records
from boundscope.profiler.run.load import RankData, load_rank

from .conftest import SCRIPTS, guest_environment, plain_environment

LIMIT_S = 60


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[RankData, RecordFile]:
    """A training that was asked for both while it ran: its rank, and its stack samples."""
    run = tmp_path_factory.mktemp("asked") / "run"
    training = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "long.py"), "60"],
        cwd=run.parent, env=guest_environment(run), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: bool(list(run.glob("rank-*/steps.jsonl"))))
    (folder,) = run.glob("rank-*")
    (folder / STACKS_MARKER).touch()
    until((folder / "trace-1.json").exists)
    (folder / TRACE_MARKER).touch()
    until(lambda: "signal" in reasons(folder))
    until(lambda: taken(folder) >= 20)
    (run.parent / "stop").touch()
    assert training.wait(LIMIT_S) == 0
    return load_rank(folder), read_records(folder / "stacks.jsonl")


def reasons(folder: Path) -> list[str]:
    return [window.reason for window in load_rank(folder).windows]


def stack_samples(file: RecordFile) -> list[Stacks]:
    return [record for record in file.records if isinstance(record, Stacks)]


def taken(folder: Path) -> int:
    file = folder / "stacks.jsonl"
    samples = stack_samples(read_records(file)) if file.exists() else []
    return sum(count for sample in samples for _, count in sample.counts)


def test_a_trace_window_is_taken_on_demand(asked: tuple[RankData, RecordFile]) -> None:
    rank, _ = asked

    assert reasons(rank.folder)[0] == "probe"
    assert "signal" in reasons(rank.folder)
    assert not (rank.folder / TRACE_MARKER).exists()


def test_a_signal_to_the_launcher_asks_for_a_window_and_never_reaches_the_training(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    launcher = subprocess.Popen(
        [sys.executable, "-m", "boundscope", "run", "--no-report", "-o", str(run),
         sys.executable, str(SCRIPTS / "long.py"), "60"],
        cwd=tmp_path, env=plain_environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: bool(list(run.glob("rank-*/steps.jsonl"))))
    (folder,) = run.glob("rank-*")

    os.kill(launcher.pid, signal.SIGRTMIN + 1)

    until(lambda: "signal" in reasons(folder))
    (tmp_path / "stop").touch()
    assert launcher.wait(LIMIT_S) == 0
    (window,) = (window for window in load_rank(folder).windows if window.reason == "signal")
    assert (folder / f"{window.file}.gz").exists()
    assert window.events > 0


def test_stacks_are_sampled_from_inside_and_the_gap_says_what_that_means(
    asked: tuple[RankData, RecordFile],
) -> None:
    rank, file = asked

    samples = stack_samples(file)
    lines = {f.file for f in file.records if isinstance(f, Frame)}
    (gap,) = (record for record in file.records if isinstance(record, Gap))

    seconds = (samples[-1].end_ns - samples[0].start_ns) * 1e-9
    assert 20 <= taken(rank.folder) <= 10 * seconds + 1  # ten a second, fewer on a busy machine
    assert all(sample.pid == rank.pid for sample in samples)
    assert {sample.thread_name for sample in samples} == {MAIN_THREAD}
    assert any(Path(line).name == "long.py" for line in lines)
    assert (gap.collector, gap.reason) == ("stacks", "no-permission")
    assert file.closed
