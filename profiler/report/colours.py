"""The colour of each slot: the same everywhere, on a dark and on a light background."""

from __future__ import annotations

SLOT_COLOURS = {
    "compute": "#0072b2",
    "memory": "#56b4e9",
    "network": "#d55e00",
    "imbalance": "#cc79a7",
    "input": "#e69f00",
    "host": "#f0e442",
    "storage": "#009e73",
    "evaluation": "#999999",
    "other": "#666666",
}
"""Okabe and Ito's palette, safe for the colour-blind; every colour has a contrast of at least 3:1
on a dark background (WCAG 2.1, 1.4.11)."""

SLOT_COLOURS_LIGHT = {
    "compute": "#00549a",
    "memory": "#2e95d5",
    "network": "#e76745",
    "imbalance": "#b5548c",
    "input": "#de7700",
    "host": "#6d4900",
    "storage": "#075c3b",
    "evaluation": "#a3897a",
    "other": "#3e3040",
}
"""The same hues for a light background, where half of that palette is too pale to be seen.

Found by a search near its hues for the greatest smallest distance (CIE76) between two colours as
people with normal, protanope and deuteranope sight see them (Machado et al., 2009).
"""

BALANCED = "#009e73"
UNKNOWN = "#888888"

_WHITE, _BLACK = "#ffffff", "#111111"


def slot_colours(*, dark: bool) -> dict[str, str]:
    """Return slot to colour for the background."""
    return SLOT_COLOURS if dark else SLOT_COLOURS_LIGHT


def bound_colour(bound: str, *, dark: bool) -> str:
    """Return the colour of a verdict: its slot's, or that of "balanced" and "unknown"."""
    other = BALANCED if bound == "balanced" else UNKNOWN
    return slot_colours(dark=dark).get(bound, other)


def luminance(colour: str) -> float:
    """Return the relative luminance of `#rrggbb`, 0 to 1 (WCAG 2.1)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2.1)."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def text_on(colour: str) -> str:
    """Return black or white, whichever reads better on `colour`."""
    return max((_WHITE, _BLACK), key=lambda text: contrast(text, colour))
