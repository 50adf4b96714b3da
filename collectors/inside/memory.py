"""Allocator state of the devices that the training process uses."""

from __future__ import annotations

import time
from typing import Any

from ..records import Memory
from .recorder import Recorder

PERIOD_S = 1.0


class DeviceMemory:
    """Reads the CUDA caching allocator's counters once a second, without touching the device."""

    def __init__(self, torch: Any, recorder: Recorder) -> None:
        self._torch = torch
        self._recorder = recorder
        self._due = 0.0
        recorder.every_flush.append(self.sample)

    def sample(self) -> None:
        """Record one reading for each device that has allocated anything."""
        # `is_available` would start the driver, and a forked child could then not use the device.
        cuda = self._torch.cuda
        if time.monotonic() < self._due or not cuda.is_initialized():
            return
        self._due = time.monotonic() + PERIOD_S
        for device in range(cuda.device_count()):
            stats = cuda.memory_stats(device)
            if not stats.get("reserved_bytes.all.peak", 0):
                continue
            self._recorder.record(
                Memory(
                    time_ns=self._recorder.clock.now_ns(),
                    device=device,
                    allocated=stats.get("allocated_bytes.all.current", 0),
                    reserved=stats.get("reserved_bytes.all.current", 0),
                    peak_allocated=stats.get("allocated_bytes.all.peak", 0),
                    retries=stats.get("num_alloc_retries", 0),
                    ooms=stats.get("num_ooms", 0),
                )
            )
