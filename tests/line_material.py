"""Timelines of steps that are forward passes and nothing else."""

from __future__ import annotations

import numpy as np

from boundscope.profiler.timeline import PHASES, Timeline
from boundscope.profiler.trace.intervals import EMPTY

MS = 1_000_000


def line_of(step_ms: list[float], profiled: slice = slice(0, 0)) -> Timeline:
    durations = (np.array(step_ms) * MS).astype(np.int64)
    ends = np.cumsum(durations)
    flags = np.zeros(len(step_ms), np.bool_)
    flags[profiled] = True
    zeros = {phase: np.zeros(len(step_ms)) for phase in PHASES}
    return Timeline(
        rank=0,
        source="optimizer",
        start_ns=ends - durations,
        end_ns=ends,
        phase_ns={**zeros, "forward": durations.astype(np.float64)},
        phase_intervals=dict.fromkeys(PHASES, (EMPTY, EMPTY)),
        steady=np.ones(len(step_ms), np.bool_),
        profiled=flags,
        first_ns=0,
    )
