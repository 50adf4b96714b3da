"""Fixes are for this program on this machine: what is full, locked, fused or narrow already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from boundscope.collectors.records import Process, Site
from boundscope.profiler.diagnosis import Finding, Fix
from boundscope.profiler.features import RankFeatures
from boundscope.profiler.machine.roofs import Roofs
from boundscope.profiler.trace.host import OpTime

from .rule_material import (
    FETCH,
    LOADER,
    WORKER,
    Recording,
    diagnosed,
    elementwise,
    loader_site,
    named,
    product,
    rank_of,
    with_shares,
)

ITEM = ("/u/data.py", "Images.__getitem__", 12)
FILE_LOCK = ("/x/site-packages/filelock/_api.py", "acquire", 3)
RESULT = ("/usr/lib/python3.11/concurrent/futures/_base.py", "Future.result", 451)
CONDITION = ("/usr/lib/python3.11/threading.py", "Condition.wait", 327)
OF_WORKER = {"pid": 300, "thread": 300, "role": "worker"}
MORE_AT_ONCE = ("num_workers", "ThreadPool", "__getitems__")


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    made = Recording(tmp_path / "run", cores=8)
    made.sites = loader_site()
    made.steps([100.0] * 100, input_ms=70)
    return made


def text_of(fixes: list[Fix]) -> str:
    return "\n".join(f"{fix.title}\n{fix.detail}\n{fix.snippet}" for fix in fixes)


# -- what is locked or full already -----------------------------------------------------------


def test_workers_that_wait_for_a_lock_are_not_advised_to_be_more(recording: Recording) -> None:
    recording.sites = loader_site(num_workers="2", persistent_workers="False")
    recording.sampled(9, WORKER, FETCH, ITEM, FILE_LOCK, **OF_WORKER)
    recording.metric("rank.0.workers_cpu_cores", 0.1)

    fixes = named(recording.diagnose(), "workers-waiting").fixes

    assert not any(word in text_of(fixes) for word in MORE_AT_ONCE)
    assert "lock (data.py:12)" in fixes[0].title
    assert not any(fix.saving for fix in fixes)


@pytest.mark.parametrize("by_stacks", [True, False])
def test_a_main_process_that_waits_for_a_lock_is_not_advised_to_read_ahead(
    recording: Recording, by_stacks: bool
) -> None:
    inner = [FILE_LOCK] if by_stacks else []
    recording.sampled(7, LOADER, FETCH, ITEM, *inner)
    recording.sampled(3, ("/u/train.py", "main", 70))
    if not by_stacks:
        recording.metric("rank.0.main_wait.lock_share", 0.6)

    fixes = named(recording.diagnose(), "slow-store").fixes

    assert not any(word in text_of(fixes) for word in MORE_AT_ONCE)
    assert not any(fix.saving for fix in fixes)


def test_a_lock_that_another_threads_python_takes_is_the_interpreters(
    recording: Recording,
) -> None:
    main, other = ("/u/train.py", "main", 70), ("/u/train.py", "monitor", 90)
    recording.sampled(7, LOADER, FETCH, ITEM)
    recording.sampled(3, main)
    recording.sampled(10, other, thread=101, thread_name="Thread-1", cpu_share=0.8)
    recording.metric("rank.0.main_wait.lock_share", 0.6)

    found = named(recording.diagnose(), "slow-store")

    assert found.fixes[0].title == "Move that work to a process of its own"
    assert any("train.py:90, 80 % of a core" in evidence.text for evidence in found.evidence)


def test_a_wait_for_another_threads_result_is_no_lock(recording: Recording) -> None:
    recording.sampled(7, LOADER, FETCH, ITEM, RESULT, CONDITION)
    recording.sampled(3, ("/u/train.py", "main", 70))
    recording.metric("rank.0.main_wait.lock_share", 0.6)  # a futex, as for a lock

    fixes = named(recording.diagnose(), "slow-store").fixes

    assert "lock" not in text_of(fixes)
    assert max(fix.saving for fix in fixes) == pytest.approx(0.7, abs=0.05)


def loader_on(recording: Recording, kind: str, workers: int) -> Finding:
    """The finding for a loader, with or without workers, that waits for storage or network."""
    recording.sites = loader_site(num_workers=str(workers))
    if workers:
        recording.sampled(9, WORKER, FETCH, ITEM, **OF_WORKER)
        recording.metric("rank.0.workers_cpu_cores", 0.1)
        recording.metric(f"rank.0.workers_wait.{kind}_share", 0.8)
        return named(recording.diagnose(), "workers-waiting")
    recording.metric(f"rank.0.main_wait.{kind}_share", 0.6)
    return named(recording.diagnose(), "slow-store")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("busy", "promised"), [(40.0, True), (98.0, False)])
def test_nothing_is_promised_of_more_reads_at_once_from_a_disk_that_is_busy(
    recording: Recording, workers: int, busy: float, promised: bool
) -> None:
    recording.metric("disk.sda.busy_percent", busy)
    recording.metric("disk.sda.read_bytes_per_s", 1e8)

    fixes = loader_on(recording, "storage", workers).fixes

    assert any(fix.saving > 0.05 for fix in fixes) == promised
    assert ("sda has requests 98 % of the time" in text_of(fixes)) == (not promised)
    assert any("num_workers=8" in fix.snippet or "workers" in fix.title for fix in fixes)


def test_a_busy_disk_that_nobody_reads_from_is_not_the_loaders(recording: Recording) -> None:
    recording.metric("disk.sdb.busy_percent", 99.0)
    recording.metric("disk.sdb.read_bytes_per_s", 0.0)

    assert any(fix.saving > 0.05 for fix in loader_on(recording, "storage", 2).fixes)


@pytest.mark.parametrize(("rate", "promised"), [(1e7, True), (1.15e8, False)])
def test_nothing_is_promised_of_more_requests_over_a_full_link(
    recording: Recording, rate: float, promised: bool
) -> None:
    recording.metric("net.eth0.rx_bytes_per_s", rate)
    recording.metric("net.eth0.tx_bytes_per_s", 1e3)
    recording.metric("net.eth0.link_bits_per_s", 1e9)

    fixes = loader_on(recording, "network", 2).fixes

    assert any(fix.saving > 0.05 for fix in fixes) == promised
    assert ("eth0 carries 92 %" in text_of(fixes)) == (not promised)


# -- the user's own loader --------------------------------------------------------------------


def test_a_call_with_other_settings_leaves_the_rest_as_it_is(recording: Recording) -> None:
    fixes = named(recording.diagnose(), "slow-store").fixes

    (call,) = [fix.snippet for fix in fixes if "DataLoader(" in fix.snippet]
    assert call.startswith("DataLoader(Images(...), batch_size=8, ..., num_workers=")


@pytest.mark.parametrize("cpu", [0.0, 0.9])
def test_a_stream_is_divided_among_its_workers_and_has_no_getitems(
    recording: Recording, cpu: float
) -> None:
    recording.spans += [("c", s + 1, int(cpu * d), 0) for k, s, d, _ in recording.spans if k == "l"]
    recording.sites = loader_site(kind="iterable", fetch_file="/u/data.py", fetch_line="30")

    finding = named(recording.diagnose(), "decode-in-main" if cpu else "slow-store")

    text = text_of(finding.fixes)
    assert "__getitems__" not in text
    assert "get_worker_info" in text
    assert finding.where[0].function == "Images.__iter__"


def test_a_map_dataset_needs_no_division(recording: Recording) -> None:
    recording.sites = loader_site(kind="map")

    text = text_of(named(recording.diagnose(), "slow-store").fixes)

    assert "get_worker_info" not in text
    assert "__getitems__" in text


# -- cores ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "ranks", "threads", "advised"),
    [
        (4.0, 1, 8, 4),
        (4.0, 2, 8, 2),
        (1.0, 2, 8, 1),
        (4.0, 1, 4, 0),
        (4.0, 2, 2, 0),
        (0.0, 1, 8, 0),
    ],
)
def test_the_quota_is_shared_by_the_ranks_and_few_threads_are_left_alone(
    recording: Recording, limit: float, ranks: int, threads: int, advised: int
) -> None:
    recording.ranks, recording.threads = ranks, threads
    recording.metric("cgroup.cpu_throttled_us", *[3e5 * second for second in range(11)])
    recording.metric("cgroup.cpu_throttled_share", 0.9)
    if limit:
        recording.metric("cgroup.cpu_limit_cores", limit)

    fixes = named(recording.diagnose(), "cpu-throttled").fixes

    calls = [fix.snippet for fix in fixes if "set_num_threads" in fix.snippet]
    assert calls == ([f"torch.set_num_threads({advised})"] if advised else [])
    assert "larger CPU quota" in fixes[-1].title


# -- copies to a device -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pinned", "pageable", "advised"),
    [
        ("False", 0.0, "pin_memory=True"),
        ("False", 0.9, "pin_memory=True"),
        ("True", 0.0, "torch.cuda.stream"),
        ("True", 0.9, "x.pin_memory()"),
    ],
)
def test_pinning_is_advised_where_it_is_not_done_yet(
    pinned: str, pageable: float, advised: str
) -> None:
    rank = with_shares(rank_of([], "input", device=True), input=0.5, compute=0.5)
    window = replace(rank.device[0], copies_ns={"host-to-device": 0.5})
    data = replace(rank.data, sites=[Site("loader-facts", 0, facts={"pin_memory": pinned})])
    facts = replace(rank.facts, pageable=pageable)

    found = diagnosed(replace(rank, device=[window], data=data, facts=facts)).findings

    (copies,) = [f for f in found if f.id in ("exposed-copies", "pageable-copies")]
    assert advised in copies.fixes[0].snippet
    assert ("pin_memory=True" in text_of(copies.fixes)) == (pinned == "False")


# -- number types -----------------------------------------------------------------------------

CPU = Roofs(flops={"fp32": 1e12, "bf16": 4e12}, bandwidth={"dram": 1e11}, source="measured")
OLD_CPU = Roofs(flops={"fp32": 1e12, "bf16": 0.4e12}, bandwidth={"dram": 1e11})
SQUARE = "[512, 512], [512, 512]"


def advises_bf16(rank: RankFeatures) -> str:
    fixes = [fix for finding in diagnosed(rank).findings for fix in finding.fixes]
    return "\n".join(f"{fix.title} {fix.detail}" for fix in fixes if "bfloat16" in fix.title)


@pytest.mark.parametrize(
    ("dtype", "kernel", "told"),
    [
        ("fp32", "ampere_sgemm_128x64_tn", "15.0 times"),  # 300 over 20 TFLOP/s
        ("tf32", "ampere_tf32_s1688gemm_128x128", "2.0 times"),  # 300 over 150
        ("", "ampere_sgemm_128x64_tn", "15.0 times"),
        ("", "cutlass_80_tensorop_tf32_s1688gemm", "2.0 times"),
        ("bf16", "nvjet_tst_128x256_64x4_2x1_v_bz_coopB_NNT", ""),
        ("fp16", "ampere_fp16_s16816gemm_fp16_128x128_ldg8_f2f_stages_32x5_tn", ""),
        ("", "nvjet_tst_128x256_64x4_2x1_v_bz_coopB_NNT", ""),
        ("", "ampere_fp16_s16816gemm_fp16_128x128_ldg8_f2f_stages_32x5_tn", ""),
    ],
)
def test_bfloat16_is_advised_for_products_in_32_bits(dtype: str, kernel: str, told: str) -> None:
    op = replace(product(SQUARE, 0.4, kernel), dtype=dtype)

    advice = advises_bf16(rank_of([op], "compute", device=True))

    assert (told in advice) if told else not advice


@pytest.mark.parametrize(
    ("dtype", "roofs", "advised"),
    [("fp32", CPU, True), ("bf16", CPU, False), ("fp32", OLD_CPU, False), ("fp32", None, False)],
)
@pytest.mark.parametrize("slot", ["compute", "memory"])
def test_bfloat16_is_advised_on_a_cpu_that_is_faster_in_it(
    slot: str, dtype: str, roofs: Roofs | None, advised: bool
) -> None:
    op = product(SQUARE, 0.4) if slot == "compute" else elementwise("aten::mul", 3, calls=10)

    advice = advises_bf16(rank_of([replace(op, dtype=dtype)], slot, roofs=roofs))

    assert bool(advice) == advised


# -- the optimizer ----------------------------------------------------------------------------


def optimizer_rank(
    *sites: dict[str, str], op: str = "aten::mul_", torch: str = "2.13.0", device: bool = False
) -> RankFeatures:
    rank = rank_of([elementwise(op, 5, calls=10, family="optimizer")], "memory", device=device)
    process = Process(1, 0, "3.11", torch)
    made = [Site("optimizer", i, facts=facts) for i, facts in enumerate(sites)]
    return replace(rank, data=replace(rank.data, sites=made, process=process))


def update_advice(rank: RankFeatures) -> str:
    return text_of(named(diagnosed(rank), "optimizer-bandwidth").fixes)


@pytest.mark.parametrize(
    ("name", "torch", "device", "advised"),
    [
        ("SGD", "2.13.0+cpu", False, "torch.optim.SGD(parameters, ..., fused=True)"),
        ("Adam", "2.4.0", False, "torch.optim.Adam(parameters, ..., fused=True)"),
        ("Adam", "2.3.1", False, "torch.compile(optimizer.step)"),
        ("Adam", "2.2.0", True, "torch.optim.Adam(parameters, ..., fused=True)"),
        ("SGD", "2.2.0", True, "torch.compile(optimizer.step)"),
        ("RMSprop", "2.13.0", False, "torch.compile(optimizer.step)"),
        ("MyOptimizer", "2.13.0", False, "torch.compile(optimizer.step)"),
    ],
)
def test_one_pass_is_advised_for_the_optimizer_that_the_run_has(
    name: str, torch: str, device: bool, advised: str
) -> None:
    advice = update_advice(optimizer_rank({"class": name}, torch=torch, device=device))

    assert advised in advice
    assert advice.count("torch.optim.") == advised.count("torch.optim.")


def test_lbfgs_gets_no_advice_that_it_cannot_follow() -> None:
    advice = update_advice(optimizer_rank({"class": "LBFGS"}))

    assert "fused" not in advice
    assert "compile" not in advice


@pytest.mark.parametrize(
    ("site", "op"),
    [
        ({"class": "AdamW"}, "aten::_fused_adamw_"),
        ({"class": "AdamW", "fused": "True"}, "aten::mul"),
    ],
)
def test_an_update_that_is_fused_already_is_not_to_be_fused(site: dict[str, str], op: str) -> None:
    assert "fused" not in update_advice(optimizer_rank(site, op=op))


def test_where_the_optimizer_is_not_known_the_advice_names_those_that_can() -> None:
    advice = update_advice(optimizer_rank())

    assert all(name in advice for name in ("Adam", "AdamW", "SGD", "Adagrad"))


# -- shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "device", "id_"),
    [
        ("[12, 512, 64], [12, 64, 512]", True, "arithmetic"),  # heads are no side of a matrix
        ("[12, 512, 64], [12, 64, 512]", False, "arithmetic"),
        ("[12, 512, 50], [12, 50, 512]", True, "odd-shapes"),
        ("[4096, 768], [768, 8]", False, "arithmetic"),  # a low-rank adapter: its width is short
        ("[4096, 8], [8, 768]", False, "arithmetic"),
        ("[768], [16, 768], [768, 768]", False, "small-batch"),  # addmm: a bias first
        ("[16, 8, 512], [512, 512]", False, "arithmetic"),  # 128 rows
        ("[2, 8, 512], [512, 512]", False, "small-batch"),  # 16 rows
        ("[64, 4, 128], [64, 128, 128]", False, "small-batch"),  # 4 rows each
    ],
)
def test_sides_are_those_of_the_matrices_and_rows_those_of_the_batch(
    dims: str, device: bool, id_: str
) -> None:
    op: OpTime = product(dims, 0.3, "s16816gemm" if device else "")

    (finding,) = diagnosed(rank_of([op], "compute", device=device)).findings

    assert finding.id == id_
