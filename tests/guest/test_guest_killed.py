"""A training that is killed at any moment loses at most a second of steps, and loads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boundscope.collectors.records import SpanKind
from boundscope.profiler.run.files import read_records
from boundscope.profiler.run.load import RankData, load_rank

AT_MOST_NS = 1e9


@pytest.fixture(scope="module")
def killed(guest_run: Callable[..., Any]) -> list[tuple[str, Path, RankData | None]]:
    """How each training ended, its own notes, and what was recorded of it."""
    done = guest_run("killed.py", "7")
    assert done.code == 0, done.stderr
    folders = {path.name.split("-")[2]: path for path in done.folder.glob("rank-0-*")}
    return [
        (
            end,
            done.folder.parent / f"own-{pid}",
            load_rank(folders[str(pid)]) if str(pid) in folders else None,
        )
        for pid, end in json.loads(done.stdout)
    ]


def lost_ns(own: Path, rank: RankData | None) -> float:
    """The time from the last step that was recorded, or the first of all, to the last one."""
    notes = np.frombuffer(own.read_bytes()[: own.stat().st_size // 8 * 8], np.int64)
    if rank is None:
        return float(notes[-1] - notes[0])
    header = read_records(rank.folder / "steps.jsonl").header
    assert header is not None
    recorded = rank.spans.of(SpanKind.OPTIMIZER).end_ns - header.wall_ns + header.mono_ns
    return float(notes[-1] - max(recorded.max(initial=0), notes[0]))


def test_no_end_loses_more_than_a_second_of_steps(killed: Any) -> None:
    losses = [lost_ns(own, rank) for _, own, rank in killed]

    assert Counter(end for end, _, _ in killed) == {"SIGKILL": 20, "SIGTERM": 2, "exit": 2}
    assert max(losses) <= AT_MOST_NS


def test_what_was_recorded_is_whole_lines_of_known_types(killed: Any) -> None:
    files = [read_records(rank.folder / "steps.jsonl") for _, _, rank in killed if rank]

    assert len(files) >= 15
    assert all(file.skipped == 0 for file in files)
    assert not any(file.closed for file in files)


def test_steps_up_to_there_are_all_recorded(killed: Any) -> None:
    for _, own, rank in killed:
        if rank is not None:
            recorded = len(rank.spans.of(SpanKind.OPTIMIZER))
            noted = own.stat().st_size // 8

            assert noted - AT_MOST_NS / 2e6 <= recorded <= noted + 1
