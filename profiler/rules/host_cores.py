"""The training thread is held back by the machine: its quota, too many threads, another thread."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from ...collectors.records import Stacks
from ..diagnosis import Evidence, Finding, Fix, Place, Saving
from ..features import RankFeatures
from ..held_back import MIN_HELD, oversubscribed, thread_delay, threads_of, throttled
from ..hot_lines import HotLine, plain_name
from ..metrics import mean_of
from ..sampled import MIN_SAMPLES, Frames, other_stacks, runs_python
from ..text import percent, plural
from ..workers import waits_for
from ._exposed import beside_device
from .base import MIN_SHARE, Evidenced, place

FINDINGS = ("cpu-throttled", "oversubscribed-threads", "lock-contention")

OTHER_BUSY = 0.25
"""Share of the time in which another thread runs the user's Python. The training thread waits up to
5 ms (sys.getswitchinterval) whenever it comes back to the interpreter meanwhile."""

_IDLE_CALLS = frozenset({"wait", "get", "select", "accept", "recv", "read", "readline", "join"})


def find(case: Evidenced) -> list[Finding]:
    """Throttling by the quota, threads beyond the cores, and a lock that another thread holds."""
    found = [_throttled(case), _oversubscribed(case), _contention(case)]
    return [finding for finding in found if finding is not None]


def _throttled(case: Evidenced) -> Finding | None:
    """Time that the control group's quota held the job back, while the training ran."""
    run = case.features.run
    held = {rank.rank: throttled(run, rank) for rank in case.features.ranks}
    worst = max(held, key=lambda number: held[number])
    share, periods = held[worst]
    if share < MIN_HELD:
        return None
    limit = mean_of(run, "cgroup.cpu_limit_cores") or 0.0
    rank = next(rank for rank in case.features.ranks if rank.rank == worst)
    text = f"in {percent(periods)} of the scheduler's periods the CPU quota ran out"
    value = round(periods, 4)
    evidence = [Evidence(text, "host.throttled_periods", value, "share", "metrics")]
    if limit:
        text = f"the control group may use {limit:g} cores"
        evidence.append(Evidence(text, "host.quota_cores", limit, "cores", "metrics"))
    return case.finding(
        id="cpu-throttled",
        bound="host",
        title="The control group's CPU quota stops the job again and again",
        share=share,
        evidence=evidence,
        where=[Place(rank=worst)],
        fixes=_within_quota(limit, case.ranks_a_host, threads_of(rank)),
    )


def _within_quota(limit: float, ranks: int, threads: int) -> list[Fix]:
    """Threads that the quota allows each of so many ranks, where it has more of them today."""
    more = Fix("Ask for a larger CPU quota (Kubernetes: resources.limits.cpu)")
    each = max(1, int(limit) // ranks)
    if not limit or threads <= each:
        return [more]
    of_rank = f" for each of {ranks} ranks" if ranks > 1 else ""
    fewer = Fix(
        f"Use as many threads as the quota allows: {each}{of_rank}",
        "More threads than that use up a period's quota early, and all of them then stand still to "
        "its end.",
        f"torch.set_num_threads({each})",
    )
    return [fewer, more]


def _oversubscribed(case: Evidenced) -> Finding | None:
    """More threads that calculate than cores, and a training thread that waits for a core.

    While it waits its siblings may do their part of the work, or spin for it: what fewer threads
    would save lies between nothing and the wait.
    """
    run, ranks = case.features.run, case.features.ranks
    threads = oversubscribed(run, ranks)
    delays = {rank.rank: thread_delay(run, ranks, rank) for rank in ranks}
    worst = max(delays, key=lambda rank: delays[rank])
    delay = delays[worst]
    if not threads or delay < MIN_HELD:
        return None
    late_rank = next(rank for rank in ranks if rank.rank == worst)
    saving = beside_device(late_rank, Saving(0.0, round(delay / 2, 4), round(delay, 4)))
    if saving.high < MIN_SHARE:
        return None
    each = case.cores_a_rank
    what = f"the ranks of a host calculate in {threads} threads on {plural(case.cores, 'core')}"
    late = f"rank {worst}'s main thread is ready but without a core {percent(delay)} of the time"
    return case.held_back(
        id="oversubscribed-threads",
        title=f"{threads} threads calculate on {plural(case.cores, 'core')}",
        saving=saving,
        evidence=[
            Evidence(what, "host.threads", threads, "threads", "manifest"),
            Evidence(late, "host.run_delay", round(delay, 4), "share", "metrics"),
        ],
        where=[Place(rank=worst)],
        fixes=[
            Fix(
                f"Give each rank {plural(each, 'thread')}",
                "Threads beyond the cores wait for each other at the end of every op.",
                f"torch.set_num_threads({each})  # or OMP_NUM_THREADS={each}",
            )
        ],
    )


def _contention(case: Evidenced) -> Finding | None:
    """Another thread of the training process runs Python while the host holds the step up.

    Python runs one thread at a time. What the training thread waits for the lock cannot be
    measured without tracing it, so the saving is an interval from nothing to half of the host's
    share at most: two threads that always run get half of the lock each.
    """
    rank = case.worst_rank("host")
    if rank.shares["host"] < MIN_SHARE:
        return None
    busiest = busy_thread(case, rank)
    if busiest is None:
        return None
    high = rank.shares["host"] / 2
    return case.held_back(
        id="lock-contention",
        title="Another thread of the training process runs Python and takes the interpreter's lock",
        saving=Saving(0.0, round(high * busiest.at_work, 4), round(high, 4)),
        evidence=[
            Evidence(
                f"{percent(busiest.in_code)} of {busiest.samples} samples of another thread are in "
                "the script's code",
                "host.other_thread_share",
                round(busiest.in_code, 4),
                "share",
                "stacks",
            ),
            Evidence(
                f"that thread uses {percent(busiest.cpu)} of a core",
                "host.other_thread_cpu",
                round(busiest.cpu, 4),
                "cores",
                "metrics",
            ),
        ],
        where=[place(busiest.line, rank.rank)],
        fixes=[OWN_PROCESS],
    )


OWN_PROCESS = Fix(
    "Move that work to a process of its own",
    "One interpreter runs one thread at a time; a process has a lock of its own.",
    "multiprocessing.Process(target=work, daemon=True).start()",
)


@dataclass(frozen=True)
class OtherThread:
    """A thread beside the training's: its samples, the share of them in the script's own code, the
    share of a core that it uses, and its line with most samples."""

    samples: int
    in_code: float
    cpu: float
    line: HotLine

    @property
    def at_work(self) -> float:
        """Share of the time in which it runs Python, at most: a stack alone does not tell a call
        that sleeps from one that calculates, nor CPU time in which code it was spent."""
        return min(self.in_code, self.cpu)


def busy_thread(case: Evidenced, rank: RankFeatures) -> OtherThread | None:
    """The other thread that runs Python for longest; None where none does so for long."""
    threads = other_threads(case, rank)
    busiest = max(threads, key=lambda thread: thread.at_work, default=None)
    return None if busiest is None or busiest.at_work < OTHER_BUSY else busiest


def other_threads(case: Evidenced, rank: RankFeatures) -> list[OtherThread]:
    """The rank's other threads that are seen in the script's code and whose CPU time is known."""
    seen: dict[int, list[tuple[Stacks, Frames, float]]] = defaultdict(list)
    for sample, frames, count in other_stacks(case.features.run, rank):
        seen[sample.thread].append((sample, frames, count))
    found = [_other_thread(stacks) for stacks in seen.values()]
    return [thread for thread in found if thread is not None]


def _other_thread(stacks: list[tuple[Stacks, Frames, float]]) -> OtherThread | None:
    total = sum(count for _, _, count in stacks)
    used = [(sample.cpu_share, count) for sample, _, count in stacks]
    known = [(cpu, count) for cpu, count in used if cpu is not None]
    lines: defaultdict[tuple[str, int, str], float] = defaultdict(float)
    for _, frames, count in stacks:
        if _at_work(frames):
            lines[frames[-1].file, frames[-1].line, frames[-1].function] += count
    if total < MIN_SAMPLES or not known or not lines:
        return None
    cpu = sum(cpu * count for cpu, count in known) / sum(count for _, count in known)
    (file, line, function), most = max(lines.items(), key=lambda each: each[1])
    hot = HotLine(file, line, function, most / total, round(most))
    return OtherThread(round(total), sum(lines.values()) / total, cpu, hot)


def _at_work(frames: Frames) -> bool:
    name = plain_name(frames[-1])
    return runs_python(frames) and name not in _IDLE_CALLS and waits_for(frames) == "unknown"
