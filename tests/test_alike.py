"""Which steps of a trace window may speak for the run."""

from __future__ import annotations

import numpy as np
import pytest

from boundscope.collectors.records import Window
from boundscope.profiler.alike import telling_phases, telling_steps, time_of_unlike, unlike_steps
from boundscope.profiler.timeline import Timeline
from boundscope.profiler.trace.intervals import EMPTY, union

from .line_material import MS, line_of


def window_over(line: Timeline, first: int, last: int, events_a_step: int = 0) -> Window:
    begin, end = int(line.start_ns[first]), int(line.end_ns[last - 1])
    return Window(0, begin, end, first, last - first, events=events_a_step * (last - first))


def marked(line: Timeline, *windows: Window) -> list[int]:
    return [int(step) for step in np.flatnonzero(unlike_steps(line, windows))]


def test_steps_that_a_neighbour_disturbed_do_not_speak_for_the_run() -> None:
    line = line_of([10.0] * 20 + [10.0, 11.0, 60.0, 35.0] + [10.0] * 20, slice(20, 24))

    assert marked(line, window_over(line, 20, 24)) == [22, 23]


def test_an_undisturbed_window_speaks_where_another_was_disturbed() -> None:
    line = line_of([10.0] * 20 + [30.0] * 3 + [10.0] * 10 + [10.0] * 2 + [10.0] * 9, slice(20, 35))
    line.profiled[23:33] = False

    assert marked(line, window_over(line, 20, 23), window_over(line, 33, 35)) == [20, 21, 22]


def test_where_no_profiled_step_is_like_the_others_all_are_kept() -> None:
    line = line_of([10.0] * 20 + [30.0] * 4 + [10.0] * 20, slice(20, 24))

    assert marked(line, window_over(line, 20, 24)) == []


def test_what_the_profiler_adds_to_each_event_makes_no_step_unlike() -> None:
    line = line_of([10.0] * 20 + [10.0, 20.0] + [10.0] * 20, slice(20, 22))

    assert marked(line, window_over(line, 20, 22, events_a_step=2_000)) == []
    assert marked(line, window_over(line, 20, 22, events_a_step=0)) == [21]


def test_long_steps_are_usual_where_steps_differ_by_themselves() -> None:
    mixed = [8.0, 9.0, 10.0, 11.0, 30.0] * 8
    line = line_of([*mixed, 10.0, 30.0, *mixed], slice(40, 42))

    assert marked(line, window_over(line, 40, 42)) == []


@pytest.mark.parametrize("calm", [0, 2])
def test_without_unprofiled_steps_nothing_is_marked(calm: int) -> None:
    line = line_of([10.0] * calm + [10.0, 90.0], slice(calm, calm + 2))

    assert marked(line, window_over(line, calm, calm + 2)) == []


def test_the_time_and_the_number_of_telling_steps_leave_the_others_out() -> None:
    line = line_of([10.0] * 10 + [10.0, 40.0, 10.0] + [10.0] * 10, slice(10, 13))
    window = window_over(line, 10, 13)
    unlike = unlike_steps(line, [window])
    line = Timeline(**{**vars(line), "unlike": unlike})

    starts, ends = time_of_unlike(line)

    assert telling_steps(line, window) == 2
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == [(110 * MS, 150 * MS)]


def test_a_step_that_began_as_the_profiler_was_being_started_is_a_whole_one() -> None:
    line = line_of([10.0] * 20, slice(10, 13))
    started = int(line.start_ns[10]) + 3 * MS
    window = Window(0, started, int(line.end_ns[12]), 10, 3, start_cost_ns=int(2.5 * MS))

    assert telling_steps(line, window) == 3


def cut_within(line: Timeline, step: int, after_ms: float) -> Window:
    """A window that began with a step and ended within it."""
    begin = int(line.start_ns[step])
    return Window(0, begin, begin + int(after_ms * MS), step, 0, truncated=True)


def test_a_step_that_a_window_cuts_speaks_for_the_run_only_where_no_whole_one_does() -> None:
    line = line_of([10.0] * 30, slice(10, 13))

    assert marked(line, cut_within(line, 10, 6.0)) == []
    assert marked(line, cut_within(line, 10, 6.0), window_over(line, 11, 13)) == [10]


def test_a_phase_that_a_window_cuts_is_left_out_where_another_is_whole() -> None:
    line = line_of([10.0] * 30, slice(10, 12))
    forward = line.start_ns, line.start_ns + 3 * MS
    backward = line.start_ns + 3 * MS, line.end_ns
    intervals = {"forward": forward, "backward": backward, "optimizer": EMPTY, "rest": EMPTY}
    line = Timeline(**{**vars(line), "phase_intervals": intervals})
    early, late = cut_within(line, 10, 6.0), cut_within(line, 11, 2.0)

    both = telling_phases(line, [early, late])
    alone = telling_phases(line, [cut_within(line, 10, 2.0), late])

    # The backward pass of step 10 is all there is of one; of step 11 not even the forward is whole.
    assert [line.start_ns[10] in both["forward"][0], line.start_ns[11] in both["forward"][0]] == [
        True,
        False,
    ]
    assert backward[0][10] in both["backward"][0]
    assert line.start_ns[10] in alone["forward"][0]
    assert line.start_ns[11] in alone["forward"][0]


def test_a_phase_that_seems_to_end_with_the_window_is_cut_nevertheless() -> None:
    """The profiler's stop is taken out of the phase that it interrupts."""
    line = line_of([10.0] * 30, slice(10, 12))
    starts, ends = line.start_ns.copy(), line.end_ns.copy()
    ends[10] = starts[10] + 6 * MS
    intervals = {"forward": (starts, ends), "backward": EMPTY, "optimizer": EMPTY, "rest": EMPTY}
    line = Timeline(**{**vars(line), "phase_intervals": intervals})
    windows = [cut_within(line, 10, 6.0), cut_within(line, 11, 10.5)]

    found = telling_phases(line, windows)["forward"]

    assert starts[10] not in found[0]
    assert starts[11] in found[0]


def test_short_calls_of_a_phase_do_not_speak_for_a_long_one_that_is_cut() -> None:
    line = line_of([10.0] * 30, slice(10, 11))
    cleared = line.start_ns + MS, line.start_ns + MS + 20_000
    stepped = line.start_ns + 2 * MS, line.start_ns + 9 * MS
    both = union(*map(np.concatenate, zip(cleared, stepped, strict=True)))
    intervals = {"optimizer": both, "backward": EMPTY, "forward": EMPTY, "rest": EMPTY}
    line = Timeline(**{**vars(line), "phase_intervals": intervals})

    found = telling_phases(line, [cut_within(line, 10, 8.0)])["optimizer"]

    assert stepped[0][10] in found[0]
