"""Measured roofs: taken once per machine in a process of their own, kept in the user's cache.

The figures come from the torch of the given interpreter, since that is what the training uses;
`probe.py` takes them. The figures of the short form take 0.6 s on two cores, but importing torch
costs 1.1 to 1.6 s before (measured, torch 2.13 on two cores); `start` lets the caller do
other work meanwhile, as long as that leaves the cores alone once torch is imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..errors import UnusableData
from ..trace.costs_elementwise import EXP_FLOP
from .identity import cache_bytes, this_machine
from .roofs import Roofs

PROBE = Path(__file__).with_name("probe.py")

QUICK_BUDGET_S = 6.0
"""Wall time after which the short form is cut off; on two idle cores it needs about 2 s."""
FULL_BUDGET_S = 60.0

BUSY_SHARE = 0.05
"""Share of the time that the threads waited for a CPU: above this something else was running.

Measured on two cores: 0.01 when idle; 0.5 to 0.7 beside two busy processes, where figures at two
threads came out 25 to 90 % low, since all wait at each barrier for the one that lost its CPU."""

BUSY = "the machine was busy with other work: these roofs may be too low and are not kept"

LAYOUT = 2
"""Part of the file name: raised when figures change their meaning, so that no old one is used."""

_UNSAFE = re.compile(r"[^A-Za-z0-9.+_-]+")


class Calibration:
    """A measurement that runs in the background; `result` waits for it."""

    def __init__(self, process: subprocess.Popen[str], began: float, device: str) -> None:
        self._process = process
        self._began = began
        self._device = device

    def result(self, budget_s: float = QUICK_BUDGET_S) -> Roofs:
        """The roofs, at the latest `budget_s` after the start; they are kept for `load`.

        What was measured when the time ran out counts if it has an arithmetic and a bandwidth
        roof; otherwise raises UnusableData (calibration-failed). Such roofs, and those of a busy
        machine, come with a note and are not kept.
        """
        left = max(budget_s - (time.monotonic() - self._began), 0.1)
        note = ""
        try:
            out, errors = self._process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, errors = self._process.communicate()
            note = f"cut off after {budget_s:g} s"
        except BaseException:
            self.cancel()
            raise
        figures = _figures(out)
        roofs = _roofs(figures, self._device, note)
        if roofs is None:
            raise _failure(errors, note)
        if not note and BUSY not in roofs.notes:
            _save(roofs, self._device, str(figures.get("torch", "")))
        return roofs

    def cancel(self) -> None:
        """End the measurement; nothing is kept."""
        self._process.kill()
        self._process.communicate()


def start(
    python: str = sys.executable,
    threads: int | None = None,
    *,
    full: bool = False,
    device: str = "cpu",
) -> Calibration:
    """Begin to measure with the torch of `python`, at `threads` threads (torch's own choice: None).

    Raises UnusableData (calibration-failed) when that interpreter cannot be started.
    """
    options = {
        "threads": threads or 0,
        "cache_bytes": cache_bytes(threads or int(this_machine().cores)),
        "memory_bytes": this_machine().memory_bytes,
        "full": full,
        "device": device,
    }
    try:
        process = subprocess.Popen(
            [python, str(PROBE), json.dumps(options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(os.environ),
        )
    except OSError as error:
        raise _failure(str(error), "") from error
    return Calibration(process, time.monotonic(), device)


def measure(
    python: str = sys.executable,
    threads: int | None = None,
    budget_s: float | None = None,
    *,
    full: bool = False,
    device: str = "cpu",
) -> Roofs:
    """Measure this machine's roofs and keep them; see `start` and `Calibration.result`."""
    budget = budget_s or (FULL_BUDGET_S if full else QUICK_BUDGET_S)
    return start(python, threads, full=full, device=device).result(budget)


def load(threads: int, torch_version: str = "", device: str = "cpu") -> Roofs | None:
    """The roofs kept for this machine at `threads` threads; None where it was never measured.

    Without a torch version the newest measurement counts.
    """
    version = _UNSAFE.sub("_", torch_version) or "*"
    pattern = _file_name(device, threads, version)
    with contextlib.suppress(OSError):
        files = sorted(cache_folder().glob(pattern), key=lambda path: path.stat().st_mtime)
        for path in reversed(files):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                return msgspec.json.decode(path.read_bytes(), type=Roofs)
    return None


def load_device(name: str) -> Roofs | None:
    """The newest roofs kept for a device of this machine that its driver calls `name`, if any."""
    pattern = f"roofs{LAYOUT}-{this_machine().key}-*-t0-*.json"
    with contextlib.suppress(OSError):
        files = sorted(cache_folder().glob(pattern), key=lambda path: path.stat().st_mtime)
        for path in reversed(files):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                roofs = msgspec.json.decode(path.read_bytes(), type=Roofs)
                if roofs.device == name:
                    return roofs
    return None


def cache_folder() -> Path:
    """Where roofs are kept: $BOUNDSCOPE_CACHE, else boundscope/ in the user's cache folder."""
    own = os.environ.get("BOUNDSCOPE_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification: a relative path is to be ignored.
    if base and Path(base).is_absolute():
        return Path(base) / "boundscope"
    return Path.home() / ".cache" / "boundscope"


def _file_name(device: str, threads: int, version: str) -> str:
    where = _UNSAFE.sub("_", device)
    return f"roofs{LAYOUT}-{this_machine().key}-{where}-t{threads}-{version}.json"


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what starts our collectors, so that nothing measures the measurer."""
    return {name: value for name, value in environment.items() if name != "BOUNDSCOPE_RUN"}


def _figures(out: str) -> dict[str, Any]:
    """Merge the probe's lines: the best of each figure; a torn last line is left out."""
    merged: dict[str, Any] = {}
    for line in out.splitlines():
        try:
            figure = json.loads(line)
        except ValueError:
            continue
        for name, value in figure.items() if isinstance(figure, dict) else ():
            if isinstance(value, dict):
                best = merged.setdefault(name, {})
                best.update({key: max(rate, best.get(key, 0.0)) for key, rate in value.items()})
            else:
                merged[name] = value
    return merged


def _roofs(figures: Mapping[str, Any], device: str, note: str) -> Roofs | None:
    flops = dict(figures.get("flops", {}))
    bandwidth = dict(figures.get("bandwidth", {}))
    flops_1 = dict(figures.get("flops_1", {}))
    if "fp32" not in flops or "dram_copy" not in bandwidth:
        return None
    rates = figures.get("rates", {})
    for rate, target in (("exp", flops), ("exp_1", flops_1)):
        if rate in rates:
            target["special"] = rates[rate] * EXP_FLOP
    threads = int(figures.get("threads", 0))
    caches = cache_bytes(threads) if device == "cpu" else {}
    notes = [note] if note else []
    last = max(caches.values(), default=0)
    if figures.get("dram_bytes", 2 * last) < 2 * last:
        notes.append("the main-memory arrays were not much larger than the last cache")
    if figures.get("waited_share", 0.0) > BUSY_SHARE:
        notes.append(BUSY)
    # What one thread reaches, several reach too.
    flops = {dtype: max(rate, flops_1.get(dtype, 0.0)) for dtype, rate in flops.items()}
    return Roofs(
        flops=flops,
        bandwidth=bandwidth,
        cache_bytes=caches,
        dispatch_ns=1e9 / rates["dispatch"] if rates.get("dispatch") else 0.0,
        fresh_page_ns=1e9 * figures.get("fresh_page_s", 0.0),
        page_bytes=resource.getpagesize(),
        threads=threads,
        source="measured",
        device=str(figures.get("device", "")) or this_machine().cpu,
        flops_1=flops_1,
        key=this_machine().key,
        notes=notes,
    )


def _save(roofs: Roofs, device: str, torch_version: str) -> None:
    """Keep the roofs, whole or not at all; a cache that cannot be written is no failure."""
    version = _UNSAFE.sub("_", torch_version) or "unknown"
    with contextlib.suppress(OSError):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(msgspec.json.format(msgspec.json.encode(roofs)))
        Path(file.name).replace(folder / _file_name(device, roofs.threads, version))


def _failure(errors: str, note: str) -> UnusableData:
    lines = [line for line in _nonempty(errors.splitlines()) if not line.startswith(" ")]
    reason = note or (lines[-1] if lines else "it printed no figures")
    return UnusableData(
        "calibration-failed",
        f"The roofs of this machine could not be measured: {reason}.",
        "name the interpreter that the training uses: boundscope calibrate --python PATH",
    )


def _nonempty(lines: Iterable[str]) -> list[str]:
    return [line.rstrip() for line in lines if line.strip()]
