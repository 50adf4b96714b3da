"""The GPU collector, on answers in the shape of NVML's.

The answers were written by hand after the NVML reference for an H100 with MIG off: they were not
recorded from a device.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from boundscope.collectors.base import Job
from boundscope.collectors.beside.gpu import GpuCollector, visible_devices
from boundscope.collectors.nvml import Nvml
from boundscope.collectors.records import Gap, Record, Sample
from boundscope.collectors.writer import Clock


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


NOT_SUPPORTED, NO_PERMISSION, LOST, UNKNOWN, DRIVER = 3, 4, 15, 999, 9


def h100(index: int) -> dict[str, Any]:
    """One device's answers: a value, an error code, or a function of the further arguments."""
    return {
        "nvmlDeviceGetUUID": f"GPU-{index}{index}aa-bbcc",
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=97, memory=41),
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=85520809984, used=42949672960, free=1),
        "nvmlDeviceGetPowerUsage": 612345,
        "nvmlDeviceGetEnforcedPowerLimit": 700000,
        "nvmlDeviceGetTotalEnergyConsumption": 123456789,
        "nvmlDeviceGetTemperature": lambda sensor: 61,
        "nvmlDeviceGetClockInfo": lambda clock: {1: 1755, 2: 2619}[clock],
        "nvmlDeviceGetMaxClockInfo": lambda clock: 1980,
        "nvmlDeviceGetCurrentClocksEventReasons": 0x4 | 0x20,
        "nvmlDeviceGetPcieThroughput": lambda counter: {0: 1500, 1: 2500}[counter],
        "nvmlDeviceGetCurrPcieLinkGeneration": 5,
        "nvmlDeviceGetCurrPcieLinkWidth": 16,
        "nvmlDeviceGetFieldValues": lambda fields: [
            SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(ullVal=1000)) for _ in fields
        ],
        "nvmlDeviceGetMigMode": NVMLError(NOT_SUPPORTED),
        "nvmlDeviceGetComputeRunningProcesses": [
            SimpleNamespace(pid=os.getpid(), usedGpuMemory=40 << 30),
            SimpleNamespace(pid=2**22 + 5, usedGpuMemory=1 << 30),
        ],
    }


class Library:
    """Stands for the module `pynvml`: replays the answers of its devices."""

    NVMLError = NVMLError
    NVML_ERROR_NOT_SUPPORTED = NOT_SUPPORTED
    NVML_ERROR_NO_PERMISSION = NO_PERMISSION
    NVML_ERROR_GPU_IS_LOST = LOST

    def __init__(self, *devices: dict[str, Any], init_error: int = 0) -> None:
        self.devices = devices
        self.init_error = init_error
        self.calls: list[str] = []
        self.open = 0

    def nvmlInit(self) -> None:
        if self.init_error:
            raise NVMLError(self.init_error)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        return self.devices[index]

    def nvmlDeviceGetMigDeviceHandleByIndex(
        self, device: dict[str, Any], index: int
    ) -> dict[str, Any]:
        return dict(device["instances"][index])

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("nvmlDevice"):
            raise AttributeError(name)

        def call(device: dict[str, Any], *arguments: Any) -> Any:
            self.calls.append(name)
            answer = device.get(name, NVMLError(NOT_SUPPORTED))
            if callable(answer) and not isinstance(answer, Exception):
                answer = answer(*arguments)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    return Job(os.getpid(), tmp_path, tmp_path, Clock(), tmp_path)


def started(library: Library, job: Job) -> GpuCollector:
    collector = GpuCollector(library)
    collector.start(job)
    return collector


def values_of(records: list[Record]) -> dict[str, float]:
    samples = [record for record in records if isinstance(record, Sample)]
    assert len(samples) == 1
    return samples[0].values


def test_a_device_is_told_in_the_units_of_the_metrics(job: Job) -> None:
    collector = started(Library(h100(0)), job)

    values = values_of(collector.sample())

    assert values["gpu.0.utilization_percent"] == 97
    assert values["gpu.0.memory_controller_percent"] == 41
    assert values["gpu.0.memory_used_bytes"] == 40 << 30
    assert values["gpu.0.power_watts"] == pytest.approx(612.345)
    assert values["gpu.0.energy_joules"] == pytest.approx(123456.789, rel=1e-5)
    assert values["gpu.0.sm_clock_mhz"] == 1755
    assert values["gpu.0.memory_clock_mhz"] == 2619
    assert values["gpu.0.pcie_tx_bytes_per_s"] == 1.5e6
    assert values["gpu.0.pcie_rx_bytes_per_s"] == 2.5e6
    assert values["gpu.0.nvlink_rx_bytes_per_s"] == 0


def test_throttle_reasons_are_decoded_from_the_mask(job: Job) -> None:
    collector = started(Library(h100(0)), job)

    values = values_of(collector.sample())

    on = {name for name, value in values.items() if ".throttle." in name and value == 1}
    assert on == {"gpu.0.throttle.power_cap", "gpu.0.throttle.software_thermal"}
    assert values["gpu.0.throttle.hardware_thermal"] == 0


def test_an_older_library_is_asked_by_the_older_name(job: Job) -> None:
    device = h100(0)
    device["nvmlDeviceGetCurrentClocksEventReasons"] = NVMLError(NOT_SUPPORTED)
    device["nvmlDeviceGetCurrentClocksThrottleReasons"] = 0x8

    values = values_of(started(Library(device), job).sample())

    assert values["gpu.0.throttle.hardware_slowdown"] == 1


def test_memory_is_told_for_processes_of_the_job_only(job: Job) -> None:
    values = values_of(started(Library(h100(0)), job).sample())

    told = [name for name in values if ".process." in name]
    assert told == [f"gpu.0.process.{os.getpid()}.memory_bytes"]


@pytest.mark.parametrize("query", sorted(set(h100(0)) - {"nvmlDeviceGetUUID"}))
def test_a_query_that_is_not_supported_is_dropped_alone_and_never_zero(
    job: Job, query: str
) -> None:
    library = Library(h100(0))
    complete = set(values_of(started(library, job).sample()))
    library = Library({**h100(0), query: NVMLError(NOT_SUPPORTED)})
    collector = started(library, job)

    records = collector.sample()
    asked = library.calls.count(query)
    collector.sample()

    values = values_of(records)
    missing = complete - set(values)
    assert set(values) <= complete
    assert not [record for record in records if isinstance(record, Gap)]
    assert query == "nvmlDeviceGetMigMode" or 0 < len(missing) < 12
    assert library.calls.count(query) <= asked + (2 if "Clock" in query else 0)


def test_a_query_that_fails_once_is_asked_again(job: Job) -> None:
    device = {**h100(0), "nvmlDeviceGetPowerUsage": NVMLError(UNKNOWN)}
    collector = started(Library(device), job)

    without = values_of(collector.sample())
    device["nvmlDeviceGetPowerUsage"] = 1000
    again = values_of(collector.sample())

    assert "gpu.0.power_watts" not in without
    assert again["gpu.0.power_watts"] == 1


def test_a_device_lost_in_the_middle_leaves_one_gap_and_the_others_go_on(job: Job) -> None:
    first = h100(0)
    collector = started(Library(first, h100(1)), job)
    collector.sample()

    first["nvmlDeviceGetUtilizationRates"] = NVMLError(LOST)
    records = collector.sample()
    later = collector.sample()

    gaps = [record for record in records if isinstance(record, Gap)]
    assert len(gaps) == 1
    assert "GPU 0 was lost" in gaps[0].detail
    assert {name.split(".")[1] for name in values_of(records)} == {"1"}
    assert not [record for record in later if isinstance(record, Gap)]


@pytest.mark.parametrize(
    ("selection", "labels"),
    [
        (None, ["0", "1", "2"]),
        ("2,0", ["2", "0"]),
        ("GPU-11aa", ["1"]),
        ("1,9,0", ["1"]),
        ("0,0", ["0"]),
        ("", []),
        ("-1", []),
        ("GPU-", []),
    ],
)
def test_the_devices_are_those_that_cuda_shows(selection: str | None, labels: list[str]) -> None:
    nvml = Nvml(Library(h100(0), h100(1), h100(2)))

    devices = visible_devices(nvml, selection)

    assert [device.label for device in devices] == labels
    assert [device.ordinal for device in devices] == list(range(len(labels)))


def test_mig_instances_stand_for_their_device() -> None:
    instance = {"nvmlDeviceGetUUID": "MIG-1234", "nvmlDeviceGetMigMode": NVMLError(NOT_SUPPORTED)}
    parent = {
        **h100(0),
        "nvmlDeviceGetMigMode": (1, 1),
        "nvmlDeviceGetMaxMigDeviceCount": 2,
        "instances": [instance, {**instance, "nvmlDeviceGetUUID": "MIG-5678"}],
    }
    nvml = Nvml(Library(parent, h100(1)))

    everything = [device.label for device in visible_devices(nvml, None)]
    chosen = [device.label for device in visible_devices(nvml, "MIG-5678")]

    assert everything == ["0.mig0", "0.mig1", "1"]
    assert chosen == ["0.mig1"]


def test_hidden_devices_are_told_as_switched_off(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    job.root_pid = 2**22 + 7  # no such process: the launcher's own environment stands for it
    collector = started(Library(h100(0)), job)

    records = collector.sample()

    assert [record.reason for record in records if isinstance(record, Gap)] == ["switched-off"]
    assert collector.sample() == []


@pytest.mark.parametrize(
    ("code", "reason"), [(DRIVER, "no-driver"), (NO_PERMISSION, "no-permission")]
)
def test_a_library_that_does_not_start_says_why(code: int, reason: str) -> None:
    availability = GpuCollector(Library(init_error=code)).probe()

    assert (availability.works, availability.reason) == (False, reason)


def test_a_driver_without_devices_is_no_driver_and_nothing_stays_open(job: Job) -> None:
    library = Library()

    availability = GpuCollector(library).probe()

    assert (availability.works, availability.reason) == (False, "no-driver")
    assert library.open == 0


def test_stopping_releases_the_library_once(job: Job) -> None:
    library = Library(h100(0))
    collector = started(library, job)

    collector.stop()
    collector.stop()

    assert library.open == 0
