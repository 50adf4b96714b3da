"""A finding for each family of bandwidth-limited ops, for Python in the loop and for validation;
and what a training on a CPU is never told."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from boundscope.collectors.records import Process, Site
from boundscope.profiler.diagnosis import Diagnosis, Fix
from boundscope.profiler.features import RankFeatures
from boundscope.profiler.fresh_pages import FreshPages
from boundscope.profiler.machine.roofs import Roofs
from boundscope.profiler.rules import finding_ids
from boundscope.profiler.rules.memory import INDEXED_KEPT
from boundscope.profiler.trace.collectives import Collective
from boundscope.profiler.trace.costs import family
from boundscope.profiler.trace.host import OpTime

from .rule_material import (
    FETCH,
    LOADER,
    MS,
    WORKER,
    FrameOf,
    Recording,
    diagnosed,
    elementwise,
    loader_site,
    named,
    product,
    rank_of,
    stacks_of,
    value,
    with_shares,
)

MAIN = ("/u/train.py", "main", 20)
LOOP = ("/u/train.py", "features", 41)
TORCH = "/x/site-packages/torch"


# -- bandwidth --------------------------------------------------------------------------------

FAMILIES = [
    ("aten::mul", "elementwise-bandwidth", "torch.compile"),
    ("aten::_foreach_addcdiv_", "optimizer-bandwidth", "fused=True"),
    ("aten::embedding_dense_backward", "embedding-bandwidth", "sparse=True"),
    ("aten::native_layer_norm", "norm-bandwidth", "torch.compile"),
    ("aten::_softmax", "softmax-bandwidth", "torch.compile"),
    ("aten::sum", "reduction-bandwidth", "torch.compile"),
    ("aten::copy_", "copy-bandwidth", "channels_last"),
    ("aten::nll_loss_forward", "data-bandwidth", "torch.compile"),
]


@pytest.mark.parametrize(("name", "id_", "advised"), FAMILIES)
def test_bandwidth_is_named_by_the_family_with_most_of_the_time(
    name: str, id_: str, advised: str
) -> None:
    # 30 ms of the family's op, 20 ms of another one; the product is arithmetic.
    other = "aten::add" if not id_.startswith("elementwise") else "aten::cumsum"
    ops = [op_named(name, 30), op_named(other, 20), product("[512, 512], [512, 512]", 0.9)]
    rank = with_shares(rank_of(ops, "memory"), memory=0.6, compute=0.4)

    found = [f for f in diagnosed(rank).findings if f.bound == "memory"]

    assert [finding.id for finding in found] == [id_]
    assert value(found[0], "memory.family_share") == pytest.approx(0.6)
    assert found[0].where[0].op == name
    assert 0 <= found[0].saving.low <= found[0].saving.mid <= found[0].saving.high <= 0.6 * 1.36
    assert advised in found[0].fixes[0].snippet


def op_named(name: str, passes: int) -> OpTime:
    return replace(elementwise(name, passes), family=family(name))


# -- embeddings and indices ---------------------------------------------------------------------


def shaped(name: str, dims: str, passes: int) -> OpTime:
    return replace(op_named(name, passes), dims=dims)


LOOKUP = shaped("aten::index_select", "[40000, 64], [512]", 1)
GRADIENT = shaped("aten::embedding_dense_backward", "[512, 64], [512]", 4)
FILL = shaped("aten::fill_", "[40000, 64]", 30)
UPDATE = shaped("aten::add_", "[40000, 64], [40000, 64]", 15)
OTHER = shaped("aten::mul", "[512, 512], [512, 512]", 10)
PRODUCT = product("[512, 512], [512, 512]", 0.9)


def test_a_dense_gradient_of_an_embedding_is_a_finding_of_its_own() -> None:
    ops = [FILL, UPDATE, GRADIENT, OTHER, LOOKUP, PRODUCT]
    rank = with_shares(rank_of(ops, "memory"), memory=0.6, compute=0.4)

    found = diagnosed(rank).findings

    dense = next(f for f in found if f.id == "dense-embedding-gradient")
    # 45 of 60 ms of the memory slot, all but the 512 rows of 40,000
    assert dense.saving.mid == pytest.approx(0.6 * 45 / 60 * (1 - 512 / 40_000), abs=1e-3)
    assert value(dense, "memory.rows_used") == pytest.approx(512 / 40_000, abs=1e-4)
    assert "sparse=True" in dense.fixes[0].snippet
    rest = next(f for f in found if f.id == "elementwise-bandwidth")
    assert rest.saving.mid <= 0.6 * 15 / 60


def test_an_update_of_all_parameters_counts_by_the_tables_share() -> None:
    update = shaped("aten::_foreach_add_", "[(40000, 64), (512, 5000)], [(40000, 64)], []", 30)
    rank = with_shares(
        rank_of([update, GRADIENT, LOOKUP, PRODUCT], "memory"), memory=0.7, compute=0.3
    )

    dense = named(diagnosed(rank), "dense-embedding-gradient")

    # half of the update's elements, 15 of 35 ms
    assert dense.saving.mid == pytest.approx(0.7 * 15 / 35 * (1 - 512 / 40_000), abs=1e-3)


@pytest.mark.parametrize(
    "ops",
    [
        [shaped("aten::index_select", "[40000, 64], [30000]", 1)],  # most rows are used
        [LOOKUP, replace(PRODUCT, dims="[512, 64], [64, 40000]")],  # tied to the output layer
        [shaped("aten::index_select", "", 1)],  # no shapes
        [shaped("aten::index_select", "[40000, 64], [1200]", 1)],  # rows of another tensor
        [replace(LOOKUP, calls=60)],  # 60 times a step
    ],
    ids=["most rows used", "tied", "no shapes", "not the table", "many lookups"],
)
def test_a_gradient_that_is_dense_for_a_reason_is_none(ops: list[OpTime]) -> None:
    all_ops = [FILL, UPDATE, GRADIENT, OTHER, PRODUCT, *ops]
    rank = with_shares(rank_of(all_ops, "memory"), memory=0.6, compute=0.4)

    assert "dense-embedding-gradient" not in {f.id for f in diagnosed(rank).findings}


@pytest.mark.parametrize(
    ("looked_up", "put_in", "advised"),
    [
        ("[512, 256]", "[2048, 256]", True),
        ("[64, 64]", "[2048, 256]", False),  # an assignment to x[index] has the same op
        ("[512, 256]", "[2048]", False),  # x[rows, columns]
        ("[512, 256]", "[8, 256, 256]", False),  # an index of two dimensions
    ],
    ids=["rows", "assignment", "elements", "blocks"],
)
def test_the_gradient_of_rows_chosen_by_an_index_is_named(
    looked_up: str, put_in: str, advised: bool
) -> None:
    put = shaped("aten::_index_put_impl_", f"[512, 256], {put_in}", 30)
    ops = [put, shaped("aten::index", looked_up, 7), PRODUCT]
    rank = with_shares(rank_of(ops, "memory"), memory=0.6, compute=0.4)

    found = next(f for f in diagnosed(rank).findings if f.id == "copy-bandwidth")

    assert ("index_select" in found.fixes[0].snippet) is advised
    said = {evidence.quantity for evidence in found.evidence}
    assert ("memory.indexed_rows" in said) is advised


def test_rows_chosen_faster_are_promised_with_their_gradient_on_a_cpu() -> None:
    # 37 of 47 ms of the memory slot choose rows, of which 63 % go; the copy may go altogether.
    put = shaped("aten::_index_put_impl_", "[512, 256], [2048, 256]", 30)
    ops = [put, shaped("aten::index", "[512, 256]", 7), shaped("aten::copy_", "[9, 9]", 10)]

    def promised(**more: Any) -> float:
        rank = with_shares(rank_of([*ops, PRODUCT], "memory", **more), memory=0.6, compute=0.4)
        return named(diagnosed(rank), "copy-bandwidth").saving.mid

    assert promised() == pytest.approx(0.6 * (37 * (1 - INDEXED_KEPT) + 10) / 47, abs=1e-3)
    assert promised(device=True) == pytest.approx(0.6, abs=1e-3)  # not measured there


# -- host -------------------------------------------------------------------------------------


def test_python_between_few_ops_is_named_with_its_line() -> None:
    # 10 small ops of 50 us in 100 ms: a half of a millisecond is theirs, the rest is Python.
    op = replace(elementwise("aten::add", 1, calls=10), slot="host", self_ns=0.5 * MS, work_ns=0.0)
    rank = with_shares(rank_of([op], "host"), host=0.7, compute=0.3)
    stacks = stacks_of((70, 1, [MAIN, LOOP]), (30, 1, [MAIN]))

    found = named(diagnosed(rank, stacks), "python-in-loop")

    assert value(found, "host.dispatch_ms") == pytest.approx(70.0)
    assert value(found, "host.tiny_ops_per_step") == pytest.approx(10.0)
    assert found.saving.mid == pytest.approx(0.7, abs=0.01)
    assert (found.where[0].file, found.where[0].line) == ("/u/train.py", 41)


def test_python_between_many_ops_has_another_name() -> None:
    op = replace(
        elementwise("aten::add", 1, calls=300), slot="host", self_ns=60.0 * MS, work_ns=0.0
    )
    rank = with_shares(rank_of([op], "host"), host=0.7, compute=0.3)

    found = {finding.id for finding in diagnosed(rank).findings}

    assert "tiny-ops" in found
    assert "python-in-loop" not in found


# -- validation -------------------------------------------------------------------------------


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path / "run")


def validating(recording: Recording) -> Recording:
    """Ten steps of 100 ms, then a validation of 2 s, ten times."""
    recording.sites = [Site("eval", 0, "/u/train.py", 55, "validate")]
    for _ in range(10):
        recording.steps([100.0] * 10)
        end = recording.spans[-1][1] + recording.spans[-1][2]
        recording.spans.append(("e", end, 2_000 * MS, 0))
    return recording


def test_validation_is_named_with_its_share_its_period_and_its_line(recording: Recording) -> None:
    diagnosis = validating(recording).diagnose()

    found = named(diagnosis, "frequent-evaluation")
    assert diagnosis.verdict.bound == "evaluation"
    # Two of every three seconds.
    assert found.saving.mid == pytest.approx(2 / 3, abs=0.03)
    assert value(found, "evaluation.every_steps") == pytest.approx(10, abs=1)
    assert (found.where[0].file, found.where[0].line) == ("/u/train.py", 55)
    # Validating half as often saves half of it.
    assert found.fixes[0].saving == pytest.approx(1 / 3, abs=0.02)


# -- a CPU is told of nothing that it has not -------------------------------------------------

NOT_HERE = re.compile(r"cuda|pin_memory|pinned|nccl|nvidia|tensor core|tf32|gpu", re.IGNORECASE)


def text_of(fixes: Sequence[Fix]) -> str:
    return "\n".join(f"{fix.title}\n{fix.detail}\n{fix.snippet}" for fix in fixes)


def _loader(recording: Recording, **facts: str) -> Recording:
    recording.sites = loader_site(**facts)
    recording.steps([100.0] * 100, input_ms=70)
    return recording


def _at_work(recording: Recording) -> Recording:
    _loader(recording)
    recording.spans += [("c", s + 1, int(0.9 * d), 0) for k, s, d, _ in recording.spans if k == "l"]
    return recording


def _collating(recording: Recording) -> Recording:
    _at_work(recording)
    recording.sampled(7, LOADER, FETCH, ("/u/train.py", "pad_batch", 44))
    recording.sampled(3, MAIN)
    return recording


def _workers(recording: Recording, cpu: float) -> Recording:
    _loader(recording, num_workers="2", persistent_workers="False")
    worker = {"pid": 300, "thread": 300, "role": "worker"}
    recording.sampled(9, WORKER, FETCH, ("/u/train.py", "__getitem__", 31), **worker)
    recording.metric("rank.0.workers_cpu_cores", cpu)
    recording.metric("rank.0.workers_wait.storage_share", 0.8)
    return recording


def _restarted(recording: Recording) -> Recording:
    recording.sites = loader_site(num_workers="2", persistent_workers="False")
    for _ in range(20):
        begin = recording.spans[-1][1] + recording.spans[-1][2] if recording.spans else 0
        recording.spans.append(("i", begin, 50 * MS, 0))
        recording.spans.append(("l", begin + 50 * MS, 30 * MS, 0))
        recording.spans.append(("o", begin + 99 * MS, MS, 0))
        recording.steps([20.0] * 9, input_ms=0.1)
    return recording


def _held_back(recording: Recording) -> Recording:
    recording.threads = 16
    recording.steps([100.0] * 100)
    recording.metric("cgroup.cpu_throttled_us", *[3e5 * second for second in range(11)])
    recording.metric("cgroup.cpu_throttled_share", 0.9)
    recording.metric("cgroup.cpu_limit_cores", 2.0)
    recording.metric("rank.0.main_run_delay_share", 0.4)
    recording.sampled(10, MAIN)
    recording.sampled(10, LOOP, thread=101, thread_name="Thread-1", cpu_share=0.6)
    return recording


def _sampled(*frames: FrameOf) -> Callable[[Recording], Recording]:
    def make(recording: Recording) -> Recording:
        recording.steps([100.0] * 100)
        recording.sampled(4, MAIN, *frames)
        recording.sampled(6, MAIN)
        return recording

    return make


def _saving(recording: Recording) -> Recording:
    recording.steps([100.0] * 100)
    recording.spans += [("s", 100 * step * MS, 60 * MS, 0) for step in range(100)]
    return recording


def _slower(recording: Recording) -> Recording:
    recording.steps([10.0] * 100)
    recording.steps([14.0] * 100)
    return recording


def _uneven(recording: Recording) -> Recording:
    recording.steps([60.0 if step % 20 == 19 else 10.0 for step in range(200)])
    return recording


def _swapping(recording: Recording) -> Recording:
    recording.steps([100.0] * 201)
    recording.metric("rank.0.rss_bytes", *[1e9 + 50e6 * second for second in range(21)])
    recording.metric("host.swap_in_bytes_per_s", 2e7)
    recording.metric("job.major_faults_per_s", 900.0)
    recording.metric("psi.memory.some_total_us", *[3e5 * second for second in range(21)])
    return recording


RECORDED: list[tuple[Callable[[Recording], Recording], set[str]]] = [
    (_loader, {"slow-store"}),
    (lambda r: _loader(r, num_workers="2"), {"workers-too-slow"}),
    (_at_work, {"decode-in-main"}),
    (_collating, {"slow-collate"}),
    (lambda r: _workers(r, 1.9), {"workers-cpu-bound"}),
    (lambda r: _workers(r, 0.1), {"workers-waiting"}),
    (_restarted, {"workers-restarted"}),
    (_held_back, {"cpu-throttled", "oversubscribed-threads", "lock-contention"}),
    (_sampled((f"{TORCH}/_dynamo/convert_frame.py", "_compile", 1)), {"recompilation"}),
    (_sampled((f"{TORCH}/utils/checkpoint.py", "unpack_hook", 1)), {"recomputation"}),
    (_sampled(("/usr/lib/python3.11/logging/__init__.py", "emit", 1)), {"log-in-loop"}),
    (_saving, {"checkpoint-in-loop"}),
    (_slower, {"drift"}),
    (_uneven, {"step-outliers"}),
    (_swapping, {"swapping", "memory-growth"}),
    (validating, {"frequent-evaluation"}),
]


@pytest.mark.parametrize(("make", "ids"), RECORDED, ids=[min(ids) for _, ids in RECORDED])
def test_no_recorded_training_on_a_cpu_is_told_of_a_device(
    recording: Recording, make: Callable[[Recording], Recording], ids: set[str]
) -> None:
    diagnosis = make(recording).diagnose()

    assert ids <= {finding.id for finding in diagnosis.findings}
    assert not _told_of_a_device(diagnosis)


def _told_of_a_device(diagnosis: Diagnosis) -> list[str]:
    return [f.id for f in diagnosis.findings if NOT_HERE.search(text_of(f.fixes))]


def _exchange(operation: str, size: int) -> RankFeatures:
    calls = [Collective(operation, 0, i, size, i * MS, i * MS + MS, 2) for i in range(50)]
    return rank_of([], "network", collectives=calls)


def _garbage() -> RankFeatures:
    rank = rank_of([], "host")
    return replace(rank, phase_ms={**rank.phase_ms, "garbage": 60.0})


def _prepared() -> RankFeatures:
    rank = rank_of([], "input")
    return replace(rank, phase_ms={**rank.phase_ms, "preparation": 80.0})


def _fresh() -> RankFeatures:
    roofs = Roofs({"fp32": 1e11}, {"dram_copy": 1e10}, fresh_page_ns=1_000.0)
    pages = FreshPages(40_000, 0.4)
    return rank_of([elementwise("aten::mul", 30)], "memory", roofs=roofs, fresh=pages)


def _tiny() -> RankFeatures:
    op = replace(
        elementwise("aten::add", 1, calls=300), slot="host", self_ns=60.0 * MS, work_ns=0.0
    )
    return rank_of([op], "host")


SQUARE = "[512, 512], [512, 512]"
MADE: list[tuple[Callable[[], RankFeatures], str]] = [
    (lambda: rank_of([product(SQUARE, 0.9)], "compute"), "at-the-roof"),
    (lambda: rank_of([product(SQUARE, 0.3)], "compute"), "arithmetic"),
    (lambda: rank_of([product("[16, 512], [512, 512]", 0.3)], "compute"), "small-batch"),
    *[
        (lambda name=name: rank_of([op_named(name, 30)], "memory"), id_)  # type: ignore[misc]
        for name, id_, _ in FAMILIES
    ],
    (lambda: rank_of([FILL, UPDATE, GRADIENT, LOOKUP], "memory"), "dense-embedding-gradient"),
    (lambda: rank_of([], "host"), "python-in-loop"),
    (_fresh, "fresh-pages"),
    (_tiny, "tiny-ops"),
    (_garbage, "garbage-collection"),
    (_prepared, "batch-prepared-in-loop"),
    (lambda: rank_of([], "input"), "loader-wait"),
    *[
        (lambda name=name, size=size: _exchange(f"gloo:{name}", size), id_)  # type: ignore[misc]
        for size in (4_000, 64_000_000)
        for name, id_ in [
            ("all_reduce", "exposed-all-reduce"),
            ("all_gather", "exposed-all-gather"),
            ("reduce_scatter", "exposed-reduce-scatter"),
            ("all_to_all", "exposed-all-to-all"),
            ("broadcast", "exposed-broadcast"),
            ("reduce", "exposed-reduce"),
            ("send_recv", "exposed-send-recv"),
            ("something_new", "exposed-communication"),
        ]
    ],
]


@pytest.mark.parametrize(("make", "id_"), MADE, ids=[id_ for _, id_ in MADE])
def test_no_op_on_a_cpu_is_told_of_a_device(make: Callable[[], RankFeatures], id_: str) -> None:
    rank = make()
    process = Process(1, 0, "3.11", "2.13.0+cpu")

    diagnosis = diagnosed(replace(rank, data=replace(rank.data, process=process)))

    assert id_ in {finding.id for finding in diagnosis.findings}
    assert not _told_of_a_device(diagnosis)


NEEDS_A_DEVICE = {
    "synchronising-calls",
    "launch-bound",
    "exposed-copies",
    "pageable-copies",
    "device-memory-growth",
    "allocator-retries",
    "allocator-stalls",
    "fragmentation",
    "tensor-cores-unused",
    "odd-shapes",
    "low-occupancy",
    "peer-copies",
}
ELSEWHERE = {"late-rank", "retransmits"}
"""Findings that need several ranks, or a network collector's counters: tested with these."""


def test_every_finding_that_a_cpu_can_have_is_looked_at_here() -> None:
    seen = {id_ for _, id_ in MADE}.union(*(ids for _, ids in RECORDED))

    assert seen == set(finding_ids()) - NEEDS_A_DEVICE - ELSEWHERE
