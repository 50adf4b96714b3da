"""A table can be downloaded as CSV: no cell of it is a formula in a spreadsheet."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

pytest.importorskip("streamlit")

from boundscope.dashboard import tables

DASHBOARD = Path(__file__).parents[1] / "dashboard"


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        '=HYPERLINK("http://x.invalid","a")',
        "+cmd|' /C calc'!A0",
        "-2+3+cmd|' /C calc'!A0",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "  =1",
        "\n@x",
        "\uff1d1",
    ],
)
def test_a_text_that_a_spreadsheet_would_calculate_gets_an_apostrophe(text: str) -> None:
    assert tables.plain({"op": text, "calls": 3}) == {"op": f"'{text}", "calls": 3}


@pytest.mark.parametrize(
    "value", ["aten::add", "-1.25 ms", "+3 %", "-0,5", 7, -7, -1.5, None, True, "a=b", ""]
)
def test_other_cells_stay(value: object) -> None:
    assert tables.plain({"x": value}) == {"x": value}


def test_no_page_shows_a_table_of_its_own_making() -> None:
    found = [
        f"{path.name}:{node.lineno}"
        for path in sorted(DASHBOARD.rglob("*.py"))
        if path.name != "tables.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("dataframe", "data_editor")
    ]

    assert found == []
