"""Two runs: what changed in the step time, slot by slot, and why it may have."""

from __future__ import annotations

import streamlit as st

from ...profiler import library
from ...profiler.compare import Comparison, signed
from ...profiler.digest.make import comparison
from ...profiler.errors import UnusableData
from ...profiler.library import Entry, Source
from ...profiler.text import milliseconds
from .. import markup, state
from ..charts.compare import moved_ops, signed_ms, waterfall

MAX_OPS = 10


def _view(source: Source) -> None:
    state.html(markup.title("Compare", "What changed from one run to the other"))
    rows = _rows(source)
    if len(rows) < 2:
        state.html(markup.empty("There is nothing to compare with.", "Record a second run."))
        return
    base, new = _choose(rows, source)
    if base.key == new.key:
        state.html(markup.empty("These are the same run.", "Choose another base above."))
        return
    try:
        with st.spinner("Comparing the runs …"):
            found = comparison(base, new, (base.stamp, new.stamp))
    except UnusableData as error:
        state.html(markup.note(error.message, error.hint, error.slug, markup.ERROR))
        return
    _show(found)


page = state.page_of_run(_view)


def _rows(source: Source) -> list[Entry]:
    """Return what can be compared, the source among it; raises what makes it unreadable."""
    rows = state.entries(source.key)
    if all(row.source.key != source.key or row.status == "unreadable" for row in rows):
        library.check(source)
    return [row for row in rows if row.status != "unreadable"]


def _choose(rows: list[Entry], source: Source) -> tuple[Source, Source]:
    """Let both be chosen; the address names them, and follows the choice."""
    keys = [row.source.key for row in rows]
    names = {row.source.key: _name(row) for row in rows}
    wanted = st.query_params.get("base")
    before = wanted if wanted in keys else _before(rows, source)
    left, right = st.columns(2)
    with left:
        base = state.pick("Base", keys, keys.index(before), words=lambda key: names[key])
    with right:
        new = state.pick("New", keys, keys.index(source.key), words=lambda key: names[key])
    st.query_params["base"], st.query_params["run"] = base, new
    by_key = {row.source.key: row.source for row in rows}
    return by_key[base], by_key[new]


def _before(rows: list[Entry], source: Source) -> str:
    """Return the run of the same name before, else any other; rows come newest first."""
    place = [row.source.key for row in rows].index(source.key)
    name = rows[place].name
    older = [row for row in rows[place + 1 :] if row.name == name]
    others = older or rows[place + 1 :] or rows[:place]
    return others[0].source.key


def _name(row: Entry) -> str:
    return row.source.key if row.name in row.source.key else f"{row.name} · {row.source.key}"


def _show(found: Comparison) -> None:
    dark = state.is_dark()
    state.html(markup.compare_card(found.headline, _facts(found), _side_colour(found)))
    for caution in found.cautions:
        state.html(markup.note(f"{caution[:1].upper()}{caution[1:]}."))
    state.html(markup.heading("From the base's step to the new one"))
    state.charts(waterfall(found, dark=dark), "waterfall")
    _findings(found)
    if found.ops:
        state.html(markup.heading("Ops that moved most"))
        state.charts(moved_ops(found.ops[:MAX_OPS], dark=dark), "moved-ops")
    if found.kernels:
        state.html(markup.heading("Kernels that moved most"))
        state.charts(moved_ops(found.kernels[:MAX_OPS], dark=dark), "moved-kernels")
    _tables(found)


def _facts(found: Comparison) -> list[tuple[str, str]]:
    base, new = found.base, found.new
    return [
        ("step, base", milliseconds(base.step_ms)),
        ("step, new", milliseconds(new.step_ms)),
        ("change", f"{signed(found.change)} ({signed(found.low)} to {signed(found.high)})"),
        ("median step", f"{milliseconds(base.median_ms)} → {milliseconds(new.median_ms)}"),
        ("verdict", base.bound if base.bound == new.bound else f"{base.bound} → {new.bound}"),
    ]


def _side_colour(found: Comparison) -> str:
    if not found.is_certain:
        return "#888888"
    return "#d1495b" if found.change > 0 else "#2a9d8f"


def _findings(found: Comparison) -> None:
    parts = (("New findings", found.gained), ("Gone", found.lost), ("In both", found.kept))
    shown = [(words, named) for words, named in parts if named]
    if not shown:
        return
    for column, (words, named) in zip(st.columns(len(shown)), shown, strict=True):
        with column:
            rows = markup.bullets((item.title or item.id, "") for item in named)
            state.html(markup.heading(words) + rows)


def _tables(found: Comparison) -> None:
    with st.expander("Slots, ms a step"):
        slots = [
            (slot.slot, f"{slot.base_ms:,.3f}", f"{slot.new_ms:,.3f}", signed_ms(slot.change_ms))
            for slot in found.slots
        ]
        state.html(markup.table(("slot", "base", "new", "change"), slots))
    state.html(markup.heading("Differences of the environment"))
    if not found.environment:
        state.html(markup.paragraph("None were recorded."))
        return
    rows = [(f"{d.group} {d.name}", d.base or "–", d.new or "–") for d in found.environment]  # noqa: RUF001
    state.html(markup.table(("what", "base", "new"), rows))
