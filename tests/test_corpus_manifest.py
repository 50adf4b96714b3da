"""What the MANIFEST of the real traces says of each, where no other test holds it.

Figures are those of the traces' authors, or of programs that share no code with this one. The
traces are not part of the project: BOUNDSCOPE_CORPUS names the folder that holds them.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from boundscope.profiler.diagnose import diagnose_path
from boundscope.profiler.diagnosis import Diagnosis, Finding
from boundscope.profiler.features import RankInput
from boundscope.profiler.tables.trace_steps import StepParts, step_parts
from boundscope.profiler.trace.collectives import (
    arrival_skews,
    clock_offsets,
    last_arrivals,
    paired,
    transfers_of,
)
from boundscope.profiler.trace.device import (
    DeviceTime,
    communication_work,
    device_time,
    device_work,
)
from boundscope.profiler.trace.device_division import divide_device
from boundscope.profiler.trace.idle import spans_of
from boundscope.profiler.trace.intervals import intersect, subtract, total
from boundscope.profiler.trace.kernels import launching_calls
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.steps import find_steps
from boundscope.profiler.trace.table import Category, Trace
from boundscope.profiler.trace_run import load_traces, rank_of, trace_files

CORPUS = os.environ.get("BOUNDSCOPE_CORPUS", "")
pytestmark = pytest.mark.skipif(not CORPUS, reason="BOUNDSCOPE_CORPUS is not set")

US = 1_000


@functools.cache
def diagnosis_of(name: str) -> Diagnosis:
    return diagnose_path(Path(CORPUS) / name)


def trace_of(name: str) -> Trace:
    path = Path(CORPUS) / name
    return read_trace(path if path.is_file() else trace_files(path)[0])


def device_of(trace: Trace) -> DeviceTime:
    device = device_time(trace)
    assert device is not None
    return device


def finding(diagnosis: Diagnosis, identifier: str) -> Finding:
    found = [f for f in diagnosis.findings if f.id == identifier]
    assert found, [f.id for f in diagnosis.findings]
    return found[0]


def value_of(found: Finding, quantity: str) -> float:
    (value,) = [e.value for e in found.evidence if e.quantity == quantity]
    return value


# kineto_tb: the source project's own tables, µs


NW0, NW4 = (f"kineto_tb/resnet50_num_workers_{n}" for n in (0, 4))


def parts_of(name: str) -> StepParts:
    parts = step_parts(trace_of(name))
    assert parts is not None
    return parts


def test_each_step_has_the_length_loader_wait_and_kernels_of_the_published_table() -> None:
    parts = parts_of(NW0)

    assert parts.number.tolist() == [5, 6, 7, 8, 9, 10]
    for name, table in (
        ("total", [187948, 175153, 179733, 174564, 182172, 165983]),
        ("loader", [69317, 57669, 61257, 56453, 62690, 48185]),
        ("computing kernels", [98598, 98570, 98596, 98623, 98504, 98641]),
    ):
        found = parts.duration_ms if name == "total" else parts.parts_ms[name]
        assert found * 1e3 == pytest.approx(table, abs=1), name


@pytest.mark.parametrize(
    ("name", "table"),
    [
        # step, kernel, memcpy and memset, loader, runtime, CPU exec and other
        (NW0, (177592, 98589, 1915 + 89, 59262, 2908, 13674 + 1156)),
        (NW4, (141068, 99145, 3160 + 98, 1186, 10564, 22665 + 4251)),
    ],
)
def test_the_mean_step_divides_as_in_the_published_table(name: str, table: tuple[int, ...]) -> None:
    parts = parts_of(name)

    means = {part: float(values.mean()) * 1e3 for part, values in parts.parts_ms.items()}
    named = [means.pop(part) for part in ("computing kernels", "exposed copies", "loader")]
    calls = sum(means.pop(part, 0.0) for part in ("synchronisation", "copy-in", "copy", "launch"))
    step = float(parts.duration_ms.mean()) * 1e3
    assert [step, *named, calls, sum(means.values())] == pytest.approx(table, abs=2)


def test_the_first_format_of_all_tells_of_the_loader_too() -> None:
    first = diagnosis_of("kineto_tb_old/resnet50_nw0_first_2021-01.pt.trace.json.gz")

    # Its six ranges of the loader take 313.37 ms; the device works on for a little of each.
    wait_ms = value_of(finding(first, "loader-wait"), "input.wait_ms")
    assert 0.8 * 313.37 / 6 < wait_ms < 313.37 / 6


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        # Four workers took 20.6 % off the step, of the 33.4 % that the loop waited: the loader's
        # processes cost the loop's own calls and ops time (17.7 to 37.5 ms).
        (NW0, 177592, 141068),
        ("kineto_tb_old/resnet50_profiler_api_nw0_2021-01.pt.trace.json.gz", 148736, 120976),
    ],
)
def test_the_gain_of_four_workers_lies_within_what_was_promised(
    name: str, before: int, after: int
) -> None:
    saving = finding(diagnosis_of(name), "loader-wait").saving

    assert saving.low <= 1 - after / before <= saving.high


# param/dlrm_kineto: eight ranks of one step


@pytest.fixture(scope="module")
def dlrm() -> list[RankInput]:
    return load_traces(trace_files(Path(CORPUS) / "param/dlrm_kineto"))[1]


def test_eight_collectives_are_paired_and_their_transfers_are_the_shortest_kernels(
    dlrm: list[RankInput],
) -> None:
    groups = paired({item.data.rank: item.collectives for item in dlrm})

    assert [len(group) for group in groups] == [8] * 8
    shortest = [min(c.end_ns - c.start_ns for c in group.values()) / US for group in groups]
    assert shortest == [10, 8, 7, 7, 86, 10, 20, 69]
    ends = [[c.end_ns for c in group.values()] for group in groups]
    assert all(1 <= (max(end) - min(end)) / US <= 7 for end in ends)


def test_ranks_arrive_as_far_apart_as_their_time_stamps_say(dlrm: list[RankInput]) -> None:
    by_rank = {item.data.rank: item.collectives for item in dlrm}
    offsets = clock_offsets(by_rank)

    skews = [skew / US for skew in arrival_skews(by_rank, offsets)]

    # One host: what the clocks are corrected by is the precision of the stamps.
    assert max(map(abs, offsets.values())) <= 2 * US
    assert skews == pytest.approx([7624, 1101, 168, 125, 223, 534, 584, 885], abs=2)
    assert last_arrivals(by_rank, offsets)[7] == 5


def test_communication_of_the_early_ranks_is_97_to_98_percent_waiting(
    dlrm: list[RankInput],
) -> None:
    by_rank = {item.data.rank: item.collectives for item in dlrm}
    moving = transfers_of(by_rank, clock_offsets(by_rank))

    for item in dlrm:
        device = device_of(item.traces[0][1])
        waiting = 1 - total(moving[item.data.rank]) / device.communication_ns
        assert total(moving[item.data.rank]) == pytest.approx(217 * US, abs=7 * US)
        if device.communication_ns > 0.85 * device.busy_ns:
            assert 0.96 <= waiting <= 0.985


def test_the_wait_at_the_first_collective_may_come_from_profilers_that_started_apart() -> None:
    (warning,) = [
        w for w in diagnosis_of("param/dlrm_kineto").warnings if w.slug == "ranks-started-apart"
    ]

    assert warning.text.startswith("7.62 of the 11.2 ms")


# gpupuzzlers: causes published by their author


def test_every_element_of_the_first_sum_is_copied_by_itself() -> None:
    trace = trace_of("gpupuzzlers/d2h_sync/addition_first_sum.json.gz")
    copies = trace.events.category == Category.MEMCPY

    assert np.count_nonzero(copies) == 4096
    assert np.unique(trace.events.bytes[copies]).tolist() == [4]


def test_the_second_sum_copies_nothing_and_waits_20_us_between_kernels() -> None:
    trace = trace_of("gpupuzzlers/d2h_sync/addition_second_sum.json.gz")
    device = device_of(trace)

    assert not np.any(trace.events.category == Category.MEMCPY)
    starts, ends = device.busy
    assert float(np.median(starts[1:] - ends[:-1])) == pytest.approx(20 * US, rel=0.1)


@pytest.mark.parametrize(
    ("name", "hidden_us", "busy_us"),
    [
        ("blocking/blocking_streams", 36341, 220676),
        ("non_blocking/non_blocking_streams", 58491, 181110),
    ],
)
def test_copies_overlap_compute_as_published(name: str, hidden_us: int, busy_us: int) -> None:
    device = device_of(trace_of(f"gpupuzzlers/streams/{name}.json.gz"))

    assert total(intersect(device.copies, device.compute)) == hidden_us * US
    assert device.busy_ns == busy_us * US


def test_the_blocking_streams_synchronise_for_each_copy_and_the_others_do_not() -> None:
    blocking = diagnosis_of("gpupuzzlers/streams/blocking/blocking_streams.json.gz")
    other = diagnosis_of("gpupuzzlers/streams/non_blocking/non_blocking_streams.json.gz")

    found = finding(blocking, "synchronising-calls")
    # Without the synchronisations the same work takes 195.1 instead of 272.4 ms.
    assert found.saving.low <= 1 - 195.095 / 272.365 <= found.saving.high
    assert "synchronising-calls" not in {f.id for f in other.findings}


def test_each_link_has_its_published_bandwidth() -> None:
    trace = trace_of("gpupuzzlers/history/p2p_single_tensor.json.gz")
    divided = divide_device(trace, device_of(trace).window, None)

    assert divided is not None
    rates = sorted((copy.bandwidth / 1e9 for copy in divided.peer_copies), reverse=True)
    assert rates == pytest.approx([92.9, 46.8, 7.5], abs=0.05)
    assert [copy.bytes for copy in divided.peer_copies] == pytest.approx([400e6] * 3, rel=0.05)


# hta


def test_overlap_without_the_last_step_is_that_of_the_other_program() -> None:
    trace = trace_of("hta/trace_diff/control")
    steps = find_steps(trace)

    device = device_time(trace, (int(steps.start_ns[0]), int(steps.end_ns[-2])))

    assert device is not None
    assert 100 * device.overlap_ns / device.communication_ns == pytest.approx(47.03, abs=0.006)


@pytest.mark.parametrize(
    ("name", "rank", "world"),
    [
        ("hta/trace_diff/control", 3, 8),
        ("hta/nccl_parser_config", 0, 2),
        ("hta/cpu_only", 34, 300),
        ("tracelens/mi300/resnet_act_checkpoint.json.gz", 0, 8),
    ],
)
def test_traces_say_whose_they_are(name: str, rank: int, world: int) -> None:
    path = Path(CORPUS) / name
    path = path if path.is_file() else trace_files(path)[0]

    assert rank_of(read_trace(path), path, -1) == (rank, world)


def test_the_steps_of_the_nanosecond_trace_are_five() -> None:
    steps = find_steps(trace_of("hta/ns_resolution_trace"))

    assert (steps.source, len(steps)) == ("profiler", 5)


def test_all_21_collectives_of_the_nccl_trace_are_found() -> None:
    assert np.count_nonzero(communication_work(trace_of("hta/nccl_parser_config"))) == 21


@pytest.mark.parametrize("name", ["hta/cpu_only", "hta/cupti_profiler"])
def test_a_trace_without_kernels_has_no_device_figures(name: str) -> None:
    assert device_time(trace_of(name)) is None


def test_a_gloo_rank_of_300_is_judged_by_its_host_and_the_others_are_missed() -> None:
    gloo = diagnosis_of("hta/cpu_only")

    assert gloo.run.world_size == 300
    assert "ranks-missing" in {warning.slug for warning in gloo.warnings}
    assert gloo.verdict.confidence < 0.5


def test_an_accelerator_whose_trace_has_no_kernel_category_has_device_work() -> None:
    trace = trace_of("hta/mtia_inference_trace")
    with gzip.open(trace.path, "rt") as file:
        kinds = {event.get("cat") for event in json.load(file)["traceEvents"]}

    assert "kernel" not in kinds
    assert np.count_nonzero(trace.events.category == Category.KERNEL) > 0
    assert device_of(trace).busy_ns > 0


# tracelens: tables of the source project, ms


def test_the_timesformer_divides_as_published() -> None:
    name = "tracelens/h100/facebook_timesformer-base-finetuned-k400__1016002.json.gz"
    trace = trace_of(name)
    device = device_of(trace)

    # The project counts a memset, 0.11 ms of them, as computing; here it is a copy.
    computing = spans_of(trace, trace.events.of(Category.KERNEL, Category.MEMSET))
    copies = spans_of(trace, trace.events.of(Category.MEMCPY))
    figures = (total(computing), total(subtract(copies, computing)), device.idle_ns)
    assert [figure / 1e6 for figure in figures] == pytest.approx([154.97, 3.46, 1.56], abs=0.006)
    assert total(computing) - device.compute_ns == pytest.approx(0.1134e6, abs=0.5e3)
    assert device.window_ns / 1e6 == pytest.approx(159.99, abs=0.006)


def test_a_small_model_leaves_the_device_idle_and_that_is_launch() -> None:
    name = "tracelens/h100/gaunernst_bert-small-uncased__1016001.json.gz"
    device = device_of(trace_of(name))

    assert device.compute_ns / 1e6 == pytest.approx(0.307, abs=6e-4)
    assert device.idle_ns / 1e6 == pytest.approx(3.598, abs=6e-4)
    assert "launch-bound" in {f.id for f in diagnosis_of(name).findings}


def test_kernels_that_no_launch_is_recorded_of_count() -> None:
    trace = trace_of("tracelens/mi300/Qwen_Qwen1.5-0.5B-Chat__1016005.json.gz")
    kernels = np.flatnonzero(trace.events.category == Category.KERNEL)
    unlinked = kernels[launching_calls(trace, kernels) < 0]
    device = device_of(trace)

    assert len(unlinked) > 0
    # 43.063 ms is what the union over all of them gives, by two other programs.
    assert device.busy_ns / 1e6 == pytest.approx(43.063, rel=1e-3)


def test_exposed_communication_dominates_the_checkpointed_resnet() -> None:
    name = "tracelens/mi300/resnet_act_checkpoint.json.gz"
    trace = trace_of(name)
    device = device_of(trace)
    exposed = total(device.exposed_communication)

    assert len(find_steps(trace)) == 3
    assert device.communication_ns / 1e6 == pytest.approx(71.5, abs=0.05)
    assert exposed > device.window_ns / 2
    found = diagnosis_of(name)
    assert found.breakdown["network"] + found.breakdown["imbalance"] == pytest.approx(
        exposed / device.window_ns, abs=0.02
    )


def test_normalisation_layers_leave_the_device_idle() -> None:
    device = device_of(trace_of("tracelens/perf_model/normalization"))

    assert device.idle_ns / device.window_ns == pytest.approx(0.999, abs=6e-4)


def test_every_kernel_of_a_graphs_replay_has_its_launch() -> None:
    trace = trace_of("tracelens/inference/vllm_prefilldecode_piecewise")
    work = np.flatnonzero(device_work(trace))

    calls = launching_calls(trace, work)

    assert np.all(calls >= 0)
    launches = [trace.names[name] for name in trace.events.name[calls].tolist()]
    assert launches.count("hipGraphLaunch") > len(work) / 2


def test_a_device_without_ops_on_the_host_has_figures_and_its_kernels_slots() -> None:
    trace = trace_of("tracelens/mi210/gpu_only_trace")
    found = diagnosis_of("tracelens/mi210/gpu_only_trace")

    assert not np.any(trace.events.category == Category.CPU_OP)
    working = found.breakdown["compute"] + found.breakdown["memory"]
    assert working == pytest.approx(5.343 / 5.980, abs=1e-3)
