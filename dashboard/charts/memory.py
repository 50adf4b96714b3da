"""Memory over time."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from ...profiler.tables.memory import MemorySeries
from .base import figure, grid_colour, ink, plain, short, thin
from .timeline import LINE_COLOURS

HEIGHT = 280
MAX_LINES = 7


def memory(
    lines: Sequence[MemorySeries],
    limit: tuple[str, float] | None,
    *,
    dark: bool,
    title: str = "seconds since the start",
) -> go.Figure:
    """Return the figure; `limit` is a (name, bytes) to draw when it is near."""
    made = figure(HEIGHT)
    made.update_layout(
        showlegend=len(lines) > 1,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    for number, line in enumerate(lines[:MAX_LINES]):
        x, y = thin(line.time_s, line.bytes)
        made.add_scatter(
            x=x,
            y=y,
            mode="lines",
            name=short(line.label, 24),
            line={"color": LINE_COLOURS[0 if dark else 1][number], "width": 1.8},
            customdata=[short(line.label, 24)] * len(x),
            hovertemplate="%{customdata}: %{y:.3~s}B<br>%{x:.1f} s<extra></extra>",
        )
    top = max((line.peak for line in lines), default=1.0)
    if limit is not None and limit[1] < 2 * top:
        made.add_hline(
            y=limit[1],
            line={"dash": "dash", "width": 1, "color": ink(dark=dark)},
            annotation={"text": plain(limit[0]), "font": {"size": 11}},
        )
        top = max(top, limit[1])
    made.update_xaxes(title=title, gridcolor=grid_colour(dark=dark))
    made.update_yaxes(
        range=[0, top * 1.08],
        tickformat="~s",
        ticksuffix="B",
        gridcolor=grid_colour(dark=dark),
        fixedrange=True,
    )
    return made
