"""The lines of the user's code at which stack samples were taken, by phase of the step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..collectors.origins import is_user, packaged
from ..collectors.records import MAIN_THREAD, Frame, Stacks
from .run.load import Run, StackTable

StackPhase = Literal["input", "backward", "optimizer", "storage", "rest", "worker"]

_LOADER = ("torch/utils/data/dataloader.py", "torch/utils/data/_utils/")
_BACKWARD = ("torch/autograd/graph.py", "torch/autograd/__init__.py")
_SAVING = ("torch/serialization.py", "torch/distributed/checkpoint/", "safetensors/")
_OPTIMIZER = "torch/optim/"


@dataclass(frozen=True)
class HotLine:
    """A line of the user's code: its share of the samples of its phase, and their number."""

    file: str
    line: int
    function: str
    share: float
    samples: int


def stack_phase(frames: list[Frame], worker: bool) -> StackPhase:
    """What the thread was doing, from the frames of torch that are on its stack."""
    if worker:
        return "worker"
    files = [packaged(frame.file) for frame in frames]
    if any(part in file for file in files for part in _SAVING):
        return "storage"
    if any(_LOADER[0] in packaged(f.file) and "iter" not in f.function[:4] for f in frames):
        return "input"
    if any(part in file for file in files for part in _BACKWARD):
        return "backward"
    if any(_OPTIMIZER in file for file in files):
        return "optimizer"
    return "rest"


def is_training_thread(sample: Stacks, pid: int) -> bool:
    """Whether samples of rank process `pid` are of the thread that trains.

    A rank that samples itself watches that thread alone. It names no rank, and once no thread.
    """
    inside = sample.rank is None and not sample.thread_name
    return inside or sample.thread_name == MAIN_THREAD or sample.thread == pid


def plain_name(frame: Frame) -> str:
    """A frame's function without the class or function that it is in."""
    return frame.function.rpartition(".")[2]


def user_frame(frames: list[Frame]) -> Frame | None:
    """The innermost frame that is the user's own."""
    for frame in reversed(frames):
        if is_user(frame.file):
            return frame
    return None


def hot_lines(
    run: Run,
    pid: int,
    phase: StackPhase | tuple[StackPhase, ...],
    limit: int = 3,
    *,
    torch_first: bool = False,
) -> list[HotLine]:
    """The user's lines with most samples in `phase` of rank process `pid`, most first.

    Several phases of the training thread are taken as one. Loader workers of every rank are taken
    together: their stacks name the dataset, not the rank. `torch_first`: lines that are mostly seen
    with a function of torch's on the stack (in a module, a functional) go before the others, which
    may sleep or read as well as calculate.
    """
    phases = (phase,) if isinstance(phase, str) else phase
    counts: defaultdict[tuple[str, int, str], float] = defaultdict(float)
    in_torch: defaultdict[tuple[str, int, str], float] = defaultdict(float)
    total = 0.0
    saves = _save_sites(run, pid)
    for table, samples in _tables(run, pid, phases[0]):
        for stack_id, count in samples.items():
            frames = [table.frames[f] for f in table.stacks.get(stack_id, []) if f in table.frames]
            here = stack_phase(frames, phase == "worker") if frames else None
            if here not in phases:
                continue
            # Writes that no library makes (os.fsync) are known by where they were called.
            if here == "rest" and any((f.file, f.line) in saves for f in frames):
                continue
            total += count
            frame = user_frame(frames)
            if frame is not None and not (phase == "worker" and len(frames) < 3):
                where = frame.file, frame.line, frame.function
                counts[where] += count
                if any("/torch/" in packaged(each.file) for each in frames):
                    in_torch[where] += count
    if total <= 0:
        return []
    found = sorted(counts.items(), key=lambda each: -each[1])
    if torch_first:
        found.sort(key=lambda each: in_torch[each[0]] < each[1] / 2)  # stable: most samples first
    return [
        HotLine(file, line, function, count / total, round(count))
        for (file, line, function), count in found[:limit]
    ]


def _save_sites(run: Run, pid: int) -> set[tuple[str, int]]:
    sites = [site for rank in run.ranks if rank.pid == pid for site in rank.sites]
    return {(site.file, site.line) for site in sites if site.what == "save"}


class Weights:
    """How much a sample counts where recordings are denser at a run's begin than later: `counted`
    are (interval in ns, number of samples); all count one where no interval is known."""

    def __init__(self, counted: Iterable[tuple[int, int]]) -> None:
        pairs = [(max(0, interval), count) for interval, count in counted]
        samples = sum(count for _, count in pairs)
        self._mean = sum(interval * count for interval, count in pairs) / max(1, samples)

    def of(self, interval_ns: int) -> float:
        """The weight of a sample; that of the mean one is 1."""
        return max(0, interval_ns) / self._mean if self._mean > 0 else 1.0


def _tables(run: Run, pid: int, phase: StackPhase) -> list[tuple[StackTable, dict[int, float]]]:
    """Tables of stacks with the number of samples of each, as if all had been taken at the mean
    rate: a recording is denser at a run's begin than later."""
    wanted = "worker" if phase == "worker" else "rank"
    chosen = [
        (table, sample)
        for owner, table in run.stacks.items()
        if phase == "worker" or owner == pid
        for sample in table.samples
        if sample.role == wanted and (phase == "worker" or is_training_thread(sample, pid))
    ]
    weights = Weights((s.interval_ns, sum(n for _, n in s.counts)) for _, s in chosen)
    found: dict[int, tuple[StackTable, dict[int, float]]] = {}
    for table, sample in chosen:
        _, counts = found.setdefault(id(table), (table, defaultdict(float)))
        for stack, count in sample.counts:
            counts[stack] += count * weights.of(sample.interval_ns)
    return list(found.values())
