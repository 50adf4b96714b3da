"""The time in which communication is hidden by nothing."""

from __future__ import annotations

import numpy as np

from .device import device_time
from .host import training_thread
from .intervals import EMPTY, Union, subtract, union_of_rows
from .table import Category, Trace


def unhidden_time(trace: Trace) -> Union:
    """When nothing computes: of a device, communication alone; else no op of the training thread.

    Empty for a trace without events.
    """
    device = device_time(trace)
    if device is not None:
        return device.exposed_communication
    events = trace.events
    if not len(events):
        return EMPTY
    mine = (events.thread == training_thread(trace)) & (events.category == Category.CPU_OP)
    end = int((events.start_ns + events.duration_ns).max())
    whole = (events.start_ns[:1], np.array([end], np.int64))
    return subtract(whole, union_of_rows(events.start_ns, events.duration_ns, mine))
