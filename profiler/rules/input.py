"""Input-bound: the loop waits because the next batch is not there."""

from __future__ import annotations

from functools import partial

import msgspec

from ...collectors.records import SpanKind
from ..diagnosis import Evidence, Finding, Fix, Place, Saving
from ..features import RankFeatures
from ..hot_lines import hot_lines
from ..text import milliseconds, percent
from . import input_restart
from ._device import copy_shares, idle_shares, told
from ._loader import Loader, loader_of
from ._main_loader import in_main
from ._worker_loader import in_workers
from .base import MIN_SHARE, Evidenced, place
from .input_restart import restart_share

FINDINGS = (
    "slow-store",
    "decode-in-main",
    "slow-collate",
    "workers-too-slow",
    "workers-cpu-bound",
    "workers-waiting",
    "batch-prepared-in-loop",
    "loader-wait",
    "exposed-copies",
    "pageable-copies",
)

RESTARTS = 0.5
"""Starting workers again is the whole finding when it is at least half of the waits."""

IN_PRACTICE = 0.6
"""Of the wait for a loader, what processes that prepare batches take off the step at least: they
share cores and memory with the loop, whose own calls get slower. In two published pairs of 0 and 4
workers (Kineto's ResNet-50 on a V100, 2021) 177.6 ms became 141.1, 0.62 of 59.3 ms waiting, and
148.7 became 121.0, 0.89 of 31.2."""

PAGEABLE = 0.5
"""From this share of the copies' time on, pageable memory is the name of the finding."""


def find(case: Evidenced) -> list[Finding]:
    """One finding for the loader that the loop waits for longest, on the rank that it delays."""
    if case.scores["input"] < MIN_SHARE:
        return []
    rank = case.worst_rank("input")
    if rank.device:
        return _beside_device(case, rank)
    if rank.phase_ms["preparation"] > rank.phase_ms["loader"]:
        return [_prepared_in_loop(case, rank)]
    if _restarts_are_all(case, rank):
        return []  # input_restart says it
    seen = len(rank.data.spans.of(SpanKind.LOADER)) > 0
    return [_waited_for(case, rank) if seen else _seen_in_trace(case, rank)]


def _waited_for(case: Evidenced, rank: RankFeatures) -> Finding:
    """What every step measured of the loader that is waited for longest."""
    loader = loader_of(case, rank)
    return in_workers(case, loader) if loader.workers else in_main(case, loader)


def _beside_device(case: Evidenced, rank: RankFeatures) -> list[Finding]:
    """The device idles for the loader, for the batch's preparation, or for copies of it."""
    idle, copies = idle_shares(rank), copy_shares(rank)
    copied = copies.get("host-to-device", 0.0) + idle.get("copy-in", 0.0)
    parts = [
        (idle.get("preparation", 0.0), partial(_prepared_in_loop, case, rank)),
        (copied, partial(_exposed_copies, case, rank)),
    ]
    if _restarts_are_all(case, rank):
        return told(parts, always=False)  # input_restart says the rest
    waited = idle.get("loader", 0.0) + rank.stalled
    return told([(waited, partial(_device_waits, case, rank)), *parts])


def _restarts_are_all(case: Evidenced, rank: RankFeatures) -> bool:
    """Whether starting workers again is the whole finding, and `input_restart` gives it."""
    most = restart_share(rank) >= RESTARTS * rank.shares["input"]
    return most and bool(input_restart.find(case))


def _device_waits(case: Evidenced, rank: RankFeatures, share: float) -> Finding:
    """What the collectors inside measured of the loader, else what the trace alone tells."""
    if len(rank.data.spans.of(SpanKind.LOADER)):
        loader: Loader = loader_of(case, rank, share)
        return in_workers(case, loader) if loader.workers else in_main(case, loader)
    return _seen_in_trace(case, rank, share)


def _prepared_in_loop(case: Evidenced, rank: RankFeatures, share: float | None = None) -> Finding:
    """The loop itself makes the batch before it calls the model.

    `share`: of the step, in which a device idles meanwhile; None where every step measures it.
    """
    known = share is None
    spent = rank.phase_ms["preparation"] if share is None else share * float(rank.step_ms.mean())
    lines = hot_lines(case.features.run, rank.data.pid, "rest")
    workers = max(1, case.cores_a_rank - 1)
    return case.finding(
        id="batch-prepared-in-loop",
        bound="input",
        title=f"Rank {rank.rank} prepares each batch in the loop before it calls the model",
        share=share,
        evidence=[
            Evidence(
                f"{milliseconds(spent)} of every step "
                + ("pass" if known else "the device has nothing to do")
                + " between the batch's arrival and the model's call",
                "input.preparation_ms",
                round(spent, 4),
                "ms",
                "steps" if known else "trace",
            )
        ],
        where=[place(line, rank.rank) for line in lines] or [Place(rank=rank.rank)],
        fixes=[
            Fix(
                "Prepare once what is the same in every epoch",
                "Tokenised, resized, normalised: stored before the loop it costs nothing in it.",
            ),
            Fix(
                "Prepare batches in a DataLoader's workers",
                "What the loop does to a batch before the model can run beside the model: in the "
                "dataset's __getitem__ or in collate_fn.",
                f"DataLoader(dataset, ..., num_workers={workers}, collate_fn=prepare)",
            ),
        ],
    )


def _seen_in_trace(case: Evidenced, rank: RankFeatures, share: float | None = None) -> Finding:
    """What a trace alone tells of a loader: how long it was waited for."""
    wait = case.scores["input"] if share is None else share
    step = float(rank.step_ms.mean())
    evidence = [
        Evidence(
            f"{milliseconds(wait * step)} of every step nothing runs because the loop waits for "
            "the loader's next batch",
            "input.wait_ms",
            round(wait * step, 4),
            "ms",
            "trace",
        )
    ]
    loop = rank.data.site("loader", 0)
    where = [Place(rank=rank.rank)]
    if loop is not None and loop.file:
        where = [Place(rank=rank.rank, file=loop.file, line=loop.line, function=loop.function)]
    found = case.finding(
        id="loader-wait",
        bound="input",
        title=f"Rank {rank.rank} waits for its loader",
        share=wait,
        evidence=evidence,
        where=where,
        fixes=[
            Fix(
                "Prepare batches in worker processes",
                "As many as the job has cores to spare; where the loader has workers already, "
                "make a sample cheaper or fetch the samples of a batch together.",
                "DataLoader(dataset, ..., num_workers=N, persistent_workers=True)",
            )
        ],
    )
    saving = found.saving
    low = min(saving.low, round(IN_PRACTICE * saving.mid, 4))
    return msgspec.structs.replace(found, saving=Saving(low, saving.mid, saving.high))


def _exposed_copies(case: Evidenced, rank: RankFeatures, share: float) -> Finding:
    step = float(rank.step_ms.mean())
    pageable = rank.facts.pageable
    evidence = [
        Evidence(
            f"{milliseconds(share * step)} of every step goes into copies from host to device "
            "with nothing computing meanwhile",
            "input.exposed_copy_ms",
            round(share * step, 4),
            "ms",
            "trace",
        )
    ]
    if pageable:
        text = f"{percent(pageable)} of the copies' time is from pageable memory"
        evidence.append(
            Evidence(text, "input.pageable_share", round(pageable, 4), "share", "trace")
        )
    slow = pageable >= PAGEABLE
    # Only a copy that the host waits for shows in its stacks.
    waits = slow or idle_shares(rank).get("copy-in", 0.0) > 0
    lines = hot_lines(case.features.run, rank.data.pid, "rest") if waits else []
    return case.finding(
        id="pageable-copies" if slow else "exposed-copies",
        bound="input",
        title="Copies to the device come from pageable memory and nothing computes meanwhile"
        if slow
        else "Copies to the device run while nothing computes",
        share=share,
        evidence=evidence,
        where=[place(line, rank.rank) for line in lines] or [Place(rank=rank.rank)],
        fixes=[
            _copy_beside(rank, pageable=slow),
            Fix("Copy fewer bytes: uint8 images or token ids, widened on the device"),
        ],
    )


def _copy_beside(rank: RankFeatures, *, pageable: bool) -> Fix:
    """How copies get beside the computing, by what the loader does already."""
    facts = [site.facts for site in rank.data.sites if site.what == "loader-facts"]
    if not any(fact.get("pin_memory") == "True" for fact in facts):
        return Fix(
            "Copy from pinned memory while the device computes",
            snippet="DataLoader(..., pin_memory=True)\nx = x.to(device, non_blocking=True)",
        )
    if pageable:
        return Fix(
            "Pin what the loop itself makes or changes",
            "The loader's batches are pinned; what is copied is not: a tensor made in the loop, or "
            "a type that the loader cannot pin (give it a pin_memory method).",
            "x = x.pin_memory().to(device, non_blocking=True)",
        )
    return Fix(
        "Start the next batch's copy before this batch's work",
        "The batches are pinned already. A copy on a stream of its own runs while the device "
        "computes.",
        "with torch.cuda.stream(copies):\n    ahead = batch.to(device, non_blocking=True)\n"
        "...  # this step's work\ntorch.cuda.current_stream().wait_stream(copies)",
    )
