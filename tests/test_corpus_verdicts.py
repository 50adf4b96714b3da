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
    ],
)
def test_published_cases_get_their_bound(name: str, bound: str) -> None:
    assert diagnosis_of(name).verdict.bound == bound


def test_the_loader_share_is_that_of_the_source_project() -> None:
    # The project's own table: 33.37 % of the step for 0 workers, 0.84 % for 4.
    none, four = (diagnosis_of(f"kineto_tb/resnet50_num_workers_{n}") for n in (0, 4))

    assert finding(none, "loader-wait").saving.mid == pytest.approx(0.3337, abs=0.01)
    assert not [f for f in four.findings if f.bound == "input"]


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
