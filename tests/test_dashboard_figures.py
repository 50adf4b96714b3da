"""Figures and markup: right numbers, readable colours, and names that stay text."""

from __future__ import annotations

import base64
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("plotly")

from boundscope.dashboard import markup
from boundscope.dashboard.charts.base import MAX_POINTS, thin
from boundscope.dashboard.charts.compare import waterfall
from boundscope.dashboard.charts.flame import flame
from boundscope.dashboard.charts.roofline import roofline
from boundscope.dashboard.charts.small import part_of_steps, share_by_rank, slot_bar
from boundscope.dashboard.charts.timeline import timeline
from boundscope.profiler.compare import Comparison, Side, SlotChange
from boundscope.profiler.diagnosis import SLOTS
from boundscope.profiler.report.colours import (
    SLOT_COLOURS,
    SLOT_COLOURS_LIGHT,
    contrast,
    text_on,
)
from boundscope.profiler.serve import OPTIONS
from boundscope.profiler.tables.flame import Node
from boundscope.profiler.tables.metrics import Line, Panel
from boundscope.profiler.tables.ops import OpRow, Roof
from boundscope.profiler.tables.steps import Band, StepSeries

HOSTILE = '<img src=x onerror="alert(1)"><b>bold</b>'
GRAPHICS_CONTRAST = 3.0  # WCAG 2.1, 1.4.11
TEXT_CONTRAST = 4.5  # WCAG 2.1, 1.4.3
TELL_APART = 7.0
"""CIE76 distance: Okabe and Ito's own palette with two greys has 7.1 at least."""

SIGHT = {  # Machado, Oliveira and Fernandes, 2009, severity 1.0, for linear RGB
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}


def lab(colour: str, sight: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of a colour as somebody with this sight sees it."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(sight @ linear, 0, 1)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = to_xyz @ seen / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


PALETTES = {
    "dark": (SLOT_COLOURS, OPTIONS["theme.dark.backgroundColor"]),
    "light": (SLOT_COLOURS_LIGHT, OPTIONS["theme.light.backgroundColor"]),
}


@pytest.mark.parametrize("theme", PALETTES)
def test_every_slot_stands_out_from_the_background(theme: str) -> None:
    palette, background = PALETTES[theme]

    assert list(palette) == list(SLOTS)
    for slot, colour in palette.items():
        assert contrast(colour, background) >= GRAPHICS_CONTRAST, slot


@pytest.mark.parametrize("theme", PALETTES)
@pytest.mark.parametrize("sight", SIGHT)
def test_slots_are_told_apart_by_everyone(theme: str, sight: str) -> None:
    seen = {slot: lab(colour, SIGHT[sight]) for slot, colour in PALETTES[theme][0].items()}

    for one, other in itertools.combinations(SLOTS, 2):
        assert np.linalg.norm(seen[one] - seen[other]) >= TELL_APART, (one, other)


@pytest.mark.parametrize("theme", PALETTES)
def test_text_on_a_slot_can_be_read(theme: str) -> None:
    for slot, colour in PALETTES[theme][0].items():
        assert contrast(text_on(colour), colour) >= TEXT_CONTRAST, slot


class Tags(HTMLParser):
    """Collects the tags and the text of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    "made",
    [
        markup.title(HOSTILE, HOSTILE),
        markup.heading(HOSTILE),
        markup.facts([(HOSTILE, HOSTILE)]),
        markup.verdict_card("input", HOSTILE, HOSTILE, [(HOSTILE, HOSTILE)], dark=True),
        markup.bullets([(HOSTILE, HOSTILE)]),
        markup.places([HOSTILE]),
        markup.source([(1, HOSTILE)], 1, "#000000"),
        markup.note(HOSTILE, HOSTILE, HOSTILE),
        markup.empty(HOSTILE, HOSTILE),
        markup.paragraph(HOSTILE),
        markup.run_title(HOSTILE, HOSTILE),
        markup.run_verdict("input", HOSTILE, dark=False),
        markup.finding_title(1, HOSTILE, "input", "#000000"),
        markup.fix(HOSTILE, HOSTILE),
        markup.compare_card(HOSTILE, [(HOSTILE, HOSTILE)], "#000000"),
        markup.legend({HOSTILE: 1.0}, dark=True),
    ],
)
def test_a_name_stays_text_in_every_piece_of_markup(made: str) -> None:
    found = Tags(made)

    assert "img" not in found.tags
    assert HOSTILE in found.text


def test_the_bar_of_slots_shows_the_shares_and_nothing_else() -> None:
    # When
    made = slot_bar({"input": 0.7, "compute": 0.3, "network": 0.0}, dark=True)

    # Then
    assert re.findall(r"flex:(0\.\d+) 1 0;background:(#\w+)", made) == [
        ("0.7000", SLOT_COLOURS["input"]),
        ("0.3000", SLOT_COLOURS["compute"]),
    ]
    assert "network" not in made


def picture(made: str) -> str:
    data = re.search(r"base64,([^\"]+)", made)
    assert data is not None
    return base64.b64decode(data[1]).decode()


def steps_of(duration_ms: np.ndarray, loader_ms: np.ndarray) -> StepSeries:
    count = len(duration_ms)
    every = np.ones(count, np.bool_)
    return StepSeries(
        rank=0,
        start_s=np.arange(count, dtype=np.float64),
        duration_ms=duration_ms,
        steady=every,
        profiled=~every,
        outlier=~every,
        median_ms=float(np.median(duration_ms)),
        drift=None,
        bands=[],
        phase_ms={"loader": loader_ms},
    )


def test_the_part_of_a_step_is_drawn_to_the_scale_of_the_step() -> None:
    # Given: every step takes 10 ms, half of it the loader's
    series = steps_of(np.full(50, 10.0), np.full(50, 5.0))

    # When
    drawn = picture(part_of_steps(series, "loader", "waiting", "#de7700", dark=False))

    # Then
    area, line = (
        [float(pair.split(",")[1]) for pair in found.split()]
        for found in re.findall(r' points="([^"]+)"', drawn)
    )
    floor = area[0]
    assert (floor - area[1]) / (floor - line[0]) == pytest.approx(0.5, abs=0.01)


def test_the_columns_of_ranks_are_as_high_as_their_shares() -> None:
    drawn = picture(share_by_rank([(0, 0.5), (1, 0.25), (2, 0.0)], "#de7700", dark=True))

    heights = [float(height) for height in re.findall(r'height="([\d.]+)" fill', drawn)]
    assert heights[1] == pytest.approx(heights[0] / 2, abs=0.1)
    assert heights[2] == 0


def test_thinning_keeps_the_highest_and_the_lowest_point() -> None:
    # Given
    x = np.arange(100_000, dtype=np.float64)
    y = np.zeros(100_000)
    y[77_777], y[12_345] = 9, -9

    # When
    thinned = thin(x, y)[1]

    # Then
    assert len(thinned) <= MAX_POINTS
    assert (thinned.max(), thinned.min()) == (9, -9)


def series_of(steps: int) -> StepSeries:
    duration = np.full(steps, 10.0)
    duration[-1] = 50.0
    return StepSeries(
        rank=0,
        start_s=np.arange(steps) * 0.01,
        duration_ms=duration,
        steady=np.ones(steps, np.bool_),
        profiled=np.zeros(steps, np.bool_),
        outlier=duration > 20,
        median_ms=10.0,
        drift=None,
        bands=[Band("checkpoint", 0.1, 0.2)],
        phase_ms={},
    )


def test_the_timeline_marks_outliers_and_shades_checkpoints_and_links_the_axes() -> None:
    # Given
    line = Line(HOSTILE, np.array([0.0, 1.0]), np.array([1.0, 2.0]))

    # When
    made = timeline(series_of(10_000), [Panel("Network", "B/s", [line])], dark=False)

    # Then
    assert made.data[1].y.tolist() == [50.0]
    assert [
        (shape.x0, shape.fillcolor) for shape in made.layout.shapes if shape.type == "rect"
    ] == [(0.1, SLOT_COLOURS_LIGHT["storage"])]
    assert made.layout.xaxis.matches == "x2"
    assert "<img" not in str(made.to_dict())


def op(name: str, intensity: float | None, rate: float | None) -> OpRow:
    return OpRow(name, "gemm", "compute", "", "", 1, 1.0, 1.0, 0.5, intensity, rate, None, None)


def test_the_roofline_places_ops_with_known_work_and_cuts_the_roofs_at_the_ridge() -> None:
    # Given
    roofs = [Roof("memory", 1e10, True), Roof("fp32", 1e12, False)]

    # When
    made = roofline([op(HOSTILE, 50.0, 1e11), op("copy", None, None)], roofs, dark=True)

    # Then
    assert made is not None
    memory, arithmetic, bubbles = made.data
    assert memory.x[1] == arithmetic.x[0] == pytest.approx(100)
    assert list(bubbles.x) == [50.0]
    assert "<img" not in str(made.to_dict())


def test_without_known_work_there_is_no_roofline() -> None:
    assert roofline([op("copy", None, None)], [], dark=True) is None


def test_the_flame_graph_tells_how_much_matches_a_search_and_counts_nothing_twice() -> None:
    # Given: load calls itself
    root = Node("all", "", 0, count=10)
    outer = root.children["a", "f", 1] = Node("load", "f", 1, count=6)
    outer.children["a", "f", 2] = Node("load", "f", 2, count=5, own=5)
    root.children["b", "f", 3] = Node(HOSTILE, "f", 3, count=4, own=4)

    # When
    made, found = flame(root, "load", dark=True)

    # Then
    assert found == pytest.approx(0.6)
    assert sorted(made.data[0].values) == [4, 5, 6, 10]
    assert "<img" not in str(made.to_dict())


def test_the_waterfall_leads_from_the_base_to_the_new_step_time() -> None:
    # Given
    side = Side("a", "a", "compute", 100.0, 100.0, 10, 1)
    new = Side("b", "b", "input", 120.0, 120.0, 10, 1)
    slots = [SlotChange("input", 0.0, 30.0), SlotChange("host", 20.0, 10.0)]
    found = Comparison(1, side, new, 0.2, 0.1, 0.3, "", slots, [], [], [], [], [], [])

    # When
    (bars,) = waterfall(found, dark=True).data

    # Then
    assert list(bars.y) == ["base", "input", "host", "new"]
    assert list(bars.base) == [0, 100, 120, 0]
    assert list(bars.x) == [100, 30, 10, 120]
