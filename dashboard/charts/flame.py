"""The flame graph: callers above, callees below, width by samples; a click zooms."""

from __future__ import annotations

import hashlib
import os
from collections import Counter

import plotly.graph_objects as go

from ...profiler.report.colours import text_on
from ...profiler.tables.flame import MIN_SHARE, Node
from ...profiler.text import percent
from .base import figure, plain

ROW = 22
MIN_HEIGHT = 240
MAX_ROWS = 60
ROOT = "root"
MAX_NAMED = 80
"""Boxes that a list offers to zoom to: more are not read through."""
INDENT, MAX_INDENT = "\N{FIGURE SPACE}", 12

USER = ("#f0a04b", "#c96a12")  # the user's own code: dark, light background
LIBRARY = ("#4a5a70", "#b9c6d6")
FOUND = "#d1495b"
PALE = ("#2a313c", "#e6e9ee")


def boxes(root: Node, most: int = MAX_NAMED) -> list[tuple[str, str]]:
    """Return (id, words) of the widest boxes below the root, callers before what they call.

    The words are text, not escaped, and no two boxes have the same.
    """
    found: list[tuple[int, str, str]] = []

    def walk(node: Node, own: str, depth: int) -> None:
        for child in _wide_children(node, root):
            key = _key(own, child)
            share = percent(child.count / root.count)
            place = f" · {os.path.basename(child.file)}:{child.line}" if child.file else ""
            indent = INDENT * min(depth, MAX_INDENT)
            found.append((child.count, key, f"{indent}{child.function}{place} · {share}"))
            walk(child, key, depth + 1)

    walk(root, ROOT, 0)
    least = sorted((count for count, _, _ in found), reverse=True)[:most][-1:] or [0]
    named = [(key, words) for count, key, words in found if count >= least[0]][:most]
    times = Counter[str]()
    for place, (key, words) in enumerate(named):
        times[words] += 1
        named[place] = (key, words if times[words] == 1 else f"{words} ({times[words]})")
    return named


def flame(root: Node, search: str, *, dark: bool, zoom: str = "") -> tuple[go.Figure, float]:
    """Return the figure, and the share of samples in frames that match `search`.

    `zoom` is the id of the box that is shown over the whole width.
    """
    columns = _Columns(root, search.lower(), dark=dark)
    columns.walk(root, "", ROOT, 0, matched=False)
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
            level=zoom if zoom in columns.ids else None,
        )
    )
    made.update_layout(
        margin={"l": 0, "r": 0, "t": 4, "b": 0}, uniformtext={"minsize": 10, "mode": "hide"}
    )
    return made, columns.found / root.count if root.count else 0.0


def _wide_children(node: Node, root: Node) -> list[Node]:
    """Return what is called from a frame and wide enough to be seen, widest first."""
    least = root.count * MIN_SHARE
    return sorted((c for c in node.children.values() if c.count >= least), key=lambda c: -c.count)


def _key(parent: str, node: Node) -> str:
    """Return the id of a box: the same while a run goes on and more samples come in."""
    text = f"{parent}|{node.function}|{node.file}|{node.line}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


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

    def walk(self, node: Node, parent: str, own: str, depth: int, *, matched: bool) -> None:
        """Add a node and what is below it."""
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
        for child in _wide_children(node, self._root):
            self.walk(child, own, _key(own, child), depth + 1, matched=matched or hit)

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
