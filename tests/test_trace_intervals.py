"""Interval algebra and nesting, against sets of points and a stack."""

from __future__ import annotations

from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from boundscope.profiler.trace import intervals
from boundscope.profiler.trace.intervals import (
    clip,
    covered,
    group_rows,
    in_pieces,
    intersect,
    merge,
    nest,
    nesting,
    one_after_another,
    self_time,
    subtract,
    total,
    union,
    union_of_chosen,
    union_of_rows,
)

Pairs = list[tuple[int, int]]

pairs = st.lists(st.tuples(st.integers(-20, 40), st.integers(-3, 15)), max_size=14).map(
    lambda items: [(start, start + length) for start, length in items]
)
events = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), max_size=16).map(
    lambda items: sorted(items, key=lambda item: (item[0], -item[1]))
)


def arrays(items: Pairs) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([a for a, _ in items], np.int64),
        np.array([b for _, b in items], np.int64),
    )


def points(found: tuple[np.ndarray, np.ndarray]) -> set[int]:
    """The whole numbers that half-open intervals hold: brute force."""
    return {
        p
        for start, end in zip(*(column.tolist() for column in found), strict=True)
        for p in range(start, end)
    }


def is_union(found: tuple[np.ndarray, np.ndarray]) -> bool:
    starts, ends = found
    return bool(np.all(starts < ends) and np.all(starts[1:] > ends[:-1]))


@given(pairs)
def test_a_union_holds_exactly_the_points_of_its_intervals(items: Pairs) -> None:
    given_intervals = arrays(items)

    found = union(*given_intervals)

    assert is_union(found)
    assert points(found) == points(given_intervals)
    assert total(found) == len(points(given_intervals))


@given(pairs, pairs)
def test_intersection_difference_and_merge_are_those_of_the_point_sets(
    first_items: Pairs, second_items: Pairs
) -> None:
    first, second = union(*arrays(first_items)), union(*arrays(second_items))

    with mock.patch.multiple(intervals, _BLOCK_ROWS=2, _PIECE_ROWS=2):
        both, only = intersect(first, second), subtract(first, second)
        pieces = [intersect(piece, second) for piece in in_pieces(first)]
    either = merge(first, second)

    assert is_union(only)
    assert points(one_after_another(pieces)) == points(both)
    assert points(both) == points(first) & points(second)
    assert points(only) == points(first) - points(second)
    assert points(either) == points(first) | points(second)
    assert all(map(is_union, (both, only, either)))


@given(pairs, st.integers(-25, 60), st.integers(0, 40))
def test_clipping_keeps_the_points_inside_the_window(items: Pairs, start: int, length: int) -> None:
    intervals = union(*arrays(items))

    clipped = clip(intervals, start, start + length)

    assert points(clipped) == points(intervals) & set(range(start, start + length))
    assert total(clipped) <= length


@given(pairs, pairs)
def test_coverage_of_windows_is_the_count_of_covered_points(items: Pairs, windows: Pairs) -> None:
    intervals = union(*arrays(items))
    windows = [(a, b) for a, b in windows if a <= b]

    found = covered(intervals, *arrays(windows))

    expected = [len(points(intervals) & set(range(a, b))) for a, b in windows]
    assert found.tolist() == expected


def stacked(items: Pairs) -> tuple[list[int], list[int], int]:
    """Parents, ends and clipped count by a stack: the definition of nesting."""
    parents, ends, stack, clipped = [], [], [], 0
    for index, (start, length) in enumerate(items):
        end = start + length
        while stack and (stack[-1][0] < start or (stack[-1][0] == start and end > start)):
            stack.pop()
        if stack and end > stack[-1][0]:
            end, clipped = stack[-1][0], clipped + 1
        parents.append(stack[-1][1] if stack else -1)
        ends.append(end)
        stack.append((end, index))
    return parents, ends, clipped


@settings(max_examples=500)
@given(events)
def test_nesting_is_that_of_a_stack_for_any_events_of_a_thread(items: Pairs) -> None:
    start, length = arrays(items)

    found = nest(start, length)

    parents, ends, clipped = stacked(items)
    assert found.parent.tolist() == parents
    assert found.end_ns.tolist() == ends
    assert found.clipped == clipped
    for index, parent in enumerate(parents):
        depth = 0 if parent < 0 else int(found.depth[parent]) + 1
        assert found.depth[index] == depth


@settings(max_examples=300)
@given(events)
def test_self_times_of_a_thread_sum_to_the_time_that_its_cut_events_cover(items: Pairs) -> None:
    start, length = arrays(items)

    exclusive = self_time(start, length)

    assert np.all(exclusive >= 0)
    assert int(exclusive.sum()) == total(union(start, nest(start, length).end_ns))


def test_a_hand_worked_call_tree_has_these_parents_depths_and_self_times() -> None:
    # a [0,100) holds b [10,40) and d [50,90); b holds c [20,30); e [120,130) stands alone
    start = np.array([0, 10, 20, 50, 120], np.int64)
    duration = np.array([100, 30, 10, 40, 10], np.int64)

    parent, depth = nesting(start, duration)
    exclusive = self_time(start, duration)

    assert parent.tolist() == [-1, 0, 1, 0, -1]
    assert depth.tolist() == [0, 1, 2, 1, 0]
    assert exclusive.tolist() == [30, 20, 10, 40, 10]


def test_a_child_that_outlives_its_parent_is_cut_at_its_parents_end() -> None:
    start = np.array([0, 5, 12], np.int64)
    duration = np.array([10, 10, 1], np.int64)

    found = nest(start, duration)

    assert found.parent.tolist() == [-1, 0, -1]
    assert found.end_ns.tolist() == [10, 10, 13]
    assert found.clipped == 1


def test_grouping_chosen_rows_gives_the_rows_themselves() -> None:
    threads = np.array([7, 3, 100_000, 7, 7], np.int32)

    groups = group_rows(threads, np.array([True, False, True, False, True]))

    assert {key: rows.tolist() for key, rows in groups.items()} == {7: [0, 4], 100_000: [2]}


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(-2, 9), st.booleans())),
    st.booleans(),
    st.sampled_from([1, 3, 100]),
)
def test_the_union_of_some_rows_is_that_of_their_intervals(
    rows: list[tuple[int, int, bool]], in_order: bool, block: int
) -> None:
    rows = sorted(rows) if in_order else rows
    start = np.array([s for s, _, _ in rows], np.int64)
    length = np.array([d for _, d, _ in rows], np.int64)
    chosen = np.array([c for _, _, c in rows], np.bool_)

    with mock.patch.object(intervals, "_BLOCK_ROWS", block):
        by_rows = union_of_chosen(start, length, np.flatnonzero(chosen))
        by_mask = union_of_rows(start, length, chosen)

    covered = {t for s, d, c in rows if c for t in range(s, s + d)}
    assert points(by_rows) == points(by_mask) == covered
    assert is_union(by_rows)
    assert is_union(by_mask)


@given(st.lists(st.integers(0, 5)))
def test_grouping_gives_every_row_once_and_in_order(keys: list[int]) -> None:
    column = np.array(keys, np.int64)

    groups = group_rows(column)

    assert sorted(row for rows in groups.values() for row in rows.tolist()) == list(
        range(len(keys))
    )
    for key, rows in groups.items():
        assert rows.tolist() == [i for i, k in enumerate(keys) if k == key]
