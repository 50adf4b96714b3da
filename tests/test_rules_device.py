"""Findings beside a device: each cause of its idle time has one, with its share and its place."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from boundscope.collectors.records import Memory
from boundscope.profiler.device_facts import DeviceFacts
from boundscope.profiler.diagnosis import SLOTS, Diagnosis, Finding
from boundscope.profiler.rules._device import told

from .device_material import MS, device_rank, diagnosed, op_of, stacks_of

TRAIN = ("/u/train.py", 31, 8)


def named(diagnosis: Diagnosis, id_: str) -> Finding:
    found = [finding for finding in diagnosis.findings if finding.id == id_]
    assert found, [finding.id for finding in diagnosis.findings]
    return found[0]


@pytest.mark.parametrize(
    ("cause", "bound", "id_"),
    [
        ("loader", "input", "loader-wait"),
        ("preparation", "input", "batch-prepared-in-loop"),
        ("copy-in", "input", "exposed-copies"),
        ("garbage", "host", "garbage-collection"),
        ("synchronisation", "host", "synchronising-calls"),
        ("copy", "host", "synchronising-calls"),
        ("launch", "host", "launch-bound"),
        ("dispatch", "host", "launch-bound"),
        ("python", "host", "python-in-loop"),
        ("another-thread", "host", "python-in-loop"),
        ("allocator", "memory", "allocator-stalls"),
    ],
)
def test_what_the_device_idles_for_is_the_finding_and_its_share_the_saving(
    cause: str, bound: str, id_: str
) -> None:
    diagnosis = diagnosed(device_rank({cause: 0.57}))

    found = named(diagnosis, id_)
    assert diagnosis.verdict.bound == found.bound == bound
    assert found.saving.mid == pytest.approx(0.57, abs=0.005)
    assert found.fixes
    others = [f.id for f in diagnosis.findings if f.bound == bound and f is not found]
    assert others == []


@pytest.mark.parametrize(
    ("kind", "bound", "id_"),
    [
        ("host-to-device", "input", "exposed-copies"),
        ("device-to-host", "host", "synchronising-calls"),
        ("device-to-device", "memory", "copy-bandwidth"),
        ("memset", "memory", "copy-bandwidth"),
        ("peer-to-peer", "network", "peer-copies"),
    ],
)
def test_what_the_device_only_copies_is_the_finding_and_its_share_the_saving(
    kind: str, bound: str, id_: str
) -> None:
    diagnosis = diagnosed(device_rank({}, {kind: 0.57}))

    assert diagnosis.verdict.bound == bound
    assert named(diagnosis, id_).saving.mid == pytest.approx(0.57, abs=0.005)


@pytest.mark.parametrize(("pageable", "id_"), [(0.8, "pageable-copies"), (0.2, "exposed-copies")])
def test_copies_are_named_by_the_memory_that_they_come_from(pageable: float, id_: str) -> None:
    rank = device_rank({"copy-in": 0.3}, {"host-to-device": 0.3})

    found = named(diagnosed(replace(rank, facts=DeviceFacts(pageable=pageable))), id_)

    # Both what the device copies and what the host stages beforehand.
    assert found.saving.mid == pytest.approx(0.6, abs=0.005)
    assert "60 ms" in found.evidence[0].text
    share = next(e.value for e in found.evidence if e.quantity == "input.pageable_share")
    assert share == pageable


@pytest.mark.parametrize(
    ("cause", "id_"),
    [
        ("preparation", "batch-prepared-in-loop"),
        ("copy-in", "exposed-copies"),
        ("garbage", "garbage-collection"),
        ("synchronisation", "synchronising-calls"),
        ("launch", "launch-bound"),
        ("python", "python-in-loop"),
        ("allocator", "allocator-stalls"),
    ],
)
def test_the_line_that_the_host_is_at_meanwhile_is_the_findings_place(cause: str, id_: str) -> None:
    diagnosis = diagnosed(device_rank({cause: 0.57}), stacks=stacks_of(TRAIN, ("/u/a.py", 7, 2)))

    where = named(diagnosis, id_).where

    assert [(place.file, place.line) for place in where] == [("/u/train.py", 31), ("/u/a.py", 7)]


def test_copies_from_pinned_memory_hold_no_line_of_the_host() -> None:
    rank = device_rank({}, {"host-to-device": 0.57})

    where = named(diagnosed(rank, stacks=stacks_of(TRAIN)), "exposed-copies").where

    assert [place.file for place in where] == [None]


@pytest.mark.parametrize(("kernels", "id_"), [(1_000, "python-in-loop"), (50_000, "launch-bound")])
def test_a_little_python_for_each_launch_is_calling_ops_and_much_is_the_scripts_own(
    kernels: int, id_: str
) -> None:
    # 400 ms of Python in a second: 0.4 ms for each of 1,000 launches, 8 us for each of 50,000.
    diagnosis = diagnosed(device_rank({"python": 0.4, "launch": 0.1}, kernels=kernels))

    first = next(f for f in diagnosis.findings if f.bound == "host")
    assert first.id == id_
    assert first.saving.mid == pytest.approx(0.4 if id_ == "python-in-loop" else 0.5, abs=0.005)
    assert ("graph" in str(first.fixes)) == (id_ == "launch-bound")


def test_the_scripts_own_python_is_no_wait_for_the_device() -> None:
    # One .item() a step among few kernels drains the queue, but 57 % are the script's own.
    rank = device_rank({"python": 0.57, "synchronisation": 0.1}, synchronisations=10, kernels=30)

    found = {f.id: f.saving.mid for f in diagnosed(rank).findings if f.bound == "host"}

    assert found == {
        "python-in-loop": pytest.approx(0.57, abs=0.005),
        "synchronising-calls": pytest.approx(0.1, abs=0.005),
    }


def test_shares_of_a_window_are_of_the_step_without_what_it_does_not_see() -> None:
    # Given half of the time in checkpoints, and windows between them that wait and prepare
    rank = device_rank({"loader": 0.4, "preparation": 0.4})
    shares = dict.fromkeys(SLOTS, 0.0) | {"storage": 0.5, "input": 0.4, "compute": 0.1}
    rank = replace(rank, shares=shares, block_shares=np.array([list(shares.values())] * 10))

    found = {f.id: f.saving.mid for f in diagnosed(rank).findings if f.bound == "input"}

    assert found == {
        "loader-wait": pytest.approx(0.2, abs=0.005),
        "batch-prepared-in-loop": pytest.approx(0.2, abs=0.005),
    }


@pytest.mark.parametrize(
    ("shares", "always", "told_of"),
    [
        ((0.3, 0.02, 0.06), True, [0.3, 0.06]),
        ((0.02, 0.04, 0.01), True, [0.04]),  # a slot that is named gets its finding all the same
        ((0.02, 0.04, 0.01), False, []),
        ((0.0, 0.0), True, []),
    ],
)
def test_parts_of_a_slot_are_told_where_each_is_worth_a_claim_or_it_is_the_largest(
    shares: tuple[float, ...], always: bool, told_of: list[float]
) -> None:
    finding = diagnosed(device_rank({"loader": 0.57})).findings[0]

    def make(share: float) -> Finding:
        return msgspec.structs.replace(finding, speedup=share)

    found = told([(share, make) for share in shares], always=always)

    assert [one.speedup for one in found] == told_of


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("loader", "(57 ms) waits for the next batch"),
        ("preparation", "(57 ms) prepares the batch in the loop"),
        ("copy-in", "(57 ms) copies the batch to the device"),
    ],
)
def test_the_headline_of_an_input_bound_device_tells_what_it_idles_for_and_how_long(
    cause: str, words: str
) -> None:
    assert words in diagnosed(device_rank({cause: 0.57})).verdict.headline


def test_the_allocators_stalls_are_not_promised_to_fusion() -> None:
    relu = op_of("memory", 5.0, attainable_ns=5.0 * MS)
    rank = device_rank({"allocator": 0.5}, ops=[op_of("compute", 45.0), relu])

    diagnosis = diagnosed(rank)

    # Of the 55 % in the slot, 5 % are the ops'.
    assert diagnosis.verdict.bound == "memory"
    assert named(diagnosis, "allocator-stalls").saving.mid == pytest.approx(0.5, abs=0.005)
    assert "free memory" in named(diagnosis, "allocator-stalls").evidence[0].text
    fused = [f for f in diagnosis.findings if f.id == "elementwise-bandwidth"]
    assert all(finding.saving.high <= 0.08 for finding in fused)


def test_with_retries_counted_the_stalls_are_theirs() -> None:
    rank = device_rank({"allocator": 0.4})
    memory = [Memory(t * 1000 * MS, 0, 1, 1, 1, retries=t, ooms=0) for t in range(6)]
    rank = replace(rank, data=replace(rank.data, memory=memory))

    ids = {f.id: f.saving.mid for f in diagnosed(rank).findings if f.bound == "memory"}

    assert ids == {"allocator-retries": pytest.approx(0.4)}


def test_copies_and_copying_kernels_are_one_finding() -> None:
    cat = op_of("memory", 30.0, family="copy", name="aten::cat", floor_ns=0.0)
    rank = device_rank({}, {"device-to-device": 0.3}, ops=[op_of("compute", 30.0), cat])

    found = [f for f in diagnosed(rank).findings if f.id == "copy-bandwidth"]

    # 30 % bare copies and half of the other 70 %.
    assert [f.saving.mid for f in found] == [pytest.approx(0.65, abs=0.01)]
