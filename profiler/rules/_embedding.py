"""Embeddings whose gradient is dense: every step writes and updates the whole table."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..features import RankFeatures
from ..trace.host import OpTime

GRADIENT = "embedding_dense_backward"
LOOKUPS = ("aten::embedding", "aten::index_select")
SOME_ROWS = (*LOOKUPS, "aten::index", "aten::gather", "aten::_embedding_bag")
"""Ops that read some rows of a table, not all of it."""
MOST_USED = 0.5
"""Of the rows, a step. With more in use the gradient is hardly sparser than the table."""

_TENSOR = re.compile(r"\[([\d, ]*)\]")
_LIST = re.compile(r"\[(\([\d, ]*\)(?:, \([\d, ]*\))*)\]")
_MEMBER = re.compile(r"\(([\d, ]*)\)")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Table:
    """An embedding's table of `rows` times `width`; a step looks `used` of the rows up at most."""

    rows: int
    width: int
    used: int

    @property
    def shape(self) -> Shape:
        """Rows and width."""
        return self.rows, self.width

    @property
    def unused_share(self) -> float:
        """The part of the table that a step has no use for."""
        return 1 - min(1.0, self.used / self.rows)


def dense_tables(rank: RankFeatures) -> list[Table]:
    """The tables with a dense gradient of which a step uses less than half.

    By shapes: a lookup in a table, and a gradient for as many rows of that width. A table in a
    matrix product is tied to an output layer and has a dense gradient by nature: it is left out.
    Lookups in tables of one shape are added up, as if all were in one. Empty where shapes were not
    recorded.
    """
    gradients = {
        (shapes[0][-1], math.prod(shapes[0][:-1]))
        for op in rank.ops
        if GRADIENT in op.name and (shapes := shapes_of(op)) and shapes[0]
    }
    products = {shape for op in rank.ops if op.family == "gemm" for shape in shapes_of(op)}
    used: dict[str, dict[Shape, float]] = {name: defaultdict(float) for name in LOOKUPS}
    for op in rank.ops:
        shapes = shapes_of(op)
        if op.name not in LOOKUPS or len(shapes) < 2 or len(shapes[0]) != 2:
            continue
        table, count = shapes[0], math.prod(shapes[1])
        tied = table in products or table[::-1] in products
        if (table[1], count) in gradients and not tied:
            used[op.name][table] += count * max(1.0, rank.per_step(op.calls))
    # One lookup is recorded as both ops, or as one of them.
    found = {
        table: max(counts[table] for counts in used.values())
        for table in set().union(*used.values())
    }
    return [
        Table(rows, width, math.ceil(count))
        for (rows, width), count in found.items()
        if count < MOST_USED * rows
    ]


def shapes_of(op: OpTime) -> list[Shape]:
    """The shapes of an op's tensors, in order, those in lists left out; empty where they were not
    recorded."""
    return [_numbers(inner) for inner in _TENSOR.findall(op.dims)]


def _numbers(text: str) -> Shape:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def whole_table(op: OpTime, table: Table) -> float:
    """The share of an op's work that goes over the whole table: filling, adding up, updating.

    Of an op over lists of tensors (an optimizer's update of all parameters) the table's share of
    the elements.
    """
    if op.name in SOME_ROWS or GRADIENT in op.name:
        return 0.0
    lists = _LIST.findall(op.dims)
    if lists:
        members = [_numbers(inner) for inner in _MEMBER.findall(lists[0])]
        elements = sum(map(math.prod, members))
        mine = sum(math.prod(shape) for shape in members if shape == table.shape)
        return mine / elements if elements else 0.0
    shapes = shapes_of(op)
    return float(bool(shapes) and max(shapes, key=math.prod) == table.shape)


def split_by_table(
    ops: Sequence[OpTime], tables: Sequence[Table]
) -> tuple[dict[Table, list[OpTime]], list[OpTime]]:
    """The ops, or the parts of them, that go over each table as a whole; and the rest."""
    on: dict[Table, list[OpTime]] = {table: [] for table in tables}
    rest = []
    for op in ops:
        left = 1.0
        for table in tables:
            share = min(left, whole_table(op, table))
            if share > 0:
                on[table].append(_part_of(op, share))
                left -= share
        if left > 1e-9:
            rest.append(_part_of(op, left))
    return {table: mine for table, mine in on.items() if mine}, rest


def _part_of(op: OpTime, share: float) -> OpTime:
    if share >= 1:
        return op
    return replace(
        op,
        self_ns=op.self_ns * share,
        work_ns=op.work_ns * share,
        flop=op.flop * share,
        bytes=op.bytes * share,
        attainable_ns=op.attainable_ns * share,
        floor_ns=op.floor_ns * share,
    )
