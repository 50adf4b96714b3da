"""Whatever a run is bound by, a finding says why: no verdict stands alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boundscope.profiler.diagnosis import SLOTS, Diagnosis
from boundscope.profiler.features import RankFeatures
from boundscope.profiler.trace.device_division import COPY_SLOTS, IDLE_CAUSES

from .device_material import device_rank, diagnosed, op_of

IDLE = [cause for cause in IDLE_CAUSES if cause != "nothing-seen"]
COPIES = sorted(COPY_SLOTS)
HOST_SLOTS = ("compute", "memory", "network", "imbalance", "input", "host", "evaluation")
"""Slots that a CPU training may spend its time in; for a checkpoint spans are recorded, too."""


def is_explained(diagnosis: Diagnosis) -> bool:
    bound = diagnosis.verdict.bound
    return bound in ("balanced", "unknown") or bound in {f.bound for f in diagnosis.findings}


def on_cpu(number: int, shares: dict[str, float], *, ops: bool) -> RankFeatures:
    rank = device_rank({})
    full = dict.fromkeys(SLOTS, 0.0) | shares
    known = [op_of(slot) for slot in ("compute", "memory") if full[slot]] if ops else []
    return replace(
        rank,
        data=replace(rank.data, rank=number, pid=number + 1),
        timeline=replace(rank.timeline, rank=number),
        shares=full,
        block_shares=np.array([list(full.values())] * 10),
        ops=known,
        device=[],
    )


def divided(weights: list[float]) -> list[float]:
    """Weights as shares of one; those of too little sum as they are."""
    whole = sum(weights)
    return [weight / whole for weight in weights] if whole > 1 else weights


weight = st.floats(0.0, 1.0).map(lambda value: value**3)
"""Few large parts and many small ones, as in a real step."""


@pytest.mark.parametrize("cause", IDLE)
@pytest.mark.parametrize("share", [0.35, 0.57, 0.95])
def test_an_idle_device_is_explained(cause: str, share: float) -> None:
    diagnosis = diagnosed(device_rank({cause: share}, ops=[op_of("compute"), op_of("memory")]))

    assert is_explained(diagnosis), diagnosis.verdict


@pytest.mark.parametrize("kind", COPIES)
def test_a_device_that_copies_is_explained(kind: str) -> None:
    assert is_explained(diagnosed(device_rank({}, {kind: 0.57})))


@pytest.mark.parametrize("slot", HOST_SLOTS)
@pytest.mark.parametrize("ops", [True, False])
def test_a_slot_that_holds_all_is_named_and_explained(slot: str, ops: bool) -> None:
    diagnosis = diagnosed(on_cpu(0, {slot: 1.0}, ops=ops))

    assert diagnosis.verdict.bound == slot
    assert is_explained(diagnosis)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(weight, min_size=len(IDLE) + len(COPIES), max_size=len(IDLE) + len(COPIES)),
    st.sampled_from([(), ("compute",), ("memory",), ("compute", "memory")]),
    st.sampled_from([0, 5, 500]),
)
def test_any_division_of_a_devices_time_is_explained(
    weights: list[float], ops: tuple[str, ...], synchronisations: int
) -> None:
    shares = divided(weights)
    idle = dict(zip(IDLE, shares, strict=False))
    copies = dict(zip(COPIES, shares[len(IDLE) :], strict=True))
    rank = device_rank(
        idle, copies, [op_of(slot) for slot in ops], synchronisations=synchronisations
    )

    diagnosis = diagnosed(rank)

    assert is_explained(diagnosis), (diagnosis.verdict, diagnosis.breakdown)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(weight, min_size=7, max_size=7), min_size=1, max_size=3),
    st.booleans(),
)
def test_any_division_of_ranks_on_cpus_is_explained(parts: list[list[float]], ops: bool) -> None:
    ranks = [
        on_cpu(number, dict(zip(HOST_SLOTS, divided([*part, 0.01]), strict=False)), ops=ops)
        for number, part in enumerate(parts)
    ]

    diagnosis = diagnosed(*ranks)

    assert is_explained(diagnosis), (diagnosis.verdict, diagnosis.breakdown)
