"""Ranks are found however they are started; nothing else is taken for one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boundscope.collectors.records import SpanKind
from boundscope.profiler.run.load import Run

from .conftest import SCRIPTS


def assert_two_ranks(run: Run) -> None:
    assert [rank.rank for rank in run.ranks] == [0, 1]
    assert run.world_size == 2
    for rank in run.ranks:
        assert len(rank.spans.of(SpanKind.BACKWARD)) == 6
        assert len(rank.spans.of(SpanKind.LOADER)) == 6
        assert rank.closed
        assert rank.gaps == []
        assert rank.process is not None
        assert rank.process.facts["backend"] == "gloo"
        assert rank.process.facts["threads"] == "1"


@pytest.mark.parametrize("way", ["torch-spawn", "fork", "forkserver"])
def test_ranks_started_by_multiprocessing_are_found(
    guest_run: Callable[..., Any], way: str
) -> None:
    done = guest_run("ranks.py", way)

    assert done.code == 0, done.stderr
    assert_two_ranks(done.run)
    assert [name[:7] for name in done.rank_folders] == ["rank-0-", "rank-1-"]


def test_torchrun_has_its_two_ranks_and_its_agent_is_none(tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    command = [str(programs / "boundscope"), "run", "--no-report", "-o", "run", "--"]
    torchrun = [str(programs / "torchrun"), "--standalone", "--nproc-per-node", "2"]

    done = subprocess.run(
        [*command, *torchrun, str(SCRIPTS / "ranks.py"), "torchrun"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    folders = sorted(path.name[:7] for path in (tmp_path / "run").glob("rank-*"))
    notes = list((tmp_path / "run").glob("node-*/process-*.jsonl"))
    assert done.returncode == 0, done.stderr
    assert folders == ["rank-0-", "rank-1-"]
    assert len(notes) == 3  # the agent and its two ranks


def test_loader_workers_are_no_ranks_and_leave_no_file(guest_run: Callable[..., Any]) -> None:
    done = guest_run("loader_workers.py")

    (node,) = done.folder.glob("node-*")
    (rank,) = done.run.ranks
    assert done.code == 0, done.stderr
    assert len(done.rank_folders) == 1
    assert len(list(node.iterdir())) == 1
    assert len(rank.spans.of(SpanKind.LOADER)) == 36
