"""What goes wrong in the training looks as it does without the guest."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def plain(guest_run: Callable[..., Any]) -> Any:
    return guest_run("failing.py", plain=True)


def without_pids(text: str) -> str:
    return re.sub(r"pid\(s\) \d+", "pid(s) N", text)


def test_tracebacks_and_exit_statuses_are_identical(
    plain: Any, guest_run: Callable[..., Any]
) -> None:
    wrapped = guest_run("failing.py")

    assert len(plain.stdout.splitlines()) == 11
    assert plain.stderr.count("Traceback (most recent call last)") >= 11
    assert "it did not fail" not in plain.stderr
    assert wrapped.stdout == plain.stdout
    assert without_pids(wrapped.stderr) == without_pids(plain.stderr)


@pytest.mark.parametrize("when", ["own-hook-before", "own-hook-after"])
def test_the_scripts_own_excepthook_is_called(guest_run: Callable[..., Any], when: str) -> None:
    wrapped = guest_run("failing.py", when)

    hooks = [line for line in wrapped.stdout.splitlines() if line.startswith("own hook")]

    assert len(hooks) == 3
    assert hooks[0].startswith("own hook ArithmeticError")
    assert "Traceback (most recent call last)" not in wrapped.stderr
