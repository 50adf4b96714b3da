"""Whatever breaks in the guest, the training does not notice, and the run says what is missing."""

from __future__ import annotations

import pytest

from .checks import assert_named, assert_unharmed, diagnosis, recorded
from .harness import Case, Runs

INSIDE = ("inside", "crashed")


def broken(fault: str, *words: str, **more: object) -> Case:
    more.setdefault("gap", INSIDE)
    more.setdefault("group", "inside")
    name = "-".join([fault.replace(":", "-"), *(word for word in words if word[0] != "-")])
    return Case(name, words, inside=fault, **more)


FORKED = [
    broken("raise:activate", steps=0),
    broken("raise:span", steps=0),
    broken("raise:sites"),
    broken("raise:ticker"),
    broken("raise:tick"),
    broken("raise:flush", steps=0),
    broken("raise:window-start"),
    broken("raise:window-stop"),
    broken("raise:window-export"),
    broken("raise:memory"),
    broken("raise:stacks"),
    broken("raise:before-fork", "--trick", "forks-many-workers"),
    broken("raise:close"),
    broken("hang:flush", steps=0),
    broken("hang:flush", "--trick", "forks-many-workers", steps=0),
    broken("hang:window-export", "--trick", "forks-many-workers"),
    broken("hang:window-export", "--trick", "profiles-for-a-while"),
    broken("hang:memory"),
    broken("hang:stacks"),
    broken("1:wait", "--steps", "30", steps=0),
    broken("1:flush", gap=None),
    broken("1:memory", gap=None),
    broken("1:window-export", gap=None),
]
ALONE = [
    broken("raise:arm", group="", steps=0),
    broken("raise:install", group="", steps=0),
    broken("raise:wait", "--optimizer", group=""),
    broken("raise:after-fork", "--workers", "2", group="", gap=None),
]


@pytest.mark.parametrize("case", FORKED, ids=str)
def test_with_(case: Case, runs: Runs) -> None:
    wrapped = assert_unharmed(case, runs)

    kept = recorded(wrapped)
    named = {(gap.collector, gap.reason) for gap in kept.gaps}
    assert (INSIDE in named) == (case.gap == INSIDE), named
    assert kept.steps >= case.steps


@pytest.mark.parametrize("case", ALONE, ids=str)
def test_alone_with_(case: Case, runs: Runs) -> None:
    wrapped = assert_unharmed(case, runs)

    found = diagnosis(wrapped)
    assert found["run"]["status"] == case.status
    assert found["run"]["steps"] >= case.steps
    assert_named(found, case)
