"""From a `Run` to `Features`: the figures that the rules judge, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..collectors.records import Window
from .after_step import after_step
from .aftermath import charged_phases
from .alike import telling_phases, unlike_steps
from .contradictions import (
    started_apart,
    still_starting,
    stolen_cpu,
    trace_against_metrics,
    unlike_device_windows,
    unlike_windows,
)
from .device_facts import DeviceFacts, device_facts
from .device_roofs import device_roofs
from .device_waits import DeviceWaits, device_waits
from .diagnosis import SLOTS, Warning_
from .errors import UnusableData
from .fresh_pages import FreshPages, with_fresh_pages
from .held_back import held_share, hold_back, move
from .machine.roofs import Roofs
from .neighbours import busy_host
from .preparation import settle
from .run.load import RankData, Run
from .sampled import logged_share
from .shares import (
    MEASURED,
    MEASURED_BESIDE_DEVICE,
    STALLS,
    block_ms,
    block_shares,
    combine,
    device_fractions,
    event_overhead,
    host_fractions,
    steady_phases,
    without_overhead,
)
from .stalls import beside_windows
from .timeline import SCRIPT_PHASES, WORK_PHASES, Timeline, build_timeline
from .trace.collectives import (
    Collective,
    arrival_skews,
    clock_offsets,
    device_collectives,
    host_collectives,
    last_arrivals,
    to_intervals,
    transfers_of,
)
from .trace.device import device_work
from .trace.device_division import DeviceWindow, divide_device
from .trace.device_steps import device_window
from .trace.health import check
from .trace.host import HostWindow, OpTime, PhaseTime, divide, training_thread
from .trace.intervals import EMPTY, Union, intersect, union, union_of
from .trace.kernels import KernelTime
from .trace.many import read_traces
from .trace.table import Trace
from .trace.unhidden import unhidden_time

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RankInput:
    """What is known of one rank before anything is judged: its records, steps and traces.

    `notes` say how the steps of traces that nobody here recorded were found.
    """

    data: RankData
    line: Timeline
    traces: list[tuple[Window, Trace]]
    notes: list[Warning_] = field(default_factory=list)

    @property
    def on_device(self) -> bool:
        """Whether its traces hold device work."""
        return any(device_work(trace).any() for _, trace in self.traces)

    @property
    def collectives(self) -> list[Collective]:
        """Collectives of all its windows."""
        find = device_collectives if self.on_device else _of_host
        return _numbered_on([find(trace) for _, trace in self.traces])


@dataclass(frozen=True)
class RankFeatures:
    """One rank: its steps, the shares of its slots, and the ops and collectives of its windows.

    `shares` sum to 1. `block_shares` has one row a block of steps and one column a slot, in the
    order of `SLOTS`. `phase_ms` is the mean time of each phase per steady step, `window_ms` the
    time of the work phases that trace windows cover. `device` is empty where the CPU trains.
    `block_ms` is the mean step of each block. `windows` are the divided windows of a CPU training.
    `held` is the share of the step in which the CPU quota held the rank back: a part of `host`.
    `logged` is the share in logging libraries by stack samples: a part of `storage`.
    `stalled` is the share in waits for the loader beside a device that no window shows: a part of
    `input`. `unhidden` is when nothing hides communication, `waits` how host and device wait for
    each other. `telling` is the time that the shares of a CPU training were taken from.
    `fresh` are the pages of memory that its ops write for the first time, a part of `memory`, where
    they take long enough; the `work_ns` of `ops` is without them.
    `aftermath` is, for `storage` and `evaluation`, the share of the step in slower work after them:
    a part of theirs.
    """

    data: RankData
    timeline: Timeline
    shares: dict[str, float]
    block_shares: Float
    phase_ms: dict[str, float]
    ops: list[OpTime]
    window_ms: float
    event_overhead_ns: float
    collectives: list[Collective]
    device: list[DeviceWindow] = field(default_factory=list)
    roofs: Roofs | None = None
    block_ms: Float = field(default_factory=lambda: np.empty(0))
    facts: DeviceFacts = field(default_factory=DeviceFacts)
    windows: list[tuple[Window, HostWindow]] = field(default_factory=list)
    held: float = 0.0
    logged: float = 0.0
    stalled: float = 0.0
    unhidden: Union = EMPTY
    telling: Union = EMPTY
    waits: DeviceWaits = field(default_factory=DeviceWaits)
    aftermath: dict[str, float] = field(default_factory=dict)
    fresh: FreshPages = field(default_factory=FreshPages)

    @property
    def rank(self) -> int:
        """The rank's number."""
        return self.data.rank

    def per_step(self, count: float) -> float:
        """A count over the windows' work phases, scaled to one step."""
        work = sum(self.phase_ms[phase] for phase in WORK_PHASES)
        return count * work / self.window_ms if self.window_ms else 0.0

    @property
    def communicating(self) -> Union:
        """When collectives run, or the training thread works for them alone: in the time that the
        shares were taken from, beside a device in all windows."""
        spans = to_intervals([(c.start_ns, c.end_ns) for c in self.collectives])
        if self.device:
            return spans
        return intersect(union_of([spans, *(w.exchange for _, w in self.windows)]), self.telling)

    @property
    def python_share(self) -> float:
        """The part of `host` that is the script's own Python, on a CPU: where no op is called for
        long. 0 where there is no trace window."""
        spent, whole = 0.0, sum(self.phase_ms.values())
        for phase in SCRIPT_PHASES:
            parts = self._windows_of(phase)
            slots = [without_overhead(part, self.event_overhead_ns) for part in parts]
            divided = sum(sum(each.values()) for each in slots)
            if divided > 0:
                spent += self.phase_ms[phase] * sum(p.python_ns for p in parts) / divided
        spent -= self.logged * whole  # that is Python between ops, too, and no part of `host`
        host = self.shares["host"] * whole
        return min(1.0, max(0.0, spent) / host) if host > 0 else 0.0

    @property
    def python_gaps(self) -> float:
        """How often a step runs the script's own Python for long."""
        parts = [part for phase in SCRIPT_PHASES for part in self._windows_of(phase)]
        return self.per_step(sum(part.gaps for part in parts))

    def _windows_of(self, phase: str) -> list[PhaseTime]:
        return [w.phases[phase] for _, w in self.windows if phase in w.phases]

    @property
    def judged_by_cost(self) -> float:
        """Share of the working time whose cost is known; the rest is judged by its name alone."""
        work = sum(op.work_ns for op in self.ops)
        known = sum(op.work_ns for op in self.ops if op.attainable_ns > 0)
        return known / work if work else 1.0

    @property
    def step_ms(self) -> Float:
        """Durations of the steady, unprofiled steps (of all steady ones where none is)."""
        line = self.timeline
        chosen = line.calm if line.calm.any() else line.steady
        return np.asarray(line.duration_ns[chosen], np.float64) * 1e-6


@dataclass(frozen=True)
class Features:
    """The whole job. `late` counts how often each rank arrived last at a common collective."""

    run: Run
    ranks: list[RankFeatures]
    shares: dict[str, float]
    late: dict[int, int]
    warnings: list[Warning_] = field(default_factory=list)

    @property
    def steady_steps(self) -> int:
        """Steady steps that every rank has; of ranks that a run recorded, where there are any."""
        recorded = [r for r in self.ranks if r.timeline.source != "trace"] or self.ranks
        return min((int(r.timeline.steady.sum()) for r in recorded), default=0)


def derive(run: Run, roofs: Roofs | None) -> Features:
    """Compute the features of a run; ranks without two step ends are left out and named."""
    warnings: list[Warning_] = []
    inputs, _ = read_windows(rank_inputs(run, warnings), warnings)
    return derive_from(run, inputs, roofs, warnings)


def rank_inputs(run: Run, warnings: list[Warning_]) -> list[RankInput]:
    """The ranks with two step ends or more, no trace read; what is wrong goes to `warnings`."""
    inputs = []
    for rank in run.ranks:
        line = build_timeline(rank)
        if line is None:
            text = f"rank {rank.rank} ended before its second step"
            warnings.append(Warning_("too-few-steps", text))
        else:
            inputs.append(RankInput(rank, line, []))
    for item in inputs:
        warnings += still_starting(item.line)
    warnings += [*busy_host(run), *stolen_cpu(run)]
    return inputs


def derive_from(
    run: Run, inputs: Sequence[RankInput], roofs: Roofs | None, warnings: list[Warning_]
) -> Features:
    """Compute the features of ranks whose steps and traces are at hand."""
    inputs = [_settled(run, item) for item in inputs]
    collectives = {item.data.rank: item.collectives for item in inputs}
    hosts = {item.data.host for item in inputs}
    offsets = None if len(hosts) <= 1 and "" not in hosts else clock_offsets(collectives)
    transfers = transfers_of(collectives, offsets) if len(collectives) > 1 else {}
    ranks = []
    for item in inputs:
        warnings += _health(item)
        build = _on_device if item.on_device else _on_host
        made = build(item, roofs, transfers.get(item.data.rank))
        mine = collectives[item.data.rank]
        made = replace(made, collectives=mine, unhidden=_unhidden(item, made) if mine else EMPTY)
        warnings += trace_against_metrics(run, made.device, made.rank)
        made = with_fresh_pages(run, made)
        warnings += unlike_windows(item.line, made.windows, made.rank, made.fresh.apart_ns)
        if item.on_device:
            windows = [window for window, _ in item.traces]
            share = made.facts.profiler_share
            warnings += unlike_device_windows(item.line, windows, share, made.rank)
        ranks.append(made)
    ranks = [hold_back(rank, held_share(run, rank)) for rank in ranks]
    ranks = [_with_logs(run, rank) for rank in ranks]
    shares = {}
    if ranks:
        shares = {slot: float(np.mean([rank.shares[slot] for rank in ranks])) for slot in SLOTS}
    warnings += _missing_ranks(run, ranks)
    warnings += started_apart(arrival_skews(collectives, offsets), _window_ns(inputs))
    return Features(run, ranks, shares, last_arrivals(collectives, offsets), warnings)


def _settled(run: Run, item: RankInput) -> RankInput:
    after = after_step(run, item.data, item.line)
    return replace(item, line=settle(item.line, [trace for _, trace in item.traces], after))


def _with_logs(run: Run, rank: RankFeatures) -> RankFeatures:
    """The rank with the time in logging libraries moved from Python to `storage`."""
    share = 0.0 if rank.device else logged_share(run, rank)
    if not share:
        return rank
    return replace(move(rank, share, ("host", "other"), "storage"), logged=share)


def _unhidden(item: RankInput, made: RankFeatures) -> Union:
    """When nothing hides communication, in all windows of a rank."""
    if made.device:
        parts = [window.device.exposed_communication for window in made.device]
    else:
        parts = [intersect(unhidden_time(trace), made.telling) for _, trace in item.traces]
    return union(*map(np.concatenate, zip(*parts, strict=True))) if parts else EMPTY


def _window_ns(inputs: Sequence[RankInput]) -> float:
    """Mean length of a rank's trace windows together."""
    lengths = [sum(w.end_ns - w.start_ns for w, _ in item.traces) for item in inputs]
    return float(np.mean(lengths)) if lengths else 0.0


def _missing_ranks(run: Run, ranks: list[RankFeatures]) -> list[Warning_]:
    """Without the other ranks, a wait for a late one looks like a transfer."""
    if len(ranks) >= run.world_size:
        return []
    text = (
        f"{len(ranks)} of {run.world_size} ranks recorded: waiting for a late rank cannot be told "
        "from moving bytes"
    )
    return [Warning_("ranks-missing", text)]


def _of_host(trace: Trace) -> list[Collective]:
    return host_collectives(trace, training_thread(trace))


def _numbered_on(windows: Sequence[Sequence[Collective]]) -> list[Collective]:
    """Collectives of all windows, none with the key of one in an earlier window.

    A trace that another profiler made may give its steps the same numbers.
    """
    found: list[Collective] = []
    earlier: Counter[tuple[object, ...]] = Counter()
    for collectives in windows:
        here: Counter[tuple[object, ...]] = Counter()
        for one in collectives:
            *same, ordinal = one.key
            here[tuple(same)] += 1
            found.append(replace(one, ordinal=ordinal + earlier[tuple(same)]))
        earlier += here
    return found


def read_windows(
    inputs: Sequence[RankInput], warnings: list[Warning_], more: Sequence[Path] = ()
) -> tuple[list[RankInput], list[tuple[Path, Trace]]]:
    """Read the trace windows of all ranks, and `more` files with them, side by side.

    Returns the ranks with their windows, and the other files' traces. What cannot be read is named
    in `warnings`.
    """
    places = [
        (item.data, window, path)
        for item in inputs
        for window in item.data.windows
        if (path := item.data.trace_path(window)) is not None
    ]
    results = read_traces([*(path for _, _, path in places), *more])
    found: dict[int, list[tuple[Window, Trace]]] = {item.data.rank: [] for item in inputs}
    for (rank, window, _), result in zip(places, results[: len(places)], strict=True):
        if isinstance(result, UnusableData):
            warnings.append(Warning_(result.slug, f"rank {rank.rank}: {result.message}"))
        else:
            found[rank.rank].append((window, result))
    others = []
    for path, result in zip(more, results[len(places) :], strict=True):
        if isinstance(result, UnusableData):
            warnings.append(Warning_(result.slug, f"{path.name}: {result.message}"))
        else:
            others.append((path, result))
    return [replace(item, traces=found[item.data.rank]) for item in inputs], others


def _health(item: RankInput) -> list[Warning_]:
    line = item.line
    # Of a CPU training the profiler's cost is measured and taken off (`event_overhead`).
    usual = np.asarray(line.duration_ns[line.calm], np.float64) if item.on_device else None
    found = [warning for _, trace in item.traces for warning in check(trace, usual).warnings]
    return [Warning_(w.slug, f"rank {item.data.rank}: {w.text}") for w in found]


def _on_host(item: RankInput, roofs: Roofs | None, transfers: Union | None) -> RankFeatures:
    line = replace(item.line, unlike=unlike_steps(item.line, [w for w, _ in item.traces]))
    windows: list[tuple[Window, HostWindow]] = []
    phases = telling_phases(line, [window for window, _ in item.traces])
    for window, trace in item.traces:
        divided = divide(trace, phases, (window.start_ns, window.end_ns), roofs, transfers)
        if divided is not None:
            windows.append((window, divided))
    phases_ns, extra = charged_phases(line)
    overhead = event_overhead(line, windows)
    fractions = host_fractions(windows, overhead)
    means = {phase: float(values.mean()) for phase, values in phases_ns.items()}
    whole = sum(means.values())
    return RankFeatures(
        data=item.data,
        timeline=line,
        shares=combine(means, fractions, MEASURED),
        block_shares=block_shares(phases_ns, fractions, MEASURED),
        block_ms=block_ms(phases_ns),
        phase_ms={phase: value * 1e-6 for phase, value in means.items()},
        ops=_merge_ops([op for _, window in windows for op in window.ops]),
        window_ms=sum(p.wall_ns for _, w in windows for p in w.phases.values()) * 1e-6,
        event_overhead_ns=overhead,
        collectives=[],
        roofs=roofs,
        windows=windows,
        telling=intersect(
            union_of(list(phases.values())),
            union_of([(np.array([w.start_ns]), np.array([w.end_ns])) for w, _ in windows]),
        ),
        aftermath={phase: float(more.mean()) / whole for phase, more in extra.items()},
    )


def _on_device(item: RankInput, _roofs: Roofs | None, transfers: Union | None) -> RankFeatures:
    line = item.line
    windows, divisions, roofs = [], [], None
    for window, trace in item.traces:
        roofs = roofs or device_roofs(trace, item.data.folder.parent)
        divided = divide_device(trace, _device_span(window, trace), roofs, transfers)
        if divided is not None:
            windows.append(divided)
            divisions.append((trace, divided))
    phases_ns = steady_phases(line)
    shares = device_fractions(windows)
    apart_ns = beside_windows(phases_ns, line, [window for window, _ in item.traces])
    open_phases = [phase for phase in phases_ns if phase not in MEASURED_BESIDE_DEVICE]
    fractions = dict.fromkeys(open_phases, shares) if shares else {}
    means = {phase: float(values.mean()) for phase, values in apart_ns.items()}
    whole = sum(means.values())
    return RankFeatures(
        data=item.data,
        timeline=line,
        shares=combine(means, fractions, MEASURED_BESIDE_DEVICE),
        block_shares=block_shares(apart_ns, fractions, MEASURED_BESIDE_DEVICE),
        block_ms=block_ms(phases_ns),
        phase_ms={phase: float(values.mean()) * 1e-6 for phase, values in phases_ns.items()},
        ops=_merge_ops([_as_op(kernel) for window in windows for kernel in window.kernels]),
        window_ms=sum(window.wall_ns for window in windows) * 1e-6,
        event_overhead_ns=0.0,
        collectives=[],
        device=windows,
        roofs=roofs,
        waits=device_waits(divisions),
        facts=device_facts([(trace, (w.start_ns, w.end_ns)) for w, trace in item.traces]),
        stalled=means.get(STALLS, 0.0) / whole if whole else 0.0,
    )


def _device_span(window: Window, trace: Trace) -> tuple[int, int]:
    """The time in which the device does what the window's steps launched.

    A window that was recorded ends with the host's step; one that was made from a trace (it names
    no file) is the device's already.
    """
    if not window.file:
        return window.start_ns, window.end_ns
    return device_window(trace, window.start_ns, window.end_ns)


def _as_op(kernel: KernelTime) -> OpTime:
    return OpTime(
        name=kernel.op or kernel.name,
        family=kernel.family,
        slot=kernel.slot,
        calls=kernel.calls,
        self_ns=kernel.duration_ns,
        work_ns=kernel.duration_ns,
        flop=kernel.flop,
        bytes=kernel.bytes,
        attainable_ns=kernel.attainable_ns,
        dims=kernel.dims,
        kernel=kernel.name,
        dtype=kernel.dtype,
    )


def _merge_ops(ops: list[OpTime]) -> list[OpTime]:
    merged: dict[tuple[str, ...], OpTime] = {}
    for op in ops:
        key = (op.name, op.dims, op.kernel, op.dtype)
        known = merged.get(key)
        merged[key] = op if known is None else known.plus(op)
    return sorted(merged.values(), key=lambda op: -op.self_ns)
