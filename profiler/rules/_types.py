"""Number types: which one an op calculates in, and whether a narrower one is faster here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ..features import RankFeatures
from ..trace.host import OpTime

WORTH = 1.5
"""A roof that is less than half as high again brings less than a change of type costs in care."""

MOST = 0.5
"""What is advised must hold for at least half of the ops' time."""

WIDE = ("fp32", "tf32")

_NARROW = re.compile(
    r"bf16|bfloat16|fp16|half|fp8|e4m3|e5m2|int8|s16816|s1688|h16816|h1688|h884|hmma|imma|nvjet",
    re.IGNORECASE,
)
"""Kernel names of cuBLAS, CUTLASS and ATen that take operands of 16 bits or fewer. (`nvjet` does
not tell: nothing is advised then.)"""


def wide_type(ops: Sequence[OpTime]) -> str:
    """The type of 32 bits that most of the ops' time is in: "fp32" or "tf32"; "" for none."""
    times: Counter[str] = Counter()
    for op in ops:
        times[_wide(op)] += round(op.work_ns)
    narrow = times.pop("", 0)
    whole = narrow + sum(times.values())
    if not whole or sum(times.values()) < MOST * whole:
        return ""
    return times.most_common(1)[0][0]


def _wide(op: OpTime) -> str:
    """ "" where the op is in another type, or neither its arguments nor its kernel tell."""
    if op.dtype:
        return op.dtype if op.dtype in WIDE else ""
    if not op.kernel:
        return ""
    if "tf32" in op.kernel:
        return "tf32"
    return "" if _NARROW.search(op.kernel) else "fp32"


def bf16_gain(rank: RankFeatures, dtype: str = "fp32") -> float:
    """How many times as fast matrix products are in bfloat16 here; 0 where it is not worth it."""
    if rank.roofs is None or not rank.roofs.flops.get("bf16"):
        return 0.0
    today = rank.roofs.flops_for(dtype, matrix=True)
    gain = rank.roofs.flops["bf16"] / today if today else 0.0
    return gain if gain > WORTH else 0.0
