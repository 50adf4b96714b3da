"""What every test shares: its environment is clean, and it leaves no process behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

ENDING_S = 3.0
"""Time that a child gets to end after its test did."""
HELPERS = ("chromium", "chrome", "multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Processes that Python keeps for a whole program on purpose."""

SIDE_BY_SIDE = (
    "test_after_step",
    "test_aftermath",
    "test_alike",
    "test_bundle",
    "test_catalogue",
    "test_command_line",
    "test_compare",
    "test_contradictions",
    "test_corpus_",
    "test_costs",
    "test_dashboard_",
    "test_device_",
    "test_diagnose_several",
    "test_error_slugs",
    "test_every_bound",
    "test_foreign_traces_page",
    "test_fresh_pages",
    "test_host_division",
    "test_logs",
    "test_neighbours",
    "test_no_pickle",
    "test_origins",
    "test_preparation",
    "test_recorded_facts",
    "test_redact.",
    "test_redact_forms",
    "test_report_html",
    "test_rules_advice",
    "test_rules_device",
    "test_rules_documented",
    "test_rules_exchange",
    "test_rules_families",
    "test_rules_loop",
    "test_rules_ops",
    "test_rules_python",
    "test_rules_recorded",
    "test_rules_waits",
    "test_run_",
    "test_served_files",
    "test_share",
    "test_stalls",
    "test_straggler",
    "test_terminal_report",
    "test_timeline",
    "test_trace_",
    "test_truth_scores",
    "test_unknown_runs",
    "test_verdict.",
    "test_whatif",
)
"""How the files are called whose tests compute, draw what was recorded, or read what a program
left: nothing is timed, and no verdict depends on how fast a program ran beside others. All other
tests run one after the other."""

hypothesis.settings.register_profile("unhurried", hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("unhurried")  # other programs may slow an example at any time


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name.startswith(SIDE_BY_SIDE):
            item.add_marker(pytest.mark.side_by_side)


@pytest.fixture
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    before = {child.pid for child in children()}
    yield
    deadline = time.monotonic() + ENDING_S
    left = [child for child in children() if child.pid not in before]
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [child for child in left if is_working(child)]
    names = [describe(child) for child in left]
    for child in left:
        child.kill()
    assert not names, f"the test left processes running: {names}"


def children() -> list[psutil.Process]:
    """Processes below this one that still work and are not Python's own helpers."""
    found = psutil.Process(os.getpid()).children(recursive=True)
    return [child for child in found if is_working(child) and not is_helper(child)]


def is_working(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_helper(process: psutil.Process) -> bool:
    return any(helper in describe(process) for helper in HELPERS)


def describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid}: {' '.join(process.cmdline())}"
    except psutil.Error:
        return f"{process.pid}: ?"
