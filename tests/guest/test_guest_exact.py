"""The training is the same with the guest inside as without it, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from boundscope.collectors.records import SpanKind


@pytest.fixture(scope="module")
def plain(guest_run: Callable[..., Any]) -> Any:
    return guest_run("exact.py", plain=True)


@pytest.fixture(scope="module")
def wrapped(guest_run: Callable[..., Any]) -> Any:
    return guest_run("exact.py")


def test_losses_streams_and_random_states_are_bit_identical(plain: Any, wrapped: Any) -> None:
    assert plain.code == wrapped.code == 0
    assert wrapped.stdout == plain.stdout
    assert wrapped.stderr == plain.stderr


def test_it_was_so_through_trace_windows(wrapped: Any) -> None:
    (rank,) = wrapped.run.ranks

    reasons = [window.reason for window in rank.windows]

    assert reasons[0] == "probe"
    assert "warm" in reasons
    assert all(rank.trace_path(window) for window in rank.windows)
    assert all(window.events > 0 for window in rank.windows)


def test_all_steps_and_waits_were_recorded(wrapped: Any) -> None:
    (rank,) = wrapped.run.ranks

    assert len(rank.spans.of(SpanKind.OPTIMIZER)) == 240
    assert len(rank.spans.of(SpanKind.BACKWARD)) == 240
    assert len(rank.spans.of(SpanKind.LOADER)) == 240
    assert rank.gaps == []


def test_loader_workers_leave_nothing(wrapped: Any) -> None:
    (node,) = wrapped.folder.glob("node-*")

    assert len(wrapped.rank_folders) == 1
    assert len(list(node.iterdir())) == 1
