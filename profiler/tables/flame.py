"""Stack samples as a tree: what was called from where, and how often it was seen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from ...collectors.origins import is_own, is_user
from ...collectors.records import Frame
from ..hot_lines import StackPhase, stack_phase
from ..run.load import Run, StackTable

Which = Literal["all", "input", "host", "backward", "optimizer", "storage", "rest", "worker"]

HOST: tuple[StackPhase, ...] = ("rest", "backward", "optimizer")
"""What the training thread does when it neither waits for input nor writes a checkpoint: it works
itself, hands work to the device, or waits for it."""

MIN_SHARE = 0.002
"""A box of less than a five-hundredth of the width can be neither read nor clicked."""

MAX_DEPTH = 120


@dataclass
class Node:
    """One frame below its callers: `count` samples in it or below, `own` in it itself."""

    function: str
    file: str
    line: int
    count: int = 0
    own: int = 0
    children: dict[tuple[str, str, int], Node] = field(default_factory=dict)

    @property
    def is_user(self) -> bool:
        """Whether the code is the user's own."""
        return is_user(self.file)


def flame_tree(run: Run, rank: int, which: Which, *, only_user: bool = False) -> Node:
    """Return the root of the tree of a rank's samples; its count is 0 when there are none.

    `which` is a phase of the training thread, "all" of them, "host" for those of `HOST`, or
    "worker" for the rank's loader workers. `only_user` leaves out the frames of libraries.
    """
    root = Node("all", "", 0)
    for table, counts in _samples(run, rank, worker=which == "worker"):
        for stack, count in counts.items():
            frames = [table.frames[f] for f in table.stacks.get(stack, []) if f in table.frames]
            if not frames or not _wanted(frames, which):
                continue
            frames = [frame for frame in frames if not is_own(frame.file)]
            if only_user:
                frames = [frame for frame in frames if is_user(frame.file)]
            _add(root, frames[:MAX_DEPTH], count)
    return root


def phases_seen(run: Run, rank: int) -> dict[StackPhase, int]:
    """Return how many samples each phase of a rank has; "worker" for its loader workers."""
    seen: Counter[StackPhase] = Counter()
    for worker in (False, True):
        for table, counts in _samples(run, rank, worker=worker):
            for stack, count in counts.items():
                frames = [table.frames[f] for f in table.stacks.get(stack, []) if f in table.frames]
                if frames:
                    seen[stack_phase(frames, worker)] += count
    return dict(seen)


def _wanted(frames: list[Frame], which: Which) -> bool:
    if which in ("all", "worker"):
        return True
    phase = stack_phase(frames, worker=False)
    return phase in HOST if which == "host" else phase == which


def _samples(run: Run, rank: int, *, worker: bool) -> list[tuple[StackTable, Counter[int]]]:
    pids = {data.pid for data in run.ranks if data.rank == rank}
    found = []
    for pid, table in run.stacks.items():
        counts: Counter[int] = Counter()
        for sample in table.samples:
            mine = sample.rank in (rank, None) if worker else pid in pids
            if mine and (sample.role == "worker") == worker:
                counts.update(dict(sample.counts))
        if counts:
            found.append((table, counts))
    return found


def _add(root: Node, frames: list[Frame], count: int) -> None:
    root.count += count
    node = root
    for frame in frames:
        key = (frame.function, frame.file, frame.line)
        child = node.children.get(key)
        if child is None:
            child = node.children[key] = Node(*key)
        child.count += count
        node = child
    node.own += count
