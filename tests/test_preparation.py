"""Batch preparation against a forward pass in plain functions: hand-worked steps, times in us."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from boundscope.profiler.preparation import settle
from boundscope.profiler.run.load import RankData, SpanTable
from boundscope.profiler.timeline import PHASES, Timeline, build_timeline
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.table import Trace

STEP_US = 1000
PREPARE_US, FUNCTIONS_US, LOSS_US, BACKWARD_US = 200, 400, 50, 300
"""Of a step of 1000 us: 200 for the batch, 400 for the forward pass in plain functions, 50 for the
loss, which is the only module, and 300 for the backward pass."""

STEPS = 8
TRACED = (3, 4)
Op = tuple[str, float, float]
"""Name, start and duration, us."""


def training(*, functions_us: int = FUNCTIONS_US, module_us: int = LOSS_US) -> Timeline:
    """Steps in which the first module is called after the preparation and the functions."""
    spans: list[tuple[str, int, int]] = [("o", 0, 0)]
    for step in range(STEPS):
        module = step * STEP_US + PREPARE_US + functions_us
        spans.append(("f", module, module_us))
        spans.append(("b", module + module_us, BACKWARD_US))
        spans.append(("o", (step + 1) * STEP_US - 10, 10))
    kinds = np.array([ord(kind) for kind, _, _ in spans], np.uint8)
    starts = np.array([start * 1000 for _, start, _ in spans], np.int64)
    durations = np.array([duration * 1000 for _, _, duration in spans], np.int64)
    table = SpanTable(kinds, starts, durations, np.zeros(len(spans), np.int64))
    line = build_timeline(RankData(0, 1, "host", Path(), table, [], [], None, [], []))
    assert line is not None
    return line


def forward_ops(begin: float) -> list[Op]:
    """Two products with an activation between them, 400 us: the forward pass in plain functions."""
    return [
        ("aten::matmul", begin, 190),
        ("aten::mm", begin + 1, 188),
        ("aten::relu", begin + 200, 20),
        ("aten::matmul", begin + 230, 170),
        ("aten::mm", begin + 231, 168),
    ]


def loss_ops(begin: float) -> list[Op]:
    return [("aten::mse_loss", begin, 20)]


def nodes(begin: float, *names: str) -> list[Op]:
    """The backward pass as torch records it: each node within the engine's range for it."""
    found: list[Op] = []
    for index, name in enumerate(names):
        start = begin + 20 * index
        found.append((f"autograd::engine::evaluate_function: {name}", start, 15))
        found.append((name, start + 1, 10))
    return found


BATCH_OPS: list[Op] = [("aten::mul", 20, 30), ("aten::matmul", 60, 60), ("aten::mm", 61, 58)]
"""What makes the batch: autograd does not follow it, though it has a product of its own."""


def recorded(folder: Path, steps: list[list[Op]]) -> Trace:
    """A trace of the steps in `TRACED`, the ops of each in us from the step's start."""
    events = [
        {
            "ph": "X", "cat": "cpu_op", "name": name, "pid": 1, "tid": 1,
            "ts": number * STEP_US + start, "dur": duration, "args": {},
        }
        for number, ops in zip(TRACED, steps, strict=True)
        for name, start, duration in ops
    ]  # fmt: skip
    path = folder / "trace.json"
    path.write_text(json.dumps({"traceEvents": events, "baseTimeNanoseconds": 0}))
    return read_trace(path)


def times_us(line: Timeline) -> dict[str, list[float]]:
    return {name: (line.phase_ns[name] / 1000).tolist() for name in ("preparation", "rest")}


def functional_steps() -> list[Op]:
    begin = PREPARE_US + FUNCTIONS_US
    backward = nodes(begin + LOSS_US, "MseLossBackward0", "MmBackward0", "ReluBackward0")
    backward += nodes(begin + LOSS_US + 60, "MmBackward0")
    return BATCH_OPS + forward_ops(PREPARE_US) + loss_ops(begin) + backward


def test_a_forward_pass_in_functions_is_no_preparation_in_any_step(tmp_path: Path) -> None:
    trace = recorded(tmp_path, [functional_steps()] * 2)

    line = settle(training(), [trace])

    # 990 us less loss and backward are left to both: 200 for the batch, 400 and 40 for the rest.
    assert times_us(line) == {
        "preparation": pytest.approx([PREPARE_US] * STEPS, abs=1),
        "rest": pytest.approx([440] * STEPS, abs=1),
    }


def test_what_makes_the_batch_stays_preparation_also_with_ops_of_the_models_names(
    tmp_path: Path,
) -> None:
    """The same products, but those of the model lie in its module: each has its node there."""
    begin = PREPARE_US + FUNCTIONS_US
    module = [("aten::mm", begin + 1, 40.0), ("aten::relu", begin + 42, 5.0)]
    ops = BATCH_OPS + module + nodes(begin + 50, "MmBackward0", "ReluBackward0")
    before = training()

    line = settle(before, [recorded(tmp_path, [ops] * 2)])

    assert times_us(line) == times_us(before)


def test_steps_that_the_trace_shows_are_cut_where_their_own_forward_pass_begins(
    tmp_path: Path,
) -> None:
    late = [(name, start + 100 if 200 <= start < 600 else start, d) for name, start, d in
            functional_steps()]  # fmt: skip
    late = [op if op[1] + op[2] <= 600 else (op[0], op[1], 1.0) for op in late if op[1] < 600] + [
        op for op in functional_steps() if op[1] >= 600
    ]

    line = settle(training(), [recorded(tmp_path, [functional_steps(), late])])

    preparation = times_us(line)["preparation"]
    assert [preparation[number] for number in TRACED] == pytest.approx([200, 300], abs=1)
    # The others by the share of both together: 500 of 1200 us.
    assert preparation[0] == pytest.approx(600 * 500 / 1200, abs=1)


def test_phases_still_divide_each_step(tmp_path: Path) -> None:
    before = training()

    line = settle(before, [recorded(tmp_path, [functional_steps()] * 2)])

    assert list(line.phase_ns) == list(PHASES)
    np.testing.assert_array_equal(sum(line.phase_ns.values()), line.duration_ns)
    for name in ("preparation", "rest"):
        starts, ends = line.phase_intervals[name]
        assert (ends - starts).sum() == line.phase_ns[name].sum()


def test_without_a_window_no_more_than_the_backward_pass_may_be_a_forward_pass() -> None:
    line = settle(training(), [])

    assert times_us(line)["preparation"] == pytest.approx([600 - BACKWARD_US] * STEPS, abs=1)


def test_without_a_window_modules_that_explain_the_backward_pass_leave_the_preparation() -> None:
    before = training(functions_us=0, module_us=BACKWARD_US // 2)

    line = settle(before, [])

    assert times_us(line) == times_us(before)


def test_a_trace_without_a_backward_pass_tells_no_more_than_none(tmp_path: Path) -> None:
    inference = BATCH_OPS + forward_ops(PREPARE_US) + loss_ops(PREPARE_US + FUNCTIONS_US)

    line = settle(training(), [recorded(tmp_path, [inference] * 2)])

    assert times_us(line) == times_us(settle(training(), []))
