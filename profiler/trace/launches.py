"""Which calls of a runtime launch device work."""

from __future__ import annotations

import re

import numpy as np

from .table import Mask, Trace

LAUNCH = re.compile(
    r"(?:cuda|cu|hip|xpu|ze)\w*(?:Launch|Memcpy)(?!.*(?:Attribute|Params|HostFunc|GetHandle))"
    # SYCL's runtimes, as Kineto's XPU builds record them (correlateRuntimeOps_ of its plugin)
    r"|(?:ur|pi)\w*Enqueue\w*(?:KernelLaunch|Memcpy|MemBuffer(?:Read|Write|Copy))"
    # MTIA
    r"|runFunction - job_prep|enqueueCommand memcpy"
)
"""Runtime and driver calls that leave a device record. Memsets of no bytes leave none."""


def launch_names(trace: Trace) -> Mask:
    """Which of the trace's names are those of such calls."""
    return np.fromiter(
        (LAUNCH.match(name) is not None for name in trace.names), np.bool_, len(trace.names)
    )
