"""The flame graph: callers above, callees below, width by samples; a click zooms."""

from __future__ import annotations

import os

import plotly.graph_objects as go

from ...profiler.report.colours import text_on
from ...profiler.tables.flame import MIN_SHARE, Node
from ...profiler.text import percent
from .base import figure, plain

ROW = 22
MIN_HEIGHT = 240
MAX_ROWS = 60

USER = ("#f0a04b", "#c96a12")  # the user's own code: dark, light background
LIBRARY = ("#4a5a70", "#b9c6d6")
FOUND = "#d1495b"
PALE = ("#2a313c", "#e6e9ee")


def flame(root: Node, search: str, *, dark: bool) -> tuple[go.Figure, float]:
    """Return the figure, and the share of samples in frames that match `search`."""
    columns = _Columns(root, search.lower(), dark=dark)
    columns.walk(root, "", 0, matched=False)
    rows = min(columns.depth, MAX_ROWS) + 2
    made = figure(max(MIN_HEIGHT, rows * ROW))
    made.add_trace(
        go.Icicle(
            ids=columns.ids,
            parents=columns.parents,
            labels=columns.labels,
            values=columns.values,
            branchvalues="total",
            marker={"colors": columns.colours, "line": {"width": 1}},
            customdata=columns.texts,
            hovertemplate="%{customdata}<extra></extra>",
            tiling={"orientation": "v", "pad": 1},
            pathbar={"visible": True, "thickness": ROW},
            maxdepth=MAX_ROWS,
            textfont={"size": 12, "color": [text_on(colour) for colour in columns.colours]},
            leaf={"opacity": 1},
            sort=False,
        )
    )
    made.update_layout(
        margin={"l": 0, "r": 0, "t": 4, "b": 0}, uniformtext={"minsize": 10, "mode": "hide"}
    )
    return made, columns.found / root.count if root.count else 0.0


class _Columns:
    """Gathers the boxes; those too narrow to be seen are left out."""

    def __init__(self, root: Node, search: str, *, dark: bool) -> None:
        self.ids: list[str] = []
        self.parents: list[str] = []
        self.labels: list[str] = []
        self.values: list[int] = []
        self.colours: list[str] = []
        self.texts: list[str] = []
        self.depth = 0
        self.found = 0
        self._root = root
        self._search = search
        self._side = 0 if dark else 1

    def walk(self, node: Node, parent: str, depth: int, *, matched: bool) -> None:
        """Add a node and what is below it."""
        own = f"{len(self.ids)}"
        hit = bool(self._search) and self._search in f"{node.function} {node.file}".lower()
        if hit and not matched:
            self.found += node.count
        self.ids.append(own)
        self.parents.append(parent)
        self.labels.append(plain(node.function))
        self.values.append(node.count)
        self.colours.append(self._colour(node, hit))
        self.texts.append(self._text(node))
        self.depth = max(self.depth, depth)
        for child in sorted(node.children.values(), key=lambda c: -c.count):
            if child.count >= self._root.count * MIN_SHARE:
                self.walk(child, own, depth + 1, matched=matched or hit)

    def _colour(self, node: Node, hit: bool) -> str:
        if hit:
            return FOUND
        if self._search or node is self._root:
            return PALE[self._side]
        return (USER if node.is_user else LIBRARY)[self._side]

    def _text(self, node: Node) -> str:
        place = f"<br>{plain(os.path.join('…', *node.file.split('/')[-3:]))}:{node.line}"
        own = f", {percent(node.own / self._root.count)} in itself" if node.own else ""
        return (
            f"<b>{plain(node.function)}</b>{place if node.file else ''}"
            f"<br>{percent(node.count / self._root.count)} of {self._root.count:,} samples{own}"
        )
