"""What holds in every case: nothing of the training differs, and the run loads."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from boundscope.collectors.records import Gap, SpanKind
from boundscope.profiler.run.files import read_records
from boundscope.profiler.run.load import RankData, Run, load_rank, load_run

from .harness import BOUNDSCOPE, Case, Done, Runs


def assert_unharmed(case: Case, runs: Runs) -> Done:
    """Same losses, same exit code, same streams, and nothing left; returns the wrapped run."""
    missing = case.needs()
    if missing:
        pytest.skip(missing)
    plain, wrapped = runs.plain(case), runs.wrapped(case)

    assert "0 0x" in plain.stdout, plain.stderr  # it trained
    assert "nan" not in plain.stdout
    assert wrapped.stdout == plain.stdout
    assert wrapped.stderr == plain.stderr
    assert wrapped.code == plain.code
    assert wrapped.left == plain.left
    return wrapped


@dataclass(frozen=True)
class Recorded:
    """What one process of a run recorded: its rank where it has one, and its gaps."""

    rank: RankData | None
    gaps: list[Gap]

    @property
    def steps(self) -> int:
        """Batches that the loop took: it has no optimizer."""
        return 0 if self.rank is None else len(self.rank.spans.of(SpanKind.LOADER))


@cache
def _run(folder: Path) -> Run:
    return load_run(folder)


def recorded(done: Done) -> Recorded:
    """What the fork of a group recorded, found by its pid."""
    run = _run(done.run)
    rank = next((rank for rank in run.ranks if rank.pid == done.pid), None)
    notes = [read_records(path) for path in done.run.glob(f"node-*/process-{done.pid}.jsonl")]
    gaps = [record for file in notes for record in file.records if isinstance(record, Gap)]
    for path in done.run.glob(f"rank-*-{done.pid}"):
        gaps += load_rank(path).gaps
    assert all(gap in run.gaps for gap in gaps)  # the run names what its parts do
    return Recorded(rank, gaps)


def lost_s(done: Done) -> float:
    """From the last step that the run has to the last one that the training noted, in seconds."""
    text = (done.cwd / "notes").read_bytes()
    last_ns = int.from_bytes(text[: len(text) // 8 * 8][-8:], "little")
    (rank,) = load_run(done.run).ranks
    header = read_records(rank.folder / "steps.jsonl").header
    assert header is not None
    kept_ns = int(rank.spans.of(SpanKind.BACKWARD).end_ns.max()) - header.wall_ns + header.mono_ns
    return (last_ns - kept_ns) * 1e-9


def diagnosis(done: Done) -> dict[str, Any]:
    """What `boundscope diagnose --json` says of the run."""
    command = [BOUNDSCOPE, "diagnose", "--json", "run"]
    answer = subprocess.run(command, cwd=done.cwd, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def assert_named(found: dict[str, Any], case: Case) -> None:
    """The diagnosis names the gap that the case expects."""
    if case.gap is None:
        return
    gaps = [gap for gap in found["missing"] if (gap["collector"], gap["reason"]) == case.gap]
    assert gaps, found["missing"]
    assert case.detail in gaps[0].get("detail", "")
