"""The training thread is held back by the machine: its quota, too many threads, another thread."""

from __future__ import annotations

from ..diagnosis import Evidence, Finding, Fix, Place, Saving
from ..held_back import MIN_HELD, oversubscribed, thread_delay, throttled
from ..hot_lines import HotLine
from ..metrics import mean_of
from ..sampled import MIN_SAMPLES, Frames, other_stacks, runs_python
from ..text import percent, plural
from ..workers import waits_for
from .base import MIN_SHARE, Evidenced, place

FINDINGS = ("cpu-throttled", "oversubscribed-threads", "lock-contention")

OTHER_BUSY = 0.25
"""Share of the samples in which another thread of the training process is in the user's Python."""

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
    text = f"in {percent(periods)} of the scheduler's periods the CPU quota ran out"
    value = round(periods, 4)
    evidence = [Evidence(text, "host.throttled_periods", value, "share", "metrics")]
    if limit:
        text = f"the control group may use {limit:g} cores"
        evidence.append(Evidence(text, "host.quota_cores", limit, "cores", "metrics"))
    cores = max(1, int(limit))
    return case.finding(
        id="cpu-throttled",
        bound="host",
        title="The control group's CPU quota stops the job again and again",
        share=share,
        evidence=evidence,
        where=[Place(rank=worst)],
        fixes=[
            Fix(
                f"Use as many threads as the quota allows: {cores}",
                "More threads than that use up a period's quota early, and all of them then stand "
                "still to its end.",
                f"torch.set_num_threads({cores})",
            ),
            Fix("Ask for a larger CPU quota (Kubernetes: resources.limits.cpu)"),
        ],
    )


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
    each = case.cores_a_rank
    what = f"the ranks of a host calculate in {threads} threads on {plural(case.cores, 'core')}"
    late = f"rank {worst}'s main thread is ready but without a core {percent(delay)} of the time"
    return case.held_back(
        id="oversubscribed-threads",
        title=f"{threads} threads calculate on {plural(case.cores, 'core')}",
        saving=Saving(0.0, round(delay / 2, 4), round(delay, 4)),
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
    stacks = list(other_stacks(case.features.run, rank))
    total = sum(count for _, count in stacks)
    busy = [(frames, count) for frames, count in stacks if _at_work(frames)]
    number = sum(count for _, count in busy)
    if total < MIN_SAMPLES or number < OTHER_BUSY * total:
        return None
    share = number / total
    top = max(busy, key=lambda item: item[1])[0][-1]
    line = HotLine(top.file, top.line, top.function, share, number)
    high = rank.shares["host"] / 2
    return case.held_back(
        id="lock-contention",
        title="Another thread of the training process runs Python and takes the interpreter's lock",
        saving=Saving(0.0, round(high * share, 4), round(high, 4)),
        evidence=[
            Evidence(
                f"{percent(share)} of {total} samples of other threads are in the script's code",
                "host.other_thread_share",
                round(share, 4),
                "share",
                "stacks",
            )
        ],
        where=[place(line, rank.rank)],
        fixes=[
            Fix(
                "Move that work to a process of its own",
                "One interpreter runs one thread at a time; a process has a lock of its own.",
                "multiprocessing.Process(target=work, daemon=True).start()",
            )
        ],
    )


def _at_work(frames: Frames) -> bool:
    name = frames[-1].function.rpartition(".")[2]
    return runs_python(frames) and name not in _IDLE_CALLS and waits_for(frames) == "unknown"
