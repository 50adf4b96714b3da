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

hypothesis.settings.register_profile("unhurried", hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("unhurried")  # other programs may slow an example at any time


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
