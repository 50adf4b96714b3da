"""Ties kernels to the ops that launched them, and says what limits each."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..machine.roofs import Roofs
from .costs import Cost, cost, family, roof_seconds
from .device import communication_work
from .intervals import nest
from .table import Category, Signature, Trace

Int64 = npt.NDArray[np.int64]
Slot = Literal["compute", "memory"]

COMPUTE_FAMILIES = frozenset({"gemm", "conv", "attention", "recurrent"})

LATENCY_SHARE = 0.1
"""A kernel below a tenth of both roofs is limited by latency: too small to fill the device."""


@dataclass(frozen=True)
class KernelTime:
    """Kernels of one name launched by one op with one signature.

    `limiter` is "arithmetic", "bandwidth" or "latency"; `exact` is False where shapes were
    missing and the family alone decided. `attainable_ns` is the time at the roof, 0 if unknown.
    """

    name: str
    op: str
    dims: str
    family: str
    slot: Slot
    limiter: str
    exact: bool
    calls: int
    duration_ns: float
    flop: float
    bytes: float
    attainable_ns: float


def launches(trace: Trace) -> npt.NDArray[np.bool_]:
    """Which host calls launched device work, by correlation."""
    events = trace.events
    work = np.isin(events.category, (Category.KERNEL, Category.MEMCPY, Category.MEMSET))
    work |= events.category == Category.COLLECTIVE
    calls = np.isin(events.category, (Category.RUNTIME, Category.DRIVER))
    ids = np.unique(events.correlation[work & (events.correlation >= 0)])
    return np.asarray(calls & np.isin(events.correlation, ids))


def kernel_times(trace: Trace, window: tuple[int, int], roofs: Roofs | None) -> list[KernelTime]:
    """Computing kernels that begin in the window, longest first."""
    events = trace.events
    compute = (events.category == Category.KERNEL) & ~communication_work(trace)
    compute &= (events.start_ns >= window[0]) & (events.start_ns < window[1])
    rows = np.flatnonzero(compute)
    if not len(rows):
        return []
    ops = launching_ops(trace, rows)
    costed = np.where(ops >= 0, ops, 0)
    keys = np.stack(
        [
            events.name[rows].astype(np.int64),
            np.where(ops >= 0, events.name[costed], -1).astype(np.int64),
            np.where(ops >= 0, events.signature[costed], -1).astype(np.int64),
        ],
        axis=1,
    )
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    durations = np.bincount(inverse, weights=events.duration_ns[rows])
    calls = np.bincount(inverse)
    shares = _cost_shares(ops, events.duration_ns[rows])
    weights = np.bincount(inverse, weights=shares)
    judged = _Judge(trace, roofs)
    found = [
        judged.kernel(tuple(unique[i].tolist()), int(calls[i]), float(durations[i]), weights[i])
        for i in range(len(unique))
    ]
    return sorted(found, key=lambda kernel: -kernel.duration_ns)


def _cost_shares(ops: Int64, durations: Int64) -> npt.NDArray[np.float64]:
    """The part of its op's cost that each kernel carries: by time among the op's kernels."""
    shares = np.zeros(len(ops))
    known = ops >= 0
    totals = np.bincount(ops[known], weights=durations[known]) if known.any() else np.zeros(1)
    whole = totals[ops[known]]
    shares[known] = np.divide(durations[known], whole, out=np.ones(len(whole)), where=whole > 0)
    return shares


def launching_ops(trace: Trace, kernels: Int64) -> Int64:
    """For each kernel the event index of the innermost op around its launch that has a cost.

    By correlation to the launching call and the ops that enclose it on its thread; by external id
    where the trace has no calls. -1 where neither leads anywhere.
    """
    events = trace.events
    result = np.full(len(kernels), -1, np.int64)
    calls = np.flatnonzero(np.isin(events.category, (Category.RUNTIME, Category.DRIVER)))
    order = calls[np.argsort(events.correlation[calls], kind="stable")]
    enclosing = _enclosing_ops(trace)
    if len(order):
        place = np.searchsorted(events.correlation[order], events.correlation[kernels])
        place = np.minimum(place, len(order) - 1)
        matched = events.correlation[order[place]] == events.correlation[kernels]
        matched &= events.correlation[kernels] >= 0
        result[matched] = enclosing[order[place[matched]]]
    open_ = (result < 0) & (events.external_id[kernels] > 0)
    if open_.any():
        result[open_] = _by_external_id(trace, kernels[open_])
    return _climb_to_cost(trace, result, enclosing)


def _enclosing_ops(trace: Trace) -> Int64:
    """For each host event the event index of the op that directly encloses it, else -1."""
    events = trace.events
    host = np.isin(events.category, (Category.CPU_OP, Category.RUNTIME, Category.DRIVER))
    parents: Int64 = np.full(len(events), -1, np.int64)
    for thread in np.unique(events.thread[host]):
        rows = np.flatnonzero(host & (events.thread == thread))
        nested = nest(events.start_ns[rows], events.duration_ns[rows])
        inner = nested.parent >= 0
        parents[rows[inner]] = rows[nested.parent[inner]]
    return parents


def _by_external_id(trace: Trace, kernels: Int64) -> Int64:
    events = trace.events
    ops = np.flatnonzero((events.category == Category.CPU_OP) & (events.external_id > 0))
    if not len(ops):
        return np.full(len(kernels), -1, np.int64)
    order = ops[np.argsort(events.external_id[ops], kind="stable")]
    wanted = events.external_id[kernels]
    place = np.minimum(np.searchsorted(events.external_id[order], wanted), len(order) - 1)
    found = order[place]
    return np.asarray(np.where(events.external_id[found] == wanted, found, -1), np.int64)


def _climb_to_cost(trace: Trace, ops: Int64, parents: Int64) -> Int64:
    """Replace each op without a cost by the nearest one around it that has one."""
    events = trace.events
    is_op = events.category == Category.CPU_OP
    pairs: dict[tuple[int, int], bool] = {}
    result: Int64 = ops.copy()
    for index, start in enumerate(ops.tolist()):
        current, nearest = start, -1
        while current >= 0:
            if is_op[current]:
                nearest = current if nearest < 0 else nearest
                key = (int(events.name[current]), int(events.signature[current]))
                if key not in pairs:
                    pairs[key] = _cost(trace, *key) is not None
                if pairs[key]:
                    break
            current = int(parents[current])
        result[index] = current if current >= 0 else nearest
    return result


def _cost(trace: Trace, name: int, signature: int) -> Cost | None:
    if signature < 0:
        return None
    return cost(trace.names[name], trace.signatures[signature])


class _Judge:
    def __init__(self, trace: Trace, roofs: Roofs | None) -> None:
        self._trace = trace
        self._roofs = roofs

    def kernel(
        self, key: tuple[int, int, int], calls: int, duration_ns: float, weight: float
    ) -> KernelTime:
        """Judge `calls` kernels that carry `weight` calls of their op's cost."""
        name, op, signature = key
        text = self._trace.names[name]
        needs = _cost(self._trace, op, signature) if op >= 0 else None
        kind = needs.family if needs is not None else family(text)
        slot: Slot = "compute" if kind in COMPUTE_FAMILIES else "memory"
        limiter = "arithmetic" if slot == "compute" else "bandwidth"
        attainable = 0.0
        exact = False
        if needs is not None and self._roofs is not None:
            seconds = roof_seconds(needs, self._roofs)
            arithmetic, transfer = (value * 1e9 * weight for value in seconds)
            attainable = max(arithmetic, transfer)
            exact = transfer > 0 and (arithmetic > 0 or needs.flop == 0)
            if exact:  # a card whose figure for this type is not known: the family decides
                slot = "compute" if arithmetic > transfer else "memory"
            limiter = "arithmetic" if slot == "compute" else "bandwidth"
            if exact and attainable < LATENCY_SHARE * duration_ns:
                limiter = "latency"
        recorded = self._trace.signatures[signature] if signature >= 0 else Signature()
        return KernelTime(
            name=text,
            op=self._trace.names[op] if op >= 0 else "",
            dims=", ".join(str(list(d)) for d in recorded.dims[:3] if isinstance(d, tuple) and d),
            family=kind,
            slot=slot,
            limiter=limiter,
            exact=exact,
            calls=calls,
            duration_ns=duration_ns,
            flop=needs.flop * weight if needs else 0.0,
            bytes=needs.bytes * weight if needs else 0.0,
            attainable_ns=attainable,
        )


def by_family(kernels: list[KernelTime]) -> dict[str, float]:
    """Device time by family, ns."""
    totals: dict[str, float] = defaultdict(float)
    for kernel in kernels:
        totals[kernel.family] += kernel.duration_ns
    return dict(totals)
