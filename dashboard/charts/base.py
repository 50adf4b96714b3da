"""What all figures share: layout, text that Plotly does not read as HTML, thinning."""

from __future__ import annotations

from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import plotly.io as pio

pio.templates.default = None
"""The page has one template for all (`theme`); to copy Plotly's own into each figure takes longer
than to make the figure."""

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

MAX_POINTS = 2_000
"""Points of one line: about one a pixel; more are thinned without losing a peak."""

LABEL_CHARACTERS = 42


NUMBERS_PX, UNDER_PX = 58, 46
"""Room for the numbers of an axis at the left, and for those below with the axis's name."""


def keep_margins(made: go.Figure, *, left: int = NUMBERS_PX) -> None:
    """Give a figure of plain numbers its margins: to find them, Plotly draws everything twice."""
    made.update_layout(margin={"l": left, "b": UNDER_PX})
    made.update_xaxes(automargin=False)
    made.update_yaxes(automargin=False)


def figure(height: int, **layout: Any) -> go.Figure:
    """Return an empty figure with the dashboard's margins and fonts."""
    made = go.Figure()
    made.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        showlegend=False,
        hoverlabel={"align": "left"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        **layout,
    )
    return made


def theme(*, dark: bool) -> dict[str, Any]:
    """Return the template of all figures: what a chart does not say itself, in the page's colours.

    The font's family is the page's (static/draw.js).
    """
    words, lines = ("#d5dae5", "#31333f") if dark else ("#555867", "#d5dae5")
    axis = {
        "automargin": True,
        "gridcolor": lines,
        "tickcolor": lines,
        "tickfont": {"color": words, "size": 12},
        "title": {"font": {"color": words, "size": 14}, "standoff": 20},
        "zerolinecolor": lines,
    }
    layout = {
        "font": {"color": words, "size": 12},
        "hoverlabel": {
            "bgcolor": "#0f1218" if dark else "#ffffff",
            "bordercolor": words,
            "font": {"color": words, "size": 12},
        },
        "margin": {"pad": 8},
        "xaxis": {**axis, "showgrid": False, "zeroline": False},
        "yaxis": axis,
    }
    bare = {"marker": {"line": {"width": 0}}}
    return {"layout": layout, "data": {"scatter": [bare], "bar": [bare]}}


def plain(text: str) -> str:
    """Return text for labels and hover boxes: Plotly would read tags and links in it."""
    return escape(text, quote=False)


def short(text: str, limit: int = LABEL_CHARACTERS) -> str:
    """Return the text cut to `limit` characters, escaped."""
    return plain(text if len(text) <= limit else text[: limit - 1] + "…")


def grid_colour(*, dark: bool) -> str:
    """Return the colour of grid lines."""
    return "rgba(255,255,255,0.12)" if dark else "rgba(0,0,0,0.10)"


def ink(*, dark: bool) -> str:
    """Return the colour of lines and marks that belong to no slot."""
    return "#d7dbe3" if dark else "#30343c"


def thin(x: Float, y: Float, limit: int = MAX_POINTS) -> tuple[Float, Float]:
    """Return at most about `limit` points: the lowest and the highest of each stretch."""
    chosen = thinned(y, limit)
    return x[chosen], y[chosen]


def thinned(y: Float, limit: int = MAX_POINTS) -> Index:
    """Return which points stay: the lowest and the highest of each stretch."""
    if len(y) <= limit:
        return np.arange(len(y))
    edges = np.linspace(0, len(y), limit // 2 + 1).astype(int)
    keep: list[int] = []
    for begin, end in pairwise(edges.tolist()):
        part = y[begin:end]
        if len(part):
            keep += sorted({begin + int(np.argmin(part)), begin + int(np.argmax(part))})
    return np.asarray(keep)
