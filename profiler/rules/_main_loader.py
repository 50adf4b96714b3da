"""Batches made in the training process itself: decoded, collated, or waited for."""

from __future__ import annotations

from functools import partial

from ..diagnosis import Evidence, Finding, Fix
from ..hot_lines import StackPhase, stack_phase
from ..sampled import Frames, SampledShare, sampled_share
from ..text import percent, plural
from ..workers import Cause, in_collate, kernel_wait, waits_for
from ._loader import Loader, pipeline_of
from .base import Evidenced, place

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
            "collate_fn or __getitems__).",
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
            loader.call(num_workers=spare, persistent_workers=True),
            round(saving, 4),
        )
    ]


def _slow_store(case: Evidenced, loader: Loader) -> Finding:
    pipeline = pipeline_of(case, loader)
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
    workers = min(range(1, case.cores_a_rank + 1), key=lambda n: (round(pipeline.step_ms(n), 2), n))
    expected = pipeline.saving(workers)
    at_once = pipeline.saving(0, at_once=AT_ONCE)
    fixes = [
        Fix(
            "Fetch the samples of a batch at once",
            "One request for the whole batch, or threads for its samples, pays the latency once. "
            f"The replay expects {percent(at_once)} of the step to go.",
            "def __getitems__(self, indices):\n"
            f"    with ThreadPoolExecutor({AT_ONCE}) as pool:\n"
            "        return list(pool.map(self.__getitem__, indices))",
            round(at_once, 4),
        ),
        Fix(
            f"Read ahead in {plural(workers, 'worker')} while the model computes",
            f"The wait costs little CPU, so it helps with {plural(case.cores_a_rank, 'core')}. "
            f"The replay expects {percent(expected)} of the step to go.",
            loader.call(num_workers=workers, prefetch_factor=4, persistent_workers=True),
            round(expected, 4),
        ),
        Fix("Keep the data nearer", "Copy it to a local disk or to memory before the run."),
    ]
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


def _cause(case: Evidenced, loader: Loader) -> Cause:
    """What the main process waits for: its stacks first, then the kernel's word."""
    run, rank = case.features.run, loader.rank
    causes: tuple[Cause, ...] = ("network", "lock")
    for cause in causes:
        seen = sampled_share(run, rank, partial(_waiting_for, cause))
        if seen is not None and seen.share >= rank.shares["input"] / 2:
            return cause
    return kernel_wait(run, f"rank.{rank.rank}.main_wait")


def _waiting_for(cause: Cause, frames: Frames) -> bool:
    return _phase(frames) == "input" and waits_for(frames) == cause


def by_saving(fixes: list[Fix]) -> list[Fix]:
    """Fixes whose gain is known first, largest gain first; equal effort is assumed."""
    return sorted(fixes, key=lambda fix: -fix.saving)
