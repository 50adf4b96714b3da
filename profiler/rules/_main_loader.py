"""Batches made in the training process itself: decoded, collated, or waited for."""

from __future__ import annotations

from functools import partial

from ..diagnosis import Evidence, Finding, Fix
from ..hot_lines import StackPhase, stack_phase
from ..sampled import Frames, SampledShare, main_stacks, sampled_share
from ..text import percent, plural
from ..workers import Cause, in_collate, kernel_wait, mostly_results, waits_for
from ._loader import Loader, pipeline_of
from ._saturation import full, under_the_lock
from .base import Evidenced, place
from .host_cores import OWN_PROCESS, busy_thread

CPU_BOUND = 0.5
"""A wait in the main process that spends more than half of its time on the CPU is work (decode,
augmentation); below, it waits for something else (a store, a lock, a sleep)."""

COLLATE = 0.5
"""Collating takes most of a wait when at least half of the wait's samples are in it."""

AT_ONCE = 16
"""Requests in flight with a pool of threads in __getitems__; stores answer so many as fast as
one (S3's own guidance: 8 to 16 concurrent requests a client)."""

WAITS_FOR = {
    "network": "the network",
    "lock": "a lock",
    "storage": "storage",
    "sleep": "a timer: it sleeps",
}


def in_main(case: Evidenced, loader: Loader) -> Finding:
    """The finding for a loader without workers."""
    cpu = loader.cpu_share
    spent = "working on the CPU" if cpu >= CPU_BOUND else "waiting, not computing"
    loader.evidence.append(
        Evidence(
            f"the training process spends {percent(cpu)} of that wait on the CPU: it is {spent}",
            "input.wait_cpu_share",
            round(cpu, 4),
            "share",
            "steps",
        )
    )
    collate = _collating(case, loader)
    if collate is not None:
        return _slow_collate(case, loader, collate)
    return _decode(case, loader) if cpu >= CPU_BOUND else _slow_store(case, loader)


def _collating(case: Evidenced, loader: Loader) -> SampledShare | None:
    """The samples in collate, where they are most of the loader's."""
    run, rank = case.features.run, loader.rank
    waiting = sampled_share(run, rank, lambda frames: _phase(frames) == "input")
    within = sampled_share(run, rank, lambda f: _phase(f) == "input" and in_collate(f))
    if waiting is None or within is None or not waiting.matching:
        return None
    return within if within.matching >= COLLATE * waiting.matching else None


def _phase(frames: Frames) -> StackPhase:
    return stack_phase(frames, worker=False)


def _slow_collate(case: Evidenced, loader: Loader, collate: SampledShare) -> Finding:
    rank = loader.rank.rank
    loader.evidence.append(
        Evidence(
            f"{collate.matching} of {collate.samples} stack samples of the training thread put the "
            "samples of a batch together",
            "input.collate_samples",
            collate.matching,
            "samples",
            "stacks",
        )
    )
    own = [place(line, rank) for line in collate.lines]
    fixes = [
        Fix(
            "Collate with array operations, without a loop over the samples",
            "Allocate the batch once and fill it, or pad with one call.",
            "torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)",
        ),
        *_workers(case, loader, "Collate in worker processes"),
    ]
    return case.finding(
        id="slow-collate",
        bound="input",
        title=f"Rank {rank} spends the wait putting samples together into a batch",
        share=loader.share,
        evidence=loader.evidence,
        where=own + [p for p in loader.places if p not in own],
        fixes=by_saving(fixes),
    )


def _decode(case: Evidenced, loader: Loader) -> Finding:
    pipeline = pipeline_of(case, loader)
    whole = pipeline.wait_ms + pipeline.work_ms
    once = round(pipeline.wait_ms / whole, 4) if whole else 0.0
    fixes = [
        *_workers(case, loader, "Decode in worker processes"),
        Fix(
            "Do the work once: store the decoded samples",
            "Decode and resize beforehand, keep what the model needs; nothing is then left to "
            "decode in the loop.",
            saving=once,
        ),
        Fix(
            "Make the work per sample cheaper",
            "Replace Python loops per sample by one array operation per batch (a custom "
            + ("collate_fn)." if loader.iterable else "collate_fn or __getitems__)."),
        ),
    ]
    return case.finding(
        id="decode-in-main",
        bound="input",
        title=f"Rank {loader.rank.rank} prepares its batches in the training process itself",
        share=loader.share,
        evidence=loader.evidence,
        where=loader.places,
        fixes=by_saving(fixes),
    )


def _workers(case: Evidenced, loader: Loader, title: str) -> list[Fix]:
    """Workers for work on the CPU: never more than the cores that the training thread leaves."""
    spare = case.cores_a_rank - 1
    if spare < 1:
        return []
    saving = pipeline_of(case, loader).saving(spare)
    on_cpu = "" if loader.rank.device else " They share the cores with the training's own threads."
    return [
        Fix(
            f"{title}: {spare}",
            f"The rank may use {case.cores_a_rank} cores, of which its own thread takes one."
            f"{on_cpu} The replay expects {percent(saving)} of the step to go.",
            loader.with_workers(num_workers=spare, persistent_workers=True),
            round(saving, 4),
        )
    ]


def _slow_store(case: Evidenced, loader: Loader) -> Finding:
    cause = _cause(case, loader)
    if cause in WAITS_FOR:
        loader.evidence.append(
            Evidence(
                f"what it waits for is {WAITS_FOR[cause]}",
                f"input.waits_for.{cause}",
                1,
                "1",
                "stacks" if cause == "network" else "metrics",
            )
        )
    fixes = _unlocked(case, loader) if cause == "lock" else _more_at_once(case, loader, cause)
    return case.finding(
        id="slow-store",
        bound="input",
        cold=loader.rank,
        title=f"Rank {loader.rank.rank} waits for samples to arrive",
        share=loader.share,
        evidence=loader.evidence,
        where=loader.places,
        fixes=by_saving(fixes),
    )


def _unlocked(case: Evidenced, loader: Loader) -> list[Fix]:
    """What helps against the wait for a lock; where another thread runs Python it is likely the
    interpreter's own."""
    busy = busy_thread(case, loader.rank)
    if busy is None:
        return under_the_lock(loader)
    at = f"{busy.line.file.rsplit('/', 1)[-1]}:{busy.line.line}"
    loader.evidence.append(
        Evidence(
            f"another thread of the process runs Python meanwhile ({at}, {percent(busy.cpu)} of a "
            "core): the lock may be the interpreter's",
            "input.other_thread_cpu",
            round(busy.cpu, 4),
            "cores",
            "metrics",
        )
    )
    return [OWN_PROCESS, *under_the_lock(loader)]


def _more_at_once(case: Evidenced, loader: Loader, cause: Cause) -> list[Fix]:
    """More requests at once, whose gain is promised only where nothing is seen to be full."""
    pipeline = pipeline_of(case, loader)
    limit = full(case.features.run, loader.rank, cause)
    workers = min(range(1, case.cores_a_rank + 1), key=lambda n: (round(pipeline.step_ms(n), 2), n))
    expected = 0.0 if limit else pipeline.saving(workers)
    at_once = 0.0 if limit else pipeline.saving(0, at_once=AT_ONCE)
    nearer = Fix("Keep the data nearer", "Copy it to a local disk or to memory before the run.")
    fixes = [
        fetch_together(loader, told(at_once, limit), at_once),
        Fix(
            f"Read ahead in {plural(workers, 'worker')} while the model computes",
            f"The wait costs little CPU, so it helps with {plural(case.cores_a_rank, 'core')}. "
            f"{told(expected, limit)}".rstrip(),
            loader.with_workers(num_workers=workers, prefetch_factor=4, persistent_workers=True),
            round(expected, 4),
        ),
    ]
    fewer = Fix(
        "Read fewer bytes",
        "Smaller or compressed samples, packed into large files that are read in order.",
    )
    return [nearer, fewer, *fixes] if limit else [*fixes, nearer]


def told(saving: float, limit: str) -> str:
    """What a fix brings, or why that cannot be told; "" where nothing was replayed."""
    if limit:
        return f"How much that brings is open: {limit}."
    return f"The replay expects {percent(saving)} of the step to go." if saving else ""


def fetch_together(loader: Loader, gain: str, saving: float = 0.0) -> Fix:
    """Fetching several samples at a time, as the loader's kind of dataset allows it."""
    if loader.iterable:
        return Fix(
            "Fetch several samples at once in __iter__",
            f"Threads wait for many samples in the time of one. {gain}".rstrip(),
            "def __iter__(self):\n"
            "    keys = iter(self.keys)  # what your __iter__ loops over\n"
            f"    with ThreadPoolExecutor({AT_ONCE}) as pool:\n"
            f"        while some := list(itertools.islice(keys, {AT_ONCE})):\n"
            "            yield from pool.map(self.fetch, some)",
            round(saving, 4),
        )
    return Fix(
        "Fetch the samples of a batch at once",
        "One request for the whole batch, or threads for its samples, pays the latency once. "
        f"{gain}".rstrip(),
        "def __getitems__(self, indices):\n"
        f"    with ThreadPoolExecutor({AT_ONCE}) as pool:\n"
        "        return list(pool.map(self.__getitem__, indices))",
        round(saving, 4),
    )


def _cause(case: Evidenced, loader: Loader) -> Cause:
    """What the main process waits for: its stacks first, then the kernel's word."""
    run, rank = case.features.run, loader.rank
    causes: tuple[Cause, ...] = ("network", "lock")
    for cause in causes:
        seen = sampled_share(run, rank, partial(_waiting_for, cause))
        if seen is not None and seen.share >= rank.shares["input"] / 2:
            return cause
    waiting = [(frames, n) for frames, n in main_stacks(run, rank) if _phase(frames) == "input"]
    found = kernel_wait(run, f"rank.{rank.rank}.main_wait")
    return "unknown" if found == "lock" and mostly_results(waiting) else found


def _waiting_for(cause: Cause, frames: Frames) -> bool:
    return _phase(frames) == "input" and waits_for(frames) == cause


def by_saving(fixes: list[Fix]) -> list[Fix]:
    """Fixes whose gain is known first, largest gain first; equal effort is assumed."""
    return sorted(fixes, key=lambda fix: -fix.saving)
