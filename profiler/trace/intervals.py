"""Interval algebra on int64 arrays, and the nesting of the events of one thread.

Intervals are half-open, [start, end), in ns. A *union* is a pair (starts, ends) of equal length,
sorted, disjoint and not touching; `union` makes one, and the other functions take and give them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .table import Int32, Int64

Union: TypeAlias = tuple[Int64, Int64]
"""Sorted, disjoint intervals: (starts, ends)."""

_BLOCK_ROWS = 1 << 17
_PIECE_ROWS = 1 << 15

EMPTY: Union = (np.empty(0, np.int64), np.empty(0, np.int64))


def union(starts: Int64, ends: Int64) -> Union:
    """Return the union of any intervals; empty and reversed ones count as nothing."""
    starts, ends = np.asarray(starts, np.int64), np.asarray(ends, np.int64)
    full = ends > starts
    if not full.all():
        starts, ends = starts[full], ends[full]
    if len(starts) == 0:
        return EMPTY
    if np.any(starts[1:] < starts[:-1]):
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], ends[order]
    reach = np.maximum.accumulate(ends)
    gap = np.flatnonzero(starts[1:] > reach[:-1])
    return starts[np.concatenate(([0], gap + 1))], reach[np.concatenate((gap, [len(ends) - 1]))]


def union_of_rows(
    start_ns: Int64, duration_ns: Int64, chosen: npt.NDArray[np.bool_] | None = None
) -> Union:
    """Return the union of the chosen events of a table, all of them by default.

    In blocks: the result takes memory, the rows do not.
    """
    parts: list[Union] = []
    for begin in range(0, len(start_ns), _BLOCK_ROWS):
        block = slice(begin, begin + _BLOCK_ROWS)
        starts, lengths = start_ns[block], duration_ns[block]
        if chosen is not None:
            starts, lengths = starts[chosen[block]], lengths[chosen[block]]
        _append(parts, union(starts, starts + lengths))
    return one_after_another(parts)


def _append(parts: list[Union], part: Union) -> None:
    """Add a union to those of earlier rows, less what they cover.

    All of them stay disjoint, and in order of time, where the rows are: where they are not, what
    is found so far and `part` become one.
    """
    if not len(part[0]):
        return
    if not parts:
        parts.append(part)
        return
    starts, ends = parts[-1]
    if part[0][0] < starts[-1]:
        parts[:] = [union_of([*parts, part])]
        return
    reach = ends[-1]
    first = int(np.searchsorted(part[1], reach, side="right"))
    if first < len(part[0]) and part[0][first] <= reach:
        ends[-1] = part[1][first]
        first += 1
    if first < len(part[0]):
        parts.append((part[0][first:], part[1][first:]))


def in_pieces(intervals: Union) -> list[Union]:
    """Return a union as parts of it in order of time, so that work on one takes little memory."""
    starts, ends = intervals
    rows = range(0, len(starts), _PIECE_ROWS)
    return [(starts[row : row + _PIECE_ROWS], ends[row : row + _PIECE_ROWS]) for row in rows]


def one_after_another(parts: list[Union]) -> Union:
    """Return disjoint unions, in order of time, as one; empties the list."""
    if len(parts) < 2:
        return parts.pop() if parts else EMPTY
    starts = np.concatenate([part[0] for part in parts])
    ends = [part[1] for part in parts]
    parts.clear()
    return starts, np.concatenate(ends)


def total(intervals: Union) -> int:
    """Return the summed length of a union, ns."""
    starts, ends = intervals
    return int(np.sum(ends - starts, dtype=np.int64))


def intersect(first: Union, second: Union) -> Union:
    """Return the time that lies in both unions."""
    first = _beside(first, second)
    second = _beside(second, first)
    if len(first[0]) > len(second[0]):
        first, second = second, first
    (starts, ends), (others, other_ends) = first, second
    if len(starts) == 0:
        return EMPTY
    parts: list[Union] = []
    for row in range(0, len(starts), _BLOCK_ROWS):
        block = slice(row, row + _BLOCK_ROWS)
        begin = np.searchsorted(other_ends, starts[block], side="right")
        counts = np.searchsorted(others, ends[block], side="left") - begin
        # pairs that overlap: interval `mine` of `first` with `theirs` of `second`, in order of time
        mine = np.repeat(np.arange(row, row + len(counts)), counts)
        theirs = np.repeat(begin - (np.cumsum(counts) - counts), counts)
        theirs += np.arange(len(mine))
        low = np.maximum(starts[mine], others[theirs])
        parts.append((low, np.minimum(ends[mine], other_ends[theirs])))
    return one_after_another(parts)


def _beside(intervals: Union, other: Union) -> Union:
    """Return the intervals between the first and the last moment of the other union."""
    if not len(intervals[0]) or not len(other[0]):
        return EMPTY
    low = int(np.searchsorted(intervals[1], other[0][0], side="right"))
    high = int(np.searchsorted(intervals[0], other[1][-1], side="left"))
    return intervals[0][low:high], intervals[1][low:high]


def merge(first: Union, second: Union) -> Union:
    """Return the time that lies in either union."""
    return union(
        np.concatenate((first[0], second[0])),
        np.concatenate((first[1], second[1])),
    )


def subtract(first: Union, second: Union) -> Union:
    """Return the time that lies in `first` and not in `second`."""
    if len(first[0]) == 0 or len(second[0]) == 0:
        return first
    parts: list[Union] = []
    for block in in_pieces(first):
        parts.append(_outside(block, _beside(second, block)))
    return one_after_another(parts)


def _outside(first: Union, second: Union) -> Union:
    """As `subtract`, with memory for all of both."""
    if len(second[0]) == 0:
        return first
    # The complement of `second`: between its intervals, and on both sides as far as `first` goes.
    starts = np.concatenate((first[0][:1], second[1]))
    ends = np.concatenate((second[0], first[1][-1:]))
    inner = slice(int(ends[0] <= starts[0]), len(starts) - int(ends[-1] <= starts[-1]))
    return intersect(first, (starts[inner], ends[inner]))


def clip(intervals: Union, start: int, end: int) -> Union:
    """Return the part of a union inside the window [start, end)."""
    starts, ends = intervals
    first = int(np.searchsorted(ends, start, side="right"))
    last = int(np.searchsorted(starts, end, side="left"))
    return np.maximum(starts[first:last], start), np.minimum(ends[first:last], end)


def covered(intervals: Union, starts: Int64, ends: Int64) -> Int64:
    """Return for each window [start, end) how much of it the union covers, ns."""
    begins, stops = intervals
    if len(begins) == 0:
        return np.zeros(len(starts), np.int64)
    before = np.concatenate(([0], np.cumsum(stops - begins)))

    def until(times: Int64) -> Int64:
        index = np.searchsorted(begins, times, side="right")
        last = np.maximum(index - 1, 0)
        over = np.where(index > 0, np.maximum(stops[last] - times, 0), 0)
        result: Int64 = before[index] - over
        return result

    return until(np.asarray(ends, np.int64)) - until(np.asarray(starts, np.int64))


@dataclass(frozen=True)
class Nesting:
    """How the events of one thread lie in each other.

    `parent` is the index of the enclosing event, -1 at the top; `depth` is 0 there. `end_ns` is
    where an event ends once a partial overlap is cut at its parent's end; `clipped` counts those.
    """

    parent: Int32
    depth: Int32
    end_ns: Int64
    clipped: int


def nesting(start_ns: Int64, duration_ns: Int64) -> tuple[Int32, Int32]:
    """Return (parent index, depth) of the events of one thread, sorted by (start, -duration)."""
    result = nest(start_ns, duration_ns)
    return result.parent, result.depth


def nest(start_ns: Int64, duration_ns: Int64) -> Nesting:
    """Find the enclosing event of each event of one thread, sorted by (start, -duration).

    An event that begins inside another and ends after it is cut at that one's end. Events that
    touch at a point nest only where one has no duration. Vectorised where no two events overlap
    partly, which is every thread of a healthy trace; else one pass over the events.
    """
    start = np.asarray(start_ns, np.int64)
    end = start + np.asarray(duration_ns, np.int64)
    parent = _enclosing(start, end)
    if parent is None:
        return _nest_one_by_one(start, end)
    return Nesting(parent, _depths(parent), end, 0)


def enclosing_rows(
    start_ns: Int64,
    duration_ns: Int64,
    rows: npt.NDArray[np.integer],
    parents: npt.NDArray[np.integer],
) -> None:
    """Write into `parents`, at each of `rows`, the row that directly encloses it, -1 for none.

    `rows` are those of one thread in a table sorted by (start, -duration). In blocks, cut where no
    event is open: the work takes memory for a block, not for all rows.
    """
    begin, size = 0, _BLOCK_ROWS
    while begin < len(rows):
        block = rows[begin : begin + size]
        starts, lengths = start_ns[block], duration_ns[block]
        if begin + size < len(rows):
            reach = np.maximum.accumulate(starts + lengths)
            free = np.flatnonzero(starts[1:] > reach[:-1])
            if not len(free):
                size *= 2
                continue
            count = int(free[-1]) + 1
            block, starts, lengths = block[:count], starts[:count], lengths[:count]
        parent = nest(starts, lengths).parent
        parents[block] = np.where(parent >= 0, block[parent], -1)
        begin, size = begin + len(block), _BLOCK_ROWS


def self_time(start_ns: Int64, duration_ns: Int64, nested: Nesting | None = None) -> Int64:
    """Return each event's exclusive time, ns: its duration less its children's."""
    nested = nested or nest(start_ns, duration_ns)
    duration = nested.end_ns - start_ns
    inner = nested.parent >= 0
    children = np.bincount(
        nested.parent[inner], weights=duration[inner], minlength=len(duration)
    )  # sums of ns stay far below 2**53: exact
    result: Int64 = duration - children.astype(np.int64)
    return result


def _enclosing(start: Int64, end: Int64) -> Int32 | None:
    """Return for each event the last one before it that does not end earlier, else -1.

    Sorted by start, that is the parent. By pointer jumping: every event between a candidate and
    the event ends before the candidate does, so that a candidate that ends too early can be
    replaced by its own candidate; the chains halve in each round. None where events overlap
    partly: then one of those passed over ends after the event's start.
    """
    count = len(end)
    parent = np.arange(-1, count - 1, dtype=np.int32)
    left = np.arange(1, count)
    while len(left):
        candidate = parent[left]
        short = end[candidate] < end[left]
        left, candidate = left[short], candidate[short]
        if np.any(end[candidate] > start[left]):
            return None
        parent[left] = parent[candidate]
        left = left[parent[left] >= 0]
    return parent


def _depths(parent: Int32) -> Int32:
    depth = (parent >= 0).astype(np.int32)
    ancestor = parent.copy()
    inner = np.flatnonzero(ancestor >= 0)
    while len(inner):
        above = ancestor[inner]
        depth[inner] += depth[above]
        ancestor[inner] = ancestor[above]
        inner = inner[ancestor[inner] >= 0]
    return depth


def _nest_one_by_one(start: Int64, end: Int64) -> Nesting:
    parents: list[int] = []
    ends: list[int] = end.tolist()
    parent, clipped = -1, 0
    for index, begin in enumerate(start.tolist()):
        stop = ends[index]
        while parent >= 0:
            limit = ends[parent]
            if limit > begin or limit == begin == stop:
                if stop > limit:
                    ends[index] = limit
                    clipped += 1
                break
            parent = parents[parent]
        parents.append(parent)
        parent = index
    found = np.array(parents, np.int32)
    return Nesting(found, _depths(found), np.array(ends, np.int64), clipped)


def union_of_chosen(start_ns: Int64, duration_ns: Int64, rows: npt.NDArray[np.integer]) -> Union:
    """Return the union of some rows of a table; in blocks, as `union_of_rows`."""
    parts: list[Union] = []
    for begin in range(0, len(rows), _BLOCK_ROWS):
        block = rows[begin : begin + _BLOCK_ROWS]
        starts = start_ns[block]
        _append(parts, union(starts, starts + duration_ns[block]))
    return one_after_another(parts)


def union_of(parts: Sequence[Union]) -> Union:
    """Return the time that lies in any of the unions."""
    if len(parts) == 1:
        return parts[0]
    return union(*map(np.concatenate, zip(*parts, strict=True))) if parts else EMPTY


def group_rows(
    keys: npt.NDArray[np.integer], chosen: npt.NDArray[np.bool_] | None = None
) -> dict[int, Int32]:
    """Return for each value of `keys` the rows that have it, ascending; of the `chosen` ones only.

    In blocks, once over all rows, however many values there are: four bytes a row are held.
    """
    parts: dict[int, list[Int32]] = defaultdict(list)
    for begin in range(0, len(keys), _BLOCK_ROWS):
        block = keys[begin : begin + _BLOCK_ROWS]
        if chosen is None:
            rows = np.arange(begin, begin + len(block), dtype=np.int32)
        else:
            inside = np.flatnonzero(chosen[begin : begin + _BLOCK_ROWS])
            block, rows = block[inside], (begin + inside).astype(np.int32)
        if len(block):
            order = np.argsort(block, kind="stable")
            block = block[order]
            begins = np.append(0, 1 + np.flatnonzero(block[1:] != block[:-1]))
            pieces = np.split(rows[order], begins[1:])
            for key, piece in zip(block[begins].tolist(), pieces, strict=True):
                parts[key].append(piece)
    return {key: np.concatenate(parts.pop(key)) for key in list(parts)}
