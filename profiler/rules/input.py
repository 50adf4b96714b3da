"""Input-bound: the loop waits because the next batch is not there."""

from __future__ import annotations

from ...collectors.records import SpanKind
from ..diagnosis import Evidence, Finding, Fix, Place
from ..features import RankFeatures
from ..hot_lines import hot_lines
from ..text import milliseconds, percent
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
    if restart_share(rank) >= RESTARTS * rank.shares["input"]:
        return []  # input_restart says it
    seen = len(rank.data.spans.of(SpanKind.LOADER)) > 0
    return [_waited_for(case, rank) if seen else _seen_in_trace(case, rank)]


def _waited_for(case: Evidenced, rank: RankFeatures) -> Finding:
    """What every step measured of the loader that is waited for longest."""
    loader = loader_of(case, rank)
    return in_workers(case, loader) if loader.workers else in_main(case, loader)


def _beside_device(case: Evidenced, rank: RankFeatures) -> list[Finding]:
    """The device idles for the loader, or waits for copies that nothing hides."""
    whole = sum(window.wall_ns for window in rank.device)
    copies = sum(window.copies_ns.get("host-to-device", 0.0) for window in rank.device) / whole
    idle = sum(window.idle_ns.get("loader", 0.0) for window in rank.device) / whole
    findings = []
    if idle >= MIN_SHARE:
        findings.append(_device_waits(case, rank, idle))
    if copies >= MIN_SHARE:
        findings.append(_exposed_copies(case, rank, copies))
    return findings


def _device_waits(case: Evidenced, rank: RankFeatures, share: float) -> Finding:
    """What the collectors inside measured of the loader, else what the trace alone tells."""
    if len(rank.data.spans.of(SpanKind.LOADER)):
        loader: Loader = loader_of(case, rank, share)
        return in_workers(case, loader) if loader.workers else in_main(case, loader)
    return _seen_in_trace(case, rank, share)


def _prepared_in_loop(case: Evidenced, rank: RankFeatures) -> Finding:
    """The loop itself makes the batch before it calls the model."""
    lines = hot_lines(case.features.run, rank.data.pid, "rest")
    workers = max(1, case.cores_a_rank - 1)
    return case.finding(
        id="batch-prepared-in-loop",
        bound="input",
        title=f"Rank {rank.rank} prepares each batch in the loop before it calls the model",
        evidence=[
            Evidence(
                f"{milliseconds(rank.phase_ms['preparation'])} of every step pass between the "
                "batch's arrival and the model's call",
                "input.preparation_ms",
                round(rank.phase_ms["preparation"], 4),
                "ms",
                "steps",
            )
        ],
        where=[place(line, rank.rank) for line in lines],
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
    return case.finding(
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


def _exposed_copies(case: Evidenced, rank: RankFeatures, share: float) -> Finding:
    step = float(rank.step_ms.mean())
    pageable = rank.facts.pageable
    evidence = [
        Evidence(
            f"{milliseconds(share * step)} of every step only copies from host to device",
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
    return case.finding(
        id="pageable-copies" if slow else "exposed-copies",
        bound="input",
        title="Copies to the device come from pageable memory and nothing computes meanwhile"
        if slow
        else "Copies to the device run while nothing computes",
        share=share,
        evidence=evidence,
        where=[Place(rank=rank.rank)],
        fixes=[
            Fix(
                "Copy from pinned memory while the device computes",
                snippet="DataLoader(..., pin_memory=True)\nx = x.to(device, non_blocking=True)",
            ),
            Fix("Copy fewer bytes: uint8 images or token ids, widened on the device"),
        ],
    )
