"""What a checkpoint or a validation leaves behind: the work after it is slower for a while.

It throws the training's data out of the caches, and what it wrote still goes to the disk while the
next steps run. That time goes with the event, so it is the event's: told from the run itself, by
how much longer the steps right behind an event work than those far from any.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .shares import steady_phases
from .timeline import WORK_PHASES, Timeline

Float = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

EVENTS = ("storage", "evaluation")
"""Phases that come every so many steps, and do other things than a step does."""

MIN_EVENTS = 5
"""Fewer events show a chance as easily as a pattern."""

MAX_STEPS_WITH = 0.5
"""An event in more than every other step leaves no step to compare with."""

MIN_EVENT = 0.05
"""An event is at least this part of the median step: a short write throws nothing out."""

SURE = 2.0
"""The difference of two medians counts from two of its standard errors on."""

MAX_PART = 0.5
"""At most this part of a step's work is taken for slower than usual."""


def aftermath(line: Timeline, phases_ns: dict[str, Float]) -> dict[str, Float]:
    """Extra work after the events of a phase, ns in each steady step; no entry where none shows.

    `phases_ns` are the phases of the steady steps as `shares.steady_phases` gives them.
    """
    work = np.sum([phases_ns[phase] for phase in WORK_PHASES], axis=0)
    calm = line.calm[line.steady]
    usual = float(np.median(line.duration_ns[line.steady])) if len(work) else 0.0
    found = {}
    for phase in EVENTS:
        at = np.flatnonzero(phases_ns[phase] > MIN_EVENT * usual)
        if len(at) < MIN_EVENTS or len(at) > MAX_STEPS_WITH * len(work):
            continue
        since = _since(at, len(work))
        extra = _extra(work, since, calm, int(np.median(np.diff(at))))
        if extra.any():
            found[phase] = np.minimum(extra, MAX_PART * work)
    return found


def charged(phases_ns: dict[str, Float], extra: dict[str, Float]) -> dict[str, Float]:
    """The phases with extra work moved to the phase that caused it; a step's sum stays."""
    result = dict(phases_ns)
    for phase, more in extra.items():
        work = np.sum([result[name] for name in WORK_PHASES], axis=0)
        kept = np.divide(work - more, work, out=np.ones(len(work)), where=work > more)
        for name in WORK_PHASES:
            result[name] = result[name] * kept
        result[phase] = result[phase] + work * (1 - kept)
    return result


def charged_phases(line: Timeline) -> tuple[dict[str, Float], dict[str, Float]]:
    """Phases of the steady steps, ns, with what events leave behind charged to them, and that."""
    as_measured = steady_phases(line)
    extra = aftermath(line, as_measured)
    return charged(as_measured, extra), extra


def _since(at: Int64, count: int) -> Int64:
    """Steps since the last event, 0 in the step that has one; -1 before the first."""
    steps = np.arange(count)
    last = np.searchsorted(at, steps, side="right") - 1
    return np.where(last >= 0, steps - at[np.maximum(last, 0)], -1)


def _extra(work: Float, since: Int64, calm: npt.NDArray[np.bool_], period: int) -> Float:
    """How much longer each step works than those half a period and more behind an event, by the
    median of all steps as far behind one; up to the first distance at which no difference shows."""
    far = max(1, period // 2)
    rest = work[calm & (since >= far)]
    extra = np.zeros(len(work))
    if len(rest) < MIN_EVENTS:
        return extra
    for distance in range(far):
        here = calm & (since == distance)
        if here.sum() < MIN_EVENTS:
            break
        more = float(np.median(work[here]) - np.median(rest))
        if more <= SURE * float(np.hypot(_error(work[here]), _error(rest))):
            break
        extra[here] = more
    return extra


def _error(values: Float) -> float:
    """Standard error of a median, from the median absolute deviation (normal noise)."""
    spread = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return 1.2533 * spread / float(np.sqrt(len(values)))
