"""Facts of a training process, and the note that a process imported torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ..records import Gap, Process
from ..writer import Clock, RecordWriter

OLDEST_TORCH = (2, 2)
"""The first release with global optimizer hooks and today's Kineto format."""

EFFECT = "no steps, input waits or torch-profiler windows of this process"


def unsupported(torch: Any) -> str:
    """Say why this torch cannot be worked with; "" when it can."""
    version = str(getattr(torch, "__version__", "0"))
    release = version.partition("+")[0].split(".")
    numbers = tuple(int(part) for part in release[:2] if part.isdigit())
    if numbers >= OLDEST_TORCH:
        return ""
    oldest = ".".join(str(number) for number in OLDEST_TORCH)
    return f"torch {version} is older than {oldest}, the oldest supported version"


def is_multiprocessing_child() -> bool:
    """Whether multiprocessing made this process; also while it still imports its main module.

    `parent_process()` is set only after that import, in which torch is usually loaded, and never
    in the fork server.
    """
    process: Any = sys.modules.get("multiprocessing.process")
    if process is None:
        return False
    starting = getattr(process.current_process(), "_inheriting", False)
    return bool(starting) or process.parent_process() is not None


def announce(torch: Any, run_folder: Path, version: str, problem: str = "") -> None:
    """Leave a note that this process imported torch, even if it never trains.

    `problem` says why its torch cannot be worked with. Children of multiprocessing (loader
    workers among them) are left out.
    """
    if is_multiprocessing_child():
        return
    records: list[Process | Gap] = [process_record(torch)]
    if problem:
        records.append(Gap(Clock().now_ns(), "inside", "not-supported", problem, EFFECT))
    leave_note(run_folder, version, *records)


def leave_note(run_folder: Path, version: str, *records: Process | Gap) -> None:
    """Append records to this process's own file beside the node's; raises OSError."""
    folder = run_folder / f"node-{os.uname().nodename}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"process-{os.getpid()}.jsonl"
    writer = RecordWriter(path, "process", Clock(), version=version)
    try:
        writer.write(*records)
    finally:
        writer.abandon()


def process_record(torch: Any, *, trained: bool = False) -> Process:
    """What this process is. Torch is asked only once it has `trained`.

    Before that even the number of threads must not be asked for: the answer starts the thread
    pool, and MKL_NUM_THREADS could no longer be set.
    """
    facts = {"executable": sys.executable}
    if trained:
        facts |= _torch_facts(torch)
    return Process(
        pid=os.getpid(),
        parent_pid=os.getppid(),
        python=sys.version.split()[0],
        torch=str(getattr(torch, "__version__", "unknown")),
        argv=[str(argument) for argument in getattr(sys, "argv", [])],
        facts=facts,
    )


def _torch_facts(torch: Any) -> dict[str, str]:
    facts = {"threads": str(torch.get_num_threads())}
    if torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            facts[f"device.{index}"] = str(torch.cuda.get_device_name(index))
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        facts["backend"] = str(distributed.get_backend())
    return facts


def optimizer_facts(optimizer: Any) -> dict[str, str]:
    """An optimizer's class, and whether it was asked for its update in one pass."""
    facts = {"class": type(optimizer).__name__}
    defaults = getattr(optimizer, "defaults", None)
    if isinstance(defaults, dict) and "fused" in defaults:
        facts["fused"] = str(defaults["fused"] is True)
    return facts


ITERABLE = 1
"""`_DatasetKind.Iterable` of torch.utils.data.dataloader."""


def loader_facts(loader: Any) -> dict[str, str]:
    """The settings of a DataLoader, and where its dataset fetches an item."""
    dataset = loader.dataset
    # An IterableDataset inherits a __getitem__ that only raises.
    iterable = getattr(loader, "_dataset_kind", 0) == ITERABLE
    names = ("__iter__",) if iterable else ("__getitem__", "__iter__")
    fetch = next((f for name in names if (f := getattr(type(dataset), name, None))), None)
    code = getattr(fetch, "__code__", None)
    facts = {
        "num_workers": str(loader.num_workers),
        "batch_size": str(loader.batch_size),
        "pin_memory": str(bool(loader.pin_memory)),
        "persistent_workers": str(bool(loader.persistent_workers)),
        "prefetch_factor": str(loader.prefetch_factor),
        "dataset": type(dataset).__name__,
        "kind": "iterable" if iterable else "map",
    }
    if code is not None:
        facts["fetch_file"] = code.co_filename
        facts["fetch_line"] = str(code.co_firstlineno)
    return facts
