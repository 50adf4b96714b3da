"""Ties kernels to the ops that launched them, and says what limits each."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..machine.catalogue import devices
from ..machine.roofs import Roofs
from .costs import Cost, cost, family, roof_seconds, with_recorded
from .device import communication_work
from .distinct import distinct
from .intervals import enclosing_rows, group_rows
from .table import DEVICE_WORK, Category, Int32, Signature, Trace, contains

Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Slot = Literal["compute", "memory", "other"]

COMPUTE_FAMILIES = frozenset({"gemm", "conv", "attention", "recurrent"})

LIMITERS: dict[Slot, str] = {"compute": "arithmetic", "memory": "bandwidth", "other": "unknown"}

LATENCY_SHARE = 0.1
"""A kernel below a tenth of both roofs is limited by latency: too small to fill the device."""

BEYOND_ROOF = 1.1
"""A kernel that beats its roof by more than a tenth did other work than its op's shapes say, or in
another type, or found its data in a cache: 13 of the 671 kinds of kernels of a public A100 trace
did, all of them element-wise on a few megabytes. Boards run up to some per cent above the clock of
the data sheet."""

_TF32 = re.compile(r"tf32|s1688|tensorop|nvjet|gmma", re.IGNORECASE)
"""Kernels of NVIDIA's tensor cores, by cuBLAS', cuDNN's and CUTLASS' names. Those cores multiply no
FP32 (NVIDIA A100 white paper, 2020): an FP32 op that runs on them runs in TF32."""


@dataclass(frozen=True)
class KernelTime:
    """Kernels of one name launched by one op with one signature.

    `limiter` is "arithmetic", "bandwidth", "latency", or "unknown" where neither cost nor name
    says anything; `exact` is False where shapes were missing and the family alone decided, or where
    the kernel took less time than its roof allows. `attainable_ns` is the time at the roof, 0 if
    unknown; `dtype` what the kernel calculates in.
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
    dtype: str = ""


ENCLOSING = "enclosing events"
"""What `Trace.once` keeps `enclosing_events` as: four bytes an event."""


def launches(trace: Trace) -> npt.NDArray[np.bool_]:
    """Which host calls launched device work, by correlation."""
    events = trace.events
    calls = np.flatnonzero(events.of(Category.RUNTIME, Category.DRIVER))
    ids = events.correlation[events.of(*DEVICE_WORK)]
    result = np.zeros(len(events), np.bool_)
    result[calls] = contains(ids, events.correlation[calls])
    return result


def kernel_times(trace: Trace, window: tuple[int, int], roofs: Roofs | None) -> list[KernelTime]:
    """Computing kernels that begin in the window, longest first."""
    events = trace.events
    compute = events.of(Category.KERNEL) & ~communication_work(trace)
    compute &= (events.start_ns >= window[0]) & (events.start_ns < window[1])
    rows = np.flatnonzero(compute)
    if not len(rows):
        return []
    ops = launching_ops(trace, rows)
    costed = np.where(ops >= 0, ops, 0)
    unique, inverse = distinct(
        events.name[rows],
        np.where(ops >= 0, events.name[costed], -1),
        np.where(ops >= 0, events.signature[costed], -1),
        np.where(ops >= 0, events.args[costed], -1),
    )
    durations = np.bincount(inverse, weights=events.duration_ns[rows])
    calls = np.bincount(inverse)
    shares = _cost_shares(ops, events.duration_ns[rows])
    weights = np.bincount(inverse, weights=shares)
    judged = _Judge(trace, roofs)
    found = [
        judged.kernel(
            tuple(unique[i].tolist()), int(calls[i]), float(durations[i]), float(weights[i])
        )
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
    enclosing = enclosing_events(trace)
    return _climb_to_cost(trace, innermost_ops(trace, kernels, enclosing), enclosing)


def innermost_ops(trace: Trace, work: Int64, parents: Int32) -> Int64:
    """For each row of device work the event index of the op directly around its launch, else -1.

    `parents`: what `enclosing_events` returns. By correlation; where that leads nowhere, by
    external id.
    """
    events = trace.events
    calls = launching_calls(trace, work)
    result: Int64 = np.full(len(work), -1, np.int64)
    linked = calls >= 0
    result[linked] = op_around(trace, parents, calls[linked])
    open_ = (result < 0) & (events.external_id[work] > 0)
    if open_.any():
        found = by_external_id(trace, work[open_])
        is_op = events.category[found] == Category.CPU_OP
        around = op_around(trace, parents, found)
        result[open_] = np.where((found < 0) | is_op, found, around)
    return result


def launching_calls(trace: Trace, work: Int64) -> Int64:
    """For each row of device work the event index of the call that launched it, -1 without one."""
    events = trace.events
    calls, ids = trace.once("calls by correlation", _calls_by_correlation)
    result: Int64 = np.full(len(work), -1, np.int64)
    if not len(calls):
        return result
    wanted = events.correlation[work]
    place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    matched = (ids[place] == wanted) & (wanted >= 0)
    result[matched] = calls[place[matched]]
    return result


def _calls_by_correlation(trace: Trace) -> tuple[Int32, npt.NDArray[np.integer]]:
    """Return (the event indices of all calls, their correlation ids), sorted by the ids."""
    calls = np.flatnonzero(trace.events.of(Category.RUNTIME, Category.DRIVER)).astype(np.int32)
    ids = trace.events.correlation[calls]
    order = np.argsort(ids, kind="stable").astype(np.int32)
    return calls[order], ids[order]


def enclosing_events(trace: Trace) -> Int32:
    """For each op and call the event index of the op or call directly around it, else -1."""
    return trace.once(ENCLOSING, _enclosing_events)


def _enclosing_events(trace: Trace) -> Int32:
    events = trace.events
    host = events.of(Category.CPU_OP, Category.RUNTIME, Category.DRIVER)
    threads = group_rows(events.thread, host)
    parents = np.full(len(events), -1, np.int32)
    for rows in threads.values():
        enclosing_rows(events.start_ns, events.duration_ns, rows, parents)
    return parents


def op_around(trace: Trace, parents: Int32, rows: Int64 | None = None) -> Int32:
    """For each op and call, or for those in `rows`, the event index of the op around it; calls in
    between are passed over.

    `parents`: what `enclosing_events` returns.
    """
    is_op = trace.events.of(Category.CPU_OP)
    result = parents.copy() if rows is None else parents[rows]
    while True:
        calls = np.flatnonzero((result >= 0) & ~is_op[result])
        if not len(calls):
            return result
        result[calls] = parents[result[calls]]


def by_external_id(trace: Trace, kernels: Int64) -> Int64:
    """The op, else the call, that has a kernel's external id; -1 where none has it."""
    events = trace.events
    result: Int64 = np.full(len(kernels), -1, np.int64)
    wanted = events.external_id[kernels]
    for categories in ((Category.CPU_OP,), (Category.RUNTIME, Category.DRIVER)):
        rows = np.flatnonzero(events.of(*categories) & (events.external_id > 0))
        if len(rows):
            order = rows[np.argsort(events.external_id[rows], kind="stable")]
            place = np.searchsorted(events.external_id[order], wanted)
            found = order[np.minimum(place, len(order) - 1)]
            result = np.where((result < 0) & (events.external_id[found] == wanted), found, result)
    return result


def _climb_to_cost(trace: Trace, ops: Int64, parents: Int32) -> Int64:
    """Replace each op without a cost by the nearest one around it that has one."""
    is_op = trace.events.of(Category.CPU_OP)
    result: Int64 = np.full(len(ops), -1, np.int64)
    nearest: Int64 = np.full(len(ops), -1, np.int64)
    left, current = np.arange(len(ops)), ops
    known: dict[tuple[int, int, int], bool] = {}
    while True:  # one level up in each round
        inside = current >= 0
        left, current = left[inside], current[inside]
        if not len(left):
            break
        op = is_op[current]
        first = left[op & (nearest[left] < 0)]
        nearest[first] = current[op & (nearest[left] < 0)]
        good = op & _have_cost(trace, current, known)
        result[left[good]] = current[good]
        left, current = left[~good], parents[current[~good]].astype(np.int64)
    return np.where(result >= 0, result, nearest)


def _have_cost(trace: Trace, rows: Int64, known: dict[tuple[int, int, int], bool]) -> Mask:
    """Which events have a cost; `known` keeps the answer for each name and its arguments."""
    events = trace.events
    unique, inverse = distinct(events.name[rows], events.signature[rows], events.args[rows])
    answers = []
    for key in map(tuple, unique.tolist()):
        if key not in known:
            known[key] = _cost(trace, *key) is not None
        answers.append(known[key])
    return np.asarray(answers, np.bool_)[inverse]


def _cost(trace: Trace, name: int, signature: int, args: int) -> Cost | None:
    recorded = trace.args[args] if args >= 0 else {}
    if signature < 0 and not recorded:
        return None
    shapes = trace.signatures[signature] if signature >= 0 else Signature()
    text = trace.names[name]
    return with_recorded(cost(text, shapes), text, shapes, recorded)


class _Judge:
    def __init__(self, trace: Trace, roofs: Roofs | None) -> None:
        self._trace = trace
        self._roofs = roofs

    def kernel(
        self, key: tuple[int, int, int, int], calls: int, duration_ns: float, weight: float
    ) -> KernelTime:
        """Judge `calls` kernels that carry `weight` calls of their op's cost."""
        name, op, signature, args = key
        text = self._trace.names[name]
        needs = _cost(self._trace, op, signature, args) if op >= 0 else None
        needs = _as_calculated(needs, text) if needs is not None else None
        kind = needs.family if needs is not None else family(text)
        slot: Slot = "compute" if kind in COMPUTE_FAMILIES else "memory"
        if kind == "other":
            slot = "other"  # neither its op nor its name says what the kernel does
        limiter = LIMITERS[slot]
        attainable = 0.0
        exact = False
        if needs is not None and self._roofs is None:
            slot = _beyond_doubt(needs) or slot
            limiter = LIMITERS[slot]
        if needs is not None and self._roofs is not None:
            seconds = roof_seconds(needs, self._roofs)
            arithmetic, transfer = (value * 1e9 * weight for value in seconds)
            attainable = max(arithmetic, transfer)
            exact = transfer > 0 and (arithmetic > 0 or needs.flop == 0)
            if exact:  # a card whose figure for this type is not known: the family decides
                slot = "compute" if arithmetic > transfer else "memory"
            limiter = LIMITERS[slot]
            if exact and attainable < LATENCY_SHARE * duration_ns:
                limiter = "latency"
            exact &= attainable <= BEYOND_ROOF * duration_ns
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
            dtype=needs.dtype if needs else "",
        )


def _as_calculated(needs: Cost, kernel: str) -> Cost:
    """The cost in the type that the kernel calculates in: FP32 tensors are multiplied in TF32."""
    if needs.dtype == "fp32" and needs.matrix and _TF32.search(kernel):
        return replace(needs, dtype="tf32")
    return needs


def _beyond_doubt(needs: Cost) -> Slot | None:
    """What limits work on every device of the catalogue, by its arithmetic intensity."""
    if not needs.bytes:
        return None
    low, high = _ridges(needs.dtype, needs.matrix)
    if needs.intensity < low:
        return "memory"
    return "compute" if needs.intensity > high else None


@lru_cache(maxsize=64)
def _ridges(dtype: str, matrix: bool) -> tuple[float, float]:
    """The least and the greatest ridge, FLOP/byte, of the devices that have both roofs.

    (0, infinity) where none has.
    """
    found = []
    for device in devices():
        roofs = device.roofs()
        flops = roofs.flops_for(dtype, matrix=matrix)
        if flops and roofs.memory_bandwidth:
            found.append(flops / roofs.memory_bandwidth)
    return (min(found), max(found)) if found else (0.0, float("inf"))


def by_family(kernels: list[KernelTime]) -> dict[str, float]:
    """Device time by family, ns."""
    totals: dict[str, float] = defaultdict(float)
    for kernel in kernels:
        totals[kernel.family] += kernel.duration_ns
    return dict(totals)
