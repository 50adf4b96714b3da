"""Memory-bound: moving data limits the step, not calculating with it."""

from __future__ import annotations

from collections import defaultdict

from ..diagnosis import Evidence, Finding, Fix, Place
from ..hot_lines import hot_lines
from ..text import percent, scaled
from ..trace.host import OpTime
from .base import MIN_SHARE, Evidenced, place, removable


def find(case: Evidenced) -> list[Finding]:
    """One finding for the bandwidth-limited ops together; their families say what to do."""
    share = case.scores["memory"]
    if share < MIN_SHARE:
        return []
    rank = case.worst_rank("memory")
    ops = [op for op in rank.ops if op.slot == "memory" and op.work_ns > 0]
    if not ops:
        return []
    work = sum(op.work_ns for op in ops)
    families = _families(ops)
    family, time = families[0]
    known = sum(op.work_ns for op in ops if op.bytes > 0)
    rate = sum(op.bytes for op in ops) / (known * 1e-9) if known else 0.0
    evidence = [
        Evidence(
            f"{family} ops take {percent(time / work)} of the time that moves data, "
            f"{ops[0].label} most",
            "memory.family_share",
            round(time / work, 4),
            "share",
            "trace",
        ),
    ]
    if rate:
        text = f"they read and write {scaled(rate, 'B/s')}"
        evidence.append(Evidence(text, "memory.bandwidth", round(rate, 1), "B/s", "trace"))
    roofs = rank.roofs
    if roofs is not None and roofs.memory_bandwidth:
        roof = roofs.memory_bandwidth
        memory = "device memory" if rank.device else "main memory"
        text = f"{memory} moves {scaled(roof, 'B/s')} at best"
        if rate > roof:
            text += "; what is above that came out of the caches"
        evidence.append(Evidence(text, "memory.roof", round(roof, 1), "B/s", "metrics"))
    where = [Place(rank=rank.rank, op=ops[0].name, kernel=ops[0].kernel or None)]
    where += [
        place(line, rank.rank) for line in hot_lines(case.features.run, rank.data.pid, "rest")
    ]
    return [
        case.finding(
            id=f"{family}-bandwidth",
            bound="memory",
            share=removable(ops, share),
            title="Moving data takes the time, not calculating with it",
            evidence=evidence,
            where=where,
            fixes=_fixes(family),
        )
    ]


def _families(ops: list[OpTime]) -> list[tuple[str, float]]:
    totals: dict[str, float] = defaultdict(float)
    for op in ops:
        totals[op.family] += op.work_ns
    return sorted(totals.items(), key=lambda item: -item[1])


def _fixes(family: str) -> list[Fix]:
    fuse = Fix(
        "Fuse the chain, so that each value is read and written once",
        "torch.compile makes one loop of a chain of element-wise ops; it needs a C++ compiler on "
        "the CPU.",
        "block = torch.compile(block)",
    )
    in_place = Fix(
        "Work in place where gradients allow it",
        "One tensor less to write per op.",
        "x.mul_(scale).add_(shift).relu_()",
    )
    narrow = Fix("Keep activations in bfloat16", "Half the bytes; check the accuracy afterwards.")
    optimizer = Fix(
        "Update the parameters in one fused pass",
        "The separate passes read and write every parameter several times.",
        "torch.optim.AdamW(parameters, fused=True)",
    )
    if family == "optimizer":
        return [optimizer, narrow]
    if family == "embedding":
        sparse = Fix(
            "Update only the rows that were used",
            "A dense gradient touches the whole table in every step.",
            "nn.Embedding(rows, width, sparse=True)  # with SparseAdam or SGD",
        )
        return [sparse, narrow]
    return [fuse, in_place, narrow]
