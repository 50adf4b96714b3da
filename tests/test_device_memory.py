"""Readings of a device's allocator, by a torch that only says what a real one would."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from boundscope.collectors.inside import memory
from boundscope.collectors.records import Memory


class Cuda:
    """Two devices, of which the second was never used."""

    def __init__(self) -> None:
        self.started = False
        self.allocated = 3_000

    def is_initialized(self) -> bool:
        return self.started

    def device_count(self) -> int:
        assert self.started, "it would start the driver"
        return 2

    def memory_stats(self, device: int) -> dict[str, int]:
        if device == 1:
            return {"reserved_bytes.all.peak": 0}
        return {
            "allocated_bytes.all.current": self.allocated,
            "allocated_bytes.all.peak": 5_000,
            "reserved_bytes.all.current": 8_000,
            "reserved_bytes.all.peak": 9_000,
            "num_alloc_retries": 2,
            "num_ooms": 1,
        }


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock's time, which only the test moves."""
    seconds = [50.0]
    monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    return seconds


def recording(cuda: Cuda) -> tuple[list[Memory], Any]:
    records: list[Memory] = []
    recorder = SimpleNamespace(
        every_flush=[], record=records.append, clock=SimpleNamespace(now_ns=lambda: 7)
    )
    memory.DeviceMemory(SimpleNamespace(cuda=cuda), recorder)  # type: ignore[arg-type]
    (look,) = recorder.every_flush
    return records, look


def test_a_device_that_was_not_started_is_not_asked(now: list[float]) -> None:
    records, look = recording(Cuda())

    look()

    assert records == []


def test_each_device_in_use_is_read_once_a_second(now: list[float]) -> None:
    cuda = Cuda()
    records, look = recording(cuda)
    cuda.started = True

    for seconds, allocated in ((50.0, 3_000), (50.25, 3_500), (51.1, 4_000)):
        now[0], cuda.allocated = seconds, allocated
        look()

    first = Memory(7, 0, allocated=3_000, reserved=8_000, peak_allocated=5_000, retries=2, ooms=1)
    assert records[0] == first
    assert [record.allocated for record in records] == [3_000, 4_000]
