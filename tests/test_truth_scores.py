"""Every recorded run is judged anew: a change that spoils a verdict fails here at once."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from boundscope import sample_traces

ROOT = Path(__file__).resolve().parents[1]
NAMES = sample_traces.names()
ERROR_SLACK = 0.02
"""What a promise may move by without being called worse: a saving is stored to a tenth of that."""
MAX_RUN_BYTES = 300_000
MAX_ALL_BYTES = 15_000_000
MIN_RUNS = 60

needs_runs = pytest.mark.skipif(not NAMES, reason="no recorded runs in sample_traces/")


def truth_module(name: str) -> Any:
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return importlib.import_module(f"benchmarks.truth.{name}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recorded")


@cache
def scored(name: str, folder: Path) -> Any:
    """The row of a stored run, from its own truth alone."""
    return truth_module("judge").score_stored(name, folder)


@needs_runs
@pytest.mark.parametrize("name", NAMES)
def test_a_verdict_is_no_worse_than_it_was(name: str, folder: Path) -> None:
    stored = sample_traces.truth(name)["stored"]

    row = scored(name, folder)

    if stored["right"]:
        assert row.right, f"{name}: was {stored['bound']}, is {row.answer.bound}, not {row.truth}"
    if stored["regret"] is not None and row.answer.bound != "unknown":
        assert row.regret <= stored["regret"] + score_tie()
    if stored["error"] is not None and row.error is not None:
        assert row.error <= stored["error"] + ERROR_SLACK
    assert not row.false_alarm or stored["false_alarm"]


@needs_runs
def test_all_verdicts_together_are_no_worse_than_they_were(folder: Path) -> None:
    rows = [scored(name, folder) for name in NAMES]
    before = [sample_traces.truth(name)["stored"]["right"] for name in NAMES]

    assert sum(bool(row.right) for row in rows) >= sum(bool(right) for right in before)


@needs_runs
def test_enough_runs_are_recorded_on_both_sides() -> None:
    tuned = [sample_traces.truth(name)["tuned"] for name in NAMES]

    assert len(NAMES) >= MIN_RUNS
    assert min(tuned.count(True), tuned.count(False)) >= MIN_RUNS // 3


@needs_runs
def test_recorded_runs_are_small() -> None:
    sizes = {
        name: (sample_traces.FOLDER / name / sample_traces.ARCHIVE).stat().st_size for name in NAMES
    }

    assert max(sizes.values()) <= MAX_RUN_BYTES, max(sizes, key=lambda name: sizes[name])
    assert sum(sizes.values()) <= MAX_ALL_BYTES


@needs_runs
@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_run_shows_nothing_of_the_machine(name: str) -> None:
    archive = sample_traces.FOLDER / name / sample_traces.ARCHIVE

    assert truth_module("store").leaks_of(archive) == []


def test_an_unknown_run_is_refused() -> None:
    with pytest.raises(KeyError):
        sample_traces.truth("no-such-run")


def score_tie() -> float:
    tie: float = truth_module("score").TIE
    return tie
