"""The roofs of the device that a trace names: measured where `calibrate` ran on it, else looked up.

Measured roofs are kept with a run, so that it is judged alike on another machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from .machine import calibrate
from .machine.catalogue import lookup
from .machine.roofs import Roofs
from .trace.table import Trace

DEVICE_ROOFS_FILE = "roofs-device.json"


def device_roofs(trace: Trace, folder: Path | None = None) -> Roofs | None:
    """The roofs of the first device of the trace's properties; None where it is not known.

    What was measured on a device of that name counts, kept in the run's `folder` or on this
    machine; the catalogue stands in for what was not measured.
    """
    properties = trace.metadata.get("deviceProperties")
    if not isinstance(properties, list) or not properties:
        return None
    first = properties[0]
    name = first.get("name") if isinstance(first, dict) else None
    memory = first.get("totalGlobalMem") if isinstance(first, dict) else None
    if not isinstance(name, str) or not name:
        return None
    device = lookup(name, memory if isinstance(memory, int) else None)
    sold = device.roofs() if device is not None else None
    measured = _kept(folder, name) or calibrate.load_device(name)
    if measured is None or sold is None:
        return measured or sold
    return sold.with_measured(measured)


def keep_device_roofs(folder: Path, names: Iterable[str]) -> None:
    """Keep the measured roofs of the first of these devices that has any with a run."""
    measured = next(filter(None, map(calibrate.load_device, names)), None)
    if measured is not None:
        with contextlib.suppress(OSError):
            text = msgspec.json.format(msgspec.json.encode(measured))
            (folder / DEVICE_ROOFS_FILE).write_bytes(text)


def _kept(folder: Path | None, name: str) -> Roofs | None:
    if folder is None:
        return None
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        roofs = msgspec.json.decode((folder / DEVICE_ROOFS_FILE).read_bytes(), type=Roofs)
        return roofs if roofs.device == name else None
    return None
