"""Tells batch preparation from a forward pass that no module makes.

What a step does before its first module's call may be the making of its batch, or a forward pass
in plain functions whose only module is the loss. The two differ in that a forward pass has a
backward one: for each op that autograd follows, the trace shows a node of its name there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from .after_step import AfterStep
from .timeline import Timeline
from .trace.costs_names import base_name, forward_name
from .trace.host import training_thread
from .trace.intervals import Union, covered, intersect, merge, nest, subtract, union
from .trace.table import Category, Trace

Int64 = npt.NDArray[np.int64]

MODULES_EXPLAIN = 0.25
"""Where no window was recorded, modules that take this share of the backward pass are taken to be
the whole forward pass. A product has two products as its backward pass, an element-wise op about
one of its own length: a forward pass takes 0.5 to 1 of it, and half of that is enough."""

NOTHING_AFTER = AfterStep()

_ENGINE = "autograd::engine::evaluate_function"


def settle(line: Timeline, traces: Sequence[Trace], after: AfterStep = NOTHING_AFTER) -> Timeline:
    """The timeline with what is no preparation moved to the work phase `rest`.

    What a step does `after` its optimizer's goes first, as far as preparation holds it: to
    `storage` where a checkpoint is written, else to `rest`. In steps that a trace shows,
    preparation ends with the first op that has a node in the backward pass; in the others the same
    share of it goes. Without such a trace at most the time of the backward pass goes, and nothing
    where the modules explain it.
    """
    line = _without(line, after)
    begins, ends = _hulls(line)
    if not len(begins):
        return line
    known = np.full(len(begins), -1, np.int64)
    for trace in traces:
        _find_work(trace, line, begins, ends, known)
    seen = known >= 0
    whole = int((ends - begins)[seen].sum())
    if whole:
        share = float((ends - known)[seen].sum()) / whole
    else:
        share = _share_at_most(line, int((ends - begins).sum()))
    cuts = np.where(seen, known, ends - np.rint((ends - begins) * share).astype(np.int64))
    return _moved(line, union(cuts, ends), "rest")


def _without(line: Timeline, after: AfterStep) -> Timeline:
    """The timeline without what comes behind the optimizer's step: where preparation begins."""
    spent: list[tuple[float, Literal["rest", "storage"]]]
    spent = [(after.saving_ns, "storage"), (after.other_ns, "rest")]
    for spent_ns, phase in spent:
        begins, ends = line.phase_intervals["preparation"]
        whole = int((ends - begins).sum())
        if spent_ns > 0 and whole:
            share = min(1.0, spent_ns * len(line) / whole)
            cuts = begins + np.rint((ends - begins) * share).astype(np.int64)
            line = _moved(line, union(begins, cuts), phase)
    return line


def _hulls(line: Timeline) -> Union:
    """From the first to the last moment of preparation in each step that has any."""
    starts, ends = line.phase_intervals["preparation"]
    step = np.searchsorted(line.start_ns, starts, side="right") - 1
    _, first, count = np.unique(step, return_index=True, return_counts=True)
    return starts[first], ends[first + count - 1]


def _share_at_most(line: Timeline, preparation_ns: int) -> float:
    """The share of the preparation that may be a forward pass, judged by the backward one."""
    backward = float(line.phase_ns["backward"].sum())
    if line.phase_ns["forward"].sum() >= MODULES_EXPLAIN * backward:
        return 0.0
    return min(1.0, backward / preparation_ns)


def _moved(line: Timeline, time: Union, target: Literal["rest", "storage"]) -> Timeline:
    """The timeline with the preparation that lies in `time` moved to another phase."""
    parts = dict(line.phase_intervals)
    taken = intersect(parts["preparation"], time)
    parts["preparation"] = subtract(parts["preparation"], time)
    parts[target] = merge(parts[target], taken)
    times = dict(line.phase_ns)
    for phase in ("preparation", target):
        times[phase] = covered(parts[phase], line.start_ns, line.end_ns).astype(np.float64)
    return replace(line, phase_intervals=parts, phase_ns=times)


def _find_work(trace: Trace, line: Timeline, begins: Int64, ends: Int64, known: Int64) -> None:
    """Write into `known`, for each step of the trace, when work with a backward pass begins.

    That is the preparation's end where none does. A step whose backward pass the trace does not
    show stays as it is.
    """
    events = trace.events
    ops = events.of(Category.CPU_OP)
    nodes, keys = _keys(trace)
    main = np.flatnonzero(ops & (events.thread == training_thread(trace)))
    main = main[~_repeats(keys[events.name[main]], events.start_ns[main], events.duration_ns[main])]
    starts, key = events.start_ns[main], keys[events.name[main]]
    in_backward = np.flatnonzero(ops & (nodes[events.name] >= 0))
    elsewhere = merge(line.phase_intervals["backward"], line.phase_intervals["optimizer"])
    forward = covered(elsewhere, starts, starts + 1) == 0
    starts, key = starts[forward], key[forward]
    node_starts, node_key = events.start_ns[in_backward], nodes[events.name[in_backward]]
    step = np.searchsorted(line.start_ns, begins, side="right") - 1
    for index, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        low, high = line.start_ns[step[index]], line.end_ns[step[index]]
        met = slice(*np.searchsorted(node_starts, (low, high)))
        if met.start == met.stop:
            continue
        mine = slice(*np.searchsorted(starts, (low, high)))
        inside = (starts[mine] >= begin) & (starts[mine] < end)
        before, others = starts[mine][inside], key[mine][starts[mine] >= end]
        found = _first_followed(before, key[mine][inside], others, node_key[met])
        known[index] = end if found is None else max(begin, found)


def _first_followed(starts: Int64, key: Int64, others: Int64, nodes: Int64) -> int | None:
    """When the first op began that autograd follows: `starts` and `key` are the candidates.

    Nodes of the backward pass beyond the ops of their name elsewhere (`others`) belong to the last
    candidates of that name.
    """
    found = None
    for name, count in zip(*np.unique(nodes, return_counts=True), strict=True):
        missing = int(count) - int((others == name).sum())
        mine = starts[key == name]
        if missing > 0 and len(mine):
            first = int(mine[-min(missing, len(mine))])
            found = first if found is None else min(found, first)
    return found


def _keys(trace: Trace) -> tuple[Int64, Int64]:
    """For each name of the trace the number of the op that it is a node of, and that it is.

    -1 where it is neither. `relu_`, `relu` and `ReluBackward0` have one number.
    """
    numbers: dict[str, int] = {}
    nodes = np.full(len(trace.names), -1, np.int64)
    keys = np.full(len(trace.names), -1, np.int64)
    for index, name in enumerate(trace.names):
        forward = forward_name(name)
        if forward is not None:
            if not name.startswith(_ENGINE):
                nodes[index] = numbers.setdefault(forward.replace("_", ""), len(numbers))
        else:
            base = base_name(name).replace("_", "").lower()
            keys[index] = numbers.setdefault(base, len(numbers))
    return nodes, keys


def _repeats(key: Int64, starts: Int64, durations: Int64) -> npt.NDArray[np.bool_]:
    """Which ops only carry out the one that they lie in: `_log_softmax` within `log_softmax`."""
    parent = nest(starts, durations).parent
    return np.asarray((parent >= 0) & (key[parent] == key))
