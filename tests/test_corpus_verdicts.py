"""Verdicts on real GPU traces of public projects, against what their authors say of them.

The traces are not part of the project: BOUNDSCOPE_CORPUS names the folder that holds them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boundscope.profiler.diagnose import diagnose_path
from boundscope.profiler.diagnosis import Diagnosis, Finding

CORPUS = os.environ.get("BOUNDSCOPE_CORPUS", "")
pytestmark = pytest.mark.skipif(not CORPUS, reason="BOUNDSCOPE_CORPUS is not set")


TIMESFORMER = "facebook_timesformer-base-finetuned-k400__1016002.json.gz"


def diagnosis_of(name: str) -> Diagnosis:
    diagnosis = diagnose_path(Path(CORPUS) / name)
    assert sum(diagnosis.breakdown.values()) == pytest.approx(1.0, abs=1e-6)
    return diagnosis


def finding(diagnosis: Diagnosis, identifier: str) -> Finding:
    found = [f for f in diagnosis.findings if f.id == identifier]
    assert found, [f.id for f in diagnosis.findings]
    return found[0]


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("kineto_tb/resnet50_num_workers_0", "input"),
        ("kineto_tb/resnet50_num_workers_4", "compute"),
        ("gpupuzzlers/d2h_sync/addition_first_sum.json.gz", "host"),
        ("gpupuzzlers/d2h_sync/addition_second_sum.json.gz", "host"),
        ("gpupuzzlers/history/p2p_single_tensor.json.gz", "network"),
        ("hta/ns_resolution_trace", "compute"),
        ("hta/nccl_parser_config", "host"),
        ("param/dlrm_kineto", "host"),
        ("tracelens/h100/gaunernst_bert-small-uncased__1016001.json.gz", "host"),
        ("tracelens/mi300/resnet_act_checkpoint.json.gz", "network"),
        ("tracelens/perf_model/normalization", "host"),
        # 220 of 382 ms are video decoding and image processing before the model is called.
        (f"tracelens/h100/{TIMESFORMER}", "input"),
        # 8,192 tokens a call, as the shapes of its attention say: products of many rows.
        ("tracelens/inference/vllm_prefilldecode_piecewise", "compute"),
        # Embedding kernels, their sorting, concatenation and the optimizer; no matrix products.
        ("hta/trace_diff/control", "memory"),
        ("labelled_ops/conv_04_depthwise.json", "memory"),
        ("labelled_ops/gemm_04_memory_tall_skinny.json.gz", "memory"),
        ("labelled_ops/gemm_01_compute_few_tiles.json", "compute"),
        # Kernels whose names say nothing, on a device of no known roofs.
        ("hta/mtia_inference_trace", "unknown"),
        # Counters of kernels, but no kernel: what the ops' time was is open.
        ("hta/cupti_profiler", "unknown"),
        ("hta/triton_example", "unknown"),
    ],
)
def test_published_cases_get_their_bound(name: str, bound: str) -> None:
    assert diagnosis_of(name).verdict.bound == bound


def test_the_loader_share_is_that_of_the_source_project() -> None:
    # The project's own table: 33.37 % of the step for 0 workers, 0.84 % for 4.
    none, four = (diagnosis_of(f"kineto_tb/resnet50_num_workers_{n}") for n in (0, 4))

    assert finding(none, "loader-wait").saving.mid == pytest.approx(0.3337, abs=0.01)
    # With four only copies of the batch are left: 2.24 % of the time the device does nothing else,
    # 4.44 % it idles while the host stages them from pageable memory.
    left = {f.id: f.saving.mid for f in four.findings if f.bound == "input"}
    assert left == {"pageable-copies": pytest.approx(0.0668, abs=0.002)}


def test_one_copy_for_each_element_is_synchronisation_and_tiny_kernels_are_launches() -> None:
    first = diagnosis_of("gpupuzzlers/d2h_sync/addition_first_sum.json.gz")
    second = diagnosis_of("gpupuzzlers/d2h_sync/addition_second_sum.json.gz")

    assert first.findings[0].id == "synchronising-calls"
    assert first.findings[0].evidence[0].value >= 4_096
    assert second.findings[0].id == "launch-bound"


def test_a_synchronisation_for_each_copy_is_named_in_the_blocking_streams() -> None:
    blocking = diagnosis_of("gpupuzzlers/streams/blocking/blocking_streams.json.gz")

    assert finding(blocking, "synchronising-calls").evidence[0].value == pytest.approx(200, abs=2)


def test_small_kernels_that_drain_the_queue_are_launches() -> None:
    drained = diagnosis_of("gpupuzzlers/launch_queue/more_small_kernels.json.gz")

    assert finding(drained, "launch-bound").saving.mid == pytest.approx(1 - 1.823 / 3.175, abs=0.02)


def test_peer_copies_have_their_published_bandwidths() -> None:
    copies = diagnosis_of("gpupuzzlers/history/p2p_single_tensor.json.gz")

    evidence = finding(copies, "peer-copies").evidence[0]
    assert evidence.value == pytest.approx(7.5e9, rel=0.01)
    assert "92.9 GB/s" in evidence.text


def test_waiting_for_late_ranks_is_not_called_network() -> None:
    dlrm = diagnosis_of("param/dlrm_kineto")

    # 0.217 ms of true transfer in steps of 13 to 19 ms.
    assert dlrm.breakdown["network"] < 0.03
    assert dlrm.breakdown["imbalance"] > 0.2
    assert len(dlrm.ranks) == 8


def test_a_rank_of_many_says_that_the_others_are_missing() -> None:
    one_of_eight = diagnosis_of("tracelens/mi300/resnet_act_checkpoint.json.gz")

    assert "ranks-missing" in {warning.slug for warning in one_of_eight.warnings}
    assert one_of_eight.verdict.confidence < 0.5


@pytest.mark.parametrize(
    ("name", "waits"),
    [
        # The source project's tables: 31.2 of 148.7 ms a step against 0.01 of 121.0.
        ("resnet50_profiler_api_nw0_2021-01.pt.trace.json.gz", 31.232 / 148.736),
        ("resnet50_profiler_api_nw4_2021-01.pt.trace.json.gz", 0.0),
    ],
)
def test_the_older_formats_of_the_pair_are_told_apart(name: str, waits: float) -> None:
    diagnosis = diagnosis_of(f"kineto_tb_old/{name}")

    found = {f.id: f.saving.mid for f in diagnosis.findings}
    assert found.get("loader-wait", 0.0) == pytest.approx(waits, abs=0.01)


def test_start_up_is_told_apart_and_judged_by_nothing() -> None:
    # Making the context takes 30 s, loading libraries 12 s more; two forward passes 0.1 s.
    alexnet = diagnosis_of("hta/critical_path/alexnet")
    layers = diagnosis_of("tracelens/perf_model/normalization")

    assert "start-up-left-out" in {warning.slug for warning in alexnet.warnings}
    assert alexnet.run.step_ms is not None
    assert alexnet.run.step_ms.median < 200
    assert "start-up-left-out" in {warning.slug for warning in layers.warnings}
    assert layers.run.step_ms is not None
    assert layers.run.step_ms.p90 < 4  # the first "step" takes 1,175 ms


def test_a_pattern_taken_for_steps_is_said_to_be_one() -> None:
    layers = diagnosis_of("tracelens/inference/vllm_prefilldecode_piecewise")

    assert "steps-by-pattern" in {warning.slug for warning in layers.warnings}


def test_one_rank_of_eight_names_no_certain_cause_of_a_slow_transfer() -> None:
    # 17.6 MB in 8.7 to 9.2 ms, each time: 0.8 % of what the link carries. Whether bytes move
    # slowly or a rank is always late stands in the other ranks' traces.
    one = diagnosis_of("tracelens/mi300/resnet_act_checkpoint.json.gz")

    assert one.breakdown["network"] + one.breakdown["imbalance"] > 0.6
    assert one.verdict.confidence < 0.3


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("string_timestamps", 1.0, 1.0),
        ("unescaped_backslash", 0.95, 1.0),
        ("nan_inf_value", 0.95, 1.0),
        ("missing_footer_only", 0.9, 0.99),
        # what each of these does to the division of time: the weights of docs/trace-health.md
        ("no_correlation", 0.7, 0.85),
        ("no_profiler_steps", 0.7, 0.9),
        ("negative_durations", 0.6, 0.75),
        ("truncated_gzip_60pct", 0.4, 0.7),
        ("first_third_gpu_records_dropped", 0.4, 0.55),
        ("overlapping_same_stream", 0.4, 0.55),
    ],
)
def test_a_damaged_trace_has_its_verdict_with_as_much_confidence_as_is_left(
    name: str, least: float, most: float
) -> None:
    sound = diagnosis_of("hta/nccl_parser_config")
    damaged = diagnosis_of(f"derived_corrupt/{name}.json.gz")

    assert damaged.verdict.bound == sound.verdict.bound == "host"
    left = damaged.verdict.confidence / sound.verdict.confidence
    assert least - 0.01 <= left <= most + 0.01


def test_a_trace_without_its_frame_still_gets_its_verdict() -> None:
    # A bare list: neither the device's name nor the number of ranks is known any more.
    assert diagnosis_of("derived_corrupt/bare_list_no_top_level.json.gz").verdict.bound == "host"


def test_device_work_alone_is_no_ground_for_a_verdict() -> None:
    alone = diagnosis_of("derived_corrupt/gpu_only.json.gz")

    assert alone.verdict.bound == "unknown"
    assert alone.breakdown["other"] > 0.7
    assert "no-host-events" in {warning.slug for warning in alone.warnings}
