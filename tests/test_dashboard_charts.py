"""Figures of ranks, lanes, memory, ops that moved and stretches of a run: hand-worked cases."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("plotly")
pytest.importorskip("streamlit")

from boundscope.dashboard import perfetto
from boundscope.dashboard.charts.base import MAX_POINTS
from boundscope.dashboard.charts.compare import FASTER, SLOWER, moved_ops
from boundscope.dashboard.charts.flame import ROOT, boxes, flame
from boundscope.dashboard.charts.lanes import lanes
from boundscope.dashboard.charts.memory import memory
from boundscope.dashboard.charts.ranks import slot_map, step_map, wait_map
from boundscope.dashboard.charts.roofline import roofline
from boundscope.dashboard.charts.slots import rank_bars
from boundscope.dashboard.charts.timeline import LINE_COLOURS, end_s, timeline
from boundscope.profiler.compare import OpChange
from boundscope.profiler.diagnosis import SLOTS, Place
from boundscope.profiler.report.colours import SLOT_COLOURS, contrast
from boundscope.profiler.report.places import describe_place
from boundscope.profiler.serve import OPTIONS
from boundscope.profiler.tables.flame import Node
from boundscope.profiler.tables.job import StepGrid, WaitGrid
from boundscope.profiler.tables.lanes import KINDS, Lane, Lanes, Row, visible
from boundscope.profiler.tables.memory import MemorySeries
from boundscope.profiler.tables.metrics import Line, Panel
from boundscope.profiler.tables.ops import OpRow, Roof
from boundscope.profiler.tables.steps import Band, StepSeries

from .test_dashboard_figures import GRAPHICS_CONTRAST, SIGHT, TELL_APART, lab

MS = 1_000_000
HOSTILE = '<img src=x onerror="alert(1)"><a href="http://a.invalid">x</a>'


def words_of(made: Any) -> str:
    """All of a figure as JSON, its tags as they are."""
    return json.dumps(made.to_plotly_json(), default=str)


def is_text(made: Any) -> bool:
    """Whether no hostile tag is left in a figure; Plotly's own `<b>`, `<br>`, `<span>` may be."""
    return not re.search(r"<(?!/?(?:b|br|span|extra)\b)", words_of(made))


# --- ranks -----------------------------------------------------------------------------------


def test_each_rank_has_a_bar_of_its_shares_in_the_colours_of_the_slots() -> None:
    # Given
    ranks = [("rank 0", {"input": 0.75, "compute": 0.25}), (HOSTILE, {"compute": 1.0})]

    # When
    made = rank_bars(ranks, dark=True)

    # Then
    shown = {bar.name: (list(bar.x), bar.marker.color) for bar in made.data}
    assert shown == {
        "compute": ([0.25, 1.0], SLOT_COLOURS["compute"]),
        "input": ([0.75, 0.0], SLOT_COLOURS["input"]),
    }
    assert made.layout.barmode == "stack"
    assert is_text(made)


def test_many_ranks_are_a_map_of_percentages_with_a_row_a_rank() -> None:
    made = slot_map([(0, {"input": 0.5}), (7, {"host": 0.25})], dark=False)

    (cells,) = made.data
    assert list(cells.y) == ["0", "7"]
    assert list(cells.x) == list(SLOTS)
    assert cells.z[0][SLOTS.index("input")] == 50
    assert cells.z[1][SLOTS.index("host")] == 25
    assert (cells.zmin, cells.zmax) == (0, 100)


def test_of_many_ranks_the_longest_share_a_row_of_the_map_of_steps() -> None:
    # Given: 601 ranks of 10 ms a step, one of which once took 30
    step_ms = np.full((601, 20), 10.0)
    step_ms[600, 3], step_ms[7] = 30.0, np.nan

    # When
    (cells,) = step_map(StepGrid(list(range(601)), list(range(1, 21)), step_ms), dark=True).data

    # Then: three ranks a row, each row in their middle
    shown = np.asarray(cells.z, float)
    assert shown.shape == (201, 20)
    assert (shown[200, 3], shown[2, 0]) == (30.0, 10.0)
    assert list(cells.y[:2]) == [1, 4]
    assert "longest of 3 ranks" in cells.hovertemplate


def test_ranks_with_gaps_between_have_their_names_at_the_map() -> None:
    step_ms = np.full((3, 20), 10.0)

    (cells,) = step_map(StepGrid([0, 1, 5], list(range(1, 21)), step_ms), dark=True).data

    assert list(cells.y) == ["0", "1", "5"]


def test_the_map_of_steps_has_gaps_and_its_colours_end_below_one_slow_step() -> None:
    # Given: a hundred steps of 10 ms, one of them of 900, one not recorded
    step_ms = np.full((2, 100), 10.0)
    step_ms[1, 50], step_ms[0, 0] = 900.0, np.nan

    # When
    (cells,) = step_map(StepGrid([0, 4], list(range(1, 101)), step_ms), dark=True).data

    # Then
    assert list(cells.y) == [0, 4]
    assert np.isnan(np.asarray(cells.z, float)[0, 0])
    assert cells.zmax == pytest.approx(10)
    assert cells.hoverongaps is False


def test_the_matrix_of_waits_reads_row_waits_for_column() -> None:
    # Given: rank 0 waits 3 ms a step for rank 1
    grid = WaitGrid([0, 1], np.array([[0.0, 3.0], [0.0, 0.0]]), 8, 4)

    # When
    made = wait_map(grid, dark=False)

    # Then
    (cells,) = made.data
    assert np.asarray(cells.z).tolist() == [[0, 3], [0, 0]]
    assert (list(cells.x), list(cells.y)) == (["0", "1"], ["0", "1"])
    assert made.layout.yaxis.title.text == "rank waits …"
    assert made.layout.xaxis.title.text == "… for rank"


# --- lanes -----------------------------------------------------------------------------------


def lanes_with(name: str) -> Lanes:
    """A lane of two boxes, 1 to 3 ms and 5 to 9 ms, the first of them of that name."""
    row = Row(np.array([1, 5]) * MS, np.array([3, 9]) * MS, np.array([0, 1], np.int32))
    kinds = np.array([KINDS.index("compute"), KINDS.index("network")], np.uint8)
    return Lanes([name, "all_reduce"], kinds, [Lane(HOSTILE, "thread", [row])])


def test_boxes_lie_at_their_times_in_the_colours_of_their_kinds() -> None:
    # Given
    every = lanes_with("mm")
    shown = visible(every, every.lanes, 0, 10 * MS)

    # When
    made = lanes(every, every.lanes, shown, (0, 10 * MS), 0, dark=True)

    # Then
    drawn = {bar.name: (list(bar.base), list(bar.x), bar.marker.color) for bar in made.data}
    assert drawn == {
        "compute": ([1.0], [2.0], SLOT_COLOURS["compute"]),
        "network": ([5.0], [4.0], SLOT_COLOURS["network"]),
    }
    assert list(made.layout.xaxis.range) == [0, 10]


def test_a_box_that_begins_before_the_stretch_is_cut_at_its_edge() -> None:
    # Given: 6 to 8 ms, from an origin at 5 ms
    every = lanes_with("mm")
    span = (6 * MS, 8 * MS)

    # When
    made = lanes(every, every.lanes, visible(every, every.lanes, *span), span, 5 * MS, dark=False)

    # Then
    (bar,) = made.data
    assert (list(bar.base), list(bar.x)) == ([1.0], [2.0])
    assert list(made.layout.xaxis.range) == [1, 3]


def test_names_of_events_and_threads_stay_text_in_the_lanes() -> None:
    every = lanes_with(HOSTILE)
    shown = visible(every, every.lanes, 0, 10 * MS)

    made = lanes(every, every.lanes, shown, (0, 10 * MS), 0, dark=True)

    assert is_text(made)
    assert "&lt;img" in words_of(made)


# --- memory ----------------------------------------------------------------------------------


def memory_line(label: str) -> MemorySeries:
    return MemorySeries(label, np.array([0.0, 1.0]), np.array([1e9, 3e9]), None)


def test_memory_is_drawn_up_to_a_limit_that_is_near() -> None:
    # When
    near = memory([memory_line(HOSTILE)], ("limit " + HOSTILE, 4e9), dark=False)
    far = memory([memory_line("job")], ("limit", 40e9), dark=False)

    # Then
    assert list(near.data[0].y) == [1e9, 3e9]
    assert near.layout.shapes[0].y0 == 4e9
    assert near.layout.yaxis.range[1] >= 4e9
    assert len(far.layout.shapes) == 0
    assert far.layout.yaxis.range[1] == pytest.approx(3.24e9)
    assert is_text(near)


# --- ops that moved --------------------------------------------------------------------------


def test_ops_that_got_slower_and_faster_lie_on_either_side() -> None:
    # Given
    ops = [OpChange("aten::mm", 1.0, 3.0), OpChange(HOSTILE, 4.0, 3.5)]

    # When
    made = moved_ops(ops, dark=True)

    # Then
    (bars,) = made.data
    assert list(bars.x) == [2.0, -0.5]
    assert list(bars.marker.color) == [SLOWER, FASTER]
    assert made.layout.yaxis.ticktext[0] == "aten::mm"
    assert made.layout.xaxis.range[0] < -0.5 < 2.0 < made.layout.xaxis.range[1]
    assert is_text(made)


def test_a_kernel_is_labelled_by_what_tells_it_apart() -> None:
    name = "void at::native::vectorized_elementwise_kernel<4, at::native::Add<float>>(int, x)"

    (label,) = moved_ops([OpChange(name, 1.0, 2.0)], dark=True).layout.yaxis.ticktext

    assert label.startswith("vectorized_element")


# --- the roofline ------------------------------------------------------------------------------


def bubble(intensity: float) -> OpRow:
    return OpRow("aten::mm", "gemm", "compute", "", "", 1, 1.0, 1.0, 0.5, intensity, 1e10, None, 1)


def test_roofs_of_one_height_are_one_line_with_both_names() -> None:
    # Given
    roofs = [
        Roof("memory", 1e10, True),
        Roof("fp32", 5e11, False),
        Roof("bf16", 1e12, False),
        Roof("fp16", 1.01e12, False),
    ]

    # When
    made = roofline([bubble(1.0), bubble(1_000.0)], roofs, dark=True)

    # Then
    assert made is not None
    names = [name for trace in made.data[:-1] for name in trace.text if name]
    assert names == ["memory", "fp32", "bf16, fp16"]


def test_the_names_of_the_outermost_ops_run_towards_the_middle() -> None:
    made = roofline([bubble(1.0), bubble(31.0), bubble(1_000.0)], [], dark=True)

    assert made is not None
    sides = [side for trace in made.data for side in trace.textposition]
    assert sides == ["bottom right", "bottom center", "bottom left"]


@pytest.mark.parametrize(("intensity", "place"), [(1_000.0, "top left"), (10.0, "top right")])
def test_the_name_of_a_roof_stands_where_no_slope_crosses_it(intensity: float, place: str) -> None:
    # Given: the slope meets the roof at 100 FLOP/byte; the plot ends four times beyond the op
    roofs = [Roof("memory", 1e10, True), Roof("fp32", 1e12, False)]

    # When
    made = roofline([bubble(intensity), bubble(31.0)], roofs, dark=True)

    # Then
    assert made is not None
    assert made.data[1].textposition == place


# --- a stretch of the run ----------------------------------------------------------------------


def series_of(steps: int) -> StepSeries:
    """Steps of 10 ms, one after the other; number 5,001 takes 30 ms and is an outlier."""
    duration = np.full(steps, 10.0)
    duration[5_000] = 30.0
    return StepSeries(
        rank=0,
        start_s=np.arange(steps) * 0.01,
        duration_ms=duration,
        steady=np.ones(steps, np.bool_),
        profiled=np.zeros(steps, np.bool_),
        outlier=duration > 20,
        median_ms=10.0,
        drift=None,
        bands=[Band("checkpoint", 20.0, 20.1), Band("evaluation", 80.0, 81.0)],
        phase_ms={},
    )


def test_a_part_of_a_long_run_shows_every_step_that_the_whole_has_no_room_for() -> None:
    # Given: 10,000 steps; a part of 500 of them
    series = series_of(10_000)

    # When
    whole = timeline(series, [], dark=True)
    part = timeline(series, [], dark=True, span_s=(18.0, 23.0))

    # Then
    assert len(whole.data[0].x) <= MAX_POINTS
    shown = [int(number[0]) for number in part.data[0].customdata]
    assert set(range(1_801, 2_301)) <= set(shown)
    assert list(part.layout.xaxis.range) == [18.0, 23.0]
    rectangles = [shape.x0 for shape in part.layout.shapes if shape.type == "rect"]
    assert rectangles == [20.0]


def test_outliers_outside_of_the_part_are_not_marked_and_its_scale_is_its_own() -> None:
    series = series_of(10_000)

    without = timeline(series, [], dark=True, span_s=(18.0, 23.0))
    within = timeline(series, [], dark=True, span_s=(49.0, 51.0))

    assert [trace.mode for trace in without.data] == ["lines"]
    assert within.data[1].customdata.tolist() == [[5_001]]
    assert without.layout.yaxis.range[1] == pytest.approx(11)
    assert within.layout.yaxis.range[1] == pytest.approx(33)


def test_a_single_step_is_a_mark_that_can_be_seen() -> None:
    every = series_of(10_000)
    one = replace(
        every,
        start_s=every.start_s[:1],
        duration_ms=every.duration_ms[:1],
        steady=every.steady[:1],
        outlier=every.outlier[:1],
        profiled=every.profiled[:1],
        bands=[],
    )

    assert timeline(one, [], dark=True).data[0].mode == "markers"
    assert timeline(every, [], dark=True).data[0].mode == "lines"


def test_every_row_shows_the_same_stretch_and_metrics_lead_on_to_its_edges() -> None:
    # Given: a sample a second
    line = Line("eth0", np.arange(100.0), np.arange(100.0))
    panel = Panel("Network", "B/s", [line])

    # When
    made = timeline(series_of(10_000), [panel], dark=False, span_s=(18.5, 23.5))

    # Then
    assert list(made.layout.xaxis.range) == list(made.layout.xaxis2.range) == [18.5, 23.5]
    assert list(made.data[-1].x) == [18, 19, 20, 21, 22, 23, 24]
    assert end_s(series_of(10_000), [panel]) == pytest.approx(100)


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_lines_of_metrics_stand_out_and_are_told_apart_by_everyone(theme: str) -> None:
    background = OPTIONS[f"theme.{theme}.backgroundColor"]
    palette = LINE_COLOURS[0 if theme == "dark" else 1]

    assert all(contrast(colour, background) >= GRAPHICS_CONTRAST for colour in palette)
    for sight in SIGHT.values():
        for one, other in itertools.combinations(palette, 2):
            assert np.linalg.norm(lab(one, sight) - lab(other, sight)) >= TELL_APART


@pytest.mark.parametrize("dark", [True, False])
def test_lines_are_drawn_in_the_colours_of_the_background(dark: bool) -> None:
    panel = Panel("Network", "B/s", [Line("eth0", np.arange(9.0), np.arange(9.0))])

    made = timeline(series_of(10_000), [panel], dark=dark)

    assert made.data[-1].line.color == LINE_COLOURS[0 if dark else 1][0]


# --- the flame graph's list --------------------------------------------------------------------


def tree(samples: int = 10) -> Node:
    root = Node("all", "", 0, count=samples)
    root.children["a", "f", 1] = Node(HOSTILE, "/home/me/f.py", 1, count=6)
    root.children["a", "f", 1].children["b", "f", 2] = Node("load", "f.py", 2, count=5, own=5)
    root.children["c", "f", 3] = Node("load", "f.py", 2, count=4, own=4)
    return root


def test_the_list_names_the_boxes_of_the_graph_callers_first() -> None:
    # When
    listed = boxes(tree())
    figure, _ = flame(tree(), "", dark=True)

    # Then
    assert [words.strip("\N{FIGURE SPACE}") for _, words in listed] == [
        f"{HOSTILE} · f.py:1 · 60 %",
        "load · f.py:2 · 50 %",
        "load · f.py:2 · 40 %",
    ]
    assert {key for key, _ in listed} | {ROOT} == set(figure.data[0].ids)


def test_a_chosen_box_is_shown_over_the_whole_width_also_after_more_samples_came() -> None:
    # Given
    (key, _), *_ = boxes(tree())

    # When
    more = tree(20)
    figure, _ = flame(more, "", dark=True, zoom=key)

    # Then
    assert figure.data[0].level == key
    assert figure.data[0].labels[list(figure.data[0].ids).index(key)].startswith("&lt;img")
    assert flame(more, "", dark=True, zoom="gone")[0].data[0].level is None
    assert is_text(figure)


def test_boxes_that_read_the_same_are_told_apart_in_the_list() -> None:
    root = Node("all", "", 0, count=10)
    for name in "ab":
        caller = root.children[name, "", 0] = Node(name, "", 0, count=5)
        caller.children["load", "f", 1] = Node("load", "f.py", 1, count=5, own=5)

    words = [words for _, words in boxes(root)]

    assert len(set(words)) == 4


def test_a_place_that_is_a_rank_alone_is_no_aside() -> None:
    assert describe_place(Place(rank=3)) == "rank 3"
    assert describe_place(Place(rank=3, op="aten::mm")) == "aten::mm (rank 3)"


# --- Perfetto ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["</script><b>", "<!--<script>", HOSTILE])
def test_the_name_of_a_trace_begins_no_tag_in_the_button_for_perfetto(name: str) -> None:
    # When
    made = perfetto._button(name, b"trace", dark=True)

    # Then
    script = made.partition("<script>")[2]
    assert script.count("<") == 1  # the end of the script itself
    assert script.rstrip().endswith("</script>")
    title = re.search(r'title = ("(?:[^"\\]|\\.)*")', script)
    assert title is not None
    assert json.loads(title[1]) == name
