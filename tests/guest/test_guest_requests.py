"""A window and stack samples on demand: a marker in the rank folder asks for them."""

from __future__ import annotations

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

from .conftest import SCRIPTS, guest_environment

LIMIT_S = 60


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[RankData, RecordFile]:
    """A training that was asked for both while it ran: its rank, and its stack samples."""
    run = tmp_path_factory.mktemp("asked") / "run"
    training = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "long.py")],
        cwd=run.parent, env=guest_environment(run), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: bool(list(run.glob("rank-*/steps.jsonl"))))
    (folder,) = run.glob("rank-*")
    (folder / STACKS_MARKER).touch()
    until((folder / "trace-1.json").exists)
    (folder / TRACE_MARKER).touch()
    assert training.wait(LIMIT_S) == 0
    return load_rank(folder), read_records(folder / "stacks.jsonl")


def test_a_trace_window_is_taken_on_demand(asked: tuple[RankData, RecordFile]) -> None:
    rank, _ = asked

    reasons = [window.reason for window in rank.windows]

    assert reasons[0] == "probe"
    assert "signal" in reasons
    assert not (rank.folder / TRACE_MARKER).exists()


def test_stacks_are_sampled_from_inside_and_the_gap_says_what_that_means(
    asked: tuple[RankData, RecordFile],
) -> None:
    rank, file = asked

    samples = [record for record in file.records if isinstance(record, Stacks)]
    lines = {f.file for f in file.records if isinstance(f, Frame)}
    (gap,) = (record for record in file.records if isinstance(record, Gap))

    taken = sum(count for sample in samples for _, count in sample.counts)
    assert 10 <= taken <= 100  # ten a second
    assert all(sample.pid == rank.pid for sample in samples)
    assert {sample.thread_name for sample in samples} == {MAIN_THREAD}
    assert any(Path(line).name == "long.py" for line in lines)
    assert (gap.collector, gap.reason) == ("stacks", "no-permission")
    assert file.closed
