"""Whatever a training script does to its own process, it does the same under boundscope."""

from __future__ import annotations

import pytest

from .checks import assert_named, assert_unharmed, diagnosis, recorded
from .harness import Case, Runs


def played(trick: str, *words: str, **more: object) -> Case:
    return Case(trick, ("--trick", trick, *words), **more)


def forked(trick: str, **more: object) -> Case:
    return played(trick, group="scripts", **more)


FORKED = [
    forked("nothing"),
    # At step 110: of 6 ms each 40 fit into the quarter of a second between two flushes, and the
    # promise is that no more than a second is lost; a busy machine gets twice that quarter.
    forked("exits-at-once", steps=30),
    forked("becomes-another-program", steps=30),
    forked("goes-on-in-the-background", steps=0),
    forked("forks-many-workers"),
    forked("handles-signals-itself"),
    forked("raises-from-a-signal-handler"),
    forked("traces-every-line"),
    forked("profiles-every-call"),
    forked("counts-its-threads"),
    forked("closes-all-descriptors"),
    forked("goes-to-another-folder"),
    forked("patches-torch-itself"),
    forked("profiles-with-torch", gap=("windows", "not-supported")),
    forked("scripts-the-model"),
    forked("runs-out-of-memory"),
    forked("hangs-in-a-step"),
    forked("hangs-in-a-profiler-window"),
    forked("forks-children-that-leave-in-good-order"),
    forked("fails-at-exit"),
    forked("starts-programs"),
]
ALONE = [
    played("starts-itself-again", steps=50),
    played("hooks-exceptions", status="failed"),
    played("forgets-its-environment", "--optimizer"),
    played("compiles-the-model"),
    played("imports-twice", gap=("windows", "not-supported")),
]


@pytest.mark.parametrize("case", FORKED, ids=str)
def test_a_script_that_(case: Case, runs: Runs) -> None:
    wrapped = assert_unharmed(case, runs)

    kept = recorded(wrapped)
    named = {(gap.collector, gap.reason) for gap in kept.gaps}
    assert named == ({case.gap} if case.gap else set())
    assert kept.steps >= case.steps


@pytest.mark.parametrize("case", ALONE, ids=str)
def test_alone_a_script_that_(case: Case, runs: Runs) -> None:
    wrapped = assert_unharmed(case, runs)

    found = diagnosis(wrapped)
    assert found["run"]["status"] == case.status
    assert found["run"]["steps"] >= case.steps
    assert_named(found, case)


def test_a_run_of_all_these_loads(runs: Runs) -> None:
    found = diagnosis(runs.whole_group("scripts"))

    assert found["run"]["status"] == "finished"
    assert len(found["ranks"]) >= len(FORKED) - 3
