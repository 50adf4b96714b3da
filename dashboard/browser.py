"""What our own scripts draw in the browser: Plotly figures, and rows to choose from.

Streamlit's own element for figures has the browser read all of Plotly, 4.7 MB of script, for each
page; the build in `static/` has the four kinds of traces that are here (scripts/figures makes it).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from . import markup

NAME = "boundscope_figure"
STATIC = Path(__file__).parent / "static"
ADDRESS = "/app/static"
"""Where Streamlit serves that folder (`server.enableStaticServing`, see profiler/serve.py)."""

KINDS = ("bar", "heatmap", "icicle", "scatter")
"""The traces that the build can draw."""

Dragged = Callable[[float, float], object]
Clicked = Callable[[int], object]


def show_figure(  # noqa: PLR0913 - what a figure can tell of
    figure: go.Figure,
    key: str,
    template: dict[str, Any],
    *,
    subject: str = "",
    bar: bool = False,
    on_drag: Dragged | None = None,
    on_click: Clicked | None = None,
) -> None:
    """Show a figure over the full width; a later one of the same key is drawn into its place.

    `template` says what the figure does not, as Plotly's templates do. A reader's own zoom stays
    while `subject`, the key unless told, is the same. `bar` adds zoom and picture buttons on hover.
    `on_drag` gets both ends of a stretch that was dragged over the x axis, in its units; `on_click`
    the first number of a point's customdata.
    """
    found = st.components.v2.component(NAME, js=_loader(), isolate_styles=False)
    calls: dict[str, Any] = {}
    if on_drag is not None:
        calls["on_drag_change"] = lambda: _told(key, "drag", lambda ends: on_drag(*sorted(ends)))
    if on_click is not None:
        calls["on_click_change"] = lambda: _told(key, "click", lambda number: on_click(int(number)))
    wanted = {
        "subject": subject or key,
        "dragged": on_drag is not None,
        "clicked": on_click is not None,
        "bar": bar,
    }
    # The template goes beside: Plotly for Python checks each of its values, which takes long.
    beside = json.dumps({**wanted, "template": template})
    found(key=key, data=f'{beside[:-1]}, "figure": {figure.to_json()}}}'.encode(), **calls)


def fetch_library() -> None:
    """Let the browser load what draws figures while the page is being made: once a page."""
    with st.container(key="load-charts"):
        script = f'import("{_served("draw.js")}").then((m) => m.load("{_served("plotly.js")}"))'
        st.html(f"<script>{script}</script>", unsafe_allow_javascript=True)


def pick_from(
    rows: Sequence[Mapping[str, str]], key: str, on_pick: Callable[[int], object]
) -> None:
    """Show rows, of which one can be chosen; `on_pick` gets the number in its first cell.

    Streamlit's own table, which a reader can sort, takes 1.2 MB of script.
    """
    found = st.components.v2.component(f"{NAME}_rows", js=_picker(), isolate_styles=False)
    found(
        key=key,
        data={"table": markup.picks(rows)},
        on_pick_change=lambda: _told(key, "pick", lambda number: on_pick(int(number))),
    )


def _told(key: str, event: str, take: Callable[[Any], object]) -> None:
    value = getattr(st.session_state.get(key), event, None)
    if value is not None:
        take(value)


@cache
def _loader() -> str:
    """The component's own script: it only fetches what is served beside it."""
    return f"""export default async (component) => {{
  const {{ draw }} = await import({_absolute("draw.js")});
  return draw(component, {_absolute("plotly.js")});
}};"""


@cache
def _picker() -> str:
    return f"""export default async (component) => {{
  const {{ pick }} = await import({_absolute("pick.js")});
  pick(component);
}};"""


def _absolute(name: str) -> str:
    """The address as the component's script needs it, which is at no address itself."""
    return f"new URL({json.dumps(_served(name))}, location.origin).href"


@cache
def _served(name: str) -> str:
    """The address of a file, another one whenever its content is another."""
    content = hashlib.blake2b((STATIC / name).read_bytes(), digest_size=6).hexdigest()
    return f"{ADDRESS}/{name}?{content}"
