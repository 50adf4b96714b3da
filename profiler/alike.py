"""Which steps of a trace window are like those of the rest of the run, and may speak for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..collectors.records import Window
from .timeline import WORK_PHASES, Timeline
from .trace.intervals import EMPTY, Union, subtract, union

UNLIKE = 1.5
"""Steps of a trace window that take so many times the others' work (or the inverse), the profiler's
own cost taken out, are not the steps that the run is made of."""

MAX_EVENT_OVERHEAD_NS = 3_500.0
"""The profiler adds 2 to 3 us an event on the host (torch 2.13, measured on tiny ops)."""

USUAL_RANGE = 0.95
"""Where steps differ by themselves (sequences of any length), up to this share of them is usual."""

MARKED_WITHIN_NS = 1_000_000
"""A step's mark and the profiler's start are made in the same hook, well within a millisecond."""

MIN_CALM = 3
"""Fewer unprofiled steps do not say what is usual."""


def unlike_steps(line: Timeline, windows: Sequence[Window]) -> npt.NDArray[np.bool_]:
    """Mark profiled steps that do not resemble the unprofiled ones, one entry a step.

    On a machine with other programs a burst of theirs can fall into a window of a few steps, and a
    window may end within a step, of which it then shows some parts more than others. Where whole
    profiled steps are like the run's, those speak for it. None is marked where there is no such
    step, or where too few were left unprofiled: then the whole window is what there is.
    """
    none = np.zeros(len(line), np.bool_)
    if line.calm.sum() < MIN_CALM or not windows:
        return none
    work = np.sum([line.phase_ns[phase] for phase in WORK_PHASES], axis=0)
    calm = work[line.calm]
    usual = float(np.median(calm))
    lowest = min(usual / UNLIKE, float(np.quantile(calm, 1 - USUAL_RANGE)))
    highest = max(usual * UNLIKE, float(np.quantile(calm, USUAL_RANGE)))
    whole, cut, unlike = none.copy(), none.copy(), none.copy()
    for window in windows:
        inside = inside_of(line, window)
        cut |= (line.start_ns < window.end_ns) & (line.end_ns > window.start_ns) & ~inside
        cost = MAX_EVENT_OVERHEAD_NS * window.events / max(1, window.steps)
        whole |= inside
        unlike |= inside & ((work < lowest) | (work > highest + cost))
    return unlike | (cut & ~whole) if (whole & ~unlike).any() else none


def inside_of(line: Timeline, window: Window) -> npt.NDArray[np.bool_]:
    """Steps wholly inside the window: its first one began before the profiler was started."""
    began = (line.start_ns >= _begin(window)) & (line.end_ns > window.start_ns)
    return began & (line.end_ns <= window.end_ns)


def _begin(window: Window) -> int:
    """When the step or phase at whose mark the window was started may have begun at the earliest,
    ns."""
    return window.start_ns - window.start_cost_ns - MARKED_WITHIN_NS


def telling_steps(line: Timeline, window: Window) -> int:
    """How many whole steps of a window speak for the run."""
    inside = inside_of(line, window)
    return int((inside if line.unlike is None else inside & ~line.unlike).sum())


def time_of_unlike(line: Timeline) -> Union:
    """When the steps ran that do not speak for the run."""
    if line.unlike is None:
        return EMPTY
    return union(line.start_ns[line.unlike], line.end_ns[line.unlike])


def telling_phases(line: Timeline, windows: Sequence[Window]) -> dict[str, Union]:
    """The intervals of each work phase that speak for the run.

    Steps that do not are left out, and a phase that a window shows only a part of, where any window
    shows one whole: a backward pass exchanges gradients last.
    """
    left_out = time_of_unlike(line)
    return {p: _whole(subtract(line.phase_intervals[p], left_out), windows) for p in WORK_PHASES}


def _whole(phase: Union, windows: Sequence[Window]) -> Union:
    """A phase's intervals without those that a window cuts, where others are whole in a window.

    Whole ones speak only if one is as long as what is seen of the longest cut one: a phase may be
    several calls, of which the short ones say nothing of the long one (zero_grad and the step).
    """
    starts, ends = phase
    whole, cut = np.zeros(len(starts), np.bool_), np.zeros(len(starts), np.bool_)
    longest_cut = 0
    for window in windows:
        seen = (starts < window.end_ns) & (ends > window.start_ns)
        # Where a window ends within a step, the phase seems to end with it: the loop stands still.
        ended = ends < window.end_ns if window.truncated else ends <= window.end_ns
        inside = seen & (starts >= _begin(window)) & ended
        whole |= inside
        partly = seen & ~inside
        cut |= partly
        visible = np.minimum(ends, window.end_ns) - np.maximum(starts, window.start_ns)
        longest_cut = max(longest_cut, int(visible[partly].max(initial=0)))
    longest = int((ends - starts)[whole].max(initial=0))
    return (starts[~cut], ends[~cut]) if longest and longest >= longest_cut else phase
