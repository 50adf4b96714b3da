"""What the features of a whole job give: its diagnosis, ops, waits and collectives, as plain data.

Features need every trace of the run; what is shown of them is small and kept.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from ..diagnose import diagnose_features
from ..diagnosis import Diagnosis
from ..features import Features
from ..machine.roofs import Roofs
from ..tables.job import (
    StepGrid,
    WaitGrid,
    job_collectives,
    step_grid,
    wait_grid,
)
from ..tables.ops import OpRow, Roof, op_rows, roof_lines
from ..tables.straggler import LinkRow, Straggler, link_row, straggler
from ..tables.trace_collectives import CollectiveUse
from ..timeline import PHASES, StepSource, Timeline

MAX_OPS = 500
MAX_OPS_MANY = 60
MANY_RANKS = 64
"""From so many ranks on, each keeps its longest `MAX_OPS_MANY` ops: 1,024 ranks are a few MB."""

Float = npt.NDArray[np.float64]


class RankOps(msgspec.Struct, frozen=True):
    """The longest ops of a rank, of `ops` in all; `roofs_source` is "" where none are known."""

    rank: int
    rows: list[OpRow]
    ops: int
    roofs: list[Roof]
    roofs_source: str


class Grid(msgspec.Struct, frozen=True):
    """A `StepGrid` as lists; None stands for no step."""

    ranks: list[int]
    first_step: list[int]
    step_ms: list[list[float | None]]


class Waits(msgspec.Struct, frozen=True):
    """A `WaitGrid` as lists."""

    ranks: list[int]
    wait_ms: list[list[float]]
    collectives: int
    steps: int


class Line(msgspec.Struct, frozen=True):
    """A `Timeline` as lists: of what has no records of its own to build it from."""

    rank: int
    source: StepSource
    start_ns: list[int]
    end_ns: list[int]
    phase_ns: dict[str, list[float]]
    phase_intervals: dict[str, tuple[list[int], list[int]]]
    steady: list[bool]
    profiled: list[bool]
    first_ns: int


class Job(msgspec.Struct, frozen=True):
    """All of it. `late` counts how often each rank arrived last at a common collective."""

    diagnosis: Diagnosis
    ops: list[RankOps]
    grid: Grid
    waits: Waits | None
    collectives: list[CollectiveUse]
    late: dict[int, int]
    lines: list[Line]
    link: LinkRow | None = None
    straggler: Straggler | None = None

    @property
    def step_grid(self) -> StepGrid:
        """Step times of all ranks."""
        shape = (len(self.grid.ranks), len(self.grid.first_step))
        known = [math.nan if ms is None else ms for row in self.grid.step_ms for ms in row]
        cells = np.asarray(known, np.float64).reshape(shape)
        return StepGrid(self.grid.ranks, self.grid.first_step, cells)

    @property
    def wait_grid(self) -> WaitGrid | None:
        """Who waited for whom."""
        waits = self.waits
        if waits is None:
            return None
        cells = np.asarray(waits.wait_ms, np.float64)
        return WaitGrid(waits.ranks, cells, waits.collectives, waits.steps)

    def timeline(self, rank: int) -> Timeline | None:
        """Return the steps of a rank, where `lines` has them."""
        line = next((line for line in self.lines if line.rank == rank), None)
        if line is None:
            return None
        return Timeline(
            rank=rank,
            source=line.source,
            start_ns=np.asarray(line.start_ns, np.int64),
            end_ns=np.asarray(line.end_ns, np.int64),
            phase_ns={name: np.asarray(ns, np.float64) for name, ns in line.phase_ns.items()},
            phase_intervals={
                name: (np.asarray(begin, np.int64), np.asarray(end, np.int64))
                for name, (begin, end) in line.phase_intervals.items()
            },
            steady=np.asarray(line.steady, np.bool_),
            profiled=np.asarray(line.profiled, np.bool_),
            first_ns=line.first_ns,
        )


def job(features: Features, *, steps: bool) -> Job:
    """Return what is shown of a job's features; `steps` keeps those of every rank with it."""
    most = MAX_OPS if len(features.ranks) < MANY_RANKS else MAX_OPS_MANY
    ops = []
    for rank in features.ranks:
        rows = op_rows(rank)
        if rows:
            lines = roof_lines(rank.roofs)
            ops.append(RankOps(rank.rank, rows[:most], len(rows), lines, _source(rank.roofs)))
    grid = step_grid({rank.rank: rank.timeline for rank in features.ranks})
    return Job(
        diagnosis=diagnose_features(features),
        ops=ops,
        grid=Grid(grid.ranks, grid.first_step, _cells(grid.step_ms)),
        waits=_waits(wait_grid(features)),
        collectives=job_collectives(features),
        late={int(rank): int(count) for rank, count in features.late.items()},
        lines=[_line(rank.timeline) for rank in features.ranks] if steps else [],
        link=link_row(features),
        straggler=straggler(features),
    )


def _source(roofs: Roofs | None) -> str:
    return str(roofs.source) if roofs is not None else ""


def _cells(values: Float) -> list[list[float | None]]:
    return [[None if math.isnan(ms) else round(ms, 4) for ms in row] for row in values.tolist()]


def _waits(grid: WaitGrid | None) -> Waits | None:
    if grid is None:
        return None
    cells = np.round(grid.wait_ms, 4).tolist()
    return Waits(grid.ranks, cells, grid.collectives, grid.steps)


def _line(line: Timeline) -> Line:
    return Line(
        rank=line.rank,
        source=line.source,
        start_ns=line.start_ns.tolist(),
        end_ns=line.end_ns.tolist(),
        phase_ns={name: line.phase_ns[name].tolist() for name in PHASES},
        phase_intervals={
            name: (begin.tolist(), end.tolist())
            for name, (begin, end) in line.phase_intervals.items()
        },
        steady=line.steady.tolist(),
        profiled=line.profiled.tolist(),
        first_ns=int(line.first_ns),
    )
