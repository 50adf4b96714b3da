"""Divides a rank's recording into steps and each step into phases, by interval algebra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..collectors.records import SpanKind
from .run.load import RankData, SpanTable
from .trace.intervals import EMPTY, Union, covered, subtract, union

Int64 = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]
Intervals = Union

PHASES = (
    "profiler",
    "storage",
    "evaluation",
    "loader",
    "garbage",
    "backward",
    "optimizer",
    "rest",
)
"""In order of precedence where spans overlap. "rest" is what no span covers: batch preparation in
the loop, the forward pass, the loss, logging."""

WORK_PHASES = ("backward", "optimizer", "rest")
"""The phases in which ops run; a trace window tells what they spent their time on."""

STARTUP_FACTOR = 2.0
"""A step this many times the median belongs to start-up while no calm step came before it."""

STARTUP_MAX_SHARE = 0.25
"""Start-up never swallows more than this share of the steps."""

StepSource = Literal["optimizer", "user", "batch"]


@dataclass(frozen=True)
class Timeline:
    """Steps of one rank: step i runs from `start_ns[i]` to `end_ns[i]`, ns since the epoch.

    `phase_ns` maps each phase to its exclusive time per step (float64 ns, one entry a step); the
    phases of a step sum to its duration. `steady` marks the steps after start-up; `profiled`
    those that a torch-profiler window (or its export) overlaps.
    """

    rank: int
    source: StepSource
    start_ns: Int64
    end_ns: Int64
    phase_ns: dict[str, Float]
    phase_intervals: dict[str, Intervals]
    steady: npt.NDArray[np.bool_]
    profiled: npt.NDArray[np.bool_]
    first_ns: int

    def __len__(self) -> int:
        return len(self.start_ns)

    @property
    def duration_ns(self) -> Int64:
        """Duration of each step."""
        return self.end_ns - self.start_ns

    @property
    def startup_s(self) -> float:
        """From the first sign of training to the first steady step."""
        if not self.steady.any():
            return 0.0
        return float(self.start_ns[self.steady][0] - self.first_ns) * 1e-9

    @property
    def calm(self) -> npt.NDArray[np.bool_]:
        """Steady steps outside profiler windows."""
        return self.steady & ~self.profiled


def build_timeline(rank: RankData) -> Timeline | None:
    """The rank's timeline; None when fewer than two step ends were recorded."""
    spans = rank.spans
    source, marks = _step_marks(spans)
    if len(marks) < 2:
        return None
    start, end = marks[:-1], marks[1:]
    intervals = _phase_intervals(spans, int(start[0]), int(end[-1]))
    phases = _phase_times(intervals, start, end)
    windows = spans.of(SpanKind.WINDOW, SpanKind.PROFILER)
    profiled = _overlaps(start, end, windows)
    steady = _steady(end - start, profiled)
    first = int(spans.start_ns[0])
    return Timeline(rank.rank, source, start, end, phases, intervals, steady, profiled, first)


def _step_marks(spans: SpanTable) -> tuple[StepSource, Int64]:
    """When steps ended: the user's marks, else optimizer steps, else batch requests."""
    user = spans.of(SpanKind.STEP)
    if len(user):
        return "user", user.start_ns
    steps = spans.of(SpanKind.OPTIMIZER, SpanKind.SKIPPED)
    if len(steps):
        closing = _closing_optimizer(steps, spans.of(SpanKind.LOADER, SpanKind.LOADER_START))
        return "optimizer", np.sort(steps.end_ns[steps.detail == closing])
    batches = spans.of(SpanKind.LOADER)
    if not len(batches):
        batches = spans.of(SpanKind.EVAL_LOADER)  # inference only: every batch has gradients off
    return "batch", batches.start_ns


def _closing_optimizer(steps: SpanTable, loads: SpanTable) -> int:
    """The optimizer whose step ends an iteration.

    It is the rarest one (five critic steps, then the generator); among equally frequent ones the
    one that a loader wait follows most often, else the one that first appeared last.
    """
    indices, counts = np.unique(steps.detail, return_counts=True)
    if len(indices) == 1:
        return int(indices[0])
    rarest = indices[counts <= counts.min() * 1.1]
    order = {int(i): int(np.argmax(steps.detail == i)) for i in rarest}
    followed = {int(i): 0 for i in rarest}
    if len(loads):
        last_before = np.searchsorted(steps.end_ns, loads.start_ns, side="right") - 1
        before = steps.detail[last_before[last_before >= 0]]
        followed = {int(i): int(np.sum(before == i)) for i in rarest}
    return max((int(i) for i in rarest), key=lambda i: (followed[i], order[i]))


def _phase_intervals(spans: SpanTable, begin: int, end: int) -> dict[str, Intervals]:
    """Disjoint, sorted intervals of each phase within [begin, end)."""
    sources: dict[str, Intervals] = {
        "profiler": _merged(spans.of(SpanKind.PROFILER)),
        "storage": _merged(spans.of(SpanKind.SAVE)),
        "evaluation": _evaluation(spans),
        "loader": _merged(
            spans.of(
                SpanKind.LOADER, SpanKind.LOADER_START, SpanKind.LOADER_END, SpanKind.EVAL_LOADER
            )
        ),
        "garbage": _merged(spans.of(SpanKind.GC)),
        "backward": _merged(spans.of(SpanKind.BACKWARD)),
        "optimizer": _merged(spans.of(SpanKind.OPTIMIZER, SpanKind.SKIPPED)),
    }
    whole = np.array([begin], np.int64), np.array([end], np.int64)
    left: Intervals = whole
    result: dict[str, Intervals] = {}
    for phase in PHASES[:-1]:
        without = subtract(left, sources[phase])
        result[phase] = subtract(left, without)
        left = without
    result["rest"] = left
    return result


def _merged(spans: SpanTable) -> Intervals:
    return union(spans.start_ns, spans.end_ns)


def _evaluation(spans: SpanTable) -> Intervals:
    """Validation inside the run: from `eval()` to the same module's `train()` with no backward
    pass between, and runs of batches fetched with gradients off, up to the loader's end.

    A teacher or frozen part that is set to `eval()` and never back does not count.
    """
    starts: list[int] = []
    ends: list[int] = []
    backward = spans.of(SpanKind.BACKWARD).start_ns
    if not len(backward):
        return EMPTY
    modes = spans.of(SpanKind.EVAL_MODE, SpanKind.TRAIN_MODE)
    eval_mark, opened = ord(SpanKind.EVAL_MODE), -1
    for kind, time, same in zip(modes.kind, modes.start_ns, modes.detail, strict=True):
        if kind == eval_mark:
            opened = int(time)
        elif opened >= 0:
            if same and not _any_between(backward, opened, int(time)):
                starts.append(opened)
                ends.append(int(time))
            opened = -1
    _add_gradient_free_batches(spans, backward, starts, ends)
    return union(np.asarray(starts, np.int64), np.asarray(ends, np.int64))


def _add_gradient_free_batches(
    spans: SpanTable, backward: Int64, starts: list[int], ends: list[int]
) -> None:
    batches = spans.of(SpanKind.EVAL_LOADER)
    if not len(batches):
        return
    # A batch lasts until the next request, be it answered or the loader's end.
    requests = np.sort(spans.of(SpanKind.EVAL_LOADER, SpanKind.LOADER_END, SpanKind.LOADER).end_ns)
    following = np.searchsorted(requests, batches.end_ns, side="right")
    for start, end, index in zip(batches.start_ns, batches.end_ns, following, strict=True):
        stop = int(requests[index]) if index < len(requests) else int(end)
        if not _any_between(backward, int(start), stop):
            starts.append(int(start))
            ends.append(stop)


def _any_between(times: Int64, begin: int, end: int) -> bool:
    return bool(np.searchsorted(times, begin) < np.searchsorted(times, end))


def _phase_times(intervals: dict[str, Intervals], start: Int64, end: Int64) -> dict[str, Float]:
    return {
        phase: covered(pair, start, end).astype(np.float64) for phase, pair in intervals.items()
    }


def _overlaps(start: Int64, end: Int64, spans: SpanTable) -> npt.NDArray[np.bool_]:
    return np.asarray(covered(_merged(spans), start, end) > 0)


def _steady(duration: Int64, profiled: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Steps after start-up: the first interval always goes, then steps far above the median."""
    count = len(duration)
    steady = np.ones(count, np.bool_)
    if count < 4:
        return steady
    calm = duration[~profiled] if (~profiled).sum() >= 4 else duration
    median = float(np.median(calm))
    limit = max(1, int(count * STARTUP_MAX_SHARE))
    first = 1
    while first < limit and duration[first] > STARTUP_FACTOR * median:
        first += 1
    steady[:first] = False
    return steady
