"""The time in which communication is hidden by nothing."""

from __future__ import annotations

import numpy as np

from .collectives import exchange_of_thread
from .device import device_time
from .host import training_thread
from .intervals import EMPTY, Union, subtract, union_of_rows
from .table import Category, Trace


def unhidden_time(trace: Trace) -> Union:
    """When nothing computes: of a device, communication alone; else no op of the training thread,
    or one that is there for the exchange alone.

    Empty for a trace without events.
    """
    device = device_time(trace)
    if device is not None:
        return device.exposed_communication
    events = trace.events
    if not len(events):
        return EMPTY
    mine = (events.thread == training_thread(trace)) & events.of(Category.CPU_OP)
    end = int((events.start_ns + events.duration_ns).max())
    whole = (events.start_ns[:1], np.array([end], np.int64))
    rows = np.flatnonzero(mine)
    exchange = exchange_of_thread(trace, rows, (events.start_ns + events.duration_ns)[rows])
    working = subtract(union_of_rows(events.start_ns, events.duration_ns, mine), exchange)
    return subtract(whole, working)
