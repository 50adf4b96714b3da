"""Memory that is handed out anew: whose time it is taken from, and where its count comes from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from boundscope.collectors.records import Window
from boundscope.profiler.features import RankFeatures
from boundscope.profiler.fresh_pages import pages_per_step, with_fresh_pages
from boundscope.profiler.machine.roofs import Roofs
from boundscope.profiler.run.load import MetricTable, Run
from boundscope.profiler.timeline import WORK_PHASES
from boundscope.profiler.trace.host import HostWindow, PhaseTime

from .rule_material import MS, S, diagnosed, elementwise, named, product, rank_of, run_with, value
from .rule_material import with_shares as shared

ROOFS = Roofs(flops={"fp32": 1e11}, bandwidth={"dram_copy": 1e10}, fresh_page_ns=1_000.0)
RANK, JOB = "rank.0.minor_faults_per_s", "job.minor_faults_per_s"
LOADER = "rank.0.workers_cpu_cores"


@pytest.fixture
def rank() -> RankFeatures:
    """Steps of 100 ms. Of the ops the chain takes 20 ms longer than its roof, the product 60."""
    chain = replace(elementwise("aten::mul", 30), attainable_ns=10.0 * MS)
    multiplied = replace(
        product("[512, 512], [512, 512]", 0.0),
        self_ns=70.0 * MS,
        work_ns=70.0 * MS,
        attainable_ns=10.0 * MS,
    )
    given = shared(rank_of([chain, multiplied], "memory", roofs=ROOFS), memory=0.3, compute=0.7)
    return windowed(given, faults=-1)


def recorded(rank: RankFeatures, **per_s: float) -> Run:
    """A run whose metrics stay the same in each of its six seconds."""
    times = np.arange(6, dtype=np.int64) * S + S // 2
    series = {name: (times, np.full(6, value)) for name, value in per_s.items()}
    run = run_with(rank)
    run.__dict__["metrics"] = [MetricTable("host", "h", series)]
    return run


def windowed(rank: RankFeatures, faults: int, long_ms: int = 100) -> RankFeatures:
    """The rank with a window of which 100 ms of forward pass were divided, 30 of them `memory`;
    -1: its faults were not counted."""
    window = Window(0, 0, long_ms * MS, 10, 1, minor_faults=faults)
    phases = {phase: PhaseTime() for phase in WORK_PHASES}
    phases["forward"] = PhaseTime(100.0 * MS, slots={"memory": 30.0 * MS, "compute": 70.0 * MS})
    told = HostWindow(phases, rank.ops, [], 0, long_ms * MS)
    return replace(rank, windows=[(window, told)])


def test_the_pages_time_is_taken_from_ops_by_their_traffic_down_to_their_roof(
    rank: RankFeatures,
) -> None:
    # 40,000 pages a step, a microsecond each. The chain moves twice as much, but has only 20 ms to
    # give; the product gives the rest.
    run = recorded(rank, **{RANK: 400_000.0})

    found = with_fresh_pages(run, rank)

    assert found.fresh.pages == pytest.approx(40_000)
    assert found.fresh.share == pytest.approx(0.4)
    assert [op.work_ns / MS for op in found.ops] == pytest.approx([10, 50])
    assert [op.self_ns / MS for op in found.ops] == pytest.approx([30, 70])
    assert found.shares["compute"] == pytest.approx(0.5)
    assert found.shares["memory"] == pytest.approx(0.5)  # 0.4 of it for the pages
    assert found.block_shares.sum(axis=1) == pytest.approx(np.ones(10))


def test_no_more_is_taken_than_ops_take_above_their_roof(rank: RankFeatures) -> None:
    found = with_fresh_pages(recorded(rank, **{RANK: 4_000_000.0}), rank)

    assert [op.work_ns / MS for op in found.ops] == pytest.approx([10, 10])


def test_ops_that_write_in_place_lose_nothing(rank: RankFeatures) -> None:
    chain, multiplied = rank.ops
    given = replace(rank, ops=[replace(chain, name="aten::mul_"), multiplied])

    found = with_fresh_pages(recorded(given, **{RANK: 400_000.0}), given)

    assert [op.work_ns / MS for op in found.ops] == pytest.approx([30, 30])


def test_pages_in_the_windows_alone_are_no_part_of_a_usual_step(rank: RankFeatures) -> None:
    # All that the ops take above their roofs in the window; none in the other steps.
    given = windowed(rank, 80_000)

    found = with_fresh_pages(recorded(given, **{RANK: 100.0}), given)

    assert [op.work_ns / MS for op in found.ops] == pytest.approx([10, 10])
    assert found.shares["memory"] == pytest.approx(0.5, abs=0.001)
    assert found.shares["compute"] == pytest.approx(0.5, abs=0.001)
    assert found.window_ms == pytest.approx(20)
    assert found.fresh.apart_ns == pytest.approx(80 * MS, rel=0.001)
    assert not {f.id for f in diagnosed(found).findings} & {"fresh-pages"}


def test_what_is_taken_from_a_phase_leaves_the_others_as_they_are(rank: RankFeatures) -> None:
    # Half of each step is the forward pass, half the backward. The window's pages are all in its
    # forward pass, where they are most of what it took there.
    line = rank.timeline
    half = line.phase_ns["forward"] / 2
    line = replace(line, phase_ns={**line.phase_ns, "forward": half, "backward": half})
    window, told = windowed(rank, 20_000).windows[0]
    forward = PhaseTime(30.0 * MS, slots={"memory": 25.0 * MS, "host": 5.0 * MS})
    backward = PhaseTime(70.0 * MS, slots={"compute": 35.0 * MS, "host": 35.0 * MS})
    told = replace(told, phases={**told.phases, "forward": forward, "backward": backward})
    chain = [replace(rank.ops[0], work_ns=25.0 * MS, attainable_ns=5.0 * MS)]
    given = replace(rank, timeline=line, windows=[(window, told)], ops=chain)

    found = with_fresh_pages(recorded(given, **{RANK: 100.0}), given)

    # Then: of the forward pass 5 ms are memory and 5 ms host, as much as of the backward pass.
    assert found.shares["memory"] == pytest.approx(0.25, abs=0.001)
    assert found.shares["compute"] == pytest.approx(0.25, abs=0.001)
    assert found.shares["host"] == pytest.approx(0.5, abs=0.001)


def test_a_run_too_short_for_readings_is_left_as_it_is(rank: RankFeatures) -> None:
    given = windowed(rank, 80_000)

    assert with_fresh_pages(recorded(given), given) is given


def test_of_a_window_the_part_that_was_divided_counts(rank: RankFeatures) -> None:
    # Half of the window's time is in steps that are like the others: half of its pages count.
    given = windowed(rank, 80_000, long_ms=200)

    found = with_fresh_pages(recorded(given, **{RANK: 400_000.0}), given)

    assert found.window_ms == pytest.approx(60)
    assert found.fresh.share == pytest.approx(0.4)
    assert found.fresh.apart_ns == pytest.approx(0.0)


def test_pages_of_usual_steps_count_also_where_the_windows_had_none(rank: RankFeatures) -> None:
    given = windowed(rank, 0)

    found = with_fresh_pages(recorded(given, **{RANK: 500_000.0}), given)

    assert found.ops == rank.ops
    assert found.fresh.share == pytest.approx(0.5)
    assert found.shares["memory"] == pytest.approx(0.5 + 0.3 / 2)
    assert found.shares["compute"] == pytest.approx(0.7 / 2)


def test_ops_on_blocks_that_the_library_keeps_lose_nothing(rank: RankFeatures) -> None:
    small = replace(rank, ops=[replace(op, bytes=100_000.0 * op.calls) for op in rank.ops])

    assert with_fresh_pages(recorded(small, **{RANK: 400_000.0}), small) is small


@pytest.mark.parametrize(
    ("change", "per_s"),
    [
        ({}, 20_000.0),  # 2 ms a step: less than is claimed
        ({"roofs": None}, 400_000.0),
    ],
    ids=["few", "no-roofs"],
)
def test_what_is_small_or_of_unknown_cost_changes_nothing(
    rank: RankFeatures, change: dict[str, None], per_s: float
) -> None:
    given = replace(rank, **change)  # type: ignore[arg-type]

    assert with_fresh_pages(recorded(given, **{RANK: per_s}), given) is given


def test_faults_of_the_whole_job_count_where_one_process_is_the_job(rank: RankFeatures) -> None:
    alone = recorded(rank, **{JOB: 400_000.0})
    beside_workers = recorded(rank, **{JOB: 400_000.0, LOADER: 0.5})
    both = recorded(rank, **{JOB: 400_000.0, RANK: 100_000.0, LOADER: 0.5})

    assert pages_per_step(alone, rank) == pytest.approx(40_000)
    assert pages_per_step(beside_workers, rank) is None
    assert pages_per_step(both, rank) == pytest.approx(10_000)


def test_faults_while_the_loop_waits_or_writes_are_not_the_ops(rank: RankFeatures) -> None:
    waiting = shared(rank, memory=0.2, compute=0.2, input=0.4, storage=0.2)

    pages = pages_per_step(recorded(waiting, **{RANK: 400_000.0}), waiting)

    assert pages == pytest.approx(0.4 * 40_000)


def test_the_finding_promises_the_pages_alone_and_others_promise_the_rest(
    rank: RankFeatures,
) -> None:
    found = with_fresh_pages(recorded(rank, **{RANK: 400_000.0}), rank)

    diagnosis = diagnosed(found)

    pages = named(diagnosis, "fresh-pages")
    assert diagnosis.verdict.bound in ("memory", "balanced")
    assert pages.bound == "memory"
    assert pages.saving.mid == pytest.approx(0.4, abs=1e-3)
    assert value(pages, "memory.fresh_pages") == pytest.approx(40_000)
    assert value(pages, "memory.fresh_page_ms") == pytest.approx(40, rel=1e-3)
    assert pages.where[0].op in ("aten::mm", "aten::mul")  # 20 ms were taken from each
    assert "MALLOC_" in pages.fixes[0].snippet
    traffic = [f.saving.mid for f in diagnosis.findings if f.bound == "memory"]
    assert sum(traffic) <= 0.5
