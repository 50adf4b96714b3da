"""Real traces of 2021 to now against figures that independent programs computed.

The traces are not part of the project: BOUNDSCOPE_CORPUS names the folder that has them, with its
`expected.csv`.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boundscope.profiler.errors import UnusableData
from boundscope.profiler.trace.device import device_time, device_work
from boundscope.profiler.trace.health import check
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.steps import find_steps
from boundscope.profiler.trace.table import Category

CORPUS = Path(os.environ.get("BOUNDSCOPE_CORPUS") or "no-corpus")
HERE = CORPUS.is_dir()
pytestmark = pytest.mark.skipif(not HERE, reason="BOUNDSCOPE_CORPUS names no folder of traces")


def expected() -> list[dict[str, str]]:
    if not HERE:
        return []
    with (CORPUS / "expected.csv").open() as file:
        return list(csv.DictReader(file))


def files() -> list[str]:
    return sorted(str(p.relative_to(CORPUS)) for p in CORPUS.rglob("*.json*")) if HERE else []


def plain(path: Path) -> list[dict[str, Any]]:
    """Read a sound trace the plain way, numbers as they are written."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt") as file:
        data = json.load(file, parse_float=Decimal)
    return list(data["traceEvents"] if isinstance(data, dict) else data)


EXPECTED = expected()
NS_TRACE = "hta/ns_resolution_trace"


@pytest.mark.parametrize("row", EXPECTED, ids=[row["file"] for row in EXPECTED])
def test_device_figures_agree_with_other_programs_within_a_thousandth(row: dict[str, str]) -> None:
    trace = read_trace(CORPUS / row["file"])

    found = device_time(trace)

    assert found is not None
    assert int(np.count_nonzero(device_work(trace))) == int(row["device_events"])
    figures = {
        "busy_ms": found.busy_ns,
        "window_ms": found.window_ns,
        "comm_ms": found.communication_ns,
        "copies_ms": found.copies_ns,
    }
    if row["file"].startswith(NS_TRACE):
        # Epoch us with decimals: the other programs' doubles round to 0.25 us, which makes copies
        # of 1 us overlap. The exact figure is held in the next test.
        del figures["copies_ms"]
    for name, value_ns in figures.items():
        # the table has three decimals
        assert value_ns / 1e6 == pytest.approx(float(row[name]), rel=1e-3, abs=6e-4), name
    if row["compute_over_comm_overlap_pct"]:
        share = 100 * found.overlap_ns / found.communication_ns
        assert share == pytest.approx(float(row["compute_over_comm_overlap_pct"]), abs=6e-3)


def test_times_with_more_digits_than_a_double_are_exact() -> None:
    path = next((CORPUS / NS_TRACE).glob("*.gz"))

    trace = read_trace(path)

    spans = [e for e in plain(path) if e["ph"] == "X"]
    starts = sorted(int(Decimal(e["ts"]) * 1000) for e in spans)
    assert trace.events.start_ns.tolist() == starts
    copies = sorted(
        (int(Decimal(e["ts"]) * 1000), int(Decimal(e["dur"]) * 1000))
        for e in spans
        if e["cat"] in ("gpu_memcpy", "gpu_memset")
    )
    covered, reach = 0, 0
    for start, duration in copies:
        covered += max(0, start + duration - max(reach, start))
        reach = max(reach, start + duration)
    assert device_time(trace).copies_ns == covered  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [f for f in files() if "derived_corrupt" not in f])
def test_no_event_is_lost_and_sound_traces_give_no_warning(name: str) -> None:
    path = CORPUS / name
    if "same_priority" in name:
        pytest.skip("its head is lost: see the test of it")

    trace = read_trace(path)

    spans = [e for e in plain(path) if e["ph"] == "X"]
    assert len(trace.events) == len(spans)
    whole_ns = float(sum(Decimal(e["dur"]) for e in spans) * 1000)
    # where a file has more than three decimals each duration is rounded to 1 ns
    assert int(trace.events.duration_ns.sum()) == pytest.approx(whole_ns, abs=0.5 * len(spans))
    assert trace.warnings == []
    allowed = {"coarse-time-stamps", "no-host-events"}
    if "cupti_profiler" in name:  # counters of ranges, and no kernels
        allowed.add("device-not-recorded")
    assert {w.slug for w in check(trace).warnings} <= allowed


UNDAMAGED = (157.500, 660.551, 46.876, 2.654)


@pytest.mark.parametrize(
    ("name", "slugs"),
    [
        ("bare_list_no_top_level", set()),
        ("missing_footer_only", {"missing-footer"}),
        ("nan_inf_value", {"not-finite-values"}),
        ("no_correlation", {"unlinked-work"}),
        ("no_profiler_steps", set()),
        ("string_timestamps", {"string-time-stamps"}),
        ("unescaped_backslash", {"bad-escapes"}),
        ("gpu_only", {"no-host-events"}),
    ],
)
def test_damage_that_takes_no_work_leaves_the_undamaged_figures(name: str, slugs: set[str]) -> None:
    trace = read_trace(CORPUS / f"derived_corrupt/{name}.json.gz")

    found = device_time(trace)
    assert found is not None
    figures = (found.busy_ns, found.window_ns, found.communication_ns, found.copies_ns)
    assert [f / 1e6 for f in figures] == pytest.approx(UNDAMAGED, rel=1e-3)
    assert {warning.slug for warning in check(trace).warnings} == slugs


@pytest.mark.parametrize(
    ("name", "slug", "count"),
    [
        ("first_third_gpu_records_dropped", "lost-device-records", 1220),
        ("overlapping_same_stream", "overlapping-work", None),
        ("negative_durations", "negative-durations", 54),
        ("truncated_gzip_60pct", "gzip-truncated", 1),
    ],
)
def test_damage_that_takes_work_is_named_and_costs_confidence(
    name: str, slug: str, count: int | None
) -> None:
    trace = read_trace(CORPUS / f"derived_corrupt/{name}.json.gz")

    health = check(trace)

    named = {warning.slug: warning.count for warning in health.warnings}
    assert slug in named
    assert count is None or named[slug] == count
    assert health.confidence <= 0.7


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(UnusableData) as caught:
        read_trace(CORPUS / "derived_corrupt/zero_bytes.json.gz")

    assert caught.value.slug == "trace-empty"


def test_a_trace_whose_head_is_lost_is_read_from_its_first_event() -> None:
    trace = read_trace(CORPUS / "gpupuzzlers/streams/same_priority_streams.json.gz")

    assert len(trace.events) == 1498
    assert [warning.slug for warning in trace.warnings] == ["damaged-header"]


@pytest.mark.parametrize(
    ("name", "source", "count"),
    [
        ("kineto_tb/resnet50_num_workers_0/worker0.1623143089861.pt.trace.json.gz", "profiler", 6),
        ("hta/trace_diff/control/control.json.gz", "profiler", 6),
        ("tracelens/mi300/resnet_act_checkpoint.json.gz", "profiler", 3),
        ("derived_corrupt/no_profiler_steps.json.gz", "optimizer", 2),
        ("derived_corrupt/gpu_only.json.gz", "pattern", 3),
        ("gpupuzzlers/d2h_sync/addition_first_sum.json.gz", "window", 1),
    ],
)
def test_steps_are_found_and_it_is_said_by_what(name: str, source: str, count: int) -> None:
    steps = find_steps(read_trace(CORPUS / name))

    assert (steps.source, len(steps)) == (source, count)


def test_a_compiled_triton_op_on_the_host_is_not_device_work() -> None:
    trace = read_trace(CORPUS / "tracelens/torch_compile_triton/trace.json.gz")

    ops = trace.events.category == Category.CPU_OP
    triton = ops & np.array([n.startswith("triton_") for n in trace.names])[trace.events.name]

    assert np.count_nonzero(triton) == 4
    assert not np.any(device_work(trace) & triton)


@pytest.mark.parametrize(
    "name",
    [
        "h100/facebook_timesformer-base-finetuned-k400__1016002",
        "h100/gaunernst_bert-small-uncased__1016001",
        "mi300/gaunernst_bert-small-uncased__1016001",
    ],
)
def test_busy_and_idle_time_are_those_of_the_published_tables(name: str) -> None:
    with (CORPUS / f"tracelens/{name}.reference/gpu_timeline.csv").open() as file:
        table = {row["type"]: float(row["time ms"]) for row in csv.DictReader(file)}

    found = device_time(read_trace(CORPUS / f"tracelens/{name}.json.gz"))

    assert found is not None
    assert found.busy_ns / 1e6 == pytest.approx(table["busy_time"], rel=1e-3)
    assert found.idle_ns / 1e6 == pytest.approx(table["idle_time"], rel=1e-3)
