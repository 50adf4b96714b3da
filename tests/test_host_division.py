"""How a trace window of a CPU rank is divided: hand-worked cases, times in ns."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from boundscope.profiler.machine.roofs import Roofs
from boundscope.profiler.trace.collectives import (
    Collective,
    clock_offsets,
    host_collectives,
    last_arrivals,
    transfers_of,
)
from boundscope.profiler.trace.host import divide
from boundscope.profiler.trace.table import Category, Events, Signature, Thread, Trace

US = 1_000
EVALUATE = "autograd::engine::evaluate_function: "
ROOFS = Roofs(
    flops={"fp32": 1e11, "vector": 1e11},
    bandwidth={"dram_copy": 1e10},
    dispatch_ns=2_000.0,
    source="measured",
)
"""100 FLOP and 10 bytes a nanosecond: a ridge of 10 FLOP/byte."""

MATMUL = Signature(dims=((1000, 1000), (1000, 1000)), types=("float", "float"))
"""2e9 FLOP: 20 ms at the roof; 12 MB: 1.2 ms."""
ADD = Signature(dims=((1_000_000,), (1_000_000,), ()), types=("float", "float", "Scalar"))
"""12 MB: 1.2 ms at the roof."""
TINY = Signature(dims=((4,), (4,), ()), types=("float", "float", "Scalar"))
HALF_MEGABYTE = Signature(dims=((131_072,),), types=("float",))


def make_trace(*rows: tuple[str, int, int, int, Signature | None]) -> Trace:
    """Events as (name, start us, duration us, thread, signature); thread 0 trains."""
    rows = tuple(sorted(rows, key=lambda row: (row[1], -row[2])))
    names = sorted({row[0] for row in rows})
    signatures = list(dict.fromkeys(row[4] for row in rows if row[4] is not None))
    count = len(rows)

    def column(values: list[Any], kind: Any = np.int64) -> Any:
        return np.asarray(values, kind)

    def category(name: str) -> Category:
        annotation = name.startswith(("ProfilerStep", "gloo:"))
        return Category.ANNOTATION if annotation else Category.CPU_OP

    events = Events(
        start_ns=column([row[1] * US for row in rows]),
        duration_ns=column([row[2] * US for row in rows]),
        category=column([category(row[0]) for row in rows], np.uint8),
        name=column([names.index(row[0]) for row in rows], np.int32),
        thread=column([row[3] for row in rows], np.int32),
        device=np.full(count, -1, np.int32),
        stream=np.full(count, -1, np.int32),
        correlation=np.full(count, -1, np.int64),
        external_id=np.full(count, -1, np.int64),
        signature=column([-1 if r[4] is None else signatures.index(r[4]) for r in rows], np.int32),
        args=np.full(count, -1, np.int32),
        bytes=np.full(count, -1, np.int64),
    )
    threads = [Thread("1", "1"), Thread("1", "2")]
    return Trace("t.json", events, names, threads, signatures, [])


def whole(begin_us: int, end_us: int) -> dict[str, Any]:
    return {"rest": (np.array([begin_us * US]), np.array([end_us * US]))}


def shares(trace: Trace, end_us: int, transfers: Any = None) -> dict[str, float]:
    result = divide(trace, whole(0, end_us), (0, end_us * US), ROOFS, transfers)
    assert result is not None
    return {slot: value / US for slot, value in result.phases["rest"].slots.items() if value}


def test_a_large_product_is_compute_but_for_its_dispatch() -> None:
    trace = make_trace(("ProfilerStep#1", 0, 25_000, 0, None), ("aten::mm", 0, 25_000, 0, MATMUL))

    found = shares(trace, 25_000)

    assert found == pytest.approx({"compute": 24_998, "host": 2})


def test_a_large_sum_is_memory_and_a_wrapper_around_it_is_host() -> None:
    trace = make_trace(
        ("ProfilerStep#1", 0, 2_000, 0, None),
        ("aten::wrapper", 0, 2_000, 0, None),
        ("aten::add", 5, 1_990, 0, ADD),
    )

    found = shares(trace, 2_000)

    # The wrapper's own 10 us hold one dispatch of 2 us; more than three of them is work.
    assert found["memory"] == pytest.approx(1_988)
    assert found["host"] + found.get("compute", 0) == pytest.approx(12)


def test_a_tiny_op_is_host_however_long_it_takes() -> None:
    trace = make_trace(("ProfilerStep#1", 0, 900, 0, None), ("aten::add", 0, 900, 0, TINY))

    found = shares(trace, 900)

    assert found == pytest.approx({"host": 900})


def test_time_between_ops_is_host() -> None:
    trace = make_trace(
        ("ProfilerStep#1", 0, 3_000, 0, None),
        ("aten::add", 0, 1_000, 0, ADD),
        ("aten::add", 2_000, 1_000, 0, ADD),
    )

    found = shares(trace, 3_000)

    assert found == pytest.approx({"memory": 1_996, "host": 1_004})


def test_only_long_gaps_between_ops_are_the_script_s_own_python() -> None:
    trace = make_trace(
        ("ProfilerStep#1", 0, 3_000, 0, None),
        ("aten::add", 0, 1_000, 0, ADD),
        ("aten::add", 1_040, 960, 0, ADD),
        ("aten::add", 2_300, 500, 0, ADD),
    )

    result = divide(trace, whole(0, 3_000), (0, 3_000 * US), ROOFS)

    assert result is not None
    found = result.phases["rest"]
    assert found.python_ns == (300 + 200) * US  # 40 us lie between the first two
    assert found.gaps == 2
    assert found.slots["host"] == pytest.approx((40 + 300 + 200 + 3 * 2) * US)


@pytest.mark.parametrize(("took_us", "slot"), [(2_000, "compute"), (6_000, "memory")])
def test_a_function_that_writes_to_fresh_memory_is_not_limited_by_its_arithmetic(
    took_us: int, slot: str
) -> None:
    # Given: 14e6 FLOP of sqrt, 1.4 ms; 16 MB, more than the cache, 0.8 ms
    roofs = Roofs(
        flops={"fp32": 1e11, "special": 1e10},
        bandwidth={"dram_copy": 2e10},
        cache_bytes={"l3": 4_000_000},
        dispatch_ns=2_000.0,
        source="measured",
    )
    over = Signature(dims=((2_000_000,),), types=("float",))
    trace = make_trace(("ProfilerStep#1", 0, 7_000, 0, None), ("aten::sqrt", 0, took_us, 0, over))

    result = divide(trace, whole(0, 7_000), (0, 7_000 * US), roofs)

    assert result is not None
    assert {op.name: op.slot for op in result.ops} == {"aten::sqrt": slot}
    assert result.phases["rest"].slots[slot] == pytest.approx((took_us - 2) * US)


def test_of_a_chain_no_traffic_from_the_cache_stays_of_a_norm_it_does() -> None:
    # Given: 12 MB each, 0.12 ms from the level-2 cache; 2e6 FLOP of an add take 0.02 ms
    roofs = msgspec.structs.replace(ROOFS, bandwidth={**ROOFS.bandwidth, "l2": 1e11})
    over = Signature(dims=((1_500_000,), ()), types=("float", "Scalar"))
    trace = make_trace(
        ("ProfilerStep#1", 0, 5_000, 0, None),
        ("aten::add", 0, 2_000, 0, ADD),
        ("aten::sum", 2_000, 2_000, 0, over),
    )

    result = divide(trace, whole(0, 5_000), (0, 5_000 * US), roofs)

    assert result is not None
    floors = {op.name: op.floor_ns / US for op in result.ops}
    assert floors["aten::add"] == pytest.approx(20)
    assert floors["aten::sum"] == pytest.approx(60)


def test_a_collective_hidden_behind_an_op_costs_nothing() -> None:
    trace = make_trace(
        ("ProfilerStep#1", 0, 2_000, 0, None),
        ("aten::add", 0, 2_000, 0, ADD),
        ("gloo:all_reduce", 500, 1_000, 1, HALF_MEGABYTE),
    )

    found = shares(trace, 2_000)

    assert "network" not in found


def test_an_exposed_collective_is_network_and_the_wait_for_a_late_rank_imbalance() -> None:
    trace = make_trace(
        ("ProfilerStep#1", 0, 3_000, 0, None),
        ("aten::add", 0, 1_000, 0, ADD),
        ("gloo:all_reduce", 500, 2_000, 1, HALF_MEGABYTE),
    )
    other_arrives_at = 1_800 * US
    mine = host_collectives(trace, 0)
    theirs = [Collective(c.name, 1, c.ordinal, c.bytes, other_arrives_at, c.end_ns) for c in mine]
    transfers = transfers_of({0: mine, 1: theirs})

    found = shares(trace, 3_000, transfers[0])

    assert mine == [Collective("gloo:all_reduce", 1, 0, 524_288, 500 * US, 2_500 * US)]
    assert found["imbalance"] == pytest.approx(800)
    assert found["network"] == pytest.approx(700)
    assert found["host"] == pytest.approx(502)
    assert last_arrivals({0: mine, 1: theirs}) == {0: 0, 1: 1}


def test_ops_that_are_there_for_the_exchange_alone_are_network() -> None:
    trace = make_trace(
        ("ProfilerStep#1", 0, 3_000, 0, None),
        ("aten::add", 0, 1_000, 0, ADD),
        (
            "autograd::engine::evaluate_function: torch::autograd::AccumulateGrad",
            1_000,
            700,
            0,
            None,
        ),
        ("torch::distributed::reducer::mul_out", 1_050, 200, 0, None),
        ("aten::mul", 1_060, 180, 0, HALF_MEGABYTE),
        ("c10d::allreduce_", 1_300, 300, 0, None),
        ("gloo:all_reduce", 1_550, 950, 1, HALF_MEGABYTE),
        ("torch.distributed.ddp.reducer::copy_bucket_to_grad", 2_600, 400, 0, None),
    )
    everywhere = (np.array([0]), np.array([3_000 * US]))

    found = shares(trace, 3_000, everywhere)

    # 200 for the bucket, 300 for the call, 800 of waiting after the last op, 400 out of the bucket.
    assert found["network"] == pytest.approx(1_700)
    assert found["host"] == pytest.approx(2 + 200 + 100)
    assert found["memory"] == pytest.approx(998)
    assert "imbalance" not in found
    result = divide(trace, whole(0, 3_000), (0, 3_000 * US), ROOFS)
    assert result is not None
    slots = {op.name: op.slot for op in result.ops}
    assert slots["c10d::allreduce_"] == slots["aten::mul"] == "network"
    assert slots["aten::add"] == "memory"


def test_an_op_that_begins_with_the_exchange_that_it_calls_keeps_its_own_time() -> None:
    """In traces whose times are whole microseconds."""
    trace = make_trace(
        ("ProfilerStep#1", 0, 700, 0, None),
        (f"{EVALUATE}Node", 0, 700, 0, None),
        ("torch::distributed::reducer::mul_out", 0, 200, 0, None),
    )

    found = shares(trace, 700)

    assert found == pytest.approx({"network": 200, "host": 500})


def test_a_call_of_a_collective_on_an_unseen_device_is_not_judged() -> None:
    trace = make_trace(
        ("ProfilerStep#1", 0, 1_000, 0, None),
        ("c10d::allreduce_", 0, 400, 0, None),
        ("cudaLaunchKernel", 100, 50, 0, None),
    )
    launches = np.isin(trace.events.name, [trace.names.index("cudaLaunchKernel")])
    trace.events.category[launches] = Category.RUNTIME

    found = shares(trace, 1_000)

    assert found == pytest.approx({"other": 400, "host": 600})


def test_a_collective_that_one_rank_did_not_record_counts_as_transfer() -> None:
    only_mine = [Collective("gloo:all_reduce", 7, 0, 64, 100, 900)]

    transfers = transfers_of({0: only_mine, 1: []})

    starts, ends = transfers[0]
    assert starts.tolist() == [100]
    assert ends.tolist() == [900]


def test_only_the_given_phases_are_divided() -> None:
    trace = make_trace(
        ("ProfilerStep#1", 0, 3_000, 0, None),
        ("aten::add", 0, 1_000, 0, ADD),
        ("aten::add", 2_000, 1_000, 0, ADD),
    )

    result = divide(trace, whole(2_000, 3_000), (0, 3_000 * US), ROOFS)

    assert result is not None
    assert result.phases["rest"].wall_ns == 1_000 * US
    assert result.phases["rest"].events == 1


def test_a_trace_without_ops_cannot_be_divided() -> None:
    trace = make_trace(("gloo:all_reduce", 0, 10, 1, None))

    assert divide(trace, whole(0, 10), (0, 10 * US), ROOFS) is None


def test_clocks_are_aligned_by_the_ends_of_common_collectives() -> None:
    def three(ahead: int, late: int) -> list[Collective]:
        spans = [(100 + late, 900), (1_100 + late, 1_900), (2_100 + late, 2_900)]
        return [
            Collective("nccl:all_reduce", 1, i, 64, begin + ahead, end + ahead)
            for i, (begin, end) in enumerate(spans)
        ]

    by_rank = {0: three(0, 0), 1: three(0, 0), 2: three(50_000, 300)}

    offsets = clock_offsets(by_rank)
    transfers = transfers_of(by_rank, offsets)

    assert offsets == {0: 0, 1: 0, 2: 50_000}
    assert transfers[0][0].tolist() == [400, 1_400, 2_400]
    assert last_arrivals(by_rank, offsets) == {0: 0, 1: 0, 2: 3}
