"""What the loader workers of a rank do: making batches, or waiting to be asked for one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..collectors.origins import is_user, packaged
from ..collectors.records import Frame
from .features import RankFeatures
from .metrics import mean_of
from .recorded_facts import count_in
from .run.load import Run

Cause = Literal["cpu", "network", "lock", "storage", "sleep", "unknown"]

MIN_SAMPLES = 20
"""Fewer stack samples tell a worker's busy share no better than to 10 points."""

MIN_READINGS = 3
"""Fewer readings, one a second, tell nothing of what the workers wait for."""

CPU_BOUND = 0.5
"""Workers that use at least half of a core each while they make batches work, they don't wait."""

WAITING = 0.25
"""Of the time in which they make batches: workers that sleep in the kernel less than this run, or
would run if they had a core."""

_LOOP, _FETCH = "torch/utils/data/_utils/worker.py", "torch/utils/data/_utils/fetch.py"
_COLLATE = "torch/utils/data/_utils/collate.py"
_DATASET = ("__getitem__", "__getitems__", "__next__", "__iter__", "<listcomp>")
_NETWORK = (
    "/socket.py",
    "/ssl.py",
    "/http/client.py",
    "/urllib/",
    "/urllib3/",
    "/requests/",
    "/botocore/",
    "/s3fs/",
    "/fsspec/",
    "/aiohttp/",
    "/redis/",
    "/grpc/",
)
_LOCK = ("/multiprocessing/synchronize.py", "/filelock/")
_LOCK_CALLS = frozenset({"acquire", "Lock.__enter__", "Condition.wait", "wait"})
_RESULT = ("/concurrent/futures/", "/queue.py", "/multiprocessing/pool.py", "/asyncio/")


@dataclass(frozen=True)
class WorkerTime:
    """Loader workers of one rank: share of their time in which they make batches, what limits them
    then, samples taken, and CPU cores used by all of them (None: not recorded)."""

    busy_share: float
    cause: Cause
    samples: int
    cpu_cores: float | None = None


def worker_time(run: Run, rank: RankFeatures) -> WorkerTime | None:
    """What the workers of a rank do; None where too little was sampled.

    Only main threads count (those in the worker loop); a worker that waits for its next index is
    idle.
    """
    stacks = list(worker_stacks(run, rank.rank))
    samples = sum(count for _, count in stacks)
    if samples < MIN_SAMPLES:
        return None
    busy = sum(count for frames, count in stacks if in_fetch(frames))
    cores = mean_of(run, f"rank.{rank.rank}.workers_cpu_cores")
    share = busy / samples
    cause = _cause(run, rank, stacks, share, cores)
    return WorkerTime(share, cause, samples, cores)


def worker_stacks(run: Run, rank: int) -> Iterator[tuple[list[Frame], int]]:
    """Stacks (outermost frame first) of a rank's workers that are in the loader's worker loop."""
    for table in run.stacks.values():
        counts: Counter[int] = Counter()
        for sample in table.samples:
            if sample.role == "worker" and sample.rank in (None, rank):
                counts.update(dict(sample.counts))
        for stack_id, count in counts.items():
            frames = [table.frames[f] for f in table.stacks.get(stack_id, []) if f in table.frames]
            if any(_LOOP in frame.file for frame in frames):
                yield frames, count


def worker_count(rank: RankFeatures) -> int:
    """Workers of the rank's loader with most of them; 0 where none is known."""
    return max((count_in(site.facts, "num_workers") for site in rank.data.sites), default=0)


def in_fetch(frames: list[Frame]) -> bool:
    """Whether the thread makes a batch."""
    return any(_FETCH in frame.file for frame in frames)


def in_collate(frames: list[Frame]) -> bool:
    """Whether the thread puts samples together: the loader's own collate or the user's function."""
    if any(_COLLATE in frame.file for frame in frames):
        return True
    last = max((i for i, frame in enumerate(frames) if _FETCH in frame.file), default=-1)
    if last < 0 or last + 1 >= len(frames):
        return False
    called = frames[last + 1]
    return is_user(called.file) and called.function.rpartition(".")[2] not in _DATASET


def waits_for(frames: list[Frame]) -> Cause:
    """What the innermost frames say a thread waits for; "unknown" inside a built-in call."""
    inner = frames[-6:]
    if any(part in packaged(frame.file) for frame in inner for part in _NETWORK):
        return "network"
    last = frames[-1]
    if waits_for_result(frames):
        return "unknown"
    if any(part in packaged(last.file) for part in _LOCK):
        return "lock"
    if last.file.endswith("/threading.py") and last.function.rpartition(".")[2] in _LOCK_CALLS:
        return "lock"
    return "unknown"


def waits_for_result(frames: list[Frame]) -> bool:
    """Whether a thread waits for what another thread or process of its own makes: it sleeps as one
    that waits for a lock does, but nobody holds a lock."""
    return any(part in packaged(frame.file) for frame in frames[-6:] for part in _RESULT)


def _cause(
    run: Run,
    rank: RankFeatures,
    stacks: list[tuple[list[Frame], int]],
    busy: float,
    cores: float | None,
) -> Cause:
    workers = max(1, worker_count(rank))
    if cores is not None and busy > 0 and cores / workers / busy >= CPU_BOUND:
        return "cpu"
    seen: Counter[Cause] = Counter()
    for frames, count in stacks:
        if in_fetch(frames):
            seen[waits_for(frames)] += count
    if seen and seen.most_common(1)[0][0] != "unknown":
        return seen.most_common(1)[0][0]
    found = kernel_wait(run, f"rank.{rank.rank}.workers_wait", WAITING * busy)
    making = [(frames, count) for frames, count in stacks if in_fetch(frames)]
    if found == "lock" and mostly_results(making):
        return "unknown"
    readings = mean_of(run, f"rank.{rank.rank}.workers_wait.sleep_share", MIN_READINGS)
    return "cpu" if found == "unknown" and readings is not None and cores else found


def mostly_results(stacks: Sequence[tuple[list[Frame], float]]) -> bool:
    """Whether most of the stacks wait for a result, whatever the kernel calls that."""
    results = sum(count for frames, count in stacks if waits_for_result(frames))
    return 2 * results > sum(count for _, count in stacks)


def kernel_wait(run: Run, prefix: str, at_least: float = 0.0) -> Cause:
    """What the kernel says that processes wait for most; "unknown" where nothing is above
    `at_least` (a share of the readings), or nothing was recorded."""
    kinds: tuple[Cause, ...] = ("network", "lock", "storage", "sleep")
    found = {kind: mean_of(run, f"{prefix}.{kind}_share", MIN_READINGS) for kind in kinds}
    known = {kind: value for kind, value in found.items() if value is not None and value > at_least}
    return max(known, key=lambda kind: known[kind]) if known else "unknown"
