"""Steps, phases and start-up from spans: hand-worked cases, and properties of any recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boundscope.collectors.inside.ticks import StepTicker
from boundscope.collectors.records import SpanKind
from boundscope.profiler.run.load import RankData, SpanTable
from boundscope.profiler.timeline import PHASES, Timeline, build_timeline

KINDS = [value for name, value in vars(SpanKind).items() if not name.startswith("_")]

Span = tuple[str, int, int, int]
"""Kind, start ns, duration ns, detail."""


def rank_of(spans: list[Span]) -> RankData:
    ordered = sorted(spans, key=lambda span: (span[1], -span[2]))
    columns = [np.array([span[i] for span in ordered], np.int64) for i in (1, 2, 3)]
    kinds = np.array([ord(span[0]) for span in ordered], np.uint8)
    return RankData(0, 1, "host", Path(), SpanTable(kinds, *columns), [], [], None, [], [])


def line_of(spans: list[Span]) -> Timeline:
    line = build_timeline(rank_of(spans))
    assert line is not None
    return line


def steps_of(pattern: list[int], repeats: int, period: int = 100) -> list[Span]:
    """Optimizer steps in the order of `pattern`, each 10 ns long, one every `period` ns."""
    order = pattern * repeats
    return [("o", index * period, 10, optimizer) for index, optimizer in enumerate(order)]


spans = st.lists(
    st.tuples(
        st.sampled_from(KINDS), st.integers(0, 10_000), st.integers(0, 3_000), st.integers(0, 3)
    ),
    max_size=60,
)


@given(spans)
def test_phases_of_every_step_are_disjoint_and_sum_to_its_duration(found: list[Span]) -> None:
    line = build_timeline(rank_of(found))

    if line is not None:
        total = sum(line.phase_ns.values())
        assert list(line.phase_ns) == list(PHASES)
        assert all((times >= 0).all() for times in line.phase_ns.values())
        np.testing.assert_array_equal(total, line.duration_ns)


@given(spans)
def test_steps_follow_each_other_without_a_gap(found: list[Span]) -> None:
    line = build_timeline(rank_of(found))

    if line is not None:
        assert len(line) >= 1
        np.testing.assert_array_equal(line.end_ns[:-1], line.start_ns[1:])


@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=50))
def test_start_up_is_a_prefix_and_at_most_a_quarter(durations: list[int]) -> None:
    ends = np.cumsum([0, *durations])
    line = line_of([("u", int(end), 0, 0) for end in ends])

    first = int(np.argmax(line.steady))

    assert line.steady[first:].all()
    assert not line.steady[:first].any()
    assert first <= max(1, len(durations) / 4)


def test_start_up_ends_with_the_first_calm_step() -> None:
    durations = [5000, 900, 300, 100, 100, 250, *[100] * 20]
    ends = np.cumsum([0, *durations])

    line = line_of([("u", int(end), 0, 0) for end in ends])

    assert line.steady.tolist() == [False] * 3 + [True] * 23


def test_overlapping_spans_count_once_by_precedence() -> None:
    found: list[Span] = [
        ("o", 0, 100, 0),
        ("l", 100, 200, 0),  # loader 100 to 300, a collection of garbage within it
        ("g", 150, 50, 0),
        ("b", 400, 300, 0),  # backward 400 to 700, another one within it
        ("g", 500, 100, 0),
        ("o", 800, 200, 0),
    ]

    line = line_of(found)

    assert {phase: times.tolist() for phase, times in line.phase_ns.items() if times.any()} == {
        "loader": [200.0],
        "garbage": [100.0],
        "backward": [200.0],
        "optimizer": [200.0],
        "rest": [200.0],
    }


@pytest.mark.parametrize(
    ("pattern", "closing", "count"),
    [
        ([0], 0, 24),
        ([0, 1], 1, 12),
        ([0, 0, 0, 0, 0, 1], 1, 4),
        ([1, 0, 0, 0, 0, 0], 1, 4),
        ([0, 1, 2], 2, 8),
        ([0, 0, 1, 2], 2, 6),
    ],
)
def test_the_rarest_optimizer_ends_a_step(pattern: list[int], closing: int, count: int) -> None:
    found = steps_of(pattern, 24 // len(pattern))

    line = line_of(found)

    expected = [start + 10 for _, start, _, index in found if index == closing]
    assert [*line.start_ns, line.end_ns[-1]] == expected
    assert len(expected) == count


def test_among_equals_the_one_before_the_loader_ends_a_step() -> None:
    steps = steps_of([0, 1], 12)
    waits: list[Span] = [("l", start + 20, 30, 0) for _, start, _, index in steps if index == 0]

    line = line_of(steps + waits)

    assert line.end_ns.tolist() == [210 + 200 * i for i in range(11)]


def test_an_optimizer_that_steps_now_and_then_ends_no_step() -> None:
    found = [*steps_of([0], 60), ("o", 1550, 10, 1), ("o", 4550, 10, 1)]

    line = line_of(found)

    assert len(line) == 59


def test_optimizers_of_one_phase_after_the_other_all_end_steps() -> None:
    found = [*steps_of([0], 10), *[("o", 1000 + 100 * i, 10, 1) for i in range(4)]]

    line = line_of(found)

    assert len(line) == 13


def test_the_loader_that_gave_most_ends_steps_where_there_is_no_optimizer() -> None:
    found: list[Span] = [("l", 100 * i, 10, 0) for i in range(10)]
    found += [("l", 100 * i + 50, 10, 1) for i in range(0, 10, 5)]

    line = line_of(found)

    assert line.source == "batch"
    assert line.start_ns.tolist() == [100 * i for i in range(9)]


def test_evaluation_holds_only_where_no_training_went_on() -> None:
    found: list[Span] = [
        *[("o", 1000 * i, 10, 0) for i in range(6)],
        *[("b", 1000 * i + 900, 50, 0) for i in range(6)],
        ("e", 1100, 300, 0),  # eval() to train() within a step
        ("e", 2100, 1000, 0),  # a backward pass between
        ("v", 3100, 10, 0),  # three batches without gradients, each up to the next request
        ("v", 3200, 10, 0),
        ("z", 3300, 5, 0),
        ("v", 4850, 10, 0),  # the next request comes after a backward pass
        ("l", 5100, 10, 0),
    ]

    line = line_of(found)

    assert line.phase_ns["evaluation"].tolist() == [0, 300, 0, 205, 0]


def trained_steps(count: int) -> list[Span]:
    """Steps of 1000 ns: a call from 500 to 600, a backward pass up to 900, an optimizer's step."""
    steps: list[Span] = [("o", 0, 10, 0)]
    for i in range(count):
        steps += [("f", 1000 * i + 500, 100, 0), ("b", 1000 * i + 600, 300, 0)]
        steps.append(("o", 1000 * i + 990, 20, 0))
    return steps


def test_passes_without_gradients_between_steps_are_evaluation_from_the_first_to_the_last() -> None:
    found = [
        *trained_steps(6),
        ("f", 2100, 50, 1),  # three calls in the third step, before it trains
        ("f", 2200, 50, 1),
        ("f", 2300, 40, 1),
        ("f", 4700, 50, 1),  # within a backward pass
        ("f", 5950, 20, 1),  # after a backward pass: a part of the step
    ]

    line = line_of(found)

    assert line.phase_ns["evaluation"].tolist() == [0, 0, 240, 0, 0, 0]
    # From the end of the optimizer's step at 2010 to the call at 500, less the validation.
    assert line.phase_ns["preparation"][2] == 490 - 240


@pytest.mark.parametrize(("every", "evaluation"), [(1, 0), (2, 150)])
def test_passes_without_gradients_in_most_steps_are_part_of_them(
    every: int, evaluation: int
) -> None:
    """A teacher's, or a generator's: validation comes now and then."""
    calls: list[Span] = [("f", 1000 * i + 200, 50, 1) for i in range(0, 6, every)]

    line = line_of([*trained_steps(6), *calls])

    assert line.phase_ns["evaluation"].sum() == evaluation


def test_less_than_two_step_ends_are_no_timeline() -> None:
    assert build_timeline(rank_of([])) is None
    assert build_timeline(rank_of([("o", 5, 5, 0), ("b", 1, 2, 0)])) is None


patterns = st.lists(st.integers(1, 12), max_size=3).map(
    lambda counts: [index for index, count in enumerate([*counts, 1]) for _ in range(count)]
)
"""Loops in which some optimizers step several times, and then the last one once."""


@given(patterns, st.integers(10, 20))
def test_the_ticker_settles_on_the_optimizer_that_the_timeline_finds(
    pattern: list[int], repeats: int
) -> None:
    found = steps_of(pattern, repeats)
    ticker = StepTicker()
    half = len(found) // 2 * 100

    ticks = [start + 10 for _, start, _, index in found if ticker.optimizer(index)]

    line = line_of(found)
    ends = [int(end) for end in (line.start_ns[0], *line.end_ns)]
    assert [tick for tick in ticks if tick > half] == [end for end in ends if end > half]
    assert len(ends) == repeats


def test_the_ticker_follows_a_loop_that_changes_its_optimizer() -> None:
    ticker = StepTicker()

    for fold in range(4):
        ticks = [ticker.optimizer(fold) for _ in range(100 + 50 * fold)]
        assert all(ticks[60:])


def test_batches_and_backward_passes_tick_only_without_an_optimizer() -> None:
    loop, resident, optimized = StepTicker(), StepTicker(), StepTicker()

    for _ in range(10):
        loop.batch(0)
        loop.batch(1)
        loop.backward()
        resident.backward()
        optimized.optimizer(0)
        optimized.batch(0)
        optimized.backward()

    assert (loop.count, resident.count, optimized.count) == (7, 7, 10)


def test_marks_of_the_user_replace_all_others() -> None:
    ticker = StepTicker()

    before = [ticker.optimizer(0), ticker.user()]
    after = [ticker.optimizer(0), ticker.batch(0), ticker.backward(), ticker.user()]

    assert before == [True, True]
    assert after == [False, False, False, True]
