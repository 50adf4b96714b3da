"""From a `Run` to `Features`: the figures that the rules judge, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..collectors.records import Window
from .diagnosis import SLOTS, Warning_
from .errors import UnusableData
from .machine.roofs import Roofs
from .run.load import RankData, Run
from .timeline import WORK_PHASES, Timeline, build_timeline
from .trace.host import (
    Collective,
    HostWindow,
    OpTime,
    PhaseTime,
    divide,
    find_collectives,
    last_arrivals,
    training_thread,
    transfers_of,
)
from .trace.reader import read_trace
from .trace.table import Trace

Float = npt.NDArray[np.float64]

MAX_EVENT_OVERHEAD_NS = 3_500.0
"""The profiler adds 2 to 3 us an event on the host (torch 2.13, measured on tiny ops)."""

BLOCKS = 10
"""Steady steps are cut into so many blocks; the spread of their shares gives the intervals."""

BUSY_HOST_SHARE = 0.1
"""A tenth of the CPU in other hands moves step times by more than the 5 % that is claimed."""

BUSY_MIN_SAMPLES = 3

MEASURED = {
    "storage": "storage",
    "evaluation": "evaluation",
    "loader": "input",
    "garbage": "host",
}
"""Phases that are a slot by themselves."""


@dataclass(frozen=True)
class RankFeatures:
    """One rank: its steps, the shares of its slots, and the ops and collectives of its windows.

    `shares` sum to 1. `block_shares` has one row a block of steps and one column a slot, in the
    order of `SLOTS`. `phase_ms` is the mean time of each phase per steady step, `window_ms` the
    time of the work phases that trace windows cover.
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

    @property
    def rank(self) -> int:
        """The rank's number."""
        return self.data.rank

    def per_step(self, count: float) -> float:
        """A count over the windows' work phases, scaled to one step."""
        work = sum(self.phase_ms[phase] for phase in WORK_PHASES)
        return count * work / self.window_ms if self.window_ms else 0.0

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
    roofs: Roofs | None
    warnings: list[Warning_] = field(default_factory=list)

    @property
    def steady_steps(self) -> int:
        """Steady steps that every rank has."""
        return min((int(r.timeline.steady.sum()) for r in self.ranks), default=0)


def derive(run: Run, roofs: Roofs | None) -> Features:
    """Compute the features of a run; ranks without two step ends are left out and named."""
    warnings: list[Warning_] = []
    lines: list[tuple[RankData, Timeline]] = []
    for rank in run.ranks:
        line = build_timeline(rank)
        if line is None:
            text = f"rank {rank.rank} ended before its second step"
            warnings.append(Warning_("too-few-steps", text))
        else:
            lines.append((rank, line))
    traces = {rank.rank: _read_windows(rank, warnings) for rank, _ in lines}
    collectives = _collectives(traces)
    transfers = transfers_of(collectives) if len(collectives) > 1 else {}
    ranks = []
    for rank, line in lines:
        windows = []
        for window, trace in traces[rank.rank]:
            phases = {phase: line.phase_intervals[phase] for phase in WORK_PHASES}
            span = (window.start_ns, window.end_ns)
            divided = divide(trace, phases, span, roofs, transfers.get(rank.rank))
            if divided is not None:
                windows.append((window, divided))
        ranks.append(_rank_features(rank, line, windows))
    shares = (
        {slot: float(np.mean([r.shares[slot] for r in ranks])) for slot in SLOTS} if ranks else {}
    )
    warnings += busy_host(run)
    return Features(run, ranks, shares, last_arrivals(collectives), roofs, warnings)


def busy_host(run: Run) -> list[Warning_]:
    """A warning for each host on which other processes took much of the CPU during the run."""
    found = []
    for table in run.metrics:
        whole, job = table.series.get("host.cpu_percent"), table.series.get("job.cpu_cores")
        cores = sum(name.startswith("host.cpu.") for name in table.series)
        if whole is None or job is None or not cores or len(whole[1]) < BUSY_MIN_SAMPLES:
            continue
        others = float(np.mean(whole[1])) / 100 - float(np.mean(job[1])) / cores
        if others > BUSY_HOST_SHARE:
            text = (
                f"other processes took {others:.0%} of the CPU of {table.host}: step times and "
                "shares may be theirs as much as the job's"
            )
            found.append(Warning_("busy-host", text))
    return found


def _read_windows(rank: RankData, warnings: list[Warning_]) -> list[tuple[Window, Trace]]:
    traces = []
    for window in rank.windows:
        path = rank.trace_path(window)
        if path is None:
            continue
        try:
            trace = read_trace(path)
        except UnusableData as error:
            warnings.append(Warning_(error.slug, f"rank {rank.rank}: {error.message}"))
            continue
        warnings += [Warning_(w.slug, f"rank {rank.rank}: {w.text}") for w in trace.warnings]
        traces.append((window, trace))
    return traces


def _collectives(
    traces: dict[int, list[tuple[Window, Trace]]],
) -> dict[int, list[Collective]]:
    return {
        rank: [c for _, trace in windows for c in find_collectives(trace, training_thread(trace))]
        for rank, windows in traces.items()
    }


def _rank_features(
    rank: RankData, line: Timeline, windows: list[tuple[Window, HostWindow]]
) -> RankFeatures:
    phases = _steady_phases(line)
    overhead = _event_overhead(line, windows)
    fractions = _fractions(windows, overhead)
    blocks = [
        block for block in np.array_split(np.arange(len(phases["rest"])), BLOCKS) if len(block)
    ]
    rows = [_shares({p: float(v[b].mean()) for p, v in phases.items()}, fractions) for b in blocks]
    means = {phase: float(values.mean()) for phase, values in phases.items()}
    return RankFeatures(
        data=rank,
        timeline=line,
        shares=_shares(means, fractions),
        block_shares=np.array([[row[slot] for slot in SLOTS] for row in rows]),
        phase_ms={phase: value * 1e-6 for phase, value in means.items()},
        ops=_merge_ops([op for _, window in windows for op in window.ops]),
        window_ms=sum(p.wall_ns for _, w in windows for p in w.phases.values()) * 1e-6,
        event_overhead_ns=overhead,
        collectives=[c for _, window in windows for c in window.collectives],
    )


def _steady_phases(line: Timeline) -> dict[str, Float]:
    """Phase times of the steady steps, ns, with the profiler's cost taken out.

    In profiled steps the work phases are replaced by the median of the unprofiled steps; rare
    phases (checkpoints, evaluation) are kept as measured, so that none is lost.
    """
    steady = line.steady
    calm = line.calm
    result = {}
    for phase, times in line.phase_ns.items():
        if phase == "profiler":
            continue
        values = times[steady].copy()
        if phase in WORK_PHASES and calm.sum() >= 3:
            values[line.profiled[steady]] = np.median(times[calm])
        result[phase] = values
    return result


def _whole_steps(line: Timeline, window: Window) -> int:
    inside = (line.start_ns >= window.start_ns - 1_000_000) & (line.end_ns <= window.end_ns)
    return int(inside.sum())


def _event_overhead(line: Timeline, windows: list[tuple[Window, HostWindow]]) -> float:
    """What the profiler adds to each event, ns: profiled against unprofiled work time per step."""
    calm = line.calm
    if calm.sum() < 3:
        return 0.0
    plain = sum(float(np.median(line.phase_ns[phase][calm])) for phase in WORK_PHASES)
    extra, events = 0.0, 0
    for window, divided in windows:
        steps = _whole_steps(line, window)
        if steps < 2:
            continue
        extra += sum(p.wall_ns for p in divided.phases.values()) - plain * steps
        events += sum(phase.events for phase in divided.phases.values())
    return float(np.clip(extra / events, 0.0, MAX_EVENT_OVERHEAD_NS)) if events else 0.0


def _fractions(
    windows: list[tuple[Window, HostWindow]], overhead_ns: float
) -> dict[str, dict[str, float]]:
    """For each work phase that a window covers, the share of each slot in it."""
    result = {}
    for phase in WORK_PHASES:
        total: dict[str, float] = {}
        for _, divided in windows:
            corrected = _without_overhead(divided.phases[phase], overhead_ns)
            for slot, value in corrected.items():
                total[slot] = total.get(slot, 0.0) + value
        whole = sum(total.values())
        if whole > 0:
            result[phase] = {slot: value / whole for slot, value in total.items()}
    return result


def _without_overhead(phase: PhaseTime, overhead_ns: float) -> dict[str, float]:
    """Slots of a phase less the profiler's cost: it accrues in dispatch and Python, so `host`
    loses it first, the rest in proportion."""
    slots = dict(phase.slots)
    excess = phase.events * overhead_ns
    taken = min(slots.get("host", 0.0) * 0.9, excess)
    slots["host"] = slots.get("host", 0.0) - taken
    work = slots.get("compute", 0.0) + slots.get("memory", 0.0)
    rest = min(excess - taken, 0.5 * work)
    for slot in ("compute", "memory"):
        if work > 0:
            slots[slot] = slots.get(slot, 0.0) * (1 - rest / work)
    return slots


def _shares(phases: dict[str, float], fractions: dict[str, dict[str, float]]) -> dict[str, float]:
    """Slot shares, summing to 1, from phase times and what the windows say of the work phases."""
    whole = sum(phases.values())
    shares = dict.fromkeys(SLOTS, 0.0)
    if whole <= 0:
        shares["other"] = 1.0
        return shares
    for phase, value in phases.items():
        slot = MEASURED.get(phase)
        if slot is not None:
            shares[slot] += value / whole
            continue
        split = fractions.get(phase, {"other": 1.0})
        for name, fraction in split.items():
            shares[name] += fraction * value / whole
    return shares


def _merge_ops(ops: list[OpTime]) -> list[OpTime]:
    merged: dict[tuple[str, str], OpTime] = {}
    for op in ops:
        key = (op.name, op.dims)
        known = merged.get(key)
        merged[key] = op if known is None else known.plus(op)
    return sorted(merged.values(), key=lambda op: -op.self_ns)
