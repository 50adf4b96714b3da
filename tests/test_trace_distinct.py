"""Distinct rows of columns: the same as numpy's own, which sorts them."""

from __future__ import annotations

import numpy as np
import pytest

from boundscope.profiler.trace.distinct import distinct

RANGES = [
    [(-1, 5)],
    [(0, 1), (-1, 0)],
    [(-1, 30), (-1, 7), (0, 400)],
    [(0, 100_000), (-1, 100_000)],  # combinations by far too many for a table
    [(0, 2**62), (-(2**40), 2**40), (0, 3)],  # values too far apart for one
    [(-(2**62), 2**62), (-(2**62), 2**62)],
]


@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize("rows", [0, 1, 7, 5_000])
def test_as_numpy_finds_them(ranges: list[tuple[int, int]], rows: int) -> None:
    random = np.random.default_rng(len(ranges) + rows)
    columns = [random.integers(*bounds, size=rows) for bounds in ranges]
    if rows > 100:  # rows that come again
        columns = [np.concatenate((column, column[: rows // 3])) for column in columns]
    groups, place = distinct(*columns)
    whole, inverse = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    assert groups.tolist() == whole.tolist()
    assert place.tolist() == inverse.reshape(-1).tolist()


def test_narrow_columns_of_different_kinds() -> None:
    names = np.array([3, 3, 30_000, 3], np.int16)
    others = np.array([-1, 2**31 - 1, -1, -1], np.int32)
    groups, place = distinct(names, others)
    assert groups.tolist() == [[3, -1], [3, 2**31 - 1], [30_000, -1]]
    assert place.tolist() == [0, 1, 2, 0]
