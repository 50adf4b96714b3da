"""Divides the time of a CPU training process within one trace window.

On a CPU the training thread itself is the device: what runs in an op's own time is work (limited
by arithmetic or by memory) or dispatch, what lies between ops is Python, unless the thread waits
for a collective that another thread carries out. Ops that are there for the exchange alone (calls
of collectives, copies into buckets and out of them) go with the exchange: their time is `network`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..machine.roofs import Roofs
from ..text import short_name
from .collectives import Collective, exchange_of_thread, host_collectives, to_intervals
from .costs import Cost, cost, family, roof_seconds
from .costs_names import forward_name
from .device import device_work
from .distinct import distinct
from .intervals import (
    EMPTY,
    clip,
    covered,
    intersect,
    merge,
    nest,
    self_time,
    subtract,
    total,
    union,
)
from .intervals import Union as Intervals
from .launches import LAUNCH
from .table import Category, Signature, Trace

Int64 = npt.NDArray[np.int64]
Slot = Literal["compute", "memory", "host", "network", "imbalance", "other"]

DEFAULT_DISPATCH_NS = 1_500.0
"""Cost of dispatching one op where no calibration exists: a tiny `add` takes 1 to 2 us on server
and laptop cores (torch 2.13, measured)."""

EXPLAINED_FACTOR = 3.0
"""How many times longer than at the arithmetic roof a function (sqrt, tanh) may take and still be
limited by it: by so much the functions' times beside `exp` differ between two processors (AVX-512,
AVX2; 1.0 to 3.1 times over 13 functions)."""

UNKNOWN_DISPATCH_FACTOR = 3.0
"""An op of unknown cost that takes less than so many dispatches is dispatch; a longer one works."""

SMALL_BYTES, SMALL_FLOP = 32_768, 1e5
"""Without roofs: less than a level-1 cache of data and a tenth of a microsecond of arithmetic at
1 TFLOP/s; such an op is done before the next could be dispatched."""

PYTHON_GAP_NS = 50_000
"""So long without an op (beside a device: so much idle Python for each piece of its work) is the
script's own Python, not that of calling ops, which takes 5 to 13 us each in traces of loops over
tiny ops (gpupuzzlers, with the profiler)."""

STEP_ANNOTATION = "ProfilerStep#"
HOST_FAMILIES = frozenset({"view", "alloc", "communication"})
FUSED_FAMILIES = frozenset({"elementwise", "optimizer"})
"""Families of which one pass can take the place of a chain: between two ops nothing is written."""

COMPUTE_FAMILIES = frozenset({"gemm", "conv", "attention", "recurrent", "random", "sort", "fft"})


@dataclass(frozen=True)
class OpTime:
    """One op with one signature within a window: exclusive time and what limits it.

    `attainable_ns` is the time at the roof that limits it, `floor_ns` what would be left if that
    were lifted: the time at the other roof, and of the traffic from the level-2 cache but for that
    of chains, which one pass replaces. Both are 0 where cost or roofs are not known. `dtype` is
    what it calculates in ("fp32", …; "": not known).
    """

    name: str
    family: str
    slot: Slot
    calls: int
    self_ns: float
    work_ns: float
    flop: float = 0.0
    bytes: float = 0.0
    attainable_ns: float = 0.0
    floor_ns: float = 0.0
    dims: str = ""
    kernel: str = ""
    dtype: str = ""

    @property
    def label(self) -> str:
        """Name and shapes, short."""
        on = f" on {self.dims}" if self.dims else ""
        return f"{short_name(self.name)}{on}"

    def plus(self, other: OpTime) -> OpTime:
        """The two added up; the slot is that of the longer one."""
        longer = self if self.self_ns >= other.self_ns else other
        return OpTime(
            name=self.name,
            family=self.family,
            slot=longer.slot,
            calls=self.calls + other.calls,
            self_ns=self.self_ns + other.self_ns,
            work_ns=self.work_ns + other.work_ns,
            flop=self.flop + other.flop,
            bytes=self.bytes + other.bytes,
            attainable_ns=self.attainable_ns + other.attainable_ns,
            floor_ns=self.floor_ns + other.floor_ns,
            dims=self.dims,
            kernel=self.kernel,
            dtype=self.dtype,
        )


@dataclass
class PhaseTime:
    """One work phase within a window: wall time, events, and its slots, ns.

    `python_ns` is the part of `host` in gaps of `PYTHON_GAP_NS` or more, and `gaps` their number.
    """

    wall_ns: float = 0.0
    events: int = 0
    slots: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    python_ns: float = 0.0
    gaps: int = 0


@dataclass(frozen=True)
class HostWindow:
    """What one window of one rank says: per phase, per op, and the collectives seen; `exchange` is
    when ops of the training thread are there for the exchange alone."""

    phases: dict[str, PhaseTime]
    ops: list[OpTime]
    collectives: list[Collective]
    start_ns: int
    end_ns: int
    exchange: Intervals = EMPTY


def training_thread(trace: Trace) -> int:
    """Index of the thread that trains: the one with step annotations, else with most ops."""
    events = trace.events
    steps = [i for i, name in enumerate(trace.names) if name.startswith(STEP_ANNOTATION)]
    marked = np.isin(events.name, steps)
    pool = events.thread[marked] if marked.any() else events.thread[_is_op(trace)]
    if not len(pool):
        return -1
    values, counts = np.unique(pool, return_counts=True)
    return int(values[np.argmax(counts)])


def _is_op(trace: Trace) -> npt.NDArray[np.bool_]:
    return trace.events.of(Category.CPU_OP)


def divide(
    trace: Trace,
    phases: dict[str, Intervals],
    window: tuple[int, int],
    roofs: Roofs | None,
    transfers: Intervals | None = None,
) -> HostWindow | None:
    """Divide the window [begin, end), ns, of a rank whose work phases are `phases`.

    `transfers` are the intervals in which bytes were moving (all ranks had arrived); a wait for a
    collective outside them is `imbalance`. Without it every such wait is `network`.
    None when the trace has no thread with ops.
    """
    main = training_thread(trace)
    if main < 0:
        return None
    events = trace.events
    mine = np.flatnonzero(_is_op(trace) & (events.thread == main))
    mine = mine[(events.start_ns[mine] >= window[0]) & (events.start_ns[mine] < window[1])]
    starts = events.start_ns[mine]
    nested = nest(starts, events.duration_ns[mine])
    own = self_time(starts, events.duration_ns[mine], nested).astype(np.float64)
    judge = _Judge(trace, roofs)
    host, slots = judge.split(events.name[mine], events.signature[mine], own)
    exchange = exchange_of_thread(trace, mine, nested.end_ns)
    if unseen_device(trace):
        host, slots, exchange = np.zeros_like(own), np.full(len(own), "other"), EMPTY

    top = nested.depth == 0
    lasting = nested.end_ns - starts
    exchanging = _inside(starts, exchange) & (covered(exchange, starts, nested.end_ns) == lasting)
    busy = subtract(union(starts[top], nested.end_ns[top]), exchange)
    collectives = host_collectives(trace, main)
    waits = to_intervals([(c.start_ns, c.end_ns) for c in collectives])
    moving = waits if transfers is None else intersect(waits, transfers)
    apart = subtract(exchange, waits)
    waits, moving = merge(waits, apart), merge(moving, apart)
    result = {}
    judged = np.zeros(len(mine), np.bool_)
    for phase, whole in phases.items():
        part = clip(whole, *window)
        inside = _inside(starts, part)
        judged |= inside
        entry = PhaseTime(wall_ns=_length(part), events=int(inside.sum()))
        working = inside & ~exchanging
        entry.slots["host"] += float(host[working].sum())
        for slot in ("compute", "memory", "other"):
            entry.slots[slot] += float((own - host)[working & (slots == slot)].sum())
        _add_gaps(entry, subtract(part, busy), waits, moving)
        result[phase] = entry
    counted = mine[judged]
    ops = judge.table(
        events.name[counted],
        events.signature[counted],
        own[judged],
        host[judged],
        exchanging[judged],
    )
    return HostWindow(result, ops, collectives, *window, exchange=clip(exchange, *window))


def unseen_device(trace: Trace) -> bool:
    """Whether device work was launched and none recorded: then what an op's time is, is open."""
    launched = trace.events.of(Category.RUNTIME, Category.DRIVER)
    launched &= np.fromiter(
        (LAUNCH.match(name) is not None for name in trace.names), np.bool_, len(trace.names)
    )[trace.events.name]
    return bool(launched.any()) and not device_work(trace).any()


def _add_gaps(entry: PhaseTime, gaps: Intervals, waits: Intervals, moving: Intervals) -> None:
    """Charge the time between ops: to the collective that is waited for, else to Python."""
    exposed = intersect(gaps, waits)
    network = _length(intersect(exposed, moving))
    entry.slots["network"] += network
    entry.slots["imbalance"] += _length(exposed) - network
    starts, ends = subtract(gaps, waits)
    lengths = ends - starts
    long = lengths >= PYTHON_GAP_NS
    entry.slots["host"] += float(lengths.sum())
    entry.python_ns += float(lengths[long].sum())
    entry.gaps += int(long.sum())


def _length(pair: Intervals) -> float:
    return float(total(pair))


def _inside(times: Int64, window: Intervals) -> npt.NDArray[np.bool_]:
    index = np.searchsorted(window[0], times, side="right") - 1
    valid = index >= 0
    ends = window[1][np.maximum(index, 0)] if len(window[1]) else np.zeros(len(times), np.int64)
    return np.asarray(valid & (times < ends))


class _Judge:
    """Splits the exclusive time of ops into dispatch and work, and says what limits the work.

    Costs are computed once for each distinct op and signature.
    """

    def __init__(self, trace: Trace, roofs: Roofs | None) -> None:
        self._trace = trace
        self._roofs = roofs
        self._dispatch = (roofs.dispatch_ns if roofs else 0.0) or DEFAULT_DISPATCH_NS

    def split(
        self,
        names: npt.NDArray[np.int32],
        signatures: npt.NDArray[np.int32],
        own: npt.NDArray[np.float64],
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.str_]]:
        """Per event the dispatch part of its own time, ns, and the slot of the rest."""
        unique, inverse = distinct(names, signatures)
        host = np.empty(len(own))
        slots = np.empty(len(own), dtype="U8")
        for group, (name, signature) in enumerate(unique):
            chosen = inverse == group
            times = own[chosen]
            slot, whole_below = self._verdict(int(name), int(signature), float(times.mean()))
            host[chosen] = np.where(times < whole_below, times, np.minimum(times, self._dispatch))
            slots[chosen] = slot
        return host, slots

    def _cost(self, name: int, signature: int) -> Cost | None:
        recorded = self._trace.signatures[signature] if signature >= 0 else Signature()
        return cost(self._trace.names[name], recorded) if signature >= 0 else None

    def _verdict(self, name: int, signature: int, own_ns: float) -> tuple[Slot, float]:
        """The slot of the op's work, and the own time below which all of it is dispatch, ns.

        `own_ns` is the mean of what its calls take.
        """
        text = self._trace.names[name]
        kind = family(text)
        if kind in HOST_FAMILIES or text.startswith(("autograd::", "torch::autograd")):
            return "host", float("inf")
        needs = self._cost(name, signature)
        if needs is None and forward_name(text) is not None:
            return "host", float("inf")  # an autograd node: the ops that it calls do its work
        if needs is None:
            slot: Slot = "compute" if kind in COMPUTE_FAMILIES or kind == "other" else "memory"
            return slot, UNKNOWN_DISPATCH_FACTOR * self._dispatch
        arithmetic, transfer = self._roof_ns(needs)
        if self._roofs is None:
            slot = "compute" if kind in COMPUTE_FAMILIES else "memory"
            small = needs.bytes < SMALL_BYTES and needs.flop < SMALL_FLOP
        else:
            limited = arithmetic > transfer and not self._streams(needs, arithmetic, own_ns)
            slot = "compute" if limited else "memory"
            small = max(arithmetic, transfer) < self._dispatch
        # However long a tiny op takes, neither arithmetic nor bandwidth is what it waits for.
        return slot, float("inf") if small else 0.0

    def _streams(self, needs: Cost, arithmetic_ns: float, own_ns: float) -> bool:
        """Whether a function over data beyond the caches takes longer than its arithmetic explains.

        Where each call writes to fresh memory, the system hands it out page by page, which takes
        several times as long as the arithmetic.
        """
        if self._roofs is None or not needs.special_flop or needs.family == "random":
            return False
        beyond = needs.bytes > max(self._roofs.cache_bytes.values(), default=float("inf"))
        return beyond and own_ns > EXPLAINED_FACTOR * arithmetic_ns

    def _roof_ns(self, needs: Cost | None) -> tuple[float, float]:
        """Time at the arithmetic roof and at the bandwidth roof, ns; zeros where not known."""
        if needs is None or self._roofs is None:
            return 0.0, 0.0
        arithmetic, transfer = roof_seconds(needs, self._roofs)
        return arithmetic * 1e9, transfer * 1e9

    def _cached_ns(self, needs: Cost | None) -> float:
        """Time of the op's traffic from the level-2 cache, ns."""
        rate = self._roofs.bandwidth.get("l2", 0.0) if self._roofs else 0.0
        return needs.bytes / rate * 1e9 if needs is not None and rate > 0 else 0.0

    def table(
        self,
        names: npt.NDArray[np.int32],
        signatures: npt.NDArray[np.int32],
        own: npt.NDArray[np.float64],
        host: npt.NDArray[np.float64],
        exchanging: npt.NDArray[np.bool_],
    ) -> list[OpTime]:
        """Ops by exclusive time, largest first; `network` where most of it is the exchange's."""
        unique, inverse = distinct(names, signatures)
        totals = np.bincount(inverse, weights=own, minlength=len(unique))
        works = np.bincount(inverse, weights=own - host, minlength=len(unique))
        calls = np.bincount(inverse, minlength=len(unique))
        exchanges = np.bincount(inverse, weights=own * exchanging, minlength=len(unique))
        rows = []
        for group in np.argsort(-totals):
            name, signature = int(unique[group][0]), int(unique[group][1])
            needs = self._cost(name, signature)
            roofs = self._roof_ns(needs)
            count = int(calls[group])
            slot, _ = self._verdict(name, signature, float(totals[group]) / count)
            if exchanges[group] > 0.5 * totals[group]:
                slot = "network"
            elif works[group] < 0.5 * totals[group]:
                slot = "host"
            kind = family(self._trace.names[name])
            fused = slot == "memory" and kind in FUSED_FAMILIES
            cached = 0.0 if fused else self._cached_ns(needs)
            rows.append(
                OpTime(
                    name=self._trace.names[name],
                    family=kind,
                    slot=slot,
                    calls=count,
                    self_ns=float(totals[group]),
                    work_ns=float(works[group]),
                    flop=needs.flop * count if needs else 0.0,
                    bytes=needs.bytes * count if needs else 0.0,
                    attainable_ns=max(roofs) * count,
                    floor_ns=max(min(roofs), cached) * count,
                    dims=_dims(self._trace, signature),
                    dtype=needs.dtype if needs else "",
                )
            )
        return rows


def _dims(trace: Trace, signature: int) -> str:
    if signature < 0:
        return ""
    dims = [d for d in trace.signatures[signature].dims if d]
    return ", ".join(str(list(d)) if not isinstance(d, int) else str(d) for d in dims[:3])
