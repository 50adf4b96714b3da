"""Slot shares of one rank: what every step measures, and what trace windows say of the rest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..collectors.records import Window
from .alike import MAX_EVENT_OVERHEAD_NS, telling_steps
from .diagnosis import SLOTS
from .timeline import WORK_PHASES, Timeline
from .trace.device_division import DeviceWindow
from .trace.host import HostWindow, PhaseTime

Float = npt.NDArray[np.float64]
Shares = dict[str, float]

BLOCKS = 10
"""Steady steps are cut into so many blocks; the spread of their shares gives the intervals."""

MEASURED = {
    "storage": "storage",
    "evaluation": "evaluation",
    "loader": "input",
    "preparation": "input",
    "garbage": "host",
}
"""Phases that are a slot by themselves where the training thread is the device (CPU)."""

STALLS = "stalls"
"""Waits for the loader that the trace windows do not show: a phase of a run with a device only."""

MEASURED_BESIDE_DEVICE = {"storage": "storage", "evaluation": "evaluation", STALLS: "input"}
"""With a device, a wait of the host costs only what the device's queue does not hide: the windows
tell that; checkpoints, validation and stalls of the loader that come every so many steps are
phases of the run that no window of a few steps sees."""


def steady_phases(line: Timeline) -> dict[str, Float]:
    """Phase times of the steady steps, ns, with the profiler's cost taken out.

    In profiled steps the work phases are replaced by the median of the unprofiled steps; rare
    phases (checkpoints, evaluation) are kept as measured, so that none is lost.
    """
    steady, calm = line.steady, line.calm
    result = {}
    for phase, times in line.phase_ns.items():
        if phase == "profiler":
            continue
        values = times[steady].copy()
        if phase in WORK_PHASES and calm.sum() >= 3:
            values[line.profiled[steady]] = np.median(times[calm])
        result[phase] = values
    return result


def event_overhead(line: Timeline, windows: list[tuple[Window, HostWindow]]) -> float:
    """What the profiler adds to each event, ns: profiled against unprofiled work time per step."""
    calm = line.calm
    if calm.sum() < 3:
        return 0.0
    plain = sum(float(np.median(line.phase_ns[phase][calm])) for phase in WORK_PHASES)
    extra, events = 0.0, 0
    for window, divided in windows:
        steps = telling_steps(line, window)
        if steps < 2:
            continue
        extra += sum(p.wall_ns for p in divided.phases.values()) - plain * steps
        events += sum(phase.events for phase in divided.phases.values())
    return float(np.clip(extra / events, 0.0, MAX_EVENT_OVERHEAD_NS)) if events else 0.0


def host_fractions(
    windows: list[tuple[Window, HostWindow]], overhead_ns: float
) -> dict[str, Shares]:
    """For each work phase that a window covers, the share of each slot in it."""
    result = {}
    for phase in WORK_PHASES:
        total: Shares = {}
        for _, divided in windows:
            corrected = without_overhead(divided.phases[phase], overhead_ns)
            for slot, value in corrected.items():
                total[slot] = total.get(slot, 0.0) + value
        whole = sum(total.values())
        if whole > 0:
            result[phase] = {slot: value / whole for slot, value in total.items()}
    return result


def without_overhead(phase: PhaseTime, overhead_ns: float) -> Shares:
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


def device_fractions(windows: list[DeviceWindow]) -> Shares:
    """The share of each slot over all device windows."""
    whole = sum(window.wall_ns for window in windows)
    total: Shares = {}
    for window in windows:
        for slot, value in window.slots_ns.items():
            total[slot] = total.get(slot, 0.0) + value
    return {slot: value / whole for slot, value in total.items()} if whole else {}


def combine(
    phases: dict[str, float], fractions: dict[str, Shares], measured: dict[str, str]
) -> Shares:
    """Slot shares, summing to 1, from phase times and what the windows say of other phases."""
    whole = sum(phases.values())
    shares = dict.fromkeys(SLOTS, 0.0)
    if whole <= 0:
        shares["other"] = 1.0
        return shares
    for phase, value in phases.items():
        slot = measured.get(phase)
        if slot is not None:
            shares[slot] += value / whole
            continue
        for name, fraction in fractions.get(phase, {"other": 1.0}).items():
            shares[name] += fraction * value / whole
    return shares


def block_shares(
    phases: dict[str, Float], fractions: dict[str, Shares], measured: dict[str, str]
) -> Float:
    """Shares of `BLOCKS` blocks of steps: a row a block, a column a slot in the order of SLOTS."""
    count = len(next(iter(phases.values())))
    blocks = [block for block in np.array_split(np.arange(count), BLOCKS) if len(block)]
    rows = [
        combine({p: float(v[block].mean()) for p, v in phases.items()}, fractions, measured)
        for block in blocks
    ]
    return np.array([[row[slot] for slot in SLOTS] for row in rows])


def block_ms(phases: dict[str, Float]) -> Float:
    """Mean step time of each block of `block_shares`, ms."""
    whole = np.sum(list(phases.values()), axis=0)
    blocks = np.array_split(whole, BLOCKS)
    return np.array([block.mean() for block in blocks if len(block)]) * 1e-6
