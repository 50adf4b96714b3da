"""What all figures share: layout, text that Plotly does not read as HTML, thinning."""

from __future__ import annotations

from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

MAX_POINTS = 2_000
"""Points of one line: about one a pixel; more are thinned without losing a peak."""

LABEL_CHARACTERS = 42


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
