"""Findings that rest on stack samples: compiling, recomputing, another thread, and what a device
hides of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from boundscope.collectors.records import Frame
from boundscope.profiler.diagnosis import Saving
from boundscope.profiler.features import RankFeatures
from boundscope.profiler.hot_lines import hot_lines
from boundscope.profiler.rules._exposed import beside_device
from boundscope.profiler.sampled import compiles, other_stacks

from .rule_material import (
    MS,
    FrameOf,
    Recording,
    diagnosed,
    named,
    product,
    rank_of,
    run_with,
    stacks_of,
    value,
    with_shares,
)

TORCH = "/x/site-packages/torch"
MAIN = ("/u/train.py", "main", 20)
EMIT = ("/usr/lib/python3.11/logging/__init__.py", "emit", 1)
BUSY = ("/u/train.py", "monitor", 70)
RUNNING = [
    MAIN,
    (f"{TORCH}/_dynamo/eval_frame.py", "compile_wrapper", 900),
    ("/u/train.py", "Net.forward", 5),
    (f"{TORCH}/_functorch/aot_autograd.py", "aot_module_simplified.<locals>.forward", 1277),
    (f"{TORCH}/_functorch/_aot_autograd/runtime_wrappers.py", "runtime_wrapper", 300),
    (f"{TORCH}/_inductor/output_code.py", "CompiledFxGraph.__call__", 721),
    ("/tmp/torchinductor_me/ab/cab.py", "call", 30),
]
"""A graph that is compiled already, as torch 2.13 runs it."""


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path / "run")


# -- compiling --------------------------------------------------------------------------------


def stack(places: list[FrameOf]) -> list[Frame]:
    return [Frame(i, function, file, line) for i, (file, function, line) in enumerate(places)]


@pytest.mark.parametrize(
    "inner",
    [
        [],
        [(f"{TORCH}/_inductor/compile_fx.py", "cudagraphify.<locals>.run", 1919)],
        [("/x/site-packages/triton/compiler/compiler.py", "CompiledKernel.launch_metadata", 450)],
    ],
)
def test_a_graph_that_is_compiled_already_does_not_compile(inner: list[FrameOf]) -> None:
    assert not compiles(stack([*RUNNING, *inner]))


@pytest.mark.parametrize(
    "inner",
    [
        [(f"{TORCH}/_dynamo/convert_frame.py", "_compile.<locals>.compile_inner", 1668)],
        # The outer frames of a deep stack were left out.
        [(f"{TORCH}/_inductor/graph.py", "GraphLowering.run", 900)],
        # A backward graph is compiled at its first call, below the running forward graph's node.
        [(f"{TORCH}/_inductor/compile_fx.py", "_compile_fx_main.<locals>.bw_compiler", 2956)],
    ],
)
def test_a_graph_that_is_being_compiled_does(inner: list[FrameOf]) -> None:
    assert compiles(stack([*RUNNING, *inner]))


def test_a_compiled_training_in_its_steady_state_has_no_recompilation(
    recording: Recording,
) -> None:
    recording.steps([100.0] * 100)
    recording.sampled(6, *RUNNING)
    recording.sampled(4, MAIN)

    assert "recompilation" not in {finding.id for finding in recording.diagnose().findings}


STACKS_OF_TORCH = """
import json, sys, traceback
import torch

seen = {"compiling": [], "running": []}

def note(what):
    frames = traceback.extract_stack()
    seen[what].append([(f.filename, f.name, f.lineno) for f in frames])

@torch.library.custom_op("here::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    note("running")
    return x * 2

@double.register_fake
def _(x):
    note("compiling")
    return torch.empty_like(x)

step = torch.compile(lambda x: double(x.sin()).cos(), backend="aot_eager")
for _ in range(2):
    step(torch.ones(3))
json.dump(seen, sys.stdout)
"""


def test_the_stacks_of_this_torch_tell_compiling_from_running() -> None:
    script = [sys.executable, "-c", STACKS_OF_TORCH]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120, check=False)
    if "has no attribute" in done.stderr:
        pytest.skip("this torch has no custom_op")
    assert done.returncode == 0, done.stderr
    seen = msgspec.json.decode(done.stdout, type=dict[str, list[list[FrameOf]]])

    assert len(seen["running"]) == 2
    assert not any(compiles(stack(places)) for places in seen["running"])
    assert seen["compiling"]
    assert all(compiles(stack(places)) for places in seen["compiling"])


def test_a_generated_file_is_not_the_users_line(recording: Recording) -> None:
    recording.steps([100.0] * 100)
    recording.sampled(3, *RUNNING, (f"{TORCH}/utils/checkpoint.py", "unpack_hook", 1))
    recording.sampled(7, MAIN)

    places = named(recording.diagnose(), "recomputation").where

    assert (places[0].file, places[0].line) == ("/u/train.py", 5)


# -- another thread ---------------------------------------------------------------------------


def throttled(recording: Recording) -> None:
    """Three tenths of the time held back by the quota: a `host` share that needs no window."""
    recording.steps([100.0] * 100)
    recording.metric("cgroup.cpu_throttled_us", *[3e5 * second for second in range(11)])
    recording.metric("cgroup.cpu_throttled_share", 0.9)


AUTOGRAD = 77
"""The number of autograd's thread for the device; the main one has 1."""
OTHER = {"thread": 101, "thread_name": "Thread-1"}


def test_another_thread_that_runs_python_contends_for_the_lock(recording: Recording) -> None:
    throttled(recording)
    recording.sampled(10, MAIN)
    recording.sampled(8, BUSY, **OTHER, cpu_share=0.6)
    waits = ("/usr/lib/python3.11/threading.py", "Condition.wait", 327)
    recording.sampled(2, BUSY, waits, **OTHER, cpu_share=0.6)

    found = named(recording.diagnose(), "lock-contention")

    assert value(found, "host.other_thread_share") == pytest.approx(0.8)
    assert value(found, "host.other_thread_cpu") == pytest.approx(0.6)
    # At most half of the host's three tenths; six tenths of that are expected.
    assert found.saving.low == 0.0
    assert found.saving.high == pytest.approx(0.15, abs=0.01)
    assert found.saving.mid == pytest.approx(0.09, abs=0.01)
    assert (found.where[0].file, found.where[0].line) == ("/u/train.py", 70)


@pytest.mark.parametrize("cpu", [0.02, None])
def test_a_thread_that_sleeps_or_whose_cpu_time_is_not_known_does_not(
    recording: Recording, cpu: float | None
) -> None:
    throttled(recording)
    recording.sampled(10, MAIN)
    recording.sampled(10, BUSY, **OTHER, cpu_share=cpu)  # time.sleep() has no frame of its own

    assert "lock-contention" not in {finding.id for finding in recording.diagnose().findings}


def test_samples_count_for_the_time_between_them() -> None:
    """A recording is denser at a run's begin: what is seen there is no more of the time for it."""
    rank = with_shares(rank_of([], "host"), host=0.9, compute=0.1)
    stacks = stacks_of((60, 1, [BUSY]), (40, 1, [MAIN]))
    dense, sparse = stacks[1].samples
    stacks[1].samples[:] = [
        msgspec.structs.replace(dense, interval_ns=50 * MS),
        msgspec.structs.replace(sparse, interval_ns=150 * MS),
    ]
    run = run_with(rank, stacks)

    first, second = hot_lines(run, 1, "rest")

    assert (first.line, second.line) == (MAIN[2], BUSY[2])
    assert first.share == pytest.approx(6 / 9)


@pytest.mark.parametrize("intervals", [(0, 0), (0, 50 * MS), (-MS, 50 * MS)])
def test_intervals_that_are_none_end_no_reading(intervals: tuple[int, int]) -> None:
    rank = with_shares(rank_of([], "host"), host=0.9, compute=0.1)
    stacks = stacks_of((60, 1, [BUSY]), (40, 1, [MAIN]))
    stacks[1].samples[:] = [
        msgspec.structs.replace(sample, interval_ns=interval)
        for sample, interval in zip(stacks[1].samples, intervals, strict=True)
    ]

    found = hot_lines(run_with(rank, stacks), 1, "rest")

    assert sum(line.share for line in found) == pytest.approx(1.0)
    assert all(line.share >= 0 for line in found)
    diagnosed(rank, stacks)


def test_of_arithmetic_lines_that_call_into_torch_are_named_first() -> None:
    rank = with_shares(rank_of([], "compute"), compute=0.9, host=0.1)
    module = ("/x/site-packages/torch/nn/modules/module.py", "_call_impl", 9)
    stacks = stacks_of((70, 1, [MAIN]), (30, 1, [BUSY, module]))

    found = hot_lines(run_with(rank, stacks), 1, "rest", torch_first=True)

    assert [line.line for line in found] == [BUSY[2], MAIN[2]]


def test_lines_are_those_of_the_thread_that_trains_and_no_thread_is_our_own() -> None:
    ours = ("/x/site-packages/boundscope/collectors/inside/manners.py", "UnseenThread._run", 3)
    rank = with_shares(rank_of([], "host"), host=0.9, compute=0.1)
    stacks = stacks_of((50, 1, [MAIN]), (90, AUTOGRAD, [BUSY]), (90, 78, [ours, BUSY]))

    found = named(diagnosed(rank, stacks), "python-in-loop")

    assert [place.line for place in found.where] == [MAIN[2]]
    others = other_stacks(run_with(rank, stacks), rank)
    assert {sample.thread for sample, _, _ in others} == {AUTOGRAD}


def test_idle_threads_do_not_hide_a_busy_one(recording: Recording) -> None:
    throttled(recording)
    recording.sampled(10, MAIN)
    recording.sampled(10, BUSY, **OTHER, cpu_share=0.9)
    for number in range(6):
        recording.sampled(10, BUSY, thread=200 + number, thread_name="pool", cpu_share=0.0)

    assert named(recording.diagnose(), "lock-contention")


# -- beside a device --------------------------------------------------------------------------


LOG = [MAIN, EMIT]
COMPILE = [MAIN, (f"{TORCH}/_dynamo/convert_frame.py", "_compile", 1)]
RECOMPUTE = [
    (f"{TORCH}/utils/checkpoint.py", "unpack_hook", 1),
    ("/u/train.py", "Block.forward", 8),
]


def gpu_rank(host: float) -> RankFeatures:
    """A rank whose device waits for the host for so much of the time, else calculates."""
    op = product("[512, 512], [512, 512]", 0.5, "s16816gemm_bf16")
    return with_shares(rank_of([op], "compute", device=True), host=host, compute=1 - host)


def savings(
    rank: RankFeatures, *seen: tuple[int, int, Sequence[FrameOf]]
) -> dict[str, tuple[float, float, float]]:
    found = diagnosed(rank, stacks_of(*seen)).findings
    return {f.id: (f.saving.low, f.saving.mid, f.saving.high) for f in found}


@pytest.mark.parametrize(
    ("id_", "frames"), [("log-in-loop", LOG), ("recompilation", COMPILE)], ids=["log", "compile"]
)
def test_what_the_devices_queue_hides_is_not_promised(id_: str, frames: list[FrameOf]) -> None:
    seen = [(40, 1, frames), (60, 1, [MAIN])]

    hidden = savings(gpu_rank(host=0.02), *seen)
    partly = savings(gpu_rank(host=0.3), *seen)
    exposed = savings(gpu_rank(host=0.9), *seen)

    assert id_ not in hidden
    # 0.4 of the host's time, 0.3 of waiting: these may be the same time or not.
    assert partly[id_] == pytest.approx((0.0, 0.3, 0.3))
    # 0.4 of the host's time, within two errors of 0.05; at least 0.3 of it while the device waits.
    assert exposed[id_] == pytest.approx((0.2, 0.4, 0.5), abs=0.005)


def test_stalls_that_no_window_shows_are_seen_in_the_steps() -> None:
    rank = gpu_rank(host=0.0)
    lengths = np.full(60, 100 * MS, np.int64)
    lengths[9::10] = 600 * MS  # every tenth step is long: 500 of 1,500 ms
    ends = np.cumsum(lengths)
    line = replace(rank.timeline, start_ns=ends - lengths, end_ns=ends)

    found = savings(replace(rank, timeline=line), (40, 1, LOG), (60, 1, [MAIN]))

    assert found["log-in-loop"][1] == pytest.approx(1 / 3, abs=0.001)


def test_threads_beyond_the_cores_cost_a_device_no_more_than_it_waits() -> None:
    delay = Saving(0.0, 0.2, 0.4)

    assert beside_device(gpu_rank(host=0.1), delay) == Saving(0.0, 0.1, 0.1)
    assert beside_device(rank_of([], "compute"), delay) == delay


def test_recomputing_in_autograds_own_thread_is_found() -> None:
    rank = gpu_rank(host=0.0)
    waiting = (100, 1, [MAIN, (f"{TORCH}/autograd/graph.py", "_engine_run_backward", 824)])

    found = diagnosed(rank, stacks_of(waiting, (30, AUTOGRAD, RECOMPUTE))).findings

    (again,) = [finding for finding in found if finding.id == "recomputation"]
    assert value(again, "host.sampled_share") == pytest.approx(0.3)
    assert (again.where[0].file, again.where[0].line) == ("/u/train.py", 8)
    # The host only launches: one more forward costs at most a quarter of the arithmetic.
    assert (again.saving.low, again.saving.mid, again.saving.high) == (0.0, 0.25, 0.25)


def test_threads_beside_a_training_on_the_cpu_do_not_recompute_for_it() -> None:
    rank = rank_of([product("[512, 512], [512, 512]", 0.5)], "compute")

    found = savings(rank, (100, 1, [MAIN]), (30, AUTOGRAD, RECOMPUTE))

    assert "recomputation" not in found
