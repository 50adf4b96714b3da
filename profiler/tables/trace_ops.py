"""Ops and modules of a trace: their time on the host, and that of the device work they launch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..trace.device import device_work
from ..trace.distinct import distinct
from ..trace.idle import MODULE
from ..trace.intervals import nest
from ..trace.kernels import enclosing_events, innermost_ops, launching_calls, op_around
from ..trace.table import Category, Int64, Trace

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HostDeviceTime:
    """Calls of one op (or module) and where its time went, ms.

    `self_*` is without the ops (modules) that it calls, `total_*` with them; a name inside itself
    counts once in the total. Device time is the sum over the work launched, streams added up.
    `dims` are the input shapes where recorded, `path` the enclosing modules ("Net_0/Linear_2").
    """

    name: str
    dims: str
    calls: int
    self_host_ms: float
    total_host_ms: float
    self_device_ms: float
    total_device_ms: float
    path: str = ""


def op_times(
    trace: Trace, window: tuple[int, int] | None = None, *, by_shape: bool = True
) -> list[HostDeviceTime]:
    """Ops that begin in the window (ns; all by default), most device and host time first.

    `by_shape` keeps calls with other input shapes apart.
    """
    events = trace.events
    parents = enclosing_events(trace)
    steps = np.fromiter((n.startswith("ProfilerStep#") for n in trace.names), np.bool_)
    chosen = events.of(Category.CPU_OP) & _within(trace, window)
    rows = np.flatnonzero(chosen & ~steps[events.name])
    if not len(rows):
        return []
    around = op_around(trace, parents)
    local = np.full(len(events) + 1, -1, np.int64)  # the last stands for "no parent"
    local[rows] = np.arange(len(rows))
    parent = local[around[rows]]
    work = np.flatnonzero(device_work(trace))
    launched = _by_owner(trace, work, local[innermost_ops(trace, work, parents)], len(rows))
    signature = events.signature[rows] if by_shape else np.full(len(rows), -1, np.int32)
    groups, key = distinct(events.name[rows], signature)
    sums = _sums(key, parent, events.duration_ns[rows].astype(np.float64), launched)
    found = [
        HostDeviceTime(trace.names[name], _dims(trace, kind), *_row(values))
        for (name, kind), values in zip(groups.tolist(), sums.tolist(), strict=True)
    ]
    return sorted(found, key=lambda row: -(row.self_device_ms + row.self_host_ms))


def module_times(trace: Trace, window: tuple[int, int] | None = None) -> list[HostDeviceTime]:
    """Calls of `nn.Module`s by path, most device time first; empty without module events.

    Device work counts to the innermost module around its launch. Backward runs on a thread of its
    own, outside of every module: a row named "" holds what no module launched.
    """
    events = trace.events
    is_module = np.fromiter((n.startswith(MODULE) for n in trace.names), np.bool_, len(trace.names))
    if not is_module.any():
        return []
    rows = np.flatnonzero(is_module[events.name] & _within(trace, window))
    if not len(rows):
        return []
    calls = events.of(Category.RUNTIME, Category.DRIVER)
    around = _around(trace, rows, np.flatnonzero(calls))
    local = np.full(len(events) + 1, -1, np.int64)
    local[rows] = np.arange(len(rows))
    parent = local[around[rows]]
    work = np.flatnonzero(device_work(trace) & _within(trace, window))
    launching = launching_calls(trace, work)
    owner = np.where(launching >= 0, local[around[np.maximum(launching, 0)]], -1)
    launched = _by_owner(trace, work, owner, len(rows))
    paths, path_of = _paths(trace, rows, parent)
    groups, key = distinct(path_of)
    duration = events.duration_ns[rows].astype(np.float64)
    sums = _sums(key, parent, duration, launched[: len(rows)])
    found = [
        HostDeviceTime(paths[path].rsplit("/", 1)[-1], "", *_row(values), path=paths[path])
        for (path,), values in zip(groups.tolist(), sums.tolist(), strict=True)
    ]
    outside = float(launched[-1]) * 1e-6
    if outside:
        found.append(HostDeviceTime("", "", 0, 0.0, 0.0, outside, outside))
    return sorted(found, key=lambda row: -row.total_device_ms)


def _within(trace: Trace, window: tuple[int, int] | None) -> npt.NDArray[np.bool_]:
    start = trace.events.start_ns
    if window is None:
        return np.ones(len(start), np.bool_)
    return np.asarray((start >= window[0]) & (start < window[1]))


def _by_owner(trace: Trace, work: Int64, owner: Int64, owners: int) -> Float:
    """Device time by owner, ns; the last entry is that of no owner (-1)."""
    place = np.where(owner < 0, owners, owner)
    durations = trace.events.duration_ns[work].astype(np.float64)
    return np.bincount(place, weights=durations, minlength=owners + 1).astype(np.float64)


def _sums(key: Int64, parent: Int64, host: Float, device: Float) -> Float:
    """For each key a row of sums: calls, self host, total host, self device, total device."""
    count = len(key)
    inner = parent >= 0
    children = np.bincount(parent[inner], weights=host[inner], minlength=count)
    first = ~_inside_itself(key, parent)
    own = device[:count]
    whole = _summed_up(own, parent)
    columns = (np.ones(count), host - children, host * first, own, whole * first)
    return np.stack([np.bincount(key, column) for column in columns], axis=1).astype(np.float64)


def _inside_itself(key: Int64, parent: Int64) -> npt.NDArray[np.bool_]:
    """Which events have an ancestor with their own key."""
    found = np.zeros(len(key), np.bool_)
    left = np.flatnonzero(parent >= 0)
    ancestor = parent[left]
    while len(left):
        found[left] |= key[ancestor] == key[left]
        ancestor = parent[ancestor]
        inside = ancestor >= 0
        left, ancestor = left[inside], ancestor[inside]
    return found


def _summed_up(own: Float, parent: Int64) -> Float:
    """Each event's own value and those of all events inside it."""
    whole = own.astype(np.float64)
    left = np.flatnonzero((parent >= 0) & (own > 0))
    value, ancestor = own[left], parent[left]
    while len(left):
        np.add.at(whole, ancestor, value)
        ancestor = parent[ancestor]
        left = np.flatnonzero(ancestor >= 0)
        value, ancestor = value[left], ancestor[left]
    return whole


def _row(values: list[float]) -> tuple[int, float, float, float, float]:
    calls, *times = values
    self_host, total_host, self_device, total_device = (value * 1e-6 for value in times)
    return int(calls), self_host, total_host, self_device, total_device


def _around(trace: Trace, outer: Int64, inner: Int64) -> Int64:
    """For each event of either kind the `outer` event directly around it on its thread, -1."""
    events = trace.events
    is_outer = np.zeros(len(events), np.bool_)
    is_outer[outer] = True
    chosen = is_outer.copy()
    chosen[inner] = True
    result: Int64 = np.full(len(events), -1, np.int64)
    for thread in np.unique(events.thread[outer]):
        rows = np.flatnonzero(chosen & (events.thread == thread))
        parent = nest(events.start_ns[rows], events.duration_ns[rows]).parent
        up = np.where(parent >= 0, rows[parent], -1)
        result[rows] = up
    while True:  # an inner event around an inner one is passed over
        step = np.flatnonzero((result >= 0) & ~is_outer[result])
        if not len(step):
            return result
        result[step] = result[result[step]]


def _paths(trace: Trace, rows: Int64, parent: Int64) -> tuple[list[str], Int64]:
    """(distinct paths, the path of each event); an enclosing event comes before what it holds."""
    numbers: dict[tuple[int, int], int] = {}
    paths: list[str] = []
    path_of = np.zeros(len(rows), np.int64)
    names = trace.events.name[rows].tolist()
    for index, (name, above) in enumerate(zip(names, parent.tolist(), strict=True)):
        key = (int(path_of[above]) if above >= 0 else -1, name)
        if key not in numbers:
            numbers[key] = len(paths)
            text = trace.names[name][len(MODULE) :]
            paths.append(f"{paths[key[0]]}/{text}" if key[0] >= 0 else text)
        path_of[index] = numbers[key]
    return paths, path_of


def _dims(trace: Trace, signature: int) -> str:
    if signature < 0:
        return ""
    return ", ".join(str(list(d)) for d in trace.signatures[signature].dims if isinstance(d, tuple))
