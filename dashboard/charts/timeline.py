"""Step times over the run, and under them the metrics on the same axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ...profiler.report.colours import slot_colours
from ...profiler.tables.metrics import Panel
from ...profiler.tables.steps import StepSeries
from ...profiler.text import milliseconds
from .base import NUMBERS_PX, UNDER_PX, Float, grid_colour, ink, short, thin, thinned

STEPS_HEIGHT = 300
PANEL_HEIGHT = 118
PANEL_GAP = 46
TOP_PX = 26
LEGEND_CHARACTERS = 44
"""What fits over a panel on a telephone."""

LINE_COLOURS = (
    ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb"),
    ("#5f6fd6", "#f2484f", "#296718", "#c4850c", "#3286b4", "#9b0f76", "#939393"),
)
"""On a dark background Tol's bright scheme, safe for the colour-blind: metrics are no slots and
have other colours. On a light one the same hues darker, found as the slots' were: a contrast of
3:1, and the greatest smallest distance as the three kinds of sight see them."""

LINE_DASHES = ("solid", "dot")
BAND_SLOTS = {"evaluation": "evaluation", "checkpoint": "storage"}
BAND_OPACITY = 0.28
PLAIN_BANDS = {"start-up": 0.14, "profiler": 0.07}
MIN_BAND_SHARE = 0.0015
"""A band is drawn at least so wide, share of the run: a checkpoint must be seen."""

MAX_MARKS = 300
"""Marks of outliers: more of them touch each other, and each is an element of the page."""

OUTLIER_COLOUR = "#d1495b"
UNITS = {
    "B": ("~s", "B"),
    "B/s": ("~s", "B/s"),
    "%": ("", " %"),
    "W": ("~s", " W"),
    "cores": ("", ""),
}


def timeline(
    series: StepSeries,
    panels: Sequence[Panel],
    *,
    dark: bool,
    span_s: tuple[float, float] | None = None,
) -> go.Figure:
    """Return the figure of `span_s`, or of the whole run: all rows show the same stretch.

    A drag over any row marks a stretch. What is drawn is thinned within the stretch alone: a part
    shows what the whole has no room for.
    """
    span = span_s or (0.0, end_s(series, panels))
    drawing = _Drawing(1 + len(panels), span, dark=dark)
    _steps(drawing, series)
    _bands(drawing, series)
    for number, panel in enumerate(panels):
        _panel(drawing, panel, number + 2)
    return drawing.figure()


class _Drawing:
    """The parts of the figure, as plain data: Plotly checks them once, when all is there.

    To put them into a figure one by one, as `make_subplots` and `add_scatter` do, takes four times
    as long.
    """

    def __init__(self, rows: int, span: tuple[float, float], *, dark: bool) -> None:
        self.rows = rows
        self.span = span
        self.dark = dark
        self.traces: list[dict[str, Any]] = []
        self.shapes: list[dict[str, Any]] = []
        self.notes: list[dict[str, Any]] = []
        panels = rows - 1
        self.height = STEPS_HEIGHT + panels * (PANEL_HEIGHT + PANEL_GAP)
        self.layout: dict[str, Any] = {}
        for row in range(1, rows + 1):
            low, high = self._domain(row)
            number = _number(row)
            common = {
                "gridcolor": grid_colour(dark=dark),
                "zeroline": False,
                "fixedrange": True,
                "automargin": False,
            }
            self.layout[f"xaxis{number}"] = {
                **common,
                "anchor": f"y{number}",
                "domain": [0.0, 1.0],
                "range": list(span),
                "showticklabels": row == rows,
            }
            self.layout[f"yaxis{number}"] = {
                **common,
                "anchor": f"x{number}",
                "domain": [low, high],
                "rangemode": "tozero",
            }
            if row != rows:
                self.layout[f"xaxis{number}"]["matches"] = f"x{_number(rows)}"
        self.layout[f"xaxis{_number(rows)}"]["title"] = {"text": "seconds since the start"}

    def _domain(self, row: int) -> tuple[float, float]:
        """Where a row lies, as shares of the height, from below."""
        top = 0 if row == 1 else STEPS_HEIGHT + PANEL_GAP + (row - 2) * (PANEL_HEIGHT + PANEL_GAP)
        tall = STEPS_HEIGHT if row == 1 else PANEL_HEIGHT
        return max(0.0, 1 - (top + tall) / self.height), 1 - top / self.height

    def line(self, row: int, **trace: Any) -> None:
        number = _number(row)
        self.traces.append(
            {"type": "scatter", "xaxis": f"x{number}", "yaxis": f"y{number}"} | trace
        )

    def title(self, row: int, text: str) -> None:
        """Write over a row, at its left."""
        number = _number(row)
        self.notes.append(
            {
                "text": text,
                "x": 0,
                "y": 1,
                "xref": f"x{number} domain",
                "yref": f"y{number} domain",
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 12},
                "align": "left",
            }
        )

    def scale(self, row: int, **axis: Any) -> None:
        self.layout[f"yaxis{_number(row)}"] |= axis

    def figure(self) -> go.Figure:
        layout = {
            "height": self.height + UNDER_PX + TOP_PX,
            "margin": {"l": NUMBERS_PX, "r": 8, "t": TOP_PX, "b": UNDER_PX},
            "showlegend": False,
            "hovermode": "closest",
            "dragmode": "select",
            "selectdirection": "h",
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "shapes": self.shapes,
            "annotations": self.notes,
            **self.layout,
        }
        return go.Figure({"data": self.traces, "layout": layout})


def _number(row: int) -> str:
    """What Plotly adds to the names of a row's axes."""
    return "" if row == 1 else str(row)


def end_s(series: StepSeries, panels: Sequence[Panel]) -> float:
    """Return when the last of what is drawn ends, s since the start of the run."""
    return max([_last(series), *(_panel_end(panel) for panel in panels)])


def _last(series: StepSeries) -> float:
    if not len(series):
        return 1.0
    return float(series.start_s[-1] + series.duration_ms[-1] * 1e-3)


def _panel_end(panel: Panel) -> float:
    return max(float(line.time_s[-1]) for line in panel.lines)


def _within(begin_s: Float, end_s: Float, span: tuple[float, float]) -> slice:
    """What lies in the stretch, with a neighbour on either side, which a line leads to."""
    low = int(np.searchsorted(end_s, span[0], side="left"))
    high = int(np.searchsorted(begin_s, span[1], side="right"))
    return slice(max(0, low - 1), high + 1)


def _steps(drawing: _Drawing, series: StepSeries) -> None:
    colour = ink(dark=drawing.dark)
    part = _within(series.start_s, series.start_s + series.duration_ms * 1e-3, drawing.span)
    seen = np.arange(len(series))[part]
    shown = seen[thinned(series.duration_ms[part])]
    drawing.line(
        1,
        x=series.start_s[shown],
        y=series.duration_ms[shown],
        mode="lines" if len(shown) > 1 else "markers",
        line={"color": colour, "width": 1.2},
        marker={"size": 9, "color": colour},
        customdata=(shown + 1)[:, None],
        hovertemplate="%{x:.2f} s: step %{customdata[0]:,} of %{y:.4~g} ms<extra></extra>",
    )
    marked = seen[series.outlier[part]]
    if len(marked):
        marked = marked[thinned(series.duration_ms[marked], MAX_MARKS)]
        drawing.line(
            1,
            x=series.start_s[marked],
            y=series.duration_ms[marked],
            mode="markers",
            marker={"color": OUTLIER_COLOUR, "size": 9, "symbol": "triangle-up"},
            customdata=(marked + 1)[:, None],
            hovertemplate="%{x:.2f} s: step %{customdata[0]:,}, an outlier of %{y:.4~g} ms"
            "<extra></extra>",
        )
    median = {"type": "line", "xref": "x domain", "x0": 0, "x1": 1, "yref": "y"}
    level = {"y0": series.median_ms, "y1": series.median_ms}
    drawing.shapes.append({**median, **level, "line": {"dash": "dot", "width": 1, "color": colour}})
    drawing.title(1, f"<b>Step time</b>, ms · median {milliseconds(series.median_ms)}")
    steady = series.duration_ms[part][series.steady[part]]
    known = steady if len(steady) else series.duration_ms[part]
    top = float(np.max(known))
    drawing.scale(1, range=[0, top * 1.1])


def _bands(drawing: _Drawing, series: StepSeries) -> None:
    """Shade start-up, evaluation and checkpoints over all rows."""
    span, dark = drawing.span, drawing.dark
    colours = slot_colours(dark=dark)
    least = (span[1] - span[0]) * MIN_BAND_SHARE
    for band in series.bands:
        if band.end_s < span[0] - least or band.start_s > span[1]:
            continue
        slot = BAND_SLOTS.get(band.what)
        colour = colours[slot] if slot else ink(dark=dark)
        opacity = PLAIN_BANDS.get(band.what, BAND_OPACITY)
        width = max(band.end_s - band.start_s, least)
        drawing.shapes.append(
            {
                "type": "rect",
                "x0": band.start_s,
                "x1": band.start_s + width,
                "xref": f"x{_number(drawing.rows)}",
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "fillcolor": colour,
                "opacity": opacity,
                "line": {"width": 0},
                "layer": "below",
            }
        )


def _panel(drawing: _Drawing, panel: Panel, row: int) -> None:
    colours = LINE_COLOURS[0 if drawing.dark else 1]
    form, suffix = UNITS[panel.unit]
    names: list[str] = []
    room = LEGEND_CHARACTERS
    for number, line in enumerate(panel.lines):
        colour = colours[number % len(colours)]
        part = _within(line.time_s, line.time_s, drawing.span)
        x, y = thin(line.time_s[part], line.value[part])
        drawing.line(
            row,
            x=x,
            y=y,
            mode="lines" if len(x) > 1 else "markers",
            line={
                "color": colour,
                "width": 1.5,
                "dash": LINE_DASHES[number // len(colours) % len(LINE_DASHES)],
            },
            hovertemplate=f"%{{customdata}}: %{{y:.3{form or '~g'}}}{suffix}"
            "<br>%{x:.1f} s<extra></extra>",
            customdata=[short(line.label)] * len(x),
        )
        room -= len(line.label) + 3
        if room > 0 or not names:
            names.append(f'<span style="color:{colour}">■</span> {short(line.label, 28)}')
    hidden = len(panel.lines) - len(names) + panel.left_out
    more = f"  + {hidden}" if hidden else ""
    unit = f", {panel.unit}" if panel.unit in ("cores", "%") else ""
    drawing.title(row, f"<b>{panel.title}</b>{unit}<br>{'  '.join(names)}{more}")
    drawing.scale(row, tickformat=form, ticksuffix=suffix, nticks=4)
