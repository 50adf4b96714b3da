"""The table's helpers: events by category, values by index, ids contained in others, and what is
found once."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from boundscope.profiler.trace.table import Category, Events, Trace, contains, looked_up

ids = st.lists(st.one_of(st.integers(-1, 20), st.integers(-1, 2**40)), max_size=30)


@given(ids, ids)
def test_contained_ids_are_found_near_together_and_far_apart(
    known: list[int], values: list[int]
) -> None:
    found = contains(np.array(known, np.int64), np.array(values, np.int64))

    assert found.tolist() == [value >= 0 and value in known for value in values]


def test_narrow_columns_do_not_overflow() -> None:
    known = np.array([2**31 - 1, 5, -1], np.int32)

    assert contains(known, np.array([-1, 5, 2**31 - 1, 6], np.int32)).tolist() == [
        False,
        True,
        True,
        False,
    ]


def test_values_are_looked_up_over_many_blocks() -> None:
    random = np.random.default_rng(3)
    index = random.integers(0, 50, 300_001).astype(np.int16)
    for values in (random.random(50) < 0.2, np.arange(50, dtype=np.int32)):
        found = looked_up(values, index)
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values[index])


def _trace(category: np.ndarray) -> Trace:
    other = np.zeros(len(category), np.int64)
    events = Events(other, other, category, *[other] * 9)  # type: ignore[arg-type]
    return Trace("", events, ["op"], [], [], [])


def test_events_are_chosen_by_category_over_many_blocks() -> None:
    category = np.random.default_rng(5).integers(0, 15, 300_001).astype(np.uint8)
    events = _trace(category).events

    np.testing.assert_array_equal(events.of(Category.KERNEL), category == 6)
    chosen = events.of(Category.COLLECTIVE, Category.OTHER, Category.DRIVER)
    np.testing.assert_array_equal(chosen, np.isin(category, (14, 0, 5)))


def test_what_is_found_once_is_not_looked_for_again_unless_forgotten() -> None:
    trace, asked = _trace(np.zeros(3, np.uint8)), []

    def find(of: Trace) -> int:
        asked.append(of)
        return len(of.events)

    assert [trace.once("length", find), trace.once("length", find)] == [3, 3]
    assert asked == [trace]
    trace.forget("length")
    trace.forget("never found")
    assert trace.once("length", find) == 3
    assert len(asked) == 2
    assert dataclasses.replace(trace, path="another").once("length", find) == 3
    assert len(asked) == 3
