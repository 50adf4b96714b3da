"""Real traces with one thing wrong: ops labelled by hand, and one trace with a defect each.

Figures follow from the ops' shapes and from the undamaged trace. The traces are not part of the
project: BOUNDSCOPE_CORPUS names the folder that holds them.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

from boundscope.profiler.diagnose import diagnose_path
from boundscope.profiler.diagnosis import Diagnosis
from boundscope.profiler.library import derive_path
from boundscope.profiler.tables.trace_kernels import KernelRow, kernel_rows
from boundscope.profiler.trace.health import check
from boundscope.profiler.trace.reader import read_trace

CORPUS = os.environ.get("BOUNDSCOPE_CORPUS", "")
pytestmark = pytest.mark.skipif(not CORPUS, reason="BOUNDSCOPE_CORPUS is not set")


@functools.cache
def diagnosis_of(name: str) -> Diagnosis:
    return diagnose_path(Path(CORPUS) / name)


# labelled_ops: the file's name says what is wrong with its op


MI300X_BYTES_PER_S = 5.3e12
"""AMD's data sheet."""


def rows_of(name: str) -> list[KernelRow]:
    (rank,) = derive_path(Path(CORPUS) / f"labelled_ops/{name}").ranks
    return kernel_rows(rank.device[0].kernels)


@pytest.mark.parametrize(
    ("name", "limiter"),
    [
        ("conv_04_depthwise.json", "bandwidth"),
        ("conv_05_pointwise_1x1.json", "arithmetic"),
        ("elem_01_add_poor_bw.json", "bandwidth"),
        ("gemm_01_compute_few_tiles.json", "arithmetic"),
        ("gemm_04_memory_tall_skinny.json.gz", "bandwidth"),
        ("sdpa_03_short_seq_overhead.json.gz", "bandwidth"),
    ],
)
def test_labelled_ops_have_their_limit(name: str, limiter: str) -> None:
    assert rows_of(name)[0].limiter == limiter


@pytest.mark.parametrize(
    ("name", "bytes_a_call"),
    [
        ("elem_01_add_poor_bw.json", 3 * 8192 * 8192 * 4),  # two operands and the sum, FP32
        ("sdpa_03_short_seq_overhead.json.gz", 4 * 16 * 32 * 128 * 128 * 2),  # q, k, v and out
    ],
)
def test_ops_that_are_slow_for_what_they_move_are_said_to_be_far_below_the_roof(
    name: str, bytes_a_call: int
) -> None:
    (row,) = rows_of(name)

    share = row.calls * bytes_a_call / (row.total_ms * 1e-3) / MI300X_BYTES_PER_S
    assert row.roof_share == pytest.approx(share, rel=0.01)
    assert row.roof_share is not None
    assert row.roof_share < 0.4


def test_a_pointwise_convolution_counts_the_flop_of_the_product_that_it_is() -> None:
    (found,) = diagnosis_of("labelled_ops/conv_05_pointwise_1x1.json").findings

    flop = 2 * 16 * 14 * 14 * 1024 * 2048
    (rate,) = [e.value for e in found.evidence if e.quantity == "compute.flop_rate"]
    assert rate == pytest.approx(flop / 0.6e-3, rel=1e-3)


def test_an_op_of_unknown_cost_is_judged_by_its_name_and_that_with_little_confidence() -> None:
    found = diagnosis_of("labelled_ops/moe_03_top1_sparse.json")

    assert not rows_of("moe_03_top1_sparse.json")[0].exact
    assert found.verdict.confidence < 0.5


# derived_corrupt: one published defect each in hta/nccl_parser_config

UNDAMAGED = "hta/nccl_parser_config"
HARMLESS = (
    "bare_list_no_top_level",
    "missing_footer_only",
    "nan_inf_value",
    "string_timestamps",
    "unescaped_backslash",
)
TAKES_WORK = (
    "first_third_gpu_records_dropped",
    "negative_durations",
    "overlapping_same_stream",
    "truncated_gzip_60pct",
)


@pytest.mark.parametrize("name", HARMLESS)
def test_damage_that_takes_nothing_leaves_the_division_of_time(name: str) -> None:
    damaged = diagnosis_of(f"derived_corrupt/{name}.json.gz")

    assert damaged.breakdown == pytest.approx(diagnosis_of(UNDAMAGED).breakdown, abs=0.02)


@pytest.mark.parametrize("name", [*HARMLESS, *TAKES_WORK])
def test_whatever_is_wrong_with_a_trace_stands_in_its_diagnosis(name: str) -> None:
    trace = read_trace(Path(CORPUS) / f"derived_corrupt/{name}.json.gz")
    slugs = {warning.slug for warning in check(trace).warnings}

    found = diagnosis_of(f"derived_corrupt/{name}.json.gz")

    assert slugs <= {warning.slug for warning in found.warnings}
    assert slugs or name in ("bare_list_no_top_level",)


def test_steps_that_nothing_marks_are_found_by_the_optimizer() -> None:
    found = diagnosis_of("derived_corrupt/no_profiler_steps.json.gz")

    assert found.run.steps == 2
    assert found.breakdown == pytest.approx(diagnosis_of(UNDAMAGED).breakdown, abs=0.02)


def test_work_without_links_is_divided_all_the_same() -> None:
    found = diagnosis_of("derived_corrupt/no_correlation.json.gz")

    assert found.breakdown == pytest.approx(diagnosis_of(UNDAMAGED).breakdown, abs=0.02)
