"""Columns that grow in place: one large array a column, so that memory is what the rows need."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_FIRST_ROWS = 1 << 15
_GROWTH = 1.5
_SORT_ROWS = 1 << 20  # rows reordered at a time: an index array of int32 is widened while in use
_HALF: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(np.int64): np.dtype(np.int32),
    np.dtype(np.int32): np.dtype(np.int16),
}


def mapped(rows: int, kind: np.dtype[Any]) -> Array:
    """Return an array of zeros in pages of its own."""
    if not hasattr(mmap, "MAP_ANONYMOUS") or rows == 0:
        return np.zeros(rows, kind)
    pages = mmap.mmap(-1, rows * kind.itemsize, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, kind)


def _pages_of(column: Array) -> mmap.mmap | None:
    """Return the pages that `mapped` made for a column; None for an array from elsewhere."""
    base = column.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) else None


class GrowingTable:
    """Rows of typed columns; -1 stands for "not recorded".

    Columns in `sparse` take no memory until a value is recorded; the ones in `narrow` have half the
    width of their kind until a value needs all of it. The arrays are mapped, not kept in the heap:
    only written rows take memory, and a column that is replaced gives its memory back at once (the
    heap kept 90 MB of a trace of 1 GB).
    """

    def __init__(
        self, kinds: dict[str, Any], sparse: tuple[str, ...], narrow: tuple[str, ...]
    ) -> None:
        self._wide: dict[str, np.dtype[Any]] = {
            name: np.dtype(kind) for name, kind in kinds.items()
        }
        self._kinds: dict[str, np.dtype[Any]] = {
            name: _HALF[kind] if name in narrow else kind for name, kind in self._wide.items()
        }
        self._sparse = sparse
        self._narrow = set(narrow)
        self._capacity = _FIRST_ROWS
        self._columns: dict[str, Array] = {
            name: mapped(_FIRST_ROWS, kind)
            for name, kind in self._kinds.items()
            if name not in sparse
        }
        self.rows = 0

    def append(self, part: dict[str, Array]) -> None:
        """Append the rows of `part`, which has every column."""
        count = len(next(iter(part.values())))
        end = self.rows + count
        if end > self._capacity:
            self._capacity = max(end, int(end * _GROWTH))
            for name in list(self._columns):
                self._replace(name)
        for name, values in part.items():
            if name in self._narrow:
                self.widen(name, int(values.max(initial=-1)))
            if name not in self._columns:
                if int(values.max(initial=-1)) == -1:
                    continue
                self.make_writable(name)
            self._columns[name][self.rows : end] = values
        self.rows = end

    def widen(self, name: str, highest: int) -> None:
        """Give a narrow column its full width if `highest` needs it."""
        if highest > np.iinfo(self._kinds[name]).max:
            self._narrow.discard(name)
            self._kinds[name] = self._wide[name]
            if name in self._columns:
                self._replace(name)

    def make_writable(self, name: str) -> None:
        """Give a sparse column memory of its own."""
        if name not in self._columns:
            self._columns[name] = mapped(self._capacity, self._kinds[name])
            # rows to come are written in any case
            self._columns[name][: self.rows] = -1

    def column(self, name: str) -> Array:
        """Return the written rows of one column; only ones with memory can be changed in place."""
        column = self._columns.get(name)
        if column is None:
            return np.broadcast_to(self._kinds[name].type(-1), (self.rows,))
        return column[: self.rows]

    def keep(self, mask: npt.NDArray[np.bool_]) -> None:
        """Drop the rows whose mask is false."""
        for name in self._columns:
            self._columns[name] = self.column(name)[mask]
        self.rows = self._capacity = int(np.count_nonzero(mask))

    def reorder(self, order: npt.NDArray[np.int32]) -> None:
        """Put the rows into another order."""
        for name in self._columns:
            old = self.column(name)
            new = mapped(self.rows, old.dtype)
            for begin in range(0, self.rows, _SORT_ROWS):
                chosen = order[begin : begin + _SORT_ROWS]
                np.take(old, chosen, out=new[begin : begin + len(chosen)], mode="clip")
            self._columns[name] = new
        self._capacity = self.rows

    def take(self) -> dict[str, Array]:
        """Return all columns and forget them."""
        columns = {name: self.column(name) for name in self._kinds}
        self._columns = {}
        return columns

    def _replace(self, name: str) -> None:
        old = self._columns.pop(name)
        kind = self._kinds[name]
        if old.dtype == kind and (pages := _pages_of(old)) is not None:
            del old
            with contextlib.suppress(BufferError, OSError, SystemError, ValueError):
                pages.resize(self._capacity * kind.itemsize)  # moves page tables, copies nothing
                self._columns[name] = np.frombuffer(pages, kind)
                return
            old = np.frombuffer(pages, kind)
        new = mapped(self._capacity, kind)
        new[: self.rows] = old[: self.rows]
        self._columns[name] = new
