"""Embeddings whose gradient is dense: every step writes and updates the whole table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..features import RankFeatures
from ..trace.host import OpTime

GRADIENT = "embedding_dense_backward"
LOOKUPS = ("aten::embedding", "aten::index_select")
MOST_USED = 0.5
"""Of the rows, a step. With more in use the gradient is hardly sparser than the table."""

_SHAPE = re.compile(r"\[([\d, ]*)\]")


@dataclass(frozen=True)
class Table:
    """An embedding's table of `rows` times `width`, of whose rows a step looks `used` up."""

    rows: int
    width: int
    used: int

    @property
    def unused_share(self) -> float:
        """The part of the table that a step has no use for."""
        return 1 - min(1.0, self.used / self.rows)


def dense_tables(rank: RankFeatures) -> list[Table]:
    """The tables with a dense gradient of which a step uses less than half.

    By shapes: a lookup in a table, a gradient of rows of that width, and no matrix product with
    the table itself, which is then tied to an output layer and has a dense gradient by nature.
    Empty where shapes were not recorded.
    """
    widths = {
        shapes[0][-1]
        for op in rank.ops
        if GRADIENT in op.name and (shapes := shapes_of(op)) and shapes[0]
    }
    products = {s for op in rank.ops if op.family == "gemm" for s in shapes_of(op)}
    used: dict[tuple[int, ...], int] = {}
    for op in rank.ops:
        for table, count in _looked_up(op):
            tied = table in products or table[::-1] in products
            if table[1] in widths and not tied:
                used[table] = max(used.get(table, 0), count)
    return [
        Table(rows, width, count)
        for (rows, width), count in used.items()
        if count < MOST_USED * rows
    ]


def _looked_up(op: OpTime) -> Iterator[tuple[tuple[int, ...], int]]:
    shapes = shapes_of(op)
    if op.name in LOOKUPS and len(shapes) > 1 and len(shapes[0]) == 2:
        yield shapes[0], math.prod(shapes[1])


def shapes_of(op: OpTime) -> list[tuple[int, ...]]:
    """The shapes of an op's tensors, in order; empty where they were not recorded."""
    return [
        tuple(int(number) for number in re.findall(r"\d+", inner))
        for inner in _SHAPE.findall(op.dims)
    ]


def on_table(op: OpTime, tables: Sequence[Table]) -> Table | None:
    """The table that an op reads or writes as a whole: fills, adds up or updates."""
    shapes = shapes_of(op)
    if not shapes or op.name in LOOKUPS:
        return None
    if GRADIENT in op.name:
        return next((table for table in tables if table.width == shapes[0][-1]), None)
    largest = max(shapes, key=math.prod)
    return next((table for table in tables if (table.rows, table.width) == largest), None)
