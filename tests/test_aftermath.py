"""Slower work behind a checkpoint or a validation counts as its own, and noise does not."""

from __future__ import annotations

import numpy as np
import pytest

from boundscope.profiler.aftermath import aftermath, charged
from boundscope.profiler.timeline import Timeline

from .line_material import MS, line_of

COUNT, EVERY, SAVE_MS, WORK_MS = 200, 5, 30.0, 20.0


def saving(
    behind_ms: tuple[float, ...] = (), every: int = EVERY, noise_ms: float = 0.2
) -> Timeline:
    """Steps of 20 ms; one in `every` begins with a save, and the steps from there on work longer
    by `behind_ms`."""
    chance = np.random.default_rng(1)
    work = WORK_MS + noise_ms * chance.standard_normal(COUNT)
    save = np.zeros(COUNT)
    save[every - 1 :: every] = SAVE_MS
    for distance, more in enumerate(behind_ms):
        work[every - 1 + distance :: every] += more
    line = line_of(list(work + save))
    line.phase_ns["storage"][:] = save * MS
    line.phase_ns["forward"][:] = line.duration_ns - line.phase_ns["storage"]
    return line


def test_what_the_steps_behind_a_save_work_longer_is_the_saves() -> None:
    line = saving(behind_ms=(4.0, 2.0))

    extra = aftermath(line, line.phase_ns)

    assert list(extra) == ["storage"]
    assert extra["storage"].sum() == pytest.approx(40 * 6.0 * MS, rel=0.05)
    assert extra["storage"][:4].max() == 0, "no save came before"
    assert extra["storage"][6:9].max() == 0, "far from the save"


def test_moved_time_leaves_a_steps_sum_as_it_is() -> None:
    line = saving(behind_ms=(4.0, 2.0))

    phases = charged(line.phase_ns, aftermath(line, line.phase_ns))

    assert np.allclose(sum(phases.values()), line.duration_ns)
    moved = phases["storage"].sum() - line.phase_ns["storage"].sum()
    assert moved == pytest.approx(40 * 6.0 * MS, rel=0.05)
    assert all((values >= 0).all() for values in phases.values())


@pytest.mark.parametrize("noise_ms", [0.2, 2.0, 6.0])
def test_alike_steps_have_no_aftermath(noise_ms: float) -> None:
    line = saving(noise_ms=noise_ms)

    extra = aftermath(line, line.phase_ns)

    moved = sum(float(values.sum()) for values in extra.values())
    assert moved <= 0.02 * float(line.duration_ns.sum())


def test_faster_steps_behind_a_save_move_nothing() -> None:
    line = saving(behind_ms=(-4.0,))

    assert aftermath(line, line.phase_ns) == {}


@pytest.mark.parametrize("every", [1, 60])
def test_saves_in_every_step_and_a_few_saves_leave_nothing_to_compare(every: int) -> None:
    line = saving(behind_ms=(4.0,), every=every)

    assert aftermath(line, line.phase_ns) == {}


def test_profiled_steps_take_no_part() -> None:
    line = saving(behind_ms=(4.0,))
    line.profiled[99:120] = True

    extra = aftermath(line, line.phase_ns)

    assert extra["storage"][99:120].max() == 0
    assert extra["storage"][124] > 0


def test_a_short_write_is_no_event() -> None:
    line = saving(behind_ms=(4.0,))
    line.phase_ns["storage"][:] /= 60

    assert aftermath(line, line.phase_ns) == {}
