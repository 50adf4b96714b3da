"""The distinct combinations of several columns of numbers, and which row has which."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .table import Int64

_TABLE_ROWS = 8
"""Entries of a table of combinations, for each row, up to which it takes less time than sorting."""

_LEAST_TABLE = 1 << 16
_WIDE = 1 << 31  # a column's range beyond which products of ranges could exceed 63 bits


def distinct(*columns: npt.NDArray[np.integer[Any]]) -> tuple[Int64, Int64]:
    """Return (the distinct rows of the columns, sorted; for each row the index of its own).

    As `np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)`, which sorts rows as
    bytes: indices of names, threads and signatures lie close together and need no sorting.
    """
    place: Int64 = np.zeros(len(columns[0]), np.int64)
    found: list[Int64] = []
    size = min(1, len(place))
    for column in columns:
        values, number = _numbered(column)
        codes, place = _dense(place * len(values) + number, size * len(values))
        before, last = np.divmod(codes, max(1, len(values)))
        found = [*(earlier[before] for earlier in found), values[last]]
        size = len(codes)
    return np.stack(found, axis=1), place


def _numbered(column: npt.NDArray[np.integer[Any]]) -> tuple[Int64, Int64]:
    """Return (the values a column may have, ascending; for each row the index of its value)."""
    if not len(column):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    least, most = int(column.min()), int(column.max())
    if most - least >= min(_WIDE, max(_LEAST_TABLE, _TABLE_ROWS * len(column))):
        values, number = np.unique(column.astype(np.int64), return_inverse=True)
        return values, number.reshape(-1)
    return np.arange(least, most + 1, dtype=np.int64), column.astype(np.int64) - least


def _dense(codes: Int64, size: int) -> tuple[Int64, Int64]:
    """Return (the codes that occur, ascending; for each row the index of its code).

    `size` is above every code.
    """
    if size > max(_LEAST_TABLE, _TABLE_ROWS * len(codes)):
        occurring, place = np.unique(codes, return_inverse=True)
        return occurring, place.reshape(-1)
    seen = np.zeros(size, np.bool_)
    seen[codes] = True
    occurring = np.flatnonzero(seen)
    number = np.empty(size, np.int32)
    number[occurring] = np.arange(len(occurring), dtype=np.int32)
    return occurring, number[codes].astype(np.int64)
