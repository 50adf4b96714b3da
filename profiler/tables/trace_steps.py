"""The steps of a device trace, each divided by what happened in it, and how outliers differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..trace.device import device_time
from ..trace.device_steps import device_steps
from ..trace.idle import IDLE_CAUSES, idle_causes
from ..trace.intervals import Union, covered, subtract
from ..trace.startup import warm_steps
from ..trace.steps import Steps, StepSource, find_steps
from ..trace.table import Trace
from .steps import outliers

Float = npt.NDArray[np.float64]

MIN_STEPS = 4
"""An outlier among fewer steps than this is no outlier: which of them is typical is open."""

MIN_DIFFERENCE = 0.05
"""Of a step's excess: smaller differences are not named."""

DEVICE_PARTS = ("computing kernels", "exposed communication", "exposed copies")


@dataclass(frozen=True)
class StepParts:
    """Steps and their parts, ms: one entry a step in each array; the parts sum to the duration.

    The device's parts are computing kernels, communication and copies that nothing hides; the
    idle ones have the names of `IDLE_CAUSES`. `source` says what the steps were found by.
    """

    source: StepSource
    number: npt.NDArray[np.int64]
    start_ns: npt.NDArray[np.int64]
    duration_ms: Float
    parts_ms: Mapping[str, Float]


@dataclass(frozen=True)
class StepOutlier:
    """A step far above the median: how much longer, and in which parts, the largest first, ms."""

    number: int
    duration_ms: float
    excess_ms: float
    differences: list[tuple[str, float]]


def step_parts(trace: Trace) -> StepParts | None:
    """Divide each step after start-up, as the device works it; None where it has no work."""
    steps: Steps = device_steps(trace, warm_steps(trace, find_steps(trace)))
    window = (int(steps.start_ns[0]), int(steps.end_ns[-1]))
    device = device_time(trace, window)
    if device is None:
        return None
    whole = (np.array([window[0]]), np.array([window[1]]))
    unions: dict[str, Union] = dict(
        zip(
            DEVICE_PARTS,
            (device.compute, device.exposed_communication, device.exposed_copies),
            strict=True,
        )
    )
    unions |= idle_causes(trace, subtract(whole, device.busy))
    parts = {
        name: covered(unions[name], steps.start_ns, steps.end_ns).astype(np.float64) * 1e-6
        for name in (*DEVICE_PARTS, *IDLE_CAUSES)
        if name in unions
    }
    duration = (steps.end_ns - steps.start_ns).astype(np.float64) * 1e-6
    return StepParts(steps.source, steps.number, steps.start_ns, duration, parts)


def step_outliers(steps: StepParts) -> list[StepOutlier]:
    """Steps far above the median, the longest first, against the medians of all steps."""
    if len(steps.duration_ms) < MIN_STEPS:
        return []
    medians = {name: float(np.median(values)) for name, values in steps.parts_ms.items()}
    typical = float(np.median(steps.duration_ms))
    found = []
    for index in np.flatnonzero(outliers(steps.duration_ms, steps.duration_ms)).tolist():
        excess = float(steps.duration_ms[index]) - typical
        grown = [
            (name, float(values[index]) - medians[name]) for name, values in steps.parts_ms.items()
        ]
        named = [pair for pair in grown if pair[1] >= MIN_DIFFERENCE * excess]
        found.append(
            StepOutlier(
                number=int(steps.number[index]),
                duration_ms=float(steps.duration_ms[index]),
                excess_ms=excess,
                differences=sorted(named, key=lambda pair: -pair[1]),
            )
        )
    return sorted(found, key=lambda step: -step.duration_ms)
