"""The script's own profiler works as without the guest; the guest's windows give way to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def wrapped(guest_run: Callable[..., Any]) -> Any:
    return guest_run("profiled.py", "wrapped")


def test_traces_of_the_scripts_own_profiler_are_complete(
    wrapped: Any, guest_run: Callable[..., Any]
) -> None:
    plain = guest_run("profiled.py", plain=True)

    assert (wrapped.code, plain.code) == (0, 0), wrapped.stderr
    assert "met another window: True" in wrapped.stderr
    assert wrapped.stdout == plain.stdout
    assert len(plain.stdout.splitlines()) == 42
    assert plain.stdout.startswith("('at once', 1)\n([4, 5, 6], 3)\n")


def test_the_guest_says_which_window_was_cut_short_and_takes_another_later(wrapped: Any) -> None:
    (rank,) = wrapped.run.ranks

    first, *later = rank.windows

    assert first.truncated
    assert any(not window.truncated and window.events > 0 for window in later)
    assert rank.gaps == []
