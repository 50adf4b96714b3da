"""Divides a rank's recording into steps and each step into phases, by interval algebra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..collectors.records import SpanKind
from .run.load import RankData, SpanTable
from .trace.intervals import EMPTY, Union, covered, merge, subtract, union

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
    "forward",
    "preparation",
    "rest",
)
"""In order of precedence where spans overlap. "preparation" is what lies between the arrival of a
batch (or the end of the step before) and the first module's call, a forward pass in plain functions
included (`preparation.settle` takes that out); "rest" is what nothing covers:
the loss where it is no module, logging, all of it where no module is called."""

WORK_PHASES = ("backward", "optimizer", "forward", "rest")
"""The phases in which ops run; a trace window tells what they spent their time on."""

SCRIPT_PHASES = ("forward", "rest")
"""The work phases whose Python is the script's own; that of the others is torch's."""

STARTUP_FACTOR = 2.0
"""A step this many times the median belongs to start-up while no calm step came before it."""

STARTUP_MAX_SHARE = 0.25
"""Start-up never swallows more than this share of the steps."""

USUAL = 0.5
"""A forward pass without gradients in more than this share of the steps is a part of the step: a
teacher's, or the generator's while its critic learns. Validation comes every so many steps."""

RARE = 25
"""An optimizer with less than one step to so many of another's ends none: WGAN takes 5 critic
steps to one, PPO up to 20 of the value function."""

StepSource = Literal["optimizer", "user", "batch", "backward", "trace"]


@dataclass(frozen=True)
class Timeline:
    """Steps of one rank: step i runs from `start_ns[i]` to `end_ns[i]`, ns since the epoch.

    `phase_ns` maps each phase to its exclusive time per step (float64 ns, one entry a step); the
    phases of a step sum to its duration. `steady` marks the steps after start-up; `profiled`
    those that a torch-profiler window (or its export) overlaps, `unlike` those of them that do
    not speak for the run (None where that was not examined).
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
    unlike: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.start_ns)

    @property
    def steps(self) -> int:
        """Steps taken: between n recorded ends lie n - 1 steps; a trace marks whole steps."""
        return len(self) if self.source == "trace" else len(self) + 1

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
    intervals = _phase_intervals(spans, marks)
    phases = _phase_times(intervals, start, end)
    windows = spans.of(SpanKind.WINDOW, SpanKind.PROFILER)
    profiled = _overlaps(start, end, windows)
    steady = _steady(end - start, profiled)
    first = int(spans.start_ns[0])
    return Timeline(rank.rank, source, start, end, phases, intervals, steady, profiled, first)


def _step_marks(spans: SpanTable) -> tuple[StepSource, Int64]:
    """When steps ended: the user's marks, else optimizer steps, batch requests, backward passes."""
    user = spans.of(SpanKind.STEP)
    if len(user):
        return "user", user.start_ns
    steps = spans.of(SpanKind.OPTIMIZER, SpanKind.SKIPPED)
    if len(steps):
        loads = spans.of(SpanKind.LOADER, SpanKind.LOADER_START)
        ends = [
            part.end_ns[part.detail == _closing_optimizer(part, loads)] for part in _eras(steps)
        ]
        return "optimizer", np.sort(np.concatenate(ends))
    # For inference every batch is fetched with gradients off.
    batches = _main_loader(spans.of(SpanKind.LOADER)) or _main_loader(
        spans.of(SpanKind.EVAL_LOADER)
    )
    backward = spans.of(SpanKind.BACKWARD)
    if len(backward) > RARE * len(batches):
        return "backward", np.sort(backward.end_ns)
    return "batch", batches.start_ns


def _main_loader(batches: SpanTable) -> SpanTable:
    """Batches of the loader that gave most; the first one where several gave as many."""
    if not len(batches):
        return batches
    indices, firsts, counts = np.unique(batches.detail, return_index=True, return_counts=True)
    main = indices[np.lexsort((firsts, -counts))[0]]
    return batches.select(batches.detail == main)


def _eras(steps: SpanTable) -> list[SpanTable]:
    """Steps of optimizers that were in use at the same time.

    A program that makes a new optimizer for each fold or phase has several eras, one after the
    other; in each of them another optimizer ends the steps.
    """
    indices = np.unique(steps.detail)
    first = np.array([steps.start_ns[steps.detail == i].min() for i in indices])
    last = np.array([steps.end_ns[steps.detail == i].max() for i in indices])
    starts, ends = union(first, last + 1)
    era = np.searchsorted(starts, steps.start_ns, side="right")
    return [steps.select(era == number + 1) for number in range(len(ends))]


def _closing_optimizer(steps: SpanTable, loads: SpanTable) -> int:
    """The optimizer whose step ends an iteration.

    It is the rarest one (five critic steps, then the generator) that is not just an event now and
    then; among equally frequent ones the one that a loader wait follows most often, else the one
    that first appeared last.
    """
    indices, counts = np.unique(steps.detail, return_counts=True)
    if len(indices) == 1:
        return int(indices[0])
    regular = counts * RARE >= counts.max()
    rarest = indices[regular & (counts <= counts[regular].min() * 1.1)]
    order = {int(i): int(np.argmax(steps.detail == i)) for i in rarest}
    followed = {int(i): 0 for i in rarest}
    if len(loads):
        last_before = np.searchsorted(steps.end_ns, loads.start_ns, side="right") - 1
        before = steps.detail[last_before[last_before >= 0]]
        followed = {int(i): int(np.sum(before == i)) for i in rarest}
    return max((int(i) for i in rarest), key=lambda i: (followed[i], order[i]))


def _phase_intervals(spans: SpanTable, marks: Int64) -> dict[str, Intervals]:
    """Disjoint, sorted intervals of each phase from the first to the last of the step marks."""
    sources: dict[str, Intervals] = {
        "profiler": _merged(spans.of(SpanKind.PROFILER)),
        "storage": _merged(spans.of(SpanKind.SAVE)),
        "evaluation": _evaluation(spans, marks),
        "loader": _merged(
            spans.of(
                SpanKind.LOADER, SpanKind.LOADER_START, SpanKind.LOADER_END, SpanKind.EVAL_LOADER
            )
        ),
        "garbage": _merged(spans.of(SpanKind.GC)),
        "backward": _merged(spans.of(SpanKind.BACKWARD)),
        "optimizer": _merged(spans.of(SpanKind.OPTIMIZER, SpanKind.SKIPPED, SpanKind.ZERO_GRAD)),
        "forward": _merged(spans.of(SpanKind.FORWARD)),
        "preparation": _preparation(spans, marks),
    }
    begin, end = int(marks[0]), int(marks[-1])
    whole = np.array([begin], np.int64), np.array([end], np.int64)
    left: Intervals = whole
    result: dict[str, Intervals] = {}
    for phase in PHASES[:-1]:
        without = subtract(left, sources[phase])
        result[phase] = subtract(left, without)
        left = without
    result["rest"] = left
    return result


def _preparation(spans: SpanTable, marks: Int64) -> Intervals:
    """In each step the time from the batch's arrival, or the step's start, to the first module.

    Steps without a module's call have none: what they prepare cannot be told from what they do
    with it. The calls of a validation on the way do not count.
    """
    calls = spans.of(SpanKind.FORWARD).start_ns
    forward = np.sort(calls[covered(_evaluation(spans, marks), calls, calls + 1) == 0])
    arrived = np.sort(spans.of(SpanKind.LOADER).end_ns)
    if not len(forward):
        return EMPTY
    starts, ends = marks[:-1], marks[1:]
    first = np.searchsorted(forward, starts)
    found = first < len(forward)
    first_module = np.append(forward, 0)[np.minimum(first, len(forward))]
    found &= first_module < ends
    last = np.searchsorted(arrived, first_module, side="right") - 1
    batch = np.append(arrived, 0)[np.maximum(last, 0)]
    begin = np.where((last >= 0) & (batch > starts), batch, starts)
    return union(begin[found], first_module[found])


def _merged(spans: SpanTable) -> Intervals:
    return union(spans.start_ns, spans.end_ns)


def _evaluation(spans: SpanTable, marks: Int64) -> Intervals:
    """Validation inside the run: from `eval()` to the same module's `train()`, and batches that
    were fetched with gradients off, each up to the next request; none where training went on.
    Forward passes with gradients off between the steps, too.

    A teacher or frozen part that is set to `eval()` and never back does not count.
    """
    trained = spans.of(SpanKind.BACKWARD, SpanKind.OPTIMIZER, SpanKind.SKIPPED).start_ns
    if not len(trained):
        return EMPTY
    modes, batches = spans.of(SpanKind.EVAL_MODE), spans.of(SpanKind.EVAL_LOADER)
    asked = spans.of(SpanKind.EVAL_LOADER, SpanKind.LOADER_END, SpanKind.LOADER)
    starts = np.concatenate((modes.start_ns, batches.start_ns))
    ends = np.concatenate((modes.end_ns, _answered_next(asked, batches.end_ns)))
    idle = np.searchsorted(trained, starts) == np.searchsorted(trained, ends)
    passes = _passes_without_gradients(spans, marks)
    return merge(union(starts[idle], ends[idle]), passes)


def _passes_without_gradients(spans: SpanTable, marks: Int64) -> Intervals:
    """From the first to the last of the modules' calls with gradients off that lie between an
    optimizer's step and the next call or backward pass with gradients; none where most steps have
    some.
    """
    events = spans.of(SpanKind.FORWARD, SpanKind.BACKWARD, SpanKind.OPTIMIZER, SpanKind.SKIPPED)
    forward = events.kind == ord(SpanKind.FORWARD)
    off = forward & (events.detail == 1)
    steps = np.isin(events.kind, [ord(SpanKind.OPTIMIZER), ord(SpanKind.SKIPPED)])
    edge = np.flatnonzero(np.diff(np.concatenate(([False], off, [False])).astype(np.int8)))
    first, last = edge[::2], edge[1::2] - 1
    between = (first > 0) & steps[np.maximum(first - 1, 0)]
    following = np.minimum(last + 1, len(events) - 1)
    between &= (following == last) | ~steps[following]
    first, last = first[between], last[between]
    starts, ends = events.start_ns[first], events.end_ns[last]
    steps_with = np.unique(np.searchsorted(marks, starts, side="right"))
    if len(steps_with) > USUAL * (len(marks) - 1):
        return EMPTY
    return union(starts, ends)


def _answered_next(asked: SpanTable, times: Int64) -> Int64:
    """When the request after each time was answered, be it by a batch or by the loader's end."""
    answers = np.sort(asked.end_ns)
    following = np.searchsorted(answers, times, side="right")
    return np.where(following < len(answers), np.append(answers, 0)[following], times)


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
