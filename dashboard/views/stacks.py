"""Where the Python code was when it was looked at: a flame graph, by phase and rank."""

from __future__ import annotations

from typing import get_args

import streamlit as st

from ...profiler.hot_lines import hot_lines
from ...profiler.library import Source
from ...profiler.report.places import shorten
from ...profiler.run.load import Run
from ...profiler.tables.flame import HOST, Node, Which, flame_tree, phases_seen
from ...profiler.text import percent
from .. import live, markup, state, tables
from ..charts.flame import ROOT, boxes, flame

WORDS: dict[Which, str] = {
    "all": "Everything",
    "input": "Waiting for input",
    "host": "Host: all but waiting",
    "backward": "Backward",
    "optimizer": "Optimizer",
    "storage": "Checkpoint",
    "rest": "Forward and the rest",
    "worker": "Loader workers",
}
HOT_LINES = 8


def _view(source: Source) -> None:
    live.watch(source, _body)


page = state.page_of_run(_view)


def _body(source: Source) -> None:
    state.html(markup.title("Stacks", state.name_of(source)))
    run = state.run(source)
    ranks = [rank.rank for rank in run.ranks if any(phases_seen(run, rank.rank).values())]
    if not ranks:
        hint = "They come from boundscope run; boundscope doctor says whether they can work here."
        state.html(markup.empty("No stack samples were recorded.", hint))
        return
    left, right = st.columns([1, 3])
    with left:
        rank = state.choose_rank(ranks)
    with left if len(ranks) == 1 else right:
        which = _choose(run, rank)
    search, only = st.columns([3, 2], vertical_alignment="bottom")
    words = search.text_input("Search", placeholder="function or file", key="stack-search")
    only_user = only.toggle("Only my own code", key="only-user")
    root = flame_tree(run, rank, which, only_user=only_user)
    zoom = _zoom(root)
    figure, found = flame(root, words, dark=state.is_dark(), zoom=zoom)
    state.html(markup.paragraph(_explained(root.count, words, found)))
    state.charts(figure, "flame", subject=f"{rank}-{which}-{only_user}-{words}-{zoom}")
    _hot_lines(run, rank, which)


def _zoom(root: Node) -> str:
    """Let a box be chosen from a list: the keyboard's way to what a click on it does."""
    named = {ROOT: "the whole graph", **dict(boxes(root))}
    return state.pick("Zoom to", list(named), words=lambda key: named[key], key="zoom-to")


def _choose(run: Run, rank: int) -> Which:
    phases = phases_seen(run, rank)
    seen: dict[str, int] = {str(phase): count for phase, count in phases.items()}
    seen["host"] = sum(phases.get(phase, 0) for phase in HOST)
    there: list[Which] = ["all"]
    there += [which for which in get_args(Which) if which != "all" and seen.get(which)]
    return state.pick("Phase", there, words=lambda which: WORDS[which], width=280)


def _explained(samples: int, words: str, found: float) -> str:
    if words:
        return f"{percent(found)} of {samples:,} samples lie in frames that match."
    words = "A click on a box, or the list above, zooms; the bar over the graph goes back."
    return f"{samples:,} samples. Orange: your own code. {words}"


def _hot_lines(run: Run, rank: int, which: Which) -> None:
    if which == "all":
        return
    pid = next(data.pid for data in run.ranks if data.rank == rank)
    rows = [
        {
            "line": f"{shorten(line.file)}:{line.line}",
            "function": line.function,
            "share": line.share * 100,
            "samples": line.samples,
        }
        for line in hot_lines(run, pid, HOST if which == "host" else which, HOT_LINES)
    ]
    if rows:
        state.html(markup.heading("The lines of your code that were seen most"))
        share = st.column_config.ProgressColumn(format="%.0f %%", max_value=100)
        tables.shown(rows, column_config={"share": share})
