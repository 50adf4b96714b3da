"""Whatever breaks in the launcher, the training does not notice, and the run names the gap."""

from __future__ import annotations

import pytest

from .checks import assert_named, assert_unharmed, diagnosis
from .harness import SCRIPTS, Case, Runs

COLLECTORS = {"gpu", "host", "network", "power", "stacks", "storage"}


def broken(fault: str, **more: object) -> Case:
    more.setdefault("gap", ("host", "crashed"))
    return Case(f"launcher-{fault.replace(':', '-')}", launcher=fault, **more)


EVERY = [
    broken(f"{kind}:{method}", detail="planted" if kind == "raise" else "hangs")
    for kind in ("raise", "hang")
    for method in ("probe", "start", "sample", "stop")
]
OTHERS = [
    broken("late:sample", gap=None),
    broken("late:start", gap=None),
    broken("raise:facts", gap=None),
    broken("hang:facts", gap=None),
    broken("raise:supervisor", gap=("beside", "crashed"), detail="planted"),
    broken("py-spy:", gap=("stacks", "not-installed")),
]


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_every_collector_at_once_(case: Case, runs: Runs) -> None:
    wrapped = assert_unharmed(case, runs)

    found = diagnosis(wrapped)
    named = {gap["collector"] for gap in found["missing"]}
    assert found["run"]["steps"] >= case.steps
    assert named >= COLLECTORS - {"gpu", "power"}  # which may have no data here anyway
    assert_named(found, case)


@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_with_(case: Case, runs: Runs) -> None:
    wrapped = assert_unharmed(case, runs)

    found = diagnosis(wrapped)
    assert found["run"]["steps"] >= case.steps
    assert_named(found, case)


PY_SPIES = [
    Case(
        f"py-spy-that-{how}",
        launcher=f"py-spy:{SCRIPTS / how}",
        gap=gap,
        detail=detail,
    )
    for how, gap, detail in (
        ("is-refused", ("stacks", "no-permission"), "Permission"),
        ("hangs", ("stacks", "not-supported"), "py-spy"),
        ("writes-nonsense", ("stacks", "not-supported"), "cannot be read"),
    )
]


@pytest.mark.parametrize("case", PY_SPIES, ids=str)
def test_with_a_(case: Case, runs: Runs) -> None:
    wrapped = assert_unharmed(case, runs)

    assert_named(diagnosis(wrapped), case)
