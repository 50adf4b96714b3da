"""A stretch of time that is looked at: a drag over a figure, or a button, makes it another one.

The buttons are the keyboard's way to what the mouse does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

Span = tuple[int, int]

MOVES = (
    (":material/zoom_in:", "Zoom in", 0.25, 0.75),
    (":material/zoom_out:", "Zoom out", -0.5, 1.5),
    (":material/arrow_back:", "Earlier", -0.5, 0.5),
    (":material/arrow_forward:", "Later", 0.5, 1.5),
)
"""Icon, words, and where the new stretch begins and ends, as shares of the old one."""


@dataclass(frozen=True)
class Zoom:
    """The stretch, ns, of `whole` that is shown, never shorter than `least_ns`.

    The session keeps it under `key`, which begins the names of the buttons too.
    """

    key: str
    whole: Span
    least_ns: int

    @property
    def span(self) -> Span:
        """What is shown."""
        kept: Span | None = st.session_state.get(f"{self.key}-span")
        return self._fitted(kept) if kept is not None else self.whole

    @property
    def figure_key(self) -> str:
        """The name of the figure: each part is drawn into the same place."""
        return f"{self.key}-figure"

    def dragged(self, ns_per_unit: float, origin_ns: int = 0) -> Callable[[float, float], None]:
        """Return what shows a stretch that was dragged over the figure, in its axis's units."""
        shown = self.span

        def show(low: float, high: float) -> None:
            begin, end = (origin_ns + int(edge * ns_per_unit) for edge in (low, high))
            found = self._fitted((max(begin, shown[0]), min(end, shown[1])))
            st.session_state[f"{self.key}-span"] = found

        return show

    def buttons(self, whole_words: str) -> None:
        """Offer the moves and the way back to the whole."""
        with st.container(horizontal=True, gap="small"):
            for icon, words, low, high in MOVES:
                key = f"{self.key}-{words}"
                st.button(words, icon=icon, key=key, on_click=self._move, args=(low, high))
            icon, key = ":material/fit_screen:", f"{self.key}-{whole_words}"
            st.button(whole_words, icon=icon, key=key, on_click=forget, args=(self.key,))

    def _move(self, low: float, high: float) -> None:
        begin, end = self.span
        width = end - begin
        moved = begin + int(low * width), begin + int(high * width)
        st.session_state[f"{self.key}-span"] = self._fitted(moved)

    def _fitted(self, span: Span) -> Span:
        """Keep a stretch within the whole and not too short."""
        low, high = self.whole
        width = min(max(span[1] - span[0], self.least_ns), high - low)
        begin = min(max(span[0], low), high - width)
        return begin, begin + width


def forget(key: str) -> None:
    """Show the whole again at the next drawing."""
    st.session_state[f"{key}-span"] = None
