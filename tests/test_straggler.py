"""Who the others wait for, and how much of the link the collectives use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from boundscope.collectors.records import Frame, Stacks
from boundscope.profiler.features import Features
from boundscope.profiler.hot_lines import hot_lines
from boundscope.profiler.machine.roofs import Roofs
from boundscope.profiler.run.load import MetricTable, Run, StackTable
from boundscope.profiler.tables.flame import HOST, flame_tree
from boundscope.profiler.tables.ops import OpRow, slot_shares
from boundscope.profiler.tables.steps import typical_step
from boundscope.profiler.tables.straggler import LinkRow, Straggler, link_row, straggler
from boundscope.profiler.tables.trace_collectives import CollectiveUse
from boundscope.profiler.trace.device_division import DeviceWindow

from .test_dashboard_tables import features_of, line_of, rank_data, run_of


def job(ranks: int, late: dict[int, int] | None = None, **waits: float) -> Features:
    """A job of so many ranks; `r1=0.4` says that rank 1 waits for 0.4 of a step."""
    made = features_of([[] for _ in range(ranks)])
    found = [
        replace(rank, shares={**rank.shares, "network": waits.get(f"r{rank.rank}", 0.0)})
        for rank in made.ranks
    ]
    return replace(made, ranks=found, late=late or {})


def test_the_rank_that_is_last_far_more_often_than_by_chance_is_the_straggler() -> None:
    # 60 of 100 among 4 ranks, where a fair draw gives 25, and up to 38 within three errors
    assert straggler(job(4, {0: 14, 1: 60, 2: 13, 3: 13})) == Straggler(1, "arrivals", 0.6)


def test_ranks_that_are_last_in_turn_are_no_stragglers() -> None:
    assert straggler(job(4, {0: 22, 1: 26, 2: 24, 3: 28})) is None
    assert straggler(job(2, {0: 2, 1: 4})) is None


def test_without_common_collectives_it_is_the_rank_that_waits_least() -> None:
    found = straggler(job(3, r0=0.42, r1=0.05, r2=0.38))

    assert found == Straggler(1, "waits", pytest.approx(0.35))
    assert straggler(job(3, r0=0.40, r1=0.38, r2=0.38)) is None


def test_without_waits_it_is_the_rank_of_the_longest_steps() -> None:
    # Given: three ranks with steps of 10, 10 and 13 ms
    features = job(3)
    slow = replace(features.ranks[2], timeline=line_of([13] * 8))

    # When
    found = straggler(replace(features, ranks=[*features.ranks[:2], slow]))

    # Then
    assert found is not None
    assert (found.rank, found.by) == (2, "steps")
    assert found.share == pytest.approx(0.3)


def test_one_rank_has_no_straggler() -> None:
    assert straggler(job(1, {0: 9})) is None


def use(busbw: float | None) -> CollectiveUse:
    return CollectiveUse(
        operation="all_reduce", group="", group_size=2, bytes=1, calls=1, ranks=2, total_ms=1.0,
        moving_ms=1.0, waits_included=False, exposed_ms=1.0, algbw=busbw, busbw=busbw,
        best_busbw=busbw, link="", link_bytes_per_s=None, link_share=None,
    )  # fmt: skip


def test_an_interface_of_known_speed_is_the_link_and_busbw_its_share() -> None:
    # Given: two namespaces of one host, 100 Mbit/s between them, 40 Mbit/s in a busy second
    times = np.arange(4, dtype=np.int64) * 10**9
    series = {
        "net.eth0@a.tx_bytes_per_s": (times, np.full(4, 5e6)),
        "net.eth0@a.link_bits_per_s": (times, np.full(4, 100e6)),
    }
    features = job(2)
    run = run_of([rank.data for rank in features.ranks], metrics=[MetricTable("n", "h", series)])

    # When
    link = link_row(replace(features, run=run))

    # Then
    assert link == LinkRow("eth0@a", 12.5e6, 5e6, False)
    assert link.share_of(use(11.25e6)) == pytest.approx(0.9)
    assert link.share_of(use(None)) is None


def test_devices_of_one_host_have_the_catalogues_link() -> None:
    # Given: NVLink of an H100 SXM moves 450 GB/s in one direction (NVIDIA's data sheet: 900 both)
    features = job(2)
    roofs = Roofs(flops={}, bandwidth={}, source="catalogue", device="NVIDIA H100 80GB HBM3")
    window = object.__new__(DeviceWindow)
    ranks = [replace(rank, device=[window], roofs=roofs) for rank in features.ranks]

    # When
    link = link_row(replace(features, ranks=ranks))

    # Then
    assert link is not None
    assert (link.of_device, link.bytes_per_s) == (True, 450e9)
    assert link.name.startswith("nvlink of ")


def test_loopback_has_no_speed_and_no_share_of_it() -> None:
    times = np.arange(4, dtype=np.int64) * 10**9
    series = {"net.lo.tx_bytes_per_s": (times, np.full(4, 5e6))}
    features = job(2)
    run = run_of([rank.data for rank in features.ranks], metrics=[MetricTable("n", "h", series)])

    link = link_row(replace(features, run=run))

    assert link == LinkRow("lo", None, 5e6, False)
    assert link.share_of(use(1e6)) is None


# --- what other pages show ---------------------------------------------------------------------


def test_the_typical_step_is_a_traced_one_of_middling_length() -> None:
    # Given: steps of 10 ms, the traced ones of 12, 11 and 14
    line = line_of([10] * 10 + [12, 11, 14] + [10] * 10)
    profiled = np.zeros(len(line), np.bool_)
    traced = np.flatnonzero(np.isin(line.duration_ns, [11_000_000, 12_000_000, 14_000_000]))
    profiled[traced] = True

    # When
    step = typical_step(replace(line, profiled=profiled))

    # Then
    assert line.duration_ns[step - 1] == 12_000_000
    assert line.duration_ns[typical_step(line) - 1] == 10_000_000


def op(slot: str, share: float) -> OpRow:
    return OpRow("x", "gemm", slot, "", "", 1, 1.0, 1.0, share, None, None, None, None)


def test_the_legend_of_the_roofline_sums_the_shares_of_each_slot() -> None:
    shares = slot_shares([op("compute", 0.5), op("memory", 0.2), op("compute", 0.1)])

    assert shares == {"compute": pytest.approx(0.6), "memory": 0.2}


def phased_run() -> Run:
    """Six samples wait for input, three are in the optimizer, one writes a checkpoint."""
    files = {
        1: "/home/me/train.py",
        2: "/x/site-packages/torch/utils/data/dataloader.py",
        3: "/x/site-packages/torch/optim/sgd.py",
        4: "/x/site-packages/torch/serialization.py",
    }
    frames = {number: Frame(number, f"f{number}", file, number) for number, file in files.items()}
    frames[5] = Frame(5, "main", files[1], 9)
    stacks = {1: [1, 2], 2: [5, 3], 3: [1, 4], 4: [5]}
    counts = [(1, 6), (2, 3), (3, 1), (4, 2)]
    table = StackTable(frames, stacks, [Stacks(0, 1, 1, 100, 1, counts)])
    return run_of([rank_data()], stacks={100: table})


def test_host_is_what_the_training_thread_does_but_for_input_and_checkpoints() -> None:
    # When
    root = flame_tree(phased_run(), 0, "host")

    # Then: three of the optimizer, two of the rest
    (main,) = root.children.values()
    assert (root.count, main.function, main.own) == (5, "main", 2)


def test_the_lines_of_the_host_are_those_of_its_phases_together() -> None:
    (line,) = hot_lines(phased_run(), 100, HOST)

    assert (line.line, line.samples, line.share) == (9, 5, 1.0)
