"""Compute-bound: arithmetic limits the step, at the roof or below it and why."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from ..diagnosis import Evidence, Finding, Fix, Place, Saving
from ..features import RankFeatures
from ..hot_lines import hot_lines
from ..text import percent, plural, scaled
from ..trace.host import OpTime
from ._shapes import rows, sides
from ._types import bf16_gain, wide_type
from .base import MIN_SHARE, Evidenced, place, removable

FINDINGS = (
    "at-the-roof",
    "arithmetic",
    "tensor-cores-unused",
    "odd-shapes",
    "small-batch",
    "low-occupancy",
)

NEAR_ROOF = 0.6
"""From here on an op counts as running at its roof: large GEMMs reach 60 to 90 % of a measured peak
in practice, depending on their shape."""

KNOWN_SHARE = 0.5
"""The share of a roof is told where the cost of at least half of the arithmetic is known."""

FAR_BELOW = 0.1
"""Below a tenth of the roof the ops' number, not their arithmetic, takes the time: another type
would change nothing."""

MOST = 0.5
"""A reason is named when it holds for at least half of the arithmetic's time."""

MULTIPLE = 8
"""Elements of 16 bits that a tensor-core tile row takes (NVIDIA, Matrix Multiplication Background
User's Guide: dimensions that are multiples of 16 bytes)."""

SMALL_SIDE = 64
"""A matrix product of fewer rows than one tile has (64 to 256 on GPUs) leaves units idle."""

LOW_OCCUPANCY = 0.25
"""Achieved occupancy below which latency is no longer hidden (NVIDIA, Best Practices Guide)."""

_PLAIN_UNITS = re.compile(r"sgemm|dgemm|simt|gemv|magma", re.IGNORECASE)
_TENSOR_UNITS = re.compile(r"tensorop|hmma|imma|s16816|s1688|h16816|tf32|bf16|wgmma|mfma|nvjet")
"""Kernel names of cuBLAS, CUTLASS and rocBLAS: SIMT units, and matrix units."""


@dataclass(frozen=True)
class Work:
    """The arithmetic of a rank: its ops, longest first, and how near to the roofs they come."""

    ops: list[OpTime]
    work_ns: float
    rate_flops: float
    achieved: float

    def share(self, ops: list[OpTime]) -> float:
        """Share of the arithmetic's time in `ops`."""
        return sum(op.work_ns for op in ops) / self.work_ns


def find(case: Evidenced) -> list[Finding]:
    """One finding for the arithmetic, named by why it is below the roof, or at it."""
    share = case.scores["compute"]
    if share < MIN_SHARE:
        return []
    rank = case.worst_rank("compute")
    work = _work(rank)
    if work is None:
        return [_unseen(case, rank, share)]
    id_, title, evidence, fixes = _reason(rank, work)
    where = [Place(rank=rank.rank, op=work.ops[0].name, kernel=work.ops[0].kernel or None)]
    where += [
        place(line, rank.rank)
        for line in hot_lines(case.features.run, rank.data.pid, "rest", torch_first=True)
    ]
    found = case.finding(
        id=id_,
        bound="compute",
        share=removable(work.ops, share),
        title=title,
        evidence=[*_evidence(work), *evidence],
        where=where,
        fixes=[*fixes, *_general(rank, work)],
    )
    return [_doubted(found, work.achieved)]


def _unseen(case: Evidenced, rank: RankFeatures, share: float) -> Finding:
    """Arithmetic of which no op was recorded: how near to the roof it runs is not known."""
    text = f"{percent(share)} of every step is arithmetic; of which ops is not recorded"
    return case.finding(
        id="arithmetic",
        bound="compute",
        title="The arithmetic itself takes the time",
        evidence=[Evidence(text, "compute.share", round(share, 4), "share", "trace")],
        where=[Place(rank=rank.rank)],
        fixes=[_LESS],
    )


def _doubted(found: Finding, achieved: float) -> Finding:
    """Ops that are far below both roofs may wait for something that no roof knows: then removing
    the arithmetic may save as little as the roofs ask for."""
    if not 0 < achieved < FAR_BELOW:
        return found
    saving = found.saving
    low = round(saving.low * achieved, 4)
    return msgspec.structs.replace(found, saving=Saving(low, saving.mid, saving.high))


def _work(rank: RankFeatures) -> Work | None:
    ops = [op for op in rank.ops if op.slot == "compute" and op.work_ns > 0]
    if not ops:
        return None
    work = sum(op.work_ns for op in ops)
    known_flop = sum(op.work_ns for op in ops if op.flop > 0)
    rate = sum(op.flop for op in ops) / (known_flop * 1e-9) if known_flop else 0.0
    known = sum(op.work_ns for op in ops if op.attainable_ns > 0)
    achieved = sum(op.attainable_ns for op in ops) / known if known >= KNOWN_SHARE * work else 0.0
    return Work(ops, work, rate, achieved)


def _evidence(work: Work) -> list[Evidence]:
    top = work.ops[0]
    share = top.work_ns / work.work_ns
    text = f"{top.label} takes {percent(share)} of the arithmetic"
    found = [Evidence(text, "compute.top_op_share", round(share, 4), "share", "trace")]
    if work.rate_flops:
        rate = work.rate_flops
        text = f"the arithmetic ops reach {scaled(rate, 'FLOP/s')}"
        found.append(Evidence(text, "compute.flop_rate", round(rate, 1), "FLOP/s", "trace"))
    if work.achieved > 0:
        text = f"that is {percent(min(work.achieved, 1.0))} of what this machine's roofs allow"
        value = round(work.achieved, 4)
        found.append(Evidence(text, "compute.roof_share", value, "share", "trace"))
    return found


Reason = tuple[str, str, list[Evidence], list[Fix]]


def _reason(rank: RankFeatures, work: Work) -> Reason:
    """Id, title, evidence and fixes by the first reason that holds for most of the time."""
    if work.achieved >= NEAR_ROOF:
        return "at-the-roof", "The arithmetic runs at the machine's roof", [], []
    reasons: list[Callable[[RankFeatures, Work], Reason | None]] = [_small_batch]
    if rank.device:
        reasons = [_tensor_cores, _odd_shapes, _occupancy, *reasons]
    for reason in reasons:
        found = reason(rank, work)
        if found is not None:
            return found
    return "arithmetic", "The arithmetic itself takes the time", [], []


def _told(text: str, quantity: str, share: float) -> list[Evidence]:
    return [Evidence(text, quantity, round(share, 4), "share", "trace")]


def _tensor_cores(rank: RankFeatures, work: Work) -> Reason | None:
    """Matrix products in kernels of the plain units, on a device that has others."""
    roofs = rank.roofs
    faster = roofs is not None and any(
        roofs.flops.get(dtype, 0.0) > 1.5 * roofs.flops.get("fp32", 0.0)
        for dtype in ("tf32", "bf16", "fp16")
    )
    plain = [
        op
        for op in work.ops
        if _PLAIN_UNITS.search(op.kernel) and not _TENSOR_UNITS.search(op.kernel)
    ]
    share = work.share(plain)
    if not faster or share < MOST:
        return None
    text = f"{percent(share)} of the arithmetic runs in kernels that use no tensor cores"
    fix = Fix(
        "Let float32 products use TF32",
        "Ten bits of mantissa; most trainings lose nothing. Check the loss once.",
        'torch.set_float32_matmul_precision("high")',
    )
    title = "Matrix products run beside the tensor cores"
    return "tensor-cores-unused", title, _told(text, "compute.plain_share", share), [fix]


def _odd_shapes(_rank: RankFeatures, work: Work) -> Reason | None:
    """Products with a side that is no multiple of a tile row."""
    odd = [op for op in work.ops if op.family == "gemm" and _is_odd(op)]
    share = work.share(odd)
    if share < MOST:
        return None
    text = f"{percent(share)} of the arithmetic has a side that is no multiple of {MULTIPLE}"
    fix = Fix(
        f"Pad sizes to a multiple of {MULTIPLE}, better 64",
        f"{odd[0].label}: vocabulary, hidden size and batch are yours to choose.",
    )
    title = "Matrix sizes do not fit the device's tiles"
    return "odd-shapes", title, _told(text, "compute.odd_share", share), [fix]


def _is_odd(op: OpTime) -> bool:
    return any(side % MULTIPLE for side in sides(op.dims))


def _occupancy(rank: RankFeatures, _work: Work) -> Reason | None:
    occupancy = rank.facts.occupancy
    if occupancy is None or occupancy >= LOW_OCCUPANCY:
        return None
    text = f"kernels keep {percent(occupancy)} of a multiprocessor's warps busy on average"
    fix = Fix("Give each kernel more to do: a larger batch, or several small products as one bmm")
    title = "Kernels are too small to fill the device"
    return "low-occupancy", title, _told(text, "compute.occupancy", occupancy), [fix]


def _small_batch(_rank: RankFeatures, work: Work) -> Reason | None:
    """Products of few rows, below the roof. A short inner or last side is the model's own: a
    larger batch leaves it as it is."""
    small = [op for op in work.ops if op.family == "gemm" and 0 < rows(op.dims) < SMALL_SIDE]
    share = work.share(small)
    if not 0 < work.achieved < NEAR_ROOF or share < MOST:
        return None
    number = rows(small[0].dims)
    text = f"{percent(share)} of the arithmetic is products of {plural(number, 'row')} or so"
    fix = Fix(
        "Use a larger batch",
        "Each weight is read for more samples; the same step takes little longer.",
    )
    title = "Matrix products are too small to reach the roof"
    return "small-batch", title, _told(text, "compute.small_share", share), [fix]


def _general(rank: RankFeatures, work: Work) -> list[Fix]:
    fixes = []
    narrow = _narrow(rank, work)
    if narrow is not None:
        fixes.append(narrow)
    if 0 < work.achieved < FAR_BELOW:
        fixes.append(
            Fix(
                "Give each op more to do: a larger batch",
                "The ops are so small that starting them takes their time.",
            )
        )
    elif work.achieved and work.achieved < NEAR_ROOF:
        fixes.append(
            Fix(
                "Give each op more to do",
                "The ops stay below the machine's roof: larger batches and sizes that are "
                "multiples of 16 use it better.",
            )
        )
    return [*fixes, _LESS]


_LESS = Fix(
    "Less work or faster hardware",
    "A smaller model, a shorter sequence, fewer recomputed activations; otherwise nothing but more "
    "arithmetic per second helps.",
)


def _narrow(rank: RankFeatures, work: Work) -> Fix | None:
    """bfloat16, where this machine is faster in it and the products are in 32 bits."""
    today = wide_type(work.ops)
    gain = bf16_gain(rank, today) if today else 0.0
    if not gain or 0 < work.achieved < FAR_BELOW:
        return None
    source = "measured" if rank.roofs and rank.roofs.source == "measured" else "data sheet"
    device = "cuda" if rank.device else "cpu"
    name = {"fp32": "float32", "tf32": "TF32"}[today]
    return Fix(
        "Compute in bfloat16",
        f"Matrix products can run {gain:.1f} times as fast in bfloat16 as in {name} here "
        f"({source}).",
        f'with torch.autocast("{device}", dtype=torch.bfloat16):\n    loss = loss_of(model(x))',
    )
