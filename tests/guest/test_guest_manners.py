"""A script that looks closely finds everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from boundscope.collectors.records import SpanKind


@pytest.fixture(scope="module")
def wrapped(guest_run: Callable[..., Any]) -> Any:
    return guest_run("manners.py", "wrapped")


def test_pickles_graphs_threads_and_forks_are_as_without_the_guest(
    wrapped: Any, guest_run: Callable[..., Any]
) -> None:
    plain = guest_run("manners.py", plain=True)

    assert plain.code == wrapped.code == 0, wrapped.stderr
    assert "graphs ('modes', []," in plain.stdout
    assert wrapped.stdout == plain.stdout


def test_a_fork_in_a_window_ends_it_and_it_is_tried_again(wrapped: Any) -> None:
    (rank,) = wrapped.run.ranks

    assert "forked in a window: True" in wrapped.stderr
    assert any(window.truncated for window in rank.windows)
    assert any(not window.truncated for window in rank.windows)
    assert len(wrapped.rank_folders) == 2  # the forked child trained too
    assert rank.gaps == []


def test_what_other_threads_read_is_kept_apart_from_the_loop(wrapped: Any) -> None:
    (rank,) = wrapped.run.ranks

    assert len(rank.spans.of(SpanKind.LOADER)) == 8  # twice all by the main thread
