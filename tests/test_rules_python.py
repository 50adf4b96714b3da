"""Python that calls no op, told apart from the dispatch of tiny ops."""

from __future__ import annotations

from dataclasses import replace

import pytest

from boundscope.collectors.records import Window
from boundscope.profiler.features import RankFeatures
from boundscope.profiler.trace.host import HostWindow, PhaseTime

from .rule_material import MS, diagnosed, elementwise, rank_of, with_shares


def with_window(rank: RankFeatures, **rest: PhaseTime) -> RankFeatures:
    """The rank with one trace window, whose phases are given."""
    steady = rank.timeline.start_ns[0], rank.timeline.end_ns[0]
    window = Window(0, int(steady[0]), int(steady[1]), 0, 1)
    divided = HostWindow(rest, rank.ops, [], window.start_ns, window.end_ns)
    phases = dict.fromkeys(rank.phase_ms, 0.0) | {"rest": 100.0}
    return replace(rank, windows=[(window, divided)], phase_ms=phases, window_ms=100.0)


@pytest.mark.parametrize(
    ("python_ms", "calls", "shares"),
    [
        (40.0, 300, {"python-in-loop": 0.4, "tiny-ops": 0.3}),
        (2.0, 300, {"tiny-ops": 0.7}),
        (68.0, 300, {"python-in-loop": 0.7}),
        (40.0, 20, {"python-in-loop": 0.7}),
        (0.06, 150, {"python-in-loop": 0.7}),
    ],
)
def test_python_that_calls_no_op_is_told_apart_from_tiny_ops(
    python_ms: float, calls: int, shares: dict[str, float]
) -> None:
    op = replace(
        elementwise("aten::add", 1, calls=calls), slot="host", self_ns=9.0 * MS, work_ns=0.0
    )
    rank = with_shares(rank_of([op], "host"), host=0.7, compute=0.3)
    slots = {"host": 70.0 * MS, "compute": 30.0 * MS}
    phase = PhaseTime(100 * MS, calls, slots, python_ns=python_ms * MS, gaps=4)

    found = diagnosed(with_window(rank, rest=phase)).findings

    host = {each.id: each.saving.mid for each in found if each.bound == "host"}
    assert host == pytest.approx(shares, abs=0.01)
    if "python-in-loop" in shares and python_ms > 1:
        text = next(each for each in found if each.id == "python-in-loop").evidence[0]
        assert text.value == pytest.approx(python_ms, abs=0.1)
        assert "4 times a step" in text.text


def test_what_garbage_collection_takes_is_taken_from_neither() -> None:
    op = replace(elementwise("aten::add", 1, calls=300), slot="host", self_ns=9 * MS, work_ns=0.0)
    rank = with_shares(rank_of([op], "host"), host=0.7, compute=0.3)
    slots = {"host": 40.0 * MS, "compute": 30.0 * MS}
    phase = PhaseTime(70 * MS, 300, slots, python_ns=30 * MS, gaps=4)
    rank = with_window(rank, rest=phase)
    rank = replace(rank, phase_ms={**rank.phase_ms, "rest": 70.0, "garbage": 30.0})

    host = {f.id: f.saving.mid for f in diagnosed(rank).findings if f.bound == "host"}

    wanted = {"garbage-collection": 0.3, "python-in-loop": 0.3, "tiny-ops": 0.1}
    assert host == pytest.approx(wanted, abs=0.01)


def test_what_a_log_takes_is_no_python_of_the_host() -> None:
    rank = with_shares(rank_of([], "host"), host=0.1, storage=0.3, compute=0.6)
    slots = {"host": 40.0 * MS, "compute": 60.0 * MS}
    phase = PhaseTime(100 * MS, 9, slots, python_ns=32.0 * MS, gaps=4)

    found = replace(with_window(rank, rest=phase), logged=0.3)

    # Of 32 ms without an op 30 went into the log: 2 of the 10 that are left of the host.
    assert found.python_share == pytest.approx(0.2)


def test_python_of_optimizers_and_of_autograd_is_not_the_script_s() -> None:
    rank = with_shares(rank_of([], "host"), host=0.7, compute=0.3)
    phase = PhaseTime(100 * MS, 9, {"host": 70.0 * MS}, python_ns=60.0 * MS, gaps=4)

    assert with_window(rank, rest=phase).python_share > 0.5
    assert with_window(rank, optimizer=phase, backward=phase).python_share == 0.0
