"""Memory-bound: moving data limits the step, not calculating with it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import msgspec

from ..diagnosis import Evidence, Finding, Fix, Place, Saving
from ..features import RankFeatures
from ..hot_lines import hot_lines
from ..text import milliseconds, percent, scaled
from ..trace.host import FUSED_FAMILIES, OpTime
from ._device import copy_shares, idle_shares, told
from ._embedding import Table, dense_tables, shapes_of, split_by_table
from ._optimizer import update_fixes
from ._types import bf16_gain, wide_type
from .base import MIN_SHARE, Evidenced, place, removable

FINDINGS = (
    "elementwise-bandwidth",
    "optimizer-bandwidth",
    "embedding-bandwidth",
    "norm-bandwidth",
    "softmax-bandwidth",
    "reduction-bandwidth",
    "copy-bandwidth",
    "data-bandwidth",
    "dense-embedding-gradient",
)

NAMED = frozenset({"elementwise", "optimizer", "embedding", "norm", "softmax", "reduction", "copy"})
"""Families with advice of their own; the others are "data"."""

CHAINS = 3
"""The forward, the backward and the optimizer's: none of them is fused with another."""

LARGE_BYTES = 256 * 1024
"""Smaller tensors stay in a cache between two ops (level 2 holds 0.5 to 2 MB a core)."""

LOOKUP = "aten::index"
INDEXED = ("aten::_index_put_impl_", "aten::index_put_")
INDEXED_SHARE = 1 / 3
"""Of the time that moves data: below that other advice comes first."""

INDEXED_KEPT = 0.37
"""What is left on a CPU of `x[index]` and its gradient with `index_select`: the median of seven
shapes on two cores, of which wide rows keep 20 % and single numbers 87 %
(benchmarks/indexed_rows.py)."""

FUSION_UNCERTAINTY = 0.35
"""Relative width of the interval of what fusion saves: 63 % predicted for elementwise_chain, 45 %
measured with all of it fused (benchmarks/removal.py); 46 to 69 % for the field of the truth corpus,
57 to 76 % measured."""


def find(case: Evidenced) -> list[Finding]:
    """One finding for the bandwidth-limited ops together, one for a device's bare copies.

    What the device waits for its allocator is `memory_capacity`'s to tell.
    """
    share = case.scores["memory"]
    if share < MIN_SHARE:
        return []
    rank = case.worst_rank("memory")
    ops = [op for op in rank.ops if op.slot == "memory" and op.work_ns > 0]
    held = rank.shares["memory"]
    stalled = share * min(1.0, idle_shares(rank).get("allocator", 0.0) / held) if held else 0.0
    copies = copy_shares(rank)
    copied = sum(copies.get(kind, 0.0) for kind in ("device-to-device", "memset"))
    copied = min(share - stalled, share * copied / held if held else 0.0)
    if ops and _families(ops)[0][0] == "copy":
        copied = 0.0  # one finding for both
    fresh = case.fresh_share(rank)
    by_ops = max(0.0, share - stalled - copied - fresh)
    on_tables, rest = split_by_table(ops, dense_tables(rank))
    dense = [op for mine in on_tables.values() for op in mine]
    whole = by_ops * _part(dense, ops)
    if whole < MIN_SHARE:
        whole, rest = 0.0, ops
    parts = [(whole, partial(_on_tables, case, rank, on_tables))]
    parts.append((by_ops - whole, partial(_by_ops, case, rank, rest)))
    parts.append((copied, partial(_copied, case, rank)))
    return told(parts, always=max(stalled, fresh) < MIN_SHARE)


def _part(some: Sequence[OpTime], ops: Sequence[OpTime]) -> float:
    """The share of the ops' time that some of them take."""
    work = sum(op.work_ns for op in ops)
    return sum(op.work_ns for op in some) / work if work else 0.0


def _on_tables(
    case: Evidenced, rank: RankFeatures, on_tables: dict[Table, list[OpTime]], share: float
) -> Finding:
    """Ops over whole tables of which a step uses some rows: what the other rows take goes."""
    work = {table: sum(op.work_ns for op in mine) for table, mine in on_tables.items()}
    unused = sum(time * table.unused_share for table, time in work.items())
    table = max(work, key=lambda table: work[table])
    most = max(on_tables[table], key=lambda op: op.work_ns)
    spent = share * float(rank.step_ms.mean())
    lines = hot_lines(case.features.run, rank.data.pid, "rest")
    found = case.finding(
        id="dense-embedding-gradient",
        bound="memory",
        share=share * unused / sum(work.values()),
        title="An embedding's gradient is dense: the whole table is written and updated",
        evidence=[
            Evidence(
                f"a step looks up {table.used:,} of the {table.rows:,} rows of a table of "
                f"[{table.rows}, {table.width}] at most",
                "memory.rows_used",
                round(table.used / table.rows, 4),
                "share",
                "trace",
            ),
            Evidence(
                f"{milliseconds(spent)} of every step goes over such tables as a whole, "
                f"{most.label} most",
                "memory.table_ms",
                round(spent, 4),
                "ms",
                "trace",
            ),
        ],
        where=[Place(rank=rank.rank, op=most.name, kernel=most.kernel or None)]
        + [place(line, rank.rank) for line in lines],
        fixes=[_SPARSE, *update_fixes(rank, rank.ops)],
    )
    return _widened(found)


def _by_ops(case: Evidenced, rank: RankFeatures, ops: list[OpTime], share: float) -> Finding:
    """The finding for the ops, their largest family its name."""
    lines = hot_lines(case.features.run, rank.data.pid, "rest")
    where = [place(line, rank.rank) for line in lines]
    if not ops:
        return _unseen(case, rank, share, where)
    family = _families(ops)[0][0]
    found = case.finding(
        id=f"{family if family in NAMED else 'data'}-bandwidth",
        bound="memory",
        share=_removable(rank, ops, share),
        title="Moving data takes the time, not calculating with it",
        evidence=_evidence(rank, ops),
        where=[Place(rank=rank.rank, op=ops[0].name, kernel=ops[0].kernel or None), *where],
        fixes=_fixes(rank, family, ops),
    )
    return _widened(found)


def _removable(rank: RankFeatures, ops: list[OpTime], share: float) -> float:
    """The part of `share` that goes with chains as one pass and, on a CPU, rows chosen faster."""
    chosen = [] if rank.device else indexed_rows(rank, ops)
    indexed = share * _part(chosen, ops)
    rest = [op for op in ops if op not in chosen] if chosen else ops
    left = share - indexed
    fused = min(removable(rest, left), left * (1 - kept_share(rest)))
    return indexed * (1 - INDEXED_KEPT) + fused


def _unseen(case: Evidenced, rank: RankFeatures, share: float, where: list[Place]) -> Finding:
    """Data traffic of which no op was recorded: what could go is not known."""
    text = f"{percent(share)} of every step moves data; by which ops is not recorded"
    found = case.finding(
        id="data-bandwidth",
        bound="memory",
        share=share,
        title="Moving data takes the time, not calculating with it",
        evidence=[Evidence(text, "memory.share", round(share, 4), "share", "trace")],
        where=where or [Place(rank=rank.rank)],
        fixes=_fixes(rank, "data"),
    )
    return msgspec.structs.replace(found, saving=Saving(0.0, found.saving.mid, found.saving.high))


def _copied(case: Evidenced, rank: RankFeatures, share: float) -> Finding:
    """Copies and clears on the device that no kernel hides."""
    spent = share * float(rank.step_ms.mean())
    text = f"{milliseconds(spent)} of every step the device only copies or clears its own memory"
    return case.finding(
        id="copy-bandwidth",
        bound="memory",
        share=share,
        title="Copies within the device's memory run while nothing computes",
        evidence=[Evidence(text, "memory.copy_ms", round(spent, 4), "ms", "trace")],
        where=[Place(rank=rank.rank)],
        fixes=_fixes(rank, "copy"),
    )


def _widened(found: Finding) -> Finding:
    """The finding with the interval of what fusion leaves open."""
    saving = found.saving
    low = min(saving.low, saving.mid * (1 - FUSION_UNCERTAINTY))
    high = max(saving.high, min(0.99, saving.mid * (1 + FUSION_UNCERTAINTY)))
    return msgspec.structs.replace(found, saving=Saving(round(low, 4), saving.mid, round(high, 4)))


def kept_share(ops: list[OpTime]) -> float:
    """The share of the ops' time that is left when each chain is one pass over memory.

    An op of a chain reads what the one before wrote and writes what the next one reads: these two
    tensors go, its other operands are still read. The first read and the last write stay. Where
    shapes are not known everything stays that `removable` keeps.
    """
    work = sum(op.work_ns for op in ops)
    kept = sum(op.work_ns * _kept(op) for op in ops)
    kept += CHAINS * 2 * _pass_ns([op for op in ops if op.family in FUSED_FAMILIES])
    return min(1.0, kept / work) if work else 0.0


def _kept(op: OpTime) -> float:
    tensor = _tensor_bytes(op)
    if op.family not in FUSED_FAMILIES or not tensor:
        return 0.0
    units = op.bytes / op.calls / tensor
    return max(0.0, (units - 2) / units) if units > 0 else 0.0


def _pass_ns(ops: list[OpTime]) -> float:
    """Time of one read or one write of a tensor in each step, summed over the steps."""
    known = [(op, tensor) for op in ops if (tensor := _tensor_bytes(op)) >= LARGE_BYTES]
    passes = sum(op.bytes / tensor for op, tensor in known)
    if not passes:
        return 0.0
    steps = min(op.calls for op, _ in known)
    return sum(op.work_ns for op, _ in known) / passes * steps


def _tensor_bytes(op: OpTime) -> float:
    """Bytes of the op's largest tensor, 4 an element; 0 where shapes are not known."""
    sizes = [math.prod(shape) for shape in shapes_of(op) if shape]
    return 4.0 * max(sizes, default=0) if op.bytes > 0 else 0.0


def indexed_rows(rank: RankFeatures, ops: Sequence[OpTime]) -> list[OpTime]:
    """The ops that choose rows by `x[index]`, and those of its gradient; none without a gradient.

    An assignment to `x[index]` has the op of the gradient: a lookup of that kind in a tensor of
    that shape tells them apart. Rows are chosen where what is put has the tensor's other
    dimensions.
    """
    lookups = [(op, shapes) for op in rank.ops if op.name == LOOKUP and (shapes := shapes_of(op))]
    chosen = {shapes[0] for _, shapes in lookups}
    put = [op for op in ops if op.name in INDEXED and _puts_rows(shapes_of(op), chosen)]
    targets = {shapes_of(op)[0] for op in put}
    mine = {op for op, shapes in lookups if shapes[0] in targets}
    return [*put, *(op for op in ops if op in mine)]


def _puts_rows(shapes: Sequence[tuple[int, ...]], chosen: set[tuple[int, ...]]) -> bool:
    if len(shapes) < 2 or shapes[0] not in chosen:
        return False
    target, values = shapes[0], shapes[-1]
    return len(values) == len(target) > 0 and values[1:] == target[1:]


def _evidence(rank: RankFeatures, ops: list[OpTime]) -> list[Evidence]:
    work = sum(op.work_ns for op in ops)
    family, time = _families(ops)[0]
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
    indexed = _part(indexed_rows(rank, ops), ops) if family == "copy" else 0.0
    if indexed >= INDEXED_SHARE:
        text = f"{percent(indexed)} of that time chooses rows by x[index], its gradient included"
        evidence.append(Evidence(text, "memory.indexed_rows", round(indexed, 4), "share", "trace"))
    return evidence


def _families(ops: list[OpTime]) -> list[tuple[str, float]]:
    totals: dict[str, float] = defaultdict(float)
    for op in ops:
        totals[op.family] += op.work_ns
    return sorted(totals.items(), key=lambda item: -item[1])


def _fixes(rank: RankFeatures, family: str, ops: Sequence[OpTime] = ()) -> list[Fix]:
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
    narrow = _narrow(rank, ops)
    if family == "embedding":
        return [_SPARSE, *narrow]
    if family == "optimizer":
        return update_fixes(rank, ops)
    if family == "copy":
        chosen = [_CHOOSE] if _part(indexed_rows(rank, ops), ops) >= INDEXED_SHARE else []
        return [*chosen, _COPY_LESS, *narrow]
    return [fuse, in_place, *narrow]


def _narrow(rank: RankFeatures, ops: Sequence[OpTime]) -> list[Fix]:
    """Half the bytes, where the machine calculates in them at full speed and they are not halved
    already."""
    if not wide_type(ops) or not bf16_gain(rank):
        return []
    device = "cuda" if rank.device else "cpu"
    return [
        Fix(
            "Keep activations in bfloat16",
            "Half the bytes; check the accuracy afterwards.",
            f'with torch.autocast("{device}", dtype=torch.bfloat16):\n    loss = loss_of(model(x))',
        )
    ]


_SPARSE = Fix(
    "Update only the rows that were used",
    "A dense gradient touches the whole table in every step. A sparse one goes with neither weight "
    "decay nor clipping by norm nor a fused update.",
    "nn.Embedding(rows, width, sparse=True)  # with SparseAdam or SGD",
)

_CHOOSE = Fix(
    "Choose rows with index_select",
    "Its gradient is the faster one: on two cores a graph network took 15 ms forward and backward "
    "with x[index], 7 ms with index_select.",
    "rows = x.index_select(0, index)  # instead of x[index]",
)

_COPY_LESS = Fix(
    "Copy less: keep one layout",
    "Views instead of contiguous(), channels_last from the first layer on, cat into a buffer that "
    "is there already.",
    "model = model.to(memory_format=torch.channels_last)",
)
