"""What goes wrong in the callback of a garbage collection, which the interpreter would print."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, cast

import pytest

from boundscope.collectors.inside.garbage import GarbagePauses
from boundscope.collectors.inside.recorder import Recorder


class Keeper:
    """As much of a recorder as the pauses need; `keep` stands for what keeping a span does."""

    def __init__(self, keep: Callable[[], None]) -> None:
        self.keep = keep
        self.kept = 0
        self.crashes: list[str] = []

    def span(self, *_: Any) -> None:
        self.kept += 1
        self.keep()

    def crashed(self, _collector: str, effect: str) -> None:
        self.crashes.append(effect)


class Timeout(Exception):
    """A script's own."""


def ring(_number: int, _frame: FrameType | None) -> None:
    raise Timeout


def planted() -> None:
    raise RuntimeError("planted")


@pytest.fixture
def alarm() -> Iterator[None]:
    previous = signal.signal(signal.SIGALRM, ring)
    yield
    signal.signal(signal.SIGALRM, previous)


def long_pause(pauses: GarbagePauses) -> None:
    pauses._on_collection("start", {})
    pauses._start -= 10**9
    pauses._on_collection("stop", {})


def test_a_pause_that_cannot_be_kept_is_named_once_and_raises_nothing() -> None:
    keeper = Keeper(planted)
    pauses = GarbagePauses(cast("Recorder", keeper))
    pauses.close()

    long_pause(pauses)
    long_pause(pauses)

    assert keeper.kept == 1
    assert len(keeper.crashes) == 1


def test_what_a_signal_handler_of_the_script_raises_there_is_passed_on(alarm: None) -> None:
    keeper = Keeper(lambda: signal.raise_signal(signal.SIGALRM))
    pauses = GarbagePauses(cast("Recorder", keeper))
    pauses.close()

    with pytest.raises(Timeout):
        long_pause(pauses)

    assert keeper.crashes == []
