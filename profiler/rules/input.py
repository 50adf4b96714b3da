"""Input-bound: the loop waits because the next batch is not there."""

from __future__ import annotations

from ...collectors.records import Site, SpanKind
from ..diagnosis import Evidence, Finding, Fix, Place
from ..features import RankFeatures
from ..hot_lines import hot_lines
from ..text import milliseconds, percent
from .base import MIN_SHARE, Evidenced, place

CPU_BOUND = 0.5
"""A wait in the main process that spends more than half of its time on the CPU is work (decode,
augmentation); below, it waits for something else (a store, a lock, a sleep)."""


def find(case: Evidenced) -> list[Finding]:
    """One finding for the loader that the loop waits for longest, on the rank that it delays."""
    if case.scores["input"] < MIN_SHARE:
        return []
    rank = case.worst_rank("input")
    if rank.device:
        return _beside_device(case, rank)
    if rank.phase_ms["preparation"] > rank.phase_ms["loader"]:
        return [_prepared_in_loop(case, rank)]
    seen = len(rank.data.spans.of(SpanKind.LOADER)) > 0
    return [_waited_for(case, rank) if seen else _seen_in_trace(case, rank)]


def _waited_for(case: Evidenced, rank: RankFeatures) -> Finding:
    """What every step measured of the loader that is waited for longest."""
    index = _slowest_loader(rank)
    facts = _facts(rank, index)
    workers = int(facts.get("num_workers", "0") or 0)
    cpu = _cpu_share(rank, index)
    places = _places(case, rank, index, facts, workers)
    evidence = [
        Evidence(
            f"rank {rank.rank} waits {milliseconds(rank.phase_ms['loader'])} of every step for the "
            "loader's next batch",
            "input.wait_ms",
            round(rank.phase_ms["loader"], 4),
            "ms",
            "steps",
        ),
        Evidence(
            f"the loader has {workers} workers", "input.num_workers", workers, "workers", "steps"
        ),
    ]
    if workers:
        return _workers(case, facts, workers, places, evidence)
    spent = "working on the CPU" if cpu >= CPU_BOUND else "waiting, not computing"
    evidence.append(
        Evidence(
            f"the training process spends {percent(cpu)} of that wait on the CPU: it is {spent}",
            "input.wait_cpu_share",
            round(cpu, 4),
            "share",
            "steps",
        )
    )
    if cpu >= CPU_BOUND:
        return _decode_in_main(case, rank, places, evidence)
    return _slow_store(case, rank, places, evidence)


def _beside_device(case: Evidenced, rank: RankFeatures) -> list[Finding]:
    """The device idles for the loader, or waits for copies that nothing hides."""
    whole = sum(window.wall_ns for window in rank.device)
    copies = sum(window.copies_ns.get("host-to-device", 0.0) for window in rank.device) / whole
    loader = sum(window.idle_ns.get("loader", 0.0) for window in rank.device) / whole
    findings = []
    if loader >= MIN_SHARE:
        findings.append(_seen_in_trace(case, rank, loader))
    if copies >= MIN_SHARE:
        findings.append(_exposed_copies(case, rank, copies))
    return findings


def _prepared_in_loop(case: Evidenced, rank: RankFeatures) -> Finding:
    """The loop itself makes the batch before it calls the model."""
    lines = hot_lines(case.features.run, rank.data.pid, "rest")
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
                "Prepare batches in a DataLoader's workers",
                "What the loop does to a batch before the model can run beside the model: in the "
                "dataset's __getitem__, in collate_fn, or on the device.",
                "DataLoader(dataset, ..., num_workers=N, collate_fn=prepare)",
            )
        ],
    )


def _seen_in_trace(case: Evidenced, rank: RankFeatures, share: float | None = None) -> Finding:
    """What a trace alone tells of a loader: how long it was waited for, and which kind it is."""
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
    return case.finding(
        id="exposed-copies",
        bound="input",
        title="Copies to the device run while nothing computes",
        share=share,
        evidence=[
            Evidence(
                f"{milliseconds(share * step)} of every step only copies from host to device",
                "input.exposed_copy_ms",
                round(share * step, 4),
                "ms",
                "trace",
            )
        ],
        where=[Place(rank=rank.rank)],
        fixes=[
            Fix(
                "Copy from pinned memory while the device computes",
                snippet="DataLoader(..., pin_memory=True)\nx = x.to(device, non_blocking=True)",
            )
        ],
    )


def _slowest_loader(rank: RankFeatures) -> int:
    waits = rank.data.spans.of(SpanKind.LOADER, SpanKind.LOADER_START)
    totals: dict[int, int] = {}
    for index, duration in zip(waits.detail, waits.duration_ns, strict=True):
        totals[int(index)] = totals.get(int(index), 0) + int(duration)
    return max(totals, key=lambda index: totals[index], default=0)


def _facts(rank: RankFeatures, index: int) -> dict[str, str]:
    site = rank.data.site("loader-facts", index)
    return {} if site is None else site.facts


def _cpu_share(rank: RankFeatures, index: int) -> float:
    spans = rank.data.spans
    waits, cpu = spans.of(SpanKind.LOADER), spans.of(SpanKind.LOADER_CPU)
    whole = int(waits.duration_ns[waits.detail == index].sum())
    spent = int(cpu.duration_ns[cpu.detail == index].sum())
    return min(1.0, spent / whole) if whole else 0.0


def _places(
    case: Evidenced, rank: RankFeatures, index: int, facts: dict[str, str], workers: int
) -> list[Place]:
    """The line that the batch is waited for at, then the loop's line."""
    phase = "worker" if workers else "input"
    loop: Site | None = rank.data.site("loader", index)
    lines = hot_lines(case.features.run, rank.data.pid, "worker" if workers else "input")
    places = [
        place(line, rank.rank)
        for line in lines
        if phase == "worker" or loop is None or (line.file, line.line) != (loop.file, loop.line)
    ]
    if not places and facts.get("fetch_file"):
        function = facts.get("dataset", "") + ".__getitem__"
        line = int(facts.get("fetch_line", "0") or 0)
        places = [Place(rank=rank.rank, file=facts["fetch_file"], line=line, function=function)]
    if loop is not None:
        places.append(Place(rank=rank.rank, file=loop.file, line=loop.line, function=loop.function))
    return places


def _decode_in_main(
    case: Evidenced, rank: RankFeatures, places: list[Place], evidence: list[Evidence]
) -> Finding:
    spare = max(1, case.cores - 1)
    fixes = [
        Fix(
            "Do the work once: store the decoded samples",
            "Decode and resize beforehand, keep what the model needs; nothing is then left to "
            "decode in the loop.",
        ),
        Fix(
            "Make the work per sample cheaper",
            "Replace Python loops per sample by one array operation per batch (a custom "
            "collate_fn or __getitems__).",
        ),
    ]
    if case.cores > 1:
        fixes.insert(
            0,
            Fix(
                f"Decode in {spare} worker process{'es' if spare > 1 else ''}",
                f"The job may use {case.cores} cores and the loop leaves the loader none of its "
                "own. On a CPU the workers share the cores with the training, so less than the "
                "whole wait goes.",
                f"DataLoader(dataset, ..., num_workers={spare}, persistent_workers=True)",
            ),
        )
    return case.finding(
        id="decode-in-main",
        bound="input",
        title=f"Rank {rank.rank} prepares its batches in the training process itself",
        evidence=evidence,
        where=places,
        fixes=fixes,
    )


def _slow_store(
    case: Evidenced, rank: RankFeatures, places: list[Place], evidence: list[Evidence]
) -> Finding:
    workers = max(1, case.cores)
    fixes = [
        Fix(
            "Read ahead while the model computes",
            f"The wait costs no CPU, so even {workers} worker"
            f"{'s' if workers > 1 else ''} on {case.cores} core{'s' if case.cores > 1 else ''} "
            "hide much of it.",
            f"DataLoader(dataset, ..., num_workers={workers}, prefetch_factor=4, "
            "persistent_workers=True)",
        ),
        Fix(
            "Fetch the samples of a batch at once",
            "One request for the whole batch, or threads for its samples, pays the latency once.",
            "def __getitems__(self, indices):\n"
            "    with ThreadPoolExecutor(16) as pool:\n"
            "        return list(pool.map(self.__getitem__, indices))",
        ),
        Fix("Keep the data nearer", "Copy it to a local disk or to memory before the run."),
    ]
    return case.finding(
        id="slow-store",
        bound="input",
        title=f"Rank {rank.rank} waits for samples to arrive",
        evidence=evidence,
        where=places,
        fixes=fixes,
    )


def _workers(
    case: Evidenced,
    facts: dict[str, str],
    workers: int,
    places: list[Place],
    evidence: list[Evidence],
) -> Finding:
    fixes = []
    if workers < case.cores:
        fixes.append(
            Fix(
                f"Use {case.cores} workers: the job may use {case.cores} cores",
                snippet=f"DataLoader(dataset, ..., num_workers={case.cores})",
            )
        )
    if facts.get("persistent_workers") == "False":
        fixes.append(
            Fix(
                "Keep the workers between epochs",
                "Each new iterator starts them again.",
                "DataLoader(..., persistent_workers=True)",
            )
        )
    fixes.append(
        Fix(
            "Make a sample cheaper in the workers",
            "The line above is where they spend their time: store decoded samples, read larger "
            "pieces, or fetch the samples of a batch together (__getitems__).",
        )
    )
    return case.finding(
        id="workers-too-slow",
        bound="input",
        title=f"{workers} loader worker{'s' if workers > 1 else ''} cannot keep up with the loop",
        evidence=evidence,
        where=places,
        fixes=fixes,
    )
