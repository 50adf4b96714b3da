"""Collectives by operation, group and size: bandwidths as NCCL's tests define them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boundscope.profiler.tables.trace_collectives import bus_factor, collective_uses
from boundscope.profiler.trace.collectives import device_collectives, transfers_of
from boundscope.profiler.trace.intervals import total
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.table import Trace

CORPUS = os.environ.get("BOUNDSCOPE_CORPUS", "")
corpus = pytest.mark.skipif(not CORPUS, reason="BOUNDSCOPE_CORPUS is not set")


def nccl(
    start: float,
    end: float,
    elements: int,
    group: str,
    ranks: str,
    *,
    name: str = "allreduce",
    out: int | None = None,
) -> dict[str, Any]:
    args = {
        "device": 0,
        "stream": 20,
        "Collective name": name,
        "In msg nelems": elements,
        "Out msg nelems": elements if out is None else out,
        "Group size": ranks.count(",") + 1,
        "dtype": "Float",
        "Process Group Name": group,
        "Process Group Ranks": ranks,
    }
    return {"ph": "X", "cat": "kernel", "name": "ncclDevKernel_AllReduce", "pid": 0, "tid": 20} | {
        "ts": start,
        "dur": end - start,
        "args": args,
    }


def gemm(start: float, end: float) -> dict[str, Any]:
    return {"ph": "X", "cat": "kernel", "name": "gemm", "pid": 0, "tid": 7, "ts": start} | {
        "dur": end - start,
        "args": {"device": 0, "stream": 7},
    }


def trace_of(folder: Path, name: str, events: list[dict[str, Any]]) -> Trace:
    path = folder / name
    properties = [{"id": 0, "name": "NVIDIA A100-SXM4-80GB"}]
    path.write_bytes(msgspec.json.encode({"traceEvents": events, "deviceProperties": properties}))
    return read_trace(path)


@pytest.mark.parametrize(
    ("operation", "factor"),
    [
        ("nccl:allreduce", 2 * 7 / 8),
        ("gloo:all_reduce", 2 * 7 / 8),
        ("nccl:_allgather_base", 7 / 8),
        ("nccl:reduce_scatter_tensor_coalesced", 7 / 8),
        ("nccl:all_to_allv", 7 / 8),
        ("nccl:broadcast", 1.0),
        ("nccl:send", 1.0),
        ("nccl:barrier", None),
    ],
)
def test_bus_factors_are_those_of_nccls_tests(operation: str, factor: float | None) -> None:
    assert bus_factor(operation, 8) == factor
    assert bus_factor(operation, 1) is None


@pytest.mark.parametrize(
    ("said", "name"),
    [
        # as c10d's ProcessGroupNCCL records them (record_param_comms)
        ("allreduce", "all_reduce"),
        ("allreduce_coalesced", "all_reduce"),
        ("_allgather_base", "all_gather"),
        ("allgather_into_tensor_coalesced", "all_gather"),
        ("all_gather", "all_gather"),
        ("_reduce_scatter_base", "reduce_scatter"),
        ("reduce_scatter_tensor_coalesced", "reduce_scatter"),
        ("_broadcast_oop", "broadcast"),
        ("_reduce_oop", "reduce"),
        ("all_to_allv", "all_to_all"),
        ("send", "send"),
        ("recv", "recv"),
        ("gather", "gather"),
        ("scatter", "scatter"),
        ("barrier", "barrier"),
        ("fancy", "fancy"),
    ],
)
def test_collectives_have_one_name_whatever_the_build_calls_them(
    tmp_path: Path, said: str, name: str
) -> None:
    trace = trace_of(tmp_path, "t.json", [nccl(0, 10, 100, "0", "[0, 1]", name=said)])

    (found,) = device_collectives(trace)

    assert (found.name, found.operation) == (f"nccl:{name}", name)


@pytest.mark.parametrize(
    ("said", "put_in", "out", "size"),
    [
        # 4 ranks, elements of 4 bytes; sizes as nccl-tests' PERFORMANCE.md defines them
        ("allreduce", 100, 100, 400),
        ("_allgather_base", 100, 400, 1600),
        ("_allgather_base", 100, 0, 1600),  # only what goes in is told
        ("_reduce_scatter_base", 400, 100, 1600),
        ("all_to_all", 400, 400, 1600),
        ("broadcast", 100, 100, 400),
        ("gather", 100, 400, 1600),  # the root
        ("gather", 100, 0, 1600),  # another rank
        ("scatter", 400, 100, 1600),
        ("scatter", 0, 100, 1600),
        ("send", 100, 100, 400),
    ],
)
def test_sizes_are_those_of_nccls_tests_whichever_rank_tells_them(
    tmp_path: Path, said: str, put_in: int, out: int, size: int
) -> None:
    event = nccl(0, 10, put_in, "0", "[0, 1, 2, 3]", name=said, out=out)

    (use,) = collective_uses({0: trace_of(tmp_path, "t.json", [event])}, 4)

    assert use.bytes == size
    assert use.dtype == "float"
    assert use.algbw == pytest.approx(size / 10e-6)


@pytest.mark.parametrize("elements", [10**30, 2**62, -5, "many", None, 1.5])
def test_numbers_that_count_nothing_are_no_sizes(tmp_path: Path, elements: Any) -> None:
    event = nccl(0, 10, elements, "0", "[0, 1]")
    event["args"]["Group size"] = elements

    (use,) = collective_uses({0: trace_of(tmp_path, "t.json", [event])}, 2)

    assert (use.bytes, use.busbw, use.group_size) == (None, None, 2)


def test_ranks_that_put_in_different_amounts_take_part_in_the_same_exchange(
    tmp_path: Path,
) -> None:
    def rank(number: int, start: float, put_in: int) -> Trace:
        event = nccl(start, 50, put_in, "0", "[0, 1]", name="all_to_allv", out=1_000 - put_in)
        return trace_of(tmp_path, f"{number}.json", [event])

    traces = {0: rank(0, 0, 100), 1: rank(1, 30, 900)}

    (use,) = collective_uses(traces)

    assert (use.calls, use.ranks, use.waits_included) == (1, 2, False)
    assert use.moving_ms == pytest.approx(0.020)
    assert use.waiting_ms == pytest.approx(0.015)


def test_sends_of_two_ranks_are_not_taken_for_one_exchange(tmp_path: Path) -> None:
    # Both stages send once a step, at other times: activations on, gradients back.
    traces = {
        0: trace_of(tmp_path, "0.json", [nccl(0, 10, 100, "0", "[0, 1]", name="send")]),
        1: trace_of(tmp_path, "1.json", [nccl(500, 510, 100, "0", "[0, 1]", name="send")]),
    }

    transfers = transfers_of({n: device_collectives(trace) for n, trace in traces.items()})

    assert {n: total(found) for n, found in transfers.items()} == {0: 10_000, 1: 10_000}


def test_bandwidth_counts_from_the_last_ranks_arrival(tmp_path: Path) -> None:
    # 1,000,000 floats; rank 1 arrives 30 us later; bytes move for 10 us.
    both = "[0, 1]"
    ranks = {
        0: trace_of(tmp_path, "0.json", [gemm(0, 50), nccl(10, 50, 1_000_000, "0", both)]),
        1: trace_of(tmp_path, "1.json", [nccl(40, 50, 1_000_000, "0", both)]),
    }

    (use,) = collective_uses(ranks)

    assert (use.operation, use.group_size, use.calls, use.ranks) == ("nccl:all_reduce", 2, 1, 2)
    assert use.bytes == 4_000_000
    assert not use.waits_included
    assert use.moving_ms == pytest.approx(0.010)
    assert use.algbw == pytest.approx(4e6 / 10e-6)
    assert use.busbw == pytest.approx(4e6 / 10e-6)  # 2 (n - 1) / n is 1 for two ranks
    assert use.exposed_ms == pytest.approx((0 + 0.010) / 2)
    assert use.link == "nvlink"
    assert use.link_share == pytest.approx(4e11 / 300e9)


def test_groups_of_some_ranks_are_paired_within_themselves(tmp_path: Path) -> None:
    # Ranks 0 and 1 form one group, 2 and 3 another; all call theirs "1".
    def rank(name: str, arrival: float, ranks: str) -> Trace:
        return trace_of(tmp_path, name, [nccl(arrival, 100, 1_000, "1", ranks)])

    traces = {
        0: rank("0.json", 10, "[0, 1]"),
        1: rank("1.json", 90, "[0, 1]"),
        2: rank("2.json", 10, "[2, 3]"),
        3: rank("3.json", 20, "[2, 3]"),
    }

    transfers = transfers_of({n: device_collectives(trace) for n, trace in traces.items()})

    # Rank 0 waits 80 us for rank 1; rank 2 waits 10 us for rank 3, and nobody for rank 1.
    assert {n: total(found) / 1000 for n, found in transfers.items()} == {
        0: 10,
        1: 10,
        2: 80,
        3: 80,
    }
    assert sorted(use.moving_ms for use in collective_uses(traces)) == pytest.approx([0.01, 0.08])


@corpus
def test_times_and_sizes_agree_with_another_programs_table() -> None:
    # tracelens' coll_analysis.csv of the same trace: mean and least durations in us.
    path = Path(CORPUS) / "tracelens/mi300/resnet_act_checkpoint.json.gz"

    uses = {(use.operation, use.bytes): use for use in collective_uses({0: read_trace(path)}, 8)}

    large = uses["nccl:all_reduce", 17_632_384]
    assert large.calls == 3
    assert large.total_ms == pytest.approx(26.79824, rel=1e-6)
    assert large.waits_included
    assert large.best_busbw == pytest.approx(17_632_384 / 8656.708e-6 * 2 * 7 / 8, rel=1e-6)
    assert uses["nccl:broadcast", 19_200].total_ms == pytest.approx(0.043675, rel=1e-6)
    assert large.link == "xgmi"
    assert large.link_share is not None
    assert large.link_share < 0.01


@corpus
def test_the_true_transfers_of_eight_ranks_are_tens_of_microseconds() -> None:
    # Eight collectives that move for 10 8 7 7 86 10 20 69 us; their kernels last 1.8 to 11 ms.
    folder = Path(CORPUS) / "param/dlrm_kineto"
    traces = {rank: read_trace(path) for rank, path in enumerate(sorted(folder.glob("*.gz")))}

    uses = collective_uses(traces)

    assert sum(use.calls for use in uses) == 8
    assert sum(use.calls * use.moving_ms for use in uses) == pytest.approx(0.217, abs=0.03)
    assert not any(use.waits_included for use in uses)
    # Sizes stand in the ops that launched them: a batch of 6,144 floats goes to all ranks.
    exchanged = next(use for use in uses if use.bytes == 6_144 * 4)
    assert exchanged.calls == 2
    assert exchanged.busbw == pytest.approx(6_144 * 4 / (exchanged.moving_ms * 1e-3))


@corpus
def test_gloo_collectives_have_bandwidths_too() -> None:
    path = Path(CORPUS) / "hta/cpu_only/rank-34.full_old_commit.pt.trace.json.gz"

    uses = collective_uses({34: read_trace(path)}, 300)

    assert {use.operation for use in uses} == {"gloo:all_reduce"}
    assert all(use.busbw is not None and use.group_size == 300 for use in uses)
    assert uses[0].calls == 5
