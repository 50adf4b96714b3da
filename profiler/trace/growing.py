"""Columns that grow in place: one large array a column, so that memory is what the rows need."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_FIRST_ROWS = 1 << 15
_GROWTH = 1.5
_SORT_ROWS = 1 << 20  # rows reordered at a time: an index array of int32 is widened while in use
_WIDE = np.iinfo(np.int32).max


def mapped(rows: int, kind: np.dtype[Any]) -> Array:
    """Return an array of zeros in pages of its own."""
    if not hasattr(mmap, "MAP_ANONYMOUS") or rows == 0:
        return np.zeros(rows, kind)
    pages = mmap.mmap(-1, rows * kind.itemsize, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, kind)


class GrowingTable:
    """Rows of typed columns. Columns in `narrow` are int32 until a value needs int64.

    The arrays are mapped, not kept in the heap: only written rows take memory, and a column that
    is replaced gives its memory back at once (the heap kept 90 MB of a trace of 1 GB).
    """

    def __init__(self, kinds: dict[str, Any], narrow: tuple[str, ...]) -> None:
        self._columns: dict[str, Array] = {
            name: mapped(_FIRST_ROWS, np.dtype(np.int32 if name in narrow else kind))
            for name, kind in kinds.items()
        }
        self._narrow = narrow
        self.rows = 0

    def append(self, part: dict[str, Array]) -> None:
        """Append the rows of `part`, which has every column."""
        count = len(next(iter(part.values())))
        end = self.rows + count
        if end > len(next(iter(self._columns.values()))):
            self._grow(max(end, int(end * _GROWTH)))
        for name, values in part.items():
            if name in self._narrow and count and int(values.max()) > _WIDE:
                self._replace(name, len(self._columns[name]), np.dtype(np.int64))
            self._columns[name][self.rows : end] = values
        self.rows = end

    def column(self, name: str) -> Array:
        """Return the written rows of one column, to read or change in place."""
        return self._columns[name][: self.rows]

    def keep(self, mask: npt.NDArray[np.bool_]) -> None:
        """Drop the rows whose mask is false."""
        for name in self._columns:
            self._columns[name] = self.column(name)[mask]
        self.rows = int(np.count_nonzero(mask))

    def reorder(self, order: npt.NDArray[np.int32]) -> None:
        """Put the rows into another order."""
        for name in self._columns:
            old = self.column(name)
            new = mapped(self.rows, old.dtype)
            for begin in range(0, self.rows, _SORT_ROWS):
                chosen = order[begin : begin + _SORT_ROWS]
                np.take(old, chosen, out=new[begin : begin + len(chosen)], mode="clip")
            self._columns[name] = new

    def take(self) -> dict[str, Array]:
        """Return all columns and forget them."""
        columns = {name: self.column(name) for name in self._columns}
        self._columns = {}
        return columns

    def _grow(self, rows: int) -> None:
        for name, old in self._columns.items():
            self._replace(name, rows, old.dtype)

    def _replace(self, name: str, rows: int, kind: np.dtype[Any]) -> None:
        new = mapped(rows, kind)
        new[: self.rows] = self.column(name)
        self._columns[name] = new
