"""What NVML tells of the job's GPUs: load, memory, power, clocks, throttling, links, processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..base import Availability, Job, Metric
from ..nvml import DeviceLost, NotAnswered, Nvml, NvmlUnavailable
from ..procfs import Rates, read_text, rounded
from ..records import Gap, Record, Sample

THROTTLE_REASONS = {
    "gpu_idle": 0x1,
    "application_clocks": 0x2,
    "power_cap": 0x4,
    "hardware_slowdown": 0x8,
    "sync_boost": 0x10,
    "software_thermal": 0x20,
    "hardware_thermal": 0x40,
    "power_brake": 0x80,
    "display_clocks": 0x100,
}
"""Bits of nvmlClocksEventReasons (NVML API Reference Manual)."""

_GRAPHICS_TEMPERATURE = 0  # NVML_TEMPERATURE_GPU
_SM, _MEM = 1, 2  # NVML_CLOCK_SM, NVML_CLOCK_MEM
_TX, _RX = 0, 1  # NVML_PCIE_UTIL_TX_BYTES, NVML_PCIE_UTIL_RX_BYTES
_NVLINK_TX, _NVLINK_RX = 138, 139  # NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX and _RX, in KiB
_PCIE_DEVICES_A_SAMPLE = 2  # NVML watches the bus for 20 ms for each of its PCIe answers

Values = dict[str, float | None]


@dataclass
class _Device:
    """One visible GPU or MIG instance, the ordinal it has in the job, and what it won't answer."""

    label: str
    handle: Any
    ordinal: int
    refused: set[str] = field(default_factory=set)


class GpuCollector:
    """Asks NVML once a second about each GPU that the job can see.

    `<i>` is NVML's index (as nvidia-smi prints it), `<i>.mig<k>` an instance of it; the job's own
    number is the metric `ordinal` (CUDA numbers devices like NVML when CUDA_DEVICE_ORDER is
    PCI_BUS_ID or all are of one model).
    """

    name: ClassVar[str] = "gpu"
    period_s: ClassVar[float] = 1.0
    effect: ClassVar[str] = "no GPU utilisation, memory or power"
    runs_degraded: ClassVar[bool] = False
    metrics: ClassVar[dict[str, Metric]] = {
        "gpu.<i>.ordinal": Metric("1", "the device's number within the job"),
        "gpu.<i>.utilization_percent": Metric("%", "time in which any kernel ran: not a verdict"),
        "gpu.<i>.memory_controller_percent": Metric("%", "time in which device memory was in use"),
        "gpu.<i>.memory_used_bytes": Metric("bytes", "device memory in use by everybody"),
        "gpu.<i>.memory_total_bytes": Metric("bytes", "device memory"),
        "gpu.<i>.power_watts": Metric("W", "power draw"),
        "gpu.<i>.power_limit_watts": Metric("W", "power limit in force"),
        "gpu.<i>.energy_joules": Metric("J", "energy since the driver was loaded"),
        "gpu.<i>.temperature_celsius": Metric("°C", "temperature of the chip"),
        "gpu.<i>.sm_clock_mhz": Metric("MHz", "clock of the multiprocessors"),
        "gpu.<i>.sm_clock_max_mhz": Metric("MHz", "highest clock of the multiprocessors"),
        "gpu.<i>.memory_clock_mhz": Metric("MHz", "clock of the device memory"),
        "gpu.<i>.throttle.<reason>": Metric("0/1", "the clock is held down for this reason"),
        "gpu.<i>.pcie_rx_bytes_per_s": Metric("bytes/s", "to the device over PCIe (a 20 ms look)"),
        "gpu.<i>.pcie_tx_bytes_per_s": Metric("bytes/s", "from the device over PCIe, likewise"),
        "gpu.<i>.pcie_generation": Metric("1", "PCIe generation in use"),
        "gpu.<i>.pcie_lanes": Metric("1", "PCIe lanes in use"),
        "gpu.<i>.nvlink_rx_bytes_per_s": Metric("bytes/s", "received over all NVLinks"),
        "gpu.<i>.nvlink_tx_bytes_per_s": Metric("bytes/s", "sent over all NVLinks"),
        "gpu.<i>.process.<pid>.memory_bytes": Metric("bytes", "device memory of a job's process"),
    }

    def __init__(self, library: Any = None) -> None:
        self._library = library
        self._nvml: Nvml | None = None
        self._job: Job | None = None
        self._devices: list[_Device] = []
        self._rates = Rates()
        self._samples = 0

    def probe(self) -> Availability:
        """It needs the NVIDIA driver and at least one device."""
        try:
            nvml = Nvml(self._library)
        except NvmlUnavailable as error:
            return Availability(False, error.reason, error.detail, error.mend)
        try:
            count = len(nvml.devices())
        except (NotAnswered, DeviceLost) as error:
            return Availability(False, "no-driver", f"the driver lists no device: {error}")
        finally:
            nvml.close()
        if not count:
            return Availability(False, "no-driver", "the driver is loaded but shows no device")
        return Availability(True)

    def start(self, job: Job) -> None:
        """Find the devices that the job can see."""
        self._job = job
        self._nvml = Nvml(self._library)
        self._devices = visible_devices(self._nvml, _cuda_visible_devices(job.root_pid))
        for device in self._devices:
            self._nvlink(device)  # the first look, which later rates are measured from

    def sample(self) -> list[Record]:
        """One record over all devices, and a gap for each device that was lost."""
        assert self._job is not None
        records: list[Record] = []
        if not self._devices and not self._samples:
            detail = "CUDA_VISIBLE_DEVICES hides every device from the job"
            records.append(self._gap("switched-off", detail))
        self._samples += 1
        values: Values = {}
        for device in list(self._devices):
            try:
                values.update(self._of_device(device))
            except DeviceLost as error:
                self._devices.remove(device)
                records.append(self._gap("crashed", f"GPU {device.label} was lost: {error}"))
        if values:
            records.append(Sample(self._job.clock.now_ns(), rounded(values)))
        return records

    def stop(self) -> list[Record]:
        """Release NVML."""
        if self._nvml is not None:
            self._nvml.close()
            self._nvml = None
        return []

    def _gap(self, reason: Any, detail: str) -> Gap:
        assert self._job is not None
        return Gap(self._job.clock.now_ns(), self.name, reason, detail, self.effect)

    def _ask(self, device: _Device, function: str, *arguments: Any) -> Any:
        """An answer, or None; what is refused for ever is not asked again."""
        assert self._nvml is not None
        key = f"{function}{arguments}"
        if key in device.refused:
            return None
        try:
            return self._nvml.ask(function, device.handle, *arguments)
        except NotAnswered as error:
            if error.forever:
                device.refused.add(key)
            return None

    def _of_device(self, device: _Device) -> Values:
        values: Values = {"ordinal": device.ordinal}
        values.update(self._load_and_memory(device))
        values.update(self._power_and_clocks(device))
        values.update(self._throttling(device))
        values.update(self._pcie(device))
        values.update(self._nvlink(device))
        values.update(self._processes(device))
        return {f"gpu.{device.label}.{name}": value for name, value in values.items()}

    def _load_and_memory(self, device: _Device) -> Values:
        load = self._ask(device, "nvmlDeviceGetUtilizationRates")
        memory = self._ask(device, "nvmlDeviceGetMemoryInfo")
        return {
            "utilization_percent": load.gpu if load is not None else None,
            "memory_controller_percent": load.memory if load is not None else None,
            "memory_used_bytes": memory.used if memory is not None else None,
            "memory_total_bytes": memory.total if memory is not None else None,
        }

    def _power_and_clocks(self, device: _Device) -> Values:
        def scaled(factor: float, function: str, *arguments: int) -> float | None:
            answer = self._ask(device, function, *arguments)
            return answer * factor if answer is not None else None

        return {
            "power_watts": scaled(1e-3, "nvmlDeviceGetPowerUsage"),
            "power_limit_watts": scaled(1e-3, "nvmlDeviceGetEnforcedPowerLimit"),
            "energy_joules": scaled(1e-3, "nvmlDeviceGetTotalEnergyConsumption"),
            "temperature_celsius": scaled(1, "nvmlDeviceGetTemperature", _GRAPHICS_TEMPERATURE),
            "sm_clock_mhz": scaled(1, "nvmlDeviceGetClockInfo", _SM),
            "sm_clock_max_mhz": scaled(1, "nvmlDeviceGetMaxClockInfo", _SM),
            "memory_clock_mhz": scaled(1, "nvmlDeviceGetClockInfo", _MEM),
        }

    def _throttling(self, device: _Device) -> Values:
        """The call was renamed with driver 535; the old name is asked where the new one fails."""
        mask = self._ask(device, "nvmlDeviceGetCurrentClocksEventReasons")
        if mask is None:
            mask = self._ask(device, "nvmlDeviceGetCurrentClocksThrottleReasons")
        if mask is None:
            return {}
        return {f"throttle.{name}": bool(mask & bit) for name, bit in THROTTLE_REASONS.items()}

    def _pcie(self, device: _Device) -> Values:
        """Each look takes 20 ms, so with many devices only some are asked in each sample."""
        turns = -(-len(self._devices) // _PCIE_DEVICES_A_SAMPLE)
        if (self._samples + self._devices.index(device)) % turns:
            return {}
        values: Values = {
            "pcie_generation": self._ask(device, "nvmlDeviceGetCurrPcieLinkGeneration"),
            "pcie_lanes": self._ask(device, "nvmlDeviceGetCurrPcieLinkWidth"),
        }
        for name, counter in (("rx", _RX), ("tx", _TX)):
            kilobytes = self._ask(device, "nvmlDeviceGetPcieThroughput", counter)
            values[f"pcie_{name}_bytes_per_s"] = kilobytes * 1e3 if kilobytes is not None else None
        return values

    def _nvlink(self, device: _Device) -> Values:
        assert self._nvml is not None
        values: Values = {}
        for name, field_name, default in (
            ("rx", "NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX", _NVLINK_RX),
            ("tx", "NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX", _NVLINK_TX),
        ):
            if field_name in device.refused:
                continue
            try:
                count = self._nvml.field(device.handle, field_name, default) * 1024
            except NotAnswered as error:
                if error.forever:
                    device.refused.add(field_name)
                continue
            key = f"{device.label}.{field_name}"
            values[f"nvlink_{name}_bytes_per_s"] = self._rates.per_s(
                key, count, time.monotonic_ns()
            )
        return values

    def _processes(self, device: _Device) -> Values:
        """In a container NVML may name processes by pids of the host: those match none of ours."""
        assert self._job is not None
        own = self._job.processes.snapshot().processes
        running = self._ask(device, "nvmlDeviceGetComputeRunningProcesses") or []
        return {
            f"process.{process.pid}.memory_bytes": process.usedGpuMemory
            for process in running
            if process.pid in own
        }


def visible_devices(nvml: Nvml, selection: str | None) -> list[_Device]:
    """The devices that CUDA shows under CUDA_VISIBLE_DEVICES=`selection` (None: not set).

    Entries are indices, UUIDs or their beginnings, or MIG UUIDs; the first that names nothing
    ends the list (CUDA C++ Programming Guide, environment variables). With MIG on, a program sees
    instances in place of the whole device.
    """
    whole = [_Device(str(index), handle, index) for index, handle in enumerate(nvml.devices())]
    instances = {
        device.label: [
            _Device(f"{device.label}.mig{k}", handle, 0)
            for k, handle in enumerate(nvml.mig_devices(device.handle))
        ]
        for device in whole
    }
    if selection is None:
        chosen = [part for device in whole for part in (instances[device.label] or [device])]
    else:
        named = [(nvml.uuid(d.handle), d) for d in whole]
        named += [(nvml.uuid(d.handle), d) for parts in instances.values() for d in parts]
        chosen = _selected(selection, whole, lambda uuid: [d for u, d in named if _is(u, uuid)])
    return [_Device(d.label, d.handle, ordinal) for ordinal, d in enumerate(chosen)]


def _selected(
    selection: str, whole: list[_Device], by_uuid: Callable[[str], list[_Device]]
) -> list[_Device]:
    chosen: list[_Device] = []
    for entry in (part.strip() for part in selection.split(",")):
        if entry.isdigit():
            found = [device for device in whole if device.label == str(int(entry))]
        else:
            found = by_uuid(entry) if entry.startswith(("GPU-", "MIG-")) else []
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
    return chosen


def _is(uuid: str, beginning: str) -> bool:
    return bool(uuid) and uuid.startswith(beginning)


def _cuda_visible_devices(pid: int) -> str | None:
    """The variable as the job's root process was started with it."""
    environment = read_text(f"/proc/{pid}/environ")
    if environment is None:
        return os.environ.get("CUDA_VISIBLE_DEVICES")
    for entry in environment.split("\0"):
        name, _, value = entry.partition("=")
        if name == "CUDA_VISIBLE_DEVICES":
            return value
    return None
