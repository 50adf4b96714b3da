"""Heat maps of a job: slots by rank, step times by rank, who waits for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go

from ...profiler.diagnosis import SLOTS
from ...profiler.tables.job import StepGrid, WaitGrid
from .base import NUMBERS_PX, Float, figure, keep_margins

ROW = 20
MIN_HEIGHT, MAX_HEIGHT = 170, 620
SCALES = (
    ("#131a24", "#1d5c8f", "#56b4e9", "#f5f2c8"),
    ("#f4f7fb", "#9cc9ea", "#2e78b5", "#0b2b50"),
)
"""From little to much, on a dark and on a light background: one hue by lightness, which everyone
can read."""
TEXT_UP_TO = 10
MAX_ROWS = 256
"""Rows of a map: more of them are thinner than two pixels."""
TALLEST_QUANTILE = 0.98
"""The colours end here: one slow step must not hide the difference between ranks."""


def _scale(*, dark: bool) -> list[list[object]]:
    colours = SCALES[0 if dark else 1]
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]


def _height(rows: int) -> int:
    return min(MAX_HEIGHT, max(MIN_HEIGHT, 90 + rows * ROW))


def slot_map(ranks: Sequence[tuple[int, Mapping[str, float]]], *, dark: bool) -> go.Figure:
    """Return ranks by slots, for jobs of more ranks than bars can show."""
    made = figure(_height(len(ranks)))
    made.add_heatmap(
        z=[[shares.get(slot, 0.0) * 100 for slot in SLOTS] for _, shares in ranks],
        x=list(SLOTS),
        y=[f"{rank}" for rank, _ in ranks],
        colorscale=_scale(dark=dark),
        zmin=0,
        zmax=100,
        colorbar={"ticksuffix": " %", "thickness": 10, "title": ""},
        hovertemplate="rank %{y}, %{x}: %{z:.1f} %<extra></extra>",
    )
    made.update_yaxes(autorange="reversed", title="rank", type="category", nticks=20)
    return made


def step_map(grid: StepGrid, *, dark: bool) -> go.Figure:
    """Return step times by rank and step; of many ranks, the longest of those that share a row."""
    made = figure(_height(len(grid.ranks)))
    each = -(-len(grid.ranks) // MAX_ROWS)
    step_ms = _longest(grid.step_ms, each)
    known = step_ms[np.isfinite(step_ms)]
    top = float(np.quantile(known, TALLEST_QUANTILE)) if len(known) else 1.0
    made.add_heatmap(
        z=step_ms.astype(np.float32),
        x=grid.first_step,
        y=_places(grid.ranks[::each], each),
        colorscale=_scale(dark=dark),
        zmin=float(known.min()) if len(known) else 0.0,
        zmax=top,
        colorbar={"ticksuffix": " ms", "thickness": 10},
        hoverongaps=False,
        hovertemplate=f"{_whose(each)}, step %{{x}}: %{{z:.4~g}} ms<extra></extra>",
    )
    few = len(grid.first_step) <= TEXT_UP_TO
    made.update_xaxes(title="step", tickformat="d", **({"dtick": 1} if few else {}))
    _rank_axis(made, grid.ranks)
    return made


def _longest(step_ms: Float, each: int) -> Float:
    """The longest of each `each` rows, NaN where none is known."""
    if each <= 1:
        return step_ms
    rows = -(-len(step_ms) // each)
    padded = np.full((rows * each, step_ms.shape[1]), np.nan)
    padded[: len(step_ms)] = step_ms
    return np.asarray(np.fmax.reduce(padded.reshape(rows, each, -1), axis=1))


def _places(first: Sequence[int], each: int) -> list[float] | list[str]:
    """Where rows lie: at their numbers where these are even, which is drawn far faster."""
    if _even(first):
        return [rank + (each - 1) / 2 for rank in first]
    return [f"{rank}" for rank in first]


def _even(ranks: Sequence[int]) -> bool:
    return len(ranks) > 1 and len({after - before for before, after in pairwise(ranks)}) == 1


def _whose(each: int) -> str:
    return "rank %{y}" if each <= 1 else f"the longest of {each} ranks around %{{y:.0f}}"


def _rank_axis(made: go.Figure, ranks: Sequence[int]) -> None:
    keep_margins(made, left=NUMBERS_PX + 12)
    made.update_yaxes(autorange="reversed", title="rank")
    if not _even(ranks):
        made.update_yaxes(type="category", nticks=20)
    elif len(ranks) <= TEXT_UP_TO:
        made.update_yaxes(dtick=ranks[1] - ranks[0], tick0=ranks[0])
    else:
        made.update_yaxes(tickformat="d", nticks=20)


def wait_map(grid: WaitGrid, *, dark: bool) -> go.Figure:
    """Return the matrix of waits: a row waits for a column, ms a step."""
    made = figure(max(220, _height(len(grid.ranks)) + 40))
    names = [f"{rank}" for rank in grid.ranks]
    few = len(names) <= TEXT_UP_TO
    made.add_heatmap(
        z=grid.wait_ms,
        x=names,
        y=names,
        colorscale=_scale(dark=dark),
        zmin=0,
        colorbar={"ticksuffix": " ms", "thickness": 10},
        texttemplate="%{z:.3~g}" if few else None,
        hovertemplate="rank %{y} waits %{z:.3~g} ms a step for rank %{x}<extra></extra>",
    )
    made.update_xaxes(title="… for rank", type="category", nticks=20)
    made.update_yaxes(autorange="reversed", title="rank waits …", type="category", nticks=20)
    return made
