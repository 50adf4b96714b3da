"""Savings by replay: hand-worked jobs in which part of a cause hides something else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boundscope.profiler.diagnosis import SLOTS
from boundscope.profiler.whatif import Lane, Pipeline, Removal, Replay


def lane(blocks: int = 1, **slots_ms: float) -> Lane:
    extra = {name: slots_ms.pop(name) for name in list(slots_ms) if name.endswith("_floor")}
    hidden = slots_ms.pop("hidden", 0.0)
    row = [slots_ms.get(slot, 0.0) for slot in SLOTS]
    return Lane(
        np.array([row] * blocks),
        workers_ms=extra.get("workers_floor", 0.0),
        host_ms=extra.get("host_floor", 0.0),
        hidden_ms=hidden,
    )


def saved(*lanes: Lane, rank: int | None = None, **removed: float) -> float:
    return Replay(list(lanes)).saved(Removal(removed, rank)).mid


def test_what_one_rank_does_alone_saves_its_share() -> None:
    assert saved(lane(input=8, compute=2), input=1.0) == pytest.approx(0.8)
    assert saved(lane(input=8, compute=2), input=0.5) == pytest.approx(0.4)


def test_without_arithmetic_the_loader_workers_set_the_pace() -> None:
    # The workers need 7 ms for a batch: of 8 ms of arithmetic only 3 are worth removing.
    training = lane(compute=8, host=2, workers_floor=7)

    assert saved(training, compute=1.0) == pytest.approx(0.3)


def test_without_a_wait_for_the_loader_its_workers_are_no_floor() -> None:
    training = lane(input=6, compute=4, workers_floor=10)

    assert saved(training, input=1.0) == pytest.approx(0.6)
    assert saved(training, compute=1.0) == 0.0


def test_a_faster_device_waits_for_the_host() -> None:
    training = lane(compute=9, host=1, host_floor=8)

    assert saved(training, compute=1.0) == pytest.approx(0.2)


def test_the_hosts_wait_for_its_loader_is_no_floor_when_the_wait_goes() -> None:
    # The host is busy or waits for its loader all the time; the loader's part goes with its cause.
    training = lane(compute=6, input=4, host_floor=9.8)

    assert saved(training, input=1.0) == pytest.approx(0.4)


def test_a_late_ranks_wait_goes_only_as_far_as_the_other_ranks_own() -> None:
    late = lane(input=8, compute=2)
    waiting = lane(compute=2, input=3, imbalance=5)

    assert saved(late, waiting, rank=0, input=1.0) == pytest.approx(0.5)
    assert saved(late, waiting, input=1.0) == pytest.approx(0.8)


def test_even_work_lasts_as_long_as_the_ranks_mean() -> None:
    assert saved(lane(compute=9), lane(compute=5, imbalance=4), imbalance=1.0) == pytest.approx(
        2 / 9
    )


def test_ranks_that_are_late_in_turn_lose_their_waits_with_the_imbalance_alone() -> None:
    ranks = [lane(compute=5, imbalance=5), lane(compute=5, imbalance=5)]

    assert saved(*ranks, imbalance=1.0) == pytest.approx(0.5)
    assert saved(*ranks, compute=1.0) == pytest.approx(0.5)


def test_communication_that_the_arithmetic_hid_comes_to_light() -> None:
    # 6 ms of exchange under 8 ms of work: without the work it shows.
    ranks = [lane(compute=8, network=2, hidden=6) for _ in range(2)]

    assert saved(*ranks, compute=1.0) == pytest.approx(0.2)
    assert saved(*ranks, network=1.0) == pytest.approx(0.2)


def test_the_interval_is_the_spread_over_blocks_of_steps() -> None:
    rows = np.zeros((10, len(SLOTS)))
    rows[:, SLOTS.index("compute")] = 10
    rows[5:, SLOTS.index("input")] = 10

    found = Replay([Lane(rows)]).saved(Removal({"input": 1.0}))

    assert found.mid == pytest.approx(1 / 3)
    assert (found.low, found.high) == (0.0, pytest.approx(0.5))


times = st.floats(0.0, 100.0)
lanes = st.lists(
    st.builds(
        lambda row, workers, host, hidden: Lane(np.array([row]), workers, host, hidden),
        st.lists(times, min_size=len(SLOTS), max_size=len(SLOTS)),
        times,
        times,
        times,
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(lanes, st.sampled_from(SLOTS), st.floats(0.0, 1.0))
def test_a_saving_lies_between_nothing_and_all_and_floors_only_lower_it(
    job: list[Lane], slot: str, share: float
) -> None:
    replay, removal = Replay(job), Removal({slot: share})

    with_floors, without = replay.saved(removal), replay.saved(removal, floors=False)

    assert 0.0 <= with_floors.low <= with_floors.mid <= with_floors.high <= 1.0
    assert with_floors.mid <= without.mid + 1e-9


@settings(deadline=None)
@given(lanes, st.sampled_from(SLOTS), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_more_removed_saves_no_less_where_nothing_was_hidden(
    job: list[Lane], slot: str, one: float, other: float
) -> None:
    plain = [Lane(lane.slots_ms) for lane in job]
    less, more = sorted((one, other))

    replay = Replay(plain)

    saved_less, saved_more = (replay.saved(Removal({slot: part})).mid for part in (less, more))
    assert saved_less <= saved_more + 1e-9


def test_workers_are_no_faster_than_the_cores_that_they_share_with_the_training() -> None:
    # 30 ms of decoding and 10 ms of arithmetic in two threads on two cores: 50 ms of CPU a step.
    loop = Pipeline(wait_ms=30, cpu_share=1.0, work_ms=10, cores=2, threads=2)

    assert loop.step_ms(0) == 40
    assert loop.step_ms(1) == 30
    assert loop.step_ms(8) == 25


def test_waits_that_take_no_cpu_are_shared_by_as_many_workers_as_one_likes() -> None:
    loop = Pipeline(wait_ms=70, cpu_share=0.0, work_ms=10, cores=2, threads=2)

    assert loop.step_ms(2) == 35
    assert loop.step_ms(16) == 10
    assert loop.step_ms(0, at_once=16) == pytest.approx(10 + 70 / 16)
    assert loop.saving(2) == pytest.approx(1 - 35 / 80)
