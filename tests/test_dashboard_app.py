"""The logic of every page of recorded runs, in Streamlit's own harness."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("streamlit")

from boundscope.dashboard import navigation
from boundscope.profiler.library import PATHS_VARIABLE
from boundscope.profiler.run.manifest import write_manifest
from boundscope.profiler.text import percent

from .dashboard_material import ROOT, diagnose_json, recorded_runs, running_copy  # noqa: F401

OF_A_RUN = [path for path, *_ in navigation.PAGES if path not in ("runs", "compare")]


def app(folder: Path, monkeypatch: pytest.MonkeyPatch, view: str = "", **query: str) -> Any:
    """The whole app at its first page, or one view of it, as a browser would ask for it."""
    from streamlit.testing.v1 import AppTest

    monkeypatch.setenv(PATHS_VARIABLE, json.dumps([str(folder)]))
    monkeypatch.setenv("BOUNDSCOPE_CACHE", str(folder.parent / "cache"))
    if view:
        script = f"from boundscope.dashboard.views import {view}\n{view}.page()\n"
        shown = AppTest.from_string(script, default_timeout=30)
    else:
        shown = AppTest.from_file(str(ROOT / "dashboard" / "app.py"), default_timeout=30)
    for name, value in query.items():
        shown.query_params[name] = value
    return shown.run()


def texts(shown: Any) -> str:
    return "\n".join(str(getattr(part, "body", "")) for part in shown.get("html"))


def test_the_first_page_lists_every_run_and_says_which_cannot_be_read(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = app(runs, monkeypatch)

    assert not shown.exception
    for key in ("quick", "slow", "hostile", "broken"):
        assert f">{key}<" in texts(shown)
    assert "manifest cannot be read" in texts(shown)


def test_the_search_and_the_verdict_leave_only_what_matches(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    shown = app(runs, monkeypatch)

    # When
    shown.text_input(key="search").set_value("quick").run()

    # Then
    assert ">quick<" in texts(shown)
    assert ">slow<" not in texts(shown)
    shown.text_input(key="search").set_value("no such words").run()
    assert "No run matches" in texts(shown)


def test_an_empty_folder_says_how_to_record_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = app(tmp_path, monkeypatch)

    assert not shown.exception
    assert "boundscope run train.py" in texts(shown)


@pytest.mark.parametrize("view", OF_A_RUN)
def test_a_page_without_a_run_or_with_a_foreign_one_says_so(
    runs: Path, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    for query in ({}, {"run": "../runs/slow"}, {"run": "/etc"}, {"run": "nothing"}):
        shown = app(runs, monkeypatch, view, **query)

        assert not shown.exception
        assert "No run is chosen" in texts(shown) or "There is no run" in texts(shown)


@pytest.mark.parametrize("view", OF_A_RUN)
def test_a_run_that_cannot_be_read_is_an_error_with_a_hint(
    runs: Path, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    shown = app(runs, monkeypatch, view, run="broken")

    assert not shown.exception
    assert "broken-manifest" in texts(shown)


def test_the_verdict_page_says_what_diagnose_says(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    said = diagnose_json(runs / "slow")

    # When
    shown = app(runs, monkeypatch, "verdict", run="slow")

    # Then
    assert not shown.exception
    assert said["verdict"]["headline"] in texts(shown)
    for finding in said["findings"]:
        assert finding["title"] in texts(shown)
        assert f"saves {percent(finding['saving']['mid'])} of step time" in texts(shown)
    fixes = [fix for finding in said["findings"] for fix in finding["fixes"]]
    snippets = [code.value for code in shown.code]
    for fix in fixes:
        assert fix.get("snippet", snippets[0]) in snippets


def test_two_ticked_runs_can_be_compared(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given
    shown = app(runs, monkeypatch)

    # When
    shown.checkbox(key="tick:quick").check()
    shown.checkbox(key="tick:slow").check().run()

    # Then
    links = [link.proto.label for link in shown.get("page_link")]
    assert "Compare the two ticked runs" in links


def test_the_compare_page_says_what_the_command_says(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    command = [sys.executable, "-m", "boundscope", "compare", "--json"]
    said = subprocess.run(
        [*command, str(runs / "quick"), str(runs / "slow")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    # When
    shown = app(runs, monkeypatch, "compare", run="slow", base="quick")

    # Then
    assert not shown.exception
    assert json.loads(said.stdout)["headline"] in texts(shown)


READ_ONCE = """
import streamlit as st
from boundscope.dashboard import state
source = state.lookup("live")
state.diagnosis(source)
st.html(str(state._stamp(source)))
"""


def test_a_run_that_goes_on_is_not_read_anew_with_every_line_it_writes(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given: it was just read
    from streamlit.testing.v1 import AppTest

    at_the_end = running_copy(runs / "slow", tmp_path / "live")
    monkeypatch.setenv(PATHS_VARIABLE, json.dumps([str(tmp_path)]))
    shown = AppTest.from_string(READ_ONCE, default_timeout=60).run()
    first = texts(shown)

    # When: it writes on
    for file in (tmp_path / "live").glob("rank-*/steps.jsonl"):
        os.utime(file)

    # Then: what was read does for now, but not beyond the end of the run
    assert not shown.exception
    assert texts(shown.run()) == first
    write_manifest(tmp_path / "live", at_the_end)
    assert texts(shown.run()) != first
