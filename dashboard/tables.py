"""Tables that can be looked through, sorted and downloaded as CSV: their cells are never formulas.

Streamlit writes a cell as it is, and a spreadsheet runs what begins like a formula: names come from
runs that others recorded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

_FORMULA = re.compile(r"\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")
"""OWASP's list (CSV Injection), after white space too, and the same signs in their wide forms."""

_AMOUNT = re.compile(r"[+-]\d[\d.,]*(?: ?[A-Za-zµ%/]{1,6})?")
"""A number with its sign and unit calculates nothing."""


def shown(rows: Sequence[Mapping[str, object]], **options: Any) -> Any:
    """Show rows as a table; `options` are those of `st.dataframe`, which is called nowhere else."""
    return st.dataframe([plain(row) for row in rows], hide_index=True, **options)


def plain(row: Mapping[str, object]) -> dict[str, object]:
    """Return the row with an apostrophe before each text that a spreadsheet would calculate."""
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: object) -> object:
    if isinstance(value, str) and _FORMULA.match(value) and not _AMOUNT.fullmatch(value):
        return f"'{value}"
    return value
