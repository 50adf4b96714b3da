"""Shares of the training thread's time from stack samples: what no span and no op tells."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..collectors.records import MAIN_THREAD, Frame, Stacks
from .diagnosis import Saving
from .hot_lines import HotLine, is_user, user_frame
from .run.load import Run

if TYPE_CHECKING:
    from .features import RankFeatures

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
    run: Run, rank: RankFeatures, matches: Callable[[Frames], bool]
) -> SampledShare | None:
    """Share of the rank's main thread in its steady state; None where too little was sampled."""
    total, found = 0, 0
    lines: Counter[tuple[str, int, str]] = Counter()
    for frames, count in main_stacks(run, rank):
        total += count
        if not matches(frames):
            continue
        found += count
        frame = user_frame(frames)
        if frame is not None:
            lines[frame.file, frame.line, frame.function] += count
    if total < MIN_SAMPLES:
        return None
    hot = [
        HotLine(file, line, function, count / found, count)
        for (file, line, function), count in lines.most_common(3)
    ]
    return SampledShare(found / total, found, total, hot)


def main_stacks(run: Run, rank: RankFeatures) -> Iterator[tuple[Frames, int]]:
    """Stacks of the rank's main thread in its steady state, outermost frame first."""
    return _stacks(run, rank, main=True)


def other_stacks(run: Run, rank: RankFeatures) -> Iterator[tuple[Frames, int]]:
    """Stacks of the rank's other threads in its steady state, our own left out."""
    return _stacks(run, rank, main=False)


def _stacks(run: Run, rank: RankFeatures, *, main: bool) -> Iterator[tuple[Frames, int]]:
    table = run.stacks.get(rank.data.pid)
    line = rank.timeline
    if table is None or not line.steady.any():
        return
    begin, end = int(line.start_ns[line.steady][0]), int(line.end_ns[-1])
    for sample in table.samples:
        if sample.role != "rank" or sample.thread_name == OWN_THREAD:
            continue
        if main != _is_main(sample, rank.data.pid):
            continue
        # Samples are kept in groups of a second: the group's middle decides.
        if not begin <= (sample.start_ns + sample.end_ns) // 2 <= end:
            continue
        for stack_id, count in sample.counts:
            ids = table.stacks.get(stack_id, [])
            frames = [table.frames[f] for f in ids if f in table.frames]
            if frames:
                yield frames, count


def _is_main(sample: Stacks, pid: int) -> bool:
    """Whether the thread is the one that trains.

    A rank that samples itself watches that thread alone. It names no rank, and once no thread.
    """
    inside = sample.rank is None and not sample.thread_name
    return inside or sample.thread_name == MAIN_THREAD or sample.thread == pid


def in_files(*parts: str) -> Callable[[Frames], bool]:
    """Whether any frame lies in one of the files or folders."""
    return lambda frames: any(part in frame.file for frame in frames for part in parts)


def runs_python(frames: Frames) -> bool:
    """Whether the innermost frame is the user's own code: Python that holds the interpreter lock,
    or a built-in call of it."""
    return is_user(frames[-1].file)


writes_log = in_files(
    "/logging/__init__.py",
    "/loguru/",
    "/tensorboard/",
    "/tensorboardX/",
    "/wandb/",
    "/mlflow/",
    "/comet_ml/",
    "/csv.py",
    "/tqdm/",
)
compiles = in_files(
    "torch/_dynamo/convert_frame.py",
    "torch/_dynamo/output_graph.py",
    "torch/_inductor/compile_fx.py",
    "torch/_functorch/aot_autograd.py",
    "triton/compiler/",
)

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
