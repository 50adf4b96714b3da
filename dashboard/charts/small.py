"""Small drawings beside a finding and the bar of slots, as SVG and HTML text.

The verdict is what opens first: without the four megabytes of a plotting library it is there at
once. Text is escaped, and a picture in an `img` runs no script whatever it holds.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from ...profiler.report.colours import slot_colours, text_on
from ...profiler.tables.steps import StepSeries
from ...profiler.text import digits, milliseconds, percent
from .base import Float, ink, thinned

WIDTH, HEIGHT = 420, 120
LEFT, RIGHT, TOP, BOTTOM = 54, 6, 14, 22
"""Room around the drawing for the figures on its edges."""

MAX_POINTS = 400
TOP_QUANTILE = 0.99
"""The axis ends here: one slow step must not flatten all others."""

MIN_SHARE = 0.001

FEW = 16


def slot_bar(shares: Mapping[str, float], *, dark: bool) -> str:
    """Return one stacked bar over the whole width, largest slot first.

    The style sheet leaves out the names, then the figures, for which a part has no room.
    """
    colours = slot_colours(dark=dark)
    shown = sorted((item for item in shares.items() if item[1] >= MIN_SHARE), key=lambda i: -i[1])
    parts = "".join(
        f'<div style="flex:{share:.4f} 1 0;background:{colours[slot]};'
        f'color:{text_on(colours[slot])}" title="{escape(slot)} {percent(share)} of step time">'
        f"<span><span>{escape(slot)}</span> {percent(share)}</span></div>"
        for slot, share in shown
    )
    words = ", ".join(f"{slot} {percent(share)}" for slot, share in shown)
    return f'<div class="bs bs-slots" role="img" aria-label="{escape(words)}">{parts}</div>'


def part_of_steps(series: StepSeries, phase: str, words: str, colour: str, *, dark: bool) -> str:
    """Return the time of every step over the run, and the part of it that the phase takes."""
    shown = thinned(series.duration_ms, MAX_POINTS)
    known = series.duration_ms[series.steady] if series.steady.any() else series.duration_ms
    top = float(np.quantile(known, TOP_QUANTILE)) * 1.25 or 1.0
    begin, end = float(series.start_s[0]), float(series.start_s[-1])
    x = _across((series.start_s[shown] - begin) / max(end - begin, 1e-9))
    step = _up(series.duration_ms[shown] / top)
    part = _up(series.phase_ms[phase][shown] / top)
    floor = HEIGHT - BOTTOM
    area = f"{x[0]:.1f},{floor} {_points(x, part)} {x[-1]:.1f},{floor}"
    drawn = (
        f'<polygon points="{area}" fill="{colour}" fill-opacity="0.6"/>'
        f'<polyline points="{_points(x, step)}" fill="none" stroke="currentColor"'
        ' stroke-width="1" stroke-opacity="0.85"/>'
    )
    edges = ((f"{digits(top)} ms", "0 ms"), (f"{digits(begin)} s", f"{digits(end)} s"))
    label = f"{words}: part of every step, median step {milliseconds(series.median_ms)}"
    return _svg(drawn + _edges(*edges), label, dark=dark)


def share_by_rank(shares: Sequence[tuple[int, float]], colour: str, *, dark: bool) -> str:
    """Return the share of each rank's step time, a column a rank."""
    top = max((share for _, share in shares), default=0.0) or 1.0
    room = (WIDTH - LEFT - RIGHT) / len(shares)
    drawn = []
    for number, (_, share) in enumerate(shares):
        left, height = LEFT + number * room, (HEIGHT - TOP - BOTTOM) * share / top
        width = max(room * 0.86, 0.5)
        drawn.append(
            f'<rect x="{left + room * 0.07:.1f}" y="{HEIGHT - BOTTOM - height:.1f}"'
            f' width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'
        )
        if len(shares) <= FEW:
            middle = left + room / 2
            drawn.append(_text(middle, HEIGHT - BOTTOM - height - 3, percent(share), "middle"))
    edges = ("rank " + str(shares[0][0]), str(shares[-1][0]))
    words = ", ".join(f"rank {rank} {percent(share)}" for rank, share in shares[:FEW])
    return _svg("".join(drawn) + _edges((percent(top), "0 %"), edges), words, dark=dark)


def _across(share: Float) -> Float:
    return np.asarray(LEFT + np.clip(share, 0, 1) * (WIDTH - LEFT - RIGHT))


def _up(share: Float) -> Float:
    return np.asarray(HEIGHT - BOTTOM - np.clip(share, 0, 1) * (HEIGHT - TOP - BOTTOM))


def _points(x: Float, y: Float) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))


def _edges(up: tuple[str, str], across: tuple[str, str]) -> str:
    """The figures at the ends of both axes, and the floor."""
    floor = HEIGHT - BOTTOM
    return (
        f'<line x1="{LEFT}" y1="{floor}" x2="{WIDTH - RIGHT}" y2="{floor}" stroke="currentColor"'
        ' stroke-opacity="0.3"/>'
        + _text(LEFT - 5, TOP + 4, up[0], "end")
        + _text(LEFT - 5, floor, up[1], "end")
        + _text(LEFT, HEIGHT - 6, across[0], "start")
        + _text(WIDTH - RIGHT, HEIGHT - 6, across[1], "end")
    )


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11.5"'
        f' fill="currentColor" fill-opacity="0.75">{escape(words)}</text>'
    )


def _svg(drawn: str, label: str, *, dark: bool) -> str:
    """Return a picture with words for those who do not see it."""
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' font-family="system-ui,sans-serif" color="{ink(dark=dark)}">{drawn}</svg>'
    )
    data = base64.b64encode(picture.encode()).decode()
    return (
        f'<div class="bs bs-small"><img src="data:image/svg+xml;base64,{data}"'
        f' alt="{escape(label)}"></div>'
    )
