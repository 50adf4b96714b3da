"""The columns' helpers: categories by table, and ids that are contained in others."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from boundscope.profiler.trace.table import contains

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
