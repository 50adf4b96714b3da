"""All cases of the session run in the background, some at a time; each test waits for its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .harness import Case, Runs

CASES = pytest.StashKey[list[Case]]()
PATIENCE_S = 1_800


@pytest.hookimpl(trylast=True)  # after -k has chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note the cases that this session will ask for."""
    cases = config.stash.setdefault(CASES, [])
    for item in items:
        case = getattr(item, "callspec", None) and item.callspec.params.get("case")
        if isinstance(case, Case) and not case.needs():
            cases.append(case)
            # Runs have their own limits, and one that others wait for is nobody's fault.
            item.add_marker(pytest.mark.timeout(PATIENCE_S))


@pytest.fixture(autouse=True)
def _no_process_left() -> None:
    """In place of the check of all tests: here each case looks at its own session."""


@pytest.fixture(autouse=True)
def _run_anew(request: pytest.FixtureRequest) -> None:
    """A test that failed and is run once more gets runs of its own, not those that it failed on."""
    case = getattr(request.node, "callspec", None) and request.node.callspec.params.get("case")
    if isinstance(case, Case) and getattr(request.node, "execution_count", 1) > 1:
        request.getfixturevalue("runs").forget(case)


@pytest.fixture(scope="session")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runs]:
    """The runs of all cases, begun."""
    started = Runs(tmp_path_factory.mktemp("faults"), request.config.stash.get(CASES, []))
    yield started
    started.close()
