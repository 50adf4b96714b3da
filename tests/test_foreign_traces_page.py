"""The page on foreign traces holds today's verdicts on the public ones, and no others."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORPUS = os.environ.get("BOUNDSCOPE_CORPUS", "")
PAGE = ROOT / "docs" / "foreign-traces.md"


@pytest.fixture(scope="module", name="script")
def _script() -> ModuleType:
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return importlib.import_module("scripts.corpus_table")


def test_every_open_verdict_is_in_the_table_with_its_reason(script: ModuleType) -> None:
    rows = {row.name: row for row in script.rows_in(PAGE.read_text())}

    assert len(rows) > 40
    assert {name: rows[name].doubt for name in script.NOT_DEFENDED} == script.NOT_DEFENDED
    assert {name for name, row in rows.items() if row.doubt} == set(script.NOT_DEFENDED)


def test_what_is_written_is_what_is_read_back(script: ModuleType) -> None:
    rows = [
        script.Row("a/b.json", "host", "host 60 %, compute 30 %", "0.62", ""),
        script.Row("c", "unknown", "", "0.00", "nobody knows: why"),
    ]

    page = f"{script.BEGIN}\n{script.table(rows)}\n{script.END}"

    assert script.rows_in(page) == rows


@pytest.mark.skipif(not CORPUS, reason="BOUNDSCOPE_CORPUS is not set")
def test_the_table_names_every_trace_of_the_corpus(script: ModuleType) -> None:
    rows = script.rows_in(PAGE.read_text())

    assert [row.name for row in rows] == script.sources(Path(CORPUS))


@pytest.mark.skipif(not CORPUS, reason="BOUNDSCOPE_CORPUS is not set")
def test_the_table_holds_todays_verdicts(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOUNDSCOPE_CACHE", str(tmp_path))  # no roofs measured on this machine
    written = script.rows_in(PAGE.read_text())

    stale = [row.name for row in written if row != script.row_of(Path(CORPUS), row.name)]

    assert stale == [], "run: python scripts/corpus_table.py --write"
