"""A run folder and torch-profiler traces of the same run that lie elsewhere, judged as one.

A script that has a profiler of its own leaves the guest no window, or a colleague recorded the
traces beside the run. Each such trace becomes one more window of its rank, where it is of the time
that the run recorded; a rank that the run did not record is taken from its trace alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from ..collectors.records import Window
from .diagnosis import Warning_
from .features import Features, RankInput, derive_from, rank_inputs, read_windows
from .machine.roofs import Roofs
from .run.load import Run
from .trace.intervals import covered, union
from .trace.table import Trace
from .trace_run import how_found, rank_input, rank_of, says_rank

NO_RANK = -1


@dataclass(frozen=True)
class _Joined:
    """A trace that was given beside the run, as a rank by itself, and the file that it is in."""

    path: Path
    rank: RankInput

    @property
    def window(self) -> Window:
        """The time of its steps."""
        window, trace = self.rank.traces[0]
        return msgspec.structs.replace(window, events=len(trace.events))

    @property
    def trace(self) -> Trace:
        """The trace."""
        return self.rank.traces[0][1]


def derive_joined(run: Run, roofs: Roofs | None, paths: Sequence[Path]) -> Features:
    """Return the features of a run and of the traces in `paths`; all are read side by side.

    A trace of another time, or one that cannot be placed in time, is left out and named.
    """
    warnings: list[Warning_] = []
    recorded = rank_inputs(run, warnings)
    own = {p.resolve() for data in run.ranks for w in data.windows if (p := data.trace_path(w))}
    others = [path for path in paths if path.resolve() not in own]
    inputs, traces = read_windows(recorded, warnings, others)
    joined = [
        _Joined(path, rank_input(*_whose(run, path, trace, order)))
        for order, (path, trace) in enumerate(traces)
    ]
    joined = [one for one in joined if _is_of_run(run, inputs, one, warnings)]
    joined.sort(key=lambda one: one.window.start_ns)
    traced = _traced_only(inputs, joined)
    warnings += how_found(traced)
    ranks = sorted([*_with_windows(inputs, joined), *traced], key=lambda item: item.data.rank)
    return derive_from(_with_ranks(run, traced), ranks, roofs, warnings)


def _whose(run: Run, path: Path, trace: Trace, order: int) -> tuple[int, list[Trace], int]:
    """The trace's rank and the job's size: as it says itself, else the rank whose process it is
    of, else by the file's name, else the only rank there is, else in order."""
    rank, world = rank_of(trace, path, NO_RANK)
    if not says_rank(trace):
        pids = {thread.pid for thread in trace.threads if not thread.is_device}
        owners = [data.rank for data in run.ranks if str(data.pid) in pids]
        rank = owners[0] if len(owners) == 1 else rank
    if rank == NO_RANK:
        rank = run.ranks[0].rank if len(run.ranks) == 1 else order
    return rank, [trace], world


def _is_of_run(
    run: Run, inputs: Sequence[RankInput], one: _Joined, warnings: list[Warning_]
) -> bool:
    """Whether the trace's steps are of the time that the run, or its rank, recorded."""
    line = next((item.line for item in inputs if item.data.rank == one.rank.data.rank), None)
    begin = int(line.start_ns[0]) if line is not None else run.manifest.started_ns
    end = int(line.end_ns[-1]) if line is not None else run.manifest.ended_ns
    why = "is of another time than the run"
    if not one.trace.epoch:
        why = "does not tell when it was made"
    elif one.window.end_ns > begin and (one.window.start_ns < end or not end):
        return True
    text = f"{one.path.name} {why}: it is left out; diagnose it alone"
    warnings.append(Warning_("trace-outside-run", text))
    return False


def _with_windows(inputs: Sequence[RankInput], joined: Sequence[_Joined]) -> list[RankInput]:
    """The run's ranks, each with the traces that are of it as further windows."""
    ranks = []
    for item in inputs:
        mine = [one for one in joined if one.rank.data.rank == item.data.rank]
        line = item.line
        windows = [one.window for one in mine]
        within = union(
            np.array([window.start_ns for window in windows], np.int64),
            np.array([window.end_ns for window in windows], np.int64),
        )
        # What ran under a profiler is no measure of the steps without one.
        seen = covered(within, line.start_ns, line.end_ns) > 0
        line = replace(line, profiled=line.profiled | seen)
        more = [(one.window, one.trace) for one in mine]
        ranks.append(RankInput(item.data, line, [*item.traces, *more]))
    return ranks


def _traced_only(inputs: Sequence[RankInput], joined: Sequence[_Joined]) -> list[RankInput]:
    """Ranks that the run has no steps of, from their traces alone."""
    recorded = {item.data.rank for item in inputs}
    found: dict[int, list[_Joined]] = {}
    for one in joined:
        if one.rank.data.rank not in recorded:
            found.setdefault(one.rank.data.rank, []).append(one)
    ranks = []
    for rank, mine in found.items():
        world = max(one.rank.data.world_size or 0 for one in mine)
        ranks.append(rank_input(rank, [one.trace for one in mine], world))
    return ranks


def _with_ranks(run: Run, traced: Sequence[RankInput]) -> Run:
    """The run with the ranks that only traces tell of, as if it had recorded them."""
    if not traced:
        return run
    gaps = run.gaps  # of what it recorded itself: a trace has no records that could end early
    numbers = {item.data.rank for item in traced}
    own = [data for data in run.ranks if data.rank not in numbers]
    whole = copy.copy(run)
    whole.__dict__["ranks"] = sorted(
        [*own, *(item.data for item in traced)], key=lambda data: data.rank
    )
    whole.__dict__["gaps"] = gaps
    return whole
