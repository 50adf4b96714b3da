"""Shares of the training thread's time from stack samples: what no span and no op tells."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..collectors.origins import is_own, is_user
from ..collectors.records import Frame, Stacks
from .diagnosis import Saving
from .hot_lines import HotLine, Weights, is_training_thread, plain_name, user_frame
from .logs import writes_log
from .run.load import Run

if TYPE_CHECKING:
    from .features import RankFeatures
    from .timeline import Timeline

MIN_SAMPLES = 40
"""With fewer samples a share of 10 % has a standard error of 5 points or more."""

OWN_THREAD = "boundscope"

Frames = list[Frame]


@dataclass(frozen=True)
class SampledShare:
    """Share of a thread's samples that match, their number of all, and the user's lines in them."""

    share: float
    matching: int
    samples: int
    lines: list[HotLine] = field(default_factory=list)

    @property
    def error(self) -> float:
        """Standard error of the share (binomial)."""
        return math.sqrt(max(self.share * (1 - self.share), 1e-4) / max(1, self.samples))

    def saving(self) -> Saving:
        """The share as a saving, two standard errors wide to each side."""
        low, high = self.share - 2 * self.error, self.share + 2 * self.error
        return Saving(
            round(max(0.0, low), 4), round(min(0.99, self.share), 4), round(min(0.99, high), 4)
        )


def sampled_share(
    run: Run,
    rank: RankFeatures,
    matches: Callable[[Frames], bool],
    *,
    all_threads: bool = False,
) -> SampledShare | None:
    """Share of the rank's main thread in its steady state; None where too little was sampled.

    `all_threads`: what the process's other threads do counts, too. With a device the backward pass
    runs in a thread of autograd's own, while the main one waits for it; all of them are sampled at
    the same moments, so the main thread's samples stand for the time.
    """
    seen = list(main_stacks(run, rank))
    total = sum(count for _, count in seen)
    if total < MIN_SAMPLES:
        return None
    if all_threads:
        seen += [(frames, count) for _, frames, count in other_stacks(run, rank)]
    found = 0.0
    lines: defaultdict[tuple[str, int, str], float] = defaultdict(float)
    for frames, count in seen:
        if not matches(frames):
            continue
        found += count
        frame = user_frame(frames)
        if frame is not None:
            lines[frame.file, frame.line, frame.function] += count
    found = min(found, total)
    most = sorted(lines.items(), key=lambda each: -each[1])[:3]
    hot = [
        HotLine(file, line, function, count / max(1.0, found), round(count))
        for (file, line, function), count in most
    ]
    return SampledShare(found / total, round(found), round(total), hot)


def main_stacks(run: Run, rank: RankFeatures) -> Iterator[tuple[Frames, float]]:
    """Stacks of the rank's main thread in its steady state, outermost frame first."""
    yield from thread_stacks(run, rank.data.pid, rank.timeline)


def thread_stacks(run: Run, pid: int, line: Timeline) -> Iterator[tuple[Frames, float]]:
    """Stacks of the training thread of process `pid` in the steady state of its steps."""
    for _, frames, count in _stacks(run, pid, line, main=True):
        yield frames, count


def other_stacks(run: Run, rank: RankFeatures) -> Iterator[tuple[Stacks, Frames, float]]:
    """Records and stacks of the rank's other threads in its steady state, our own left out."""
    return _stacks(run, rank.data.pid, rank.timeline, main=False)


def _stacks(
    run: Run, pid: int, line: Timeline, *, main: bool
) -> Iterator[tuple[Stacks, Frames, float]]:
    """Each with its number of samples, as if all had been taken at the mean rate: a recording is
    denser at a run's begin than later."""
    of_main = list(_counted(run, pid, line, main=True))
    weights = Weights((sample.interval_ns, count) for sample, _, count in of_main)
    for sample, frames, count in of_main if main else _counted(run, pid, line, main=False):
        if weight := weights.of(sample.interval_ns):
            yield sample, frames, count * weight


def _counted(
    run: Run, pid: int, line: Timeline, *, main: bool
) -> Iterator[tuple[Stacks, Frames, int]]:
    table = run.stacks.get(pid)
    if table is None or not line.steady.any():
        return
    begin, end = int(line.start_ns[line.steady][0]), int(line.end_ns[-1])
    for sample in table.samples:
        if sample.role != "rank" or sample.thread_name == OWN_THREAD:
            continue
        if main != is_training_thread(sample, pid):
            continue
        # Samples are kept in groups of a second: the group's middle decides.
        if not begin <= (sample.start_ns + sample.end_ns) // 2 <= end:
            continue
        for stack_id, count in sample.counts:
            ids = table.stacks.get(stack_id, [])
            frames = [table.frames[f] for f in ids if f in table.frames]
            if frames and (main or not is_own(frames[0].file)):
                yield sample, frames, count


def in_files(*parts: str) -> Callable[[Frames], bool]:
    """Whether any frame lies in one of the files or folders."""
    return lambda frames: any(part in frame.file for frame in frames for part in parts)


def in_functions(wanted: Mapping[str, Collection[str] | None]) -> Callable[[Frames], bool]:
    """Whether any frame is one of a file's functions; None stands for all of them."""

    def matches(frames: Frames) -> bool:
        return any(_is_wanted(frame, wanted) for frame in frames)

    return matches


def _is_wanted(frame: Frame, wanted: Mapping[str, Collection[str] | None]) -> bool:
    return any(
        part in frame.file and (functions is None or plain_name(frame) in functions)
        for part, functions in wanted.items()
    )


def runs_python(frames: Frames) -> bool:
    """Whether the innermost frame is the user's own code: Python that holds the interpreter lock,
    or a built-in call of it."""
    return is_user(frames[-1].file)


compiles = in_functions(
    {
        "torch/_dynamo/convert_frame.py": {"_compile", "compile_inner", "_compile_inner"},
        "torch/_dynamo/symbolic_convert.py": None,
        "torch/_dynamo/output_graph.py": {
            "compile_subgraph",
            "compile_and_call_fx_graph",
            "call_user_compiler",
            "_call_user_compiler",
        },
        "torch/_inductor/compile_fx.py": {
            "compile_fx",
            "compile_fx_inner",
            "_compile_fx_inner",
            "fx_codegen_and_compile",
            "codegen_and_compile",
            "fw_compiler_base",
            "bw_compiler",
        },
        "torch/_inductor/graph.py": None,
        "torch/_inductor/scheduler.py": None,
        "triton/compiler/code_generator.py": None,
        "triton/compiler/compiler.py": {"compile"},
    }
)
"""Functions that only a compilation calls (None: every one of the file). Graphs that are compiled
already run through the same files: aot_autograd's and inductor's wrappers (`forward`, `run`)."""

MIN_CLAIMED = 0.05
"""Below 5 % nothing is claimed (see rules.base.MIN_SHARE)."""

MIN_MATCHING = 5
"""So many samples at least: one or two may be chance."""


def sure(share: SampledShare | None) -> bool:
    """Whether a sampled share is worth naming and is no chance."""
    return (
        share is not None
        and share.share >= MIN_CLAIMED
        and share.matching >= MIN_MATCHING
        and share.share - share.error >= MIN_CLAIMED / 2
    )


def logged_share(run: Run, rank: RankFeatures) -> float:
    """Share of the rank's time in logging libraries: `storage`, though no span tells it; else 0."""
    share = sampled_share(run, rank, writes_log)
    return share.share if share is not None and sure(share) else 0.0
