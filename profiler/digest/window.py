"""What one trace window gives: lanes of what ran when, and tables that need its events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from ..device_roofs import device_roofs
from ..tables.lanes import Lane, Lanes, Row, lanes
from ..tables.trace_kernels import (
    CopyRow,
    KernelRow,
    TensorCoreUse,
    copy_rows,
    kernel_rows,
    tensor_core_use,
)
from ..tables.trace_memory import LiveMemory, live_at_peak, memory_curves
from ..tables.trace_ops import HostDeviceTime, module_times, op_times
from ..tables.trace_steps import StepOutlier, step_outliers, step_parts
from ..tables.trace_syncs import SyncSpot, sync_spots
from ..timeline import Timeline
from ..trace.device import device_time
from ..trace.device_division import divide_device
from ..trace.launch_queue import LaunchQueue, launch_queues
from ..trace.memory_events import read_memory_events
from ..trace.table import Trace
from .store import encode

MAX_ROWS = 200
MAX_POINTS = 2_000
COLUMNS = ("start_ns", "end_ns", "name")


class Peak(msgspec.Struct, frozen=True):
    """The allocator of one device within the window: its curve, its peak, what was live there.

    Seconds count from the begin of the window. `absolute`: bytes are totals, not changes since the
    begin. `reserved` is empty where not recorded.
    """

    device: str
    time_s: list[float]
    allocated: list[int]
    reserved: list[int]
    absolute: bool
    peak_bytes: int
    peak_s: float
    growth_per_step: float | None
    live: list[LiveMemory]


class QueueRow(msgspec.Struct, frozen=True):
    """The launch queue of one device over the window: see `trace.launch_queue.LaunchQueue`."""

    device: int
    work: int
    mean_depth: float
    max_depth: int
    empty_share: float
    starved_share: float
    drained_steps: float
    median_delay_us: float | None
    p90_delay_us: float | None


class Tables(msgspec.Struct, frozen=True):
    """The tables of a window; empty where nothing of the kind was recorded.

    `outliers` are steps far above the median, with what was longer in them.
    """

    events: int
    kernels: list[KernelRow] = []
    ops: list[HostDeviceTime] = []
    queues: list[QueueRow] = []
    outliers: list[StepOutlier] = []
    tensor_cores: list[TensorCoreUse] = []
    copies: list[CopyRow] = []
    syncs: list[SyncSpot] = []
    modules: list[HostDeviceTime] = []
    memory: list[Peak] = []


class _LaneShape(msgspec.Struct, frozen=True):
    label: str
    what: str
    deeper: int
    rows: list[int]


class _Shape(msgspec.Struct, frozen=True):
    names: list[str]
    kinds: list[int]
    left_out: int
    lanes: list[_LaneShape]


@dataclass(frozen=True)
class Window:
    """One trace window of a rank."""

    lanes: Lanes
    tables: Tables


def window(line: Timeline, trace: Trace, run: Path | None = None) -> Window:
    """Return what is shown of a trace, whose rank took the steps of `line`.

    `run`: the folder of the run, which may hold measured roofs.
    """
    return Window(lanes(line, trace), _tables(trace, run))


def _queue(queue: LaunchQueue) -> QueueRow:
    median, p90 = (
        None if ns is None else ns * 1e-3 for ns in (queue.median_delay_ns, queue.p90_delay_ns)
    )
    return QueueRow(
        device=queue.device,
        work=queue.work,
        mean_depth=queue.mean_depth,
        max_depth=queue.max_depth,
        empty_share=queue.empty_share,
        starved_share=queue.starved_share,
        drained_steps=queue.drained_steps,
        median_delay_us=median,
        p90_delay_us=p90,
    )


def _tables(trace: Trace, run: Path | None) -> Tables:
    device = device_time(trace)
    divided = divide_device(trace, device.window, device_roofs(trace, run)) if device else None
    parts = step_parts(trace)
    return Tables(
        events=len(trace.events),
        kernels=kernel_rows(divided.kernels)[:MAX_ROWS] if divided is not None else [],
        ops=op_times(trace)[:MAX_ROWS] if divided is not None else [],
        queues=[_queue(queue) for queue in launch_queues(trace)],
        outliers=step_outliers(parts)[:MAX_ROWS] if parts is not None else [],
        tensor_cores=tensor_core_use(divided.kernels) if divided is not None else [],
        copies=copy_rows(trace, device)[:MAX_ROWS] if device is not None else [],
        syncs=sync_spots(trace, divided)[:MAX_ROWS] if divided is not None else [],
        modules=module_times(trace)[:MAX_ROWS],
        memory=_memory(trace),
    )


def _memory(trace: Trace) -> list[Peak]:
    events = read_memory_events(trace)
    begin = int(trace.events.start_ns[0]) if len(trace.events) else 0
    found = []
    for curve in memory_curves(trace, events):
        keep = _thinned(curve.allocated)
        held = curve.reserved
        found.append(
            Peak(
                device=curve.device,
                time_s=((curve.time_ns[keep] - begin) * 1e-9).tolist(),
                allocated=curve.allocated[keep].tolist(),
                reserved=held[keep].tolist() if held is not None else [],
                absolute=curve.absolute,
                peak_bytes=curve.peak_bytes,
                peak_s=(curve.peak_ns - begin) * 1e-9,
                growth_per_step=curve.growth_per_step,
                live=live_at_peak(trace, events, curve)[:MAX_ROWS],
            )
        )
    return found


def _thinned(values: np.ndarray) -> np.ndarray:
    """The lowest and the highest point of each stretch, so that no peak is lost."""
    if len(values) <= MAX_POINTS:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), MAX_POINTS // 2 + 1).astype(int)[:-1]
    ends = [*edges[1:].tolist(), len(values)]
    keep = {
        begin + int(pick(values[begin:end]))
        for begin, end in zip(edges.tolist(), ends, strict=True)
        for pick in (np.argmin, np.argmax)
    }
    return np.asarray(sorted(keep))


def write(made: Window, folder: Path) -> None:
    """Write a window into an empty folder: JSON, and a file for each column of its lanes."""
    (folder / "tables.json").write_bytes(encode(made.tables))
    shapes = [
        _LaneShape(lane.label, lane.what, lane.deeper, [len(row.start_ns) for row in lane.rows])
        for lane in made.lanes.lanes
    ]
    shape = _Shape(made.lanes.names, made.lanes.kinds.tolist(), made.lanes.left_out, shapes)
    (folder / "lanes.json").write_bytes(encode(shape))
    rows = [row for lane in made.lanes.lanes for row in lane.rows]
    for column in COLUMNS:
        parts = [getattr(row, column) for row in rows] or [np.empty(0, np.int64)]
        np.save(folder / f"{column}.npy", np.concatenate(parts), allow_pickle=False)


def read(folder: Path) -> Window:
    """Read it; the columns stay in their files, and what is looked at comes into memory.

    Raises OSError, ValueError or msgspec.MsgspecError when it is not whole.
    """
    tables = msgspec.json.decode((folder / "tables.json").read_bytes(), type=Tables)
    shape = msgspec.json.decode((folder / "lanes.json").read_bytes(), type=_Shape)
    start, end, name = (
        np.load(folder / f"{column}.npy", mmap_mode="r", allow_pickle=False) for column in COLUMNS
    )
    whole = sum(sum(lane.rows) for lane in shape.lanes)
    if not len(start) == len(end) == len(name) == whole:
        raise ValueError("columns of different lengths")
    at, made = 0, []
    for lane in shape.lanes:
        rows = []
        for count in lane.rows:
            part = slice(at, at + count)
            rows.append(Row(start[part], end[part], name[part]))
            at += count
        made.append(Lane(lane.label, lane.what, rows, lane.deeper))
    kinds = np.asarray(shape.kinds, np.uint8)
    return Window(Lanes(shape.names, kinds, made, shape.left_out), tables)
