"""The few calls of NVML that the GPU collector needs, with its errors sorted into three kinds.

Source: NVML API Reference Manual; the module `pynvml` of the distribution nvidia-ml-py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .procfs import read_text
from .records import Reason

_NEVER = (
    "NVML_ERROR_NOT_SUPPORTED",
    "NVML_ERROR_NO_PERMISSION",
    "NVML_ERROR_FUNCTION_NOT_FOUND",
    "NVML_ERROR_INVALID_ARGUMENT",
    "NVML_ERROR_ARGUMENT_VERSION_MISMATCH",
)
_LOST = (
    "NVML_ERROR_GPU_IS_LOST",
    "NVML_ERROR_RESET_REQUIRED",
    "NVML_ERROR_UNINITIALIZED",
    "NVML_ERROR_DRIVER_NOT_LOADED",
)
_PCI_VENDOR = "0x10de"  # NVIDIA
_ALL_LINKS = 0xFFFFFFFF  # scopeId UINT_MAX: the sum over all NVLinks of the device


class NotAnswered(Exception):
    """The query has no answer; `forever` if it will never have one on this device."""

    def __init__(self, forever: bool) -> None:
        super().__init__("forever" if forever else "this time")
        self.forever = forever


class DeviceLost(Exception):
    """The device fell off the bus or needs a reset."""


class NvmlUnavailable(Exception):
    """NVML cannot be used at all, with the reason from the closed list."""

    def __init__(self, reason: Reason, detail: str, mend: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail
        self.mend = mend


class Nvml:
    """All contact with NVML. `library` replaces the module `pynvml` in tests.

    A device is an opaque handle. Each query raises `NotAnswered` or `DeviceLost` where NVML has
    no value, and never returns zero for it.
    """

    def __init__(self, library: Any = None) -> None:
        if library is None:
            try:
                import pynvml
            except ImportError as error:
                raise NvmlUnavailable(
                    "not-installed", "nvidia-ml-py is missing", "pip install nvidia-ml-py"
                ) from error
            library = pynvml
        self._library = library
        self._never = self._codes(_NEVER)
        self._lost = self._codes(_LOST)
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        """Release NVML; safe to call twice."""
        try:
            self._library.nvmlShutdown()
        except self._library.NVMLError:
            return

    def ask(self, function: str, *arguments: Any) -> Any:
        """The answer of the NVML call `function`."""
        call = getattr(self._library, function, None)
        if call is None:
            raise NotAnswered(forever=True)
        try:
            return call(*arguments)
        except self._library.NVMLError as error:
            code = getattr(error, "value", None)
            if code in self._lost:
                raise DeviceLost(str(error)) from error
            raise NotAnswered(forever=code in self._never) from error

    def devices(self) -> list[Any]:
        """Handles of all devices, in NVML's order (that of the PCI bus)."""
        count = int(self.ask("nvmlDeviceGetCount"))
        return [self.ask("nvmlDeviceGetHandleByIndex", index) for index in range(count)]

    def mig_devices(self, device: Any) -> list[Any]:
        """Handles of a device's MIG instances; empty where MIG is off or unknown."""
        try:
            current, _ = self.ask("nvmlDeviceGetMigMode", device)
            if not current:
                return []
            count = int(self.ask("nvmlDeviceGetMaxMigDeviceCount", device))
        except NotAnswered:
            return []
        found = []
        for index in range(count):
            try:
                found.append(self.ask("nvmlDeviceGetMigDeviceHandleByIndex", device, index))
            except NotAnswered:
                continue  # not every slot holds an instance
        return found

    def uuid(self, device: Any) -> str:
        """The device's UUID, e.g. "GPU-…" or "MIG-…"; "" where it has none."""
        try:
            answer = self.ask("nvmlDeviceGetUUID", device)
        except NotAnswered:
            return ""
        return answer.decode() if isinstance(answer, bytes) else str(answer)

    def constant(self, name: str, default: int) -> int:
        """A constant of the library, or its documented value where the library is too old."""
        return int(getattr(self._library, name, default))

    def field(self, device: Any, name: str, default: int) -> int:
        """One field value summed over all links, as an unsigned 64-bit number."""
        field_id = self.constant(name, default)
        answer = self.ask("nvmlDeviceGetFieldValues", device, [(field_id, _ALL_LINKS)])[0]
        if answer.nvmlReturn != 0:
            raise NotAnswered(forever=answer.nvmlReturn in self._never)
        return int(answer.value.ullVal)

    def _codes(self, names: tuple[str, ...]) -> set[int]:
        found = (getattr(self._library, name, None) for name in names)
        return {int(code) for code in found if code is not None}

    def _unavailable(self, error: Exception) -> NvmlUnavailable:
        code = getattr(error, "value", None)
        if code == getattr(self._library, "NVML_ERROR_NO_PERMISSION", 4):
            return NvmlUnavailable(
                "no-permission", str(error), "sudo chmod a+rw /dev/nvidiactl /dev/nvidia[0-9]*"
            )
        return NvmlUnavailable("no-driver", *_without_driver(str(error)))


def _without_driver(error: str) -> tuple[str, str]:
    """What is missing and the line that mends it: nothing does on a machine without such a card."""
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    if not any((read_text(vendor) or "").strip() == _PCI_VENDOR for vendor in vendors):
        return f"{error}: this machine shows no NVIDIA card", ""
    if Path("/.dockerenv").exists():
        return f"{error}: this container was not given the driver", "docker run --gpus all IMAGE"
    return f"{error}: the card's driver is not loaded", "sudo ubuntu-drivers install"
