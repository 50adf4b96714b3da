"""The logic of every page of recorded runs, in Streamlit's own harness."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("streamlit")

from boundscope.collectors.records import Frame, Header, Memory, Stack, Stacks
from boundscope.dashboard import navigation, state, upload
from boundscope.dashboard.markup import code
from boundscope.profiler.errors import UnusableData
from boundscope.profiler.library import DIAGNOSIS_FILE, PATHS_VARIABLE, Source
from boundscope.profiler.program import fingerprint
from boundscope.profiler.run.load import Run
from boundscope.profiler.run.manifest import write_manifest
from boundscope.profiler.text import percent

from .dashboard_material import ROOT, diagnose_json, recorded_runs, running_copy  # noqa: F401
from .written_run import (
    BEGIN_NS,
    MS,
    append,
    going_on,
    steps,
    trace,
    window,
    with_window,
    write_run,
)

OF_A_RUN = [path for path, *_ in navigation.PAGES if path != "runs"]


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
    assert any(fix.get("snippet") for fix in fixes)
    for fix in fixes:
        assert "snippet" not in fix or code(fix["snippet"]) in texts(shown)


def test_two_ticked_runs_can_be_compared(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given
    shown = app(runs, monkeypatch)

    # When
    shown.checkbox(key="tick:quick").check()
    shown.checkbox(key="tick:slow").check().run()

    # Then
    links = [link.proto.label for link in shown.get("page_link")]
    assert "Compare the two ticked runs" in links


def ticked(shown: Any) -> list[str]:
    return [link.proto.label for link in shown.get("page_link") if "ticked" in link.proto.label]


def test_a_tick_stays_while_a_search_hides_it(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given
    shown = app(runs, monkeypatch)
    shown.checkbox(key="tick:quick").check().run()

    # When: a search hides the ticked run, another one is ticked, and the search is taken back
    shown.text_input(key="search").set_value("slow").run()
    shown.checkbox(key="tick:slow").check().run()

    # Then
    assert ticked(shown) == ["Compare the two ticked runs"]
    shown.text_input(key="search").set_value("").run()
    assert ticked(shown) == ["Compare the two ticked runs"]
    assert shown.checkbox(key="tick:quick").value
    assert not shown.checkbox(key="tick:quick").uncheck().run().exception
    assert ticked(shown) == []


def test_a_run_made_after_the_list_was_read_can_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given: the list has just been kept
    write_run(tmp_path / "runs" / "first")
    app(tmp_path / "runs", monkeypatch)

    # When
    write_run(tmp_path / "runs" / "second")
    shown = app(tmp_path / "runs", monkeypatch, "compare", run="second", base="first")

    # Then
    assert not shown.exception
    assert "No difference beyond the noise" in texts(shown)


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


@pytest.mark.parametrize("text", ["", '{"traceEvents": [{"ph": "X", "name'], ids=["empty", "cut"])
@pytest.mark.parametrize("view", ["timeline", "ops", "memory"])
def test_a_trace_that_cannot_be_read_is_a_note_and_the_page_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: str, text: str
) -> None:
    # Given
    folder = with_window(tmp_path / "runs" / "run", text)
    if view == "memory":
        samples = [Memory(BEGIN_NS + i * MS, 0, 5_000_000, 8_000_000, 5, 0, 0) for i in range(9)]
        append(folder / "rank-0-7", *samples)

    # When
    shown = app(folder.parent, monkeypatch, view, run="run", step="32")

    # Then
    assert not shown.exception
    assert "This page cannot be shown" not in texts(shown)
    expected = {"timeline": "Inside a step", "ops": "No ops", "memory": "Device memory"}
    assert expected[view] in texts(shown)
    if view != "ops":
        assert "The trace window cannot be shown" in texts(shown)


def test_ops_are_shown_though_the_last_window_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given: a good window, and a later one that is damaged
    folder = with_window(tmp_path / "runs" / "run")
    append(folder / "rank-0-7", *window("trace-1.json", first=45))
    (folder / "rank-0-7" / "trace-1.json").write_text("")

    # When
    shown = app(folder.parent, monkeypatch, "ops", run="run")

    # Then
    assert not shown.exception
    assert "All ops by their own time" in texts(shown)
    assert "The trace window cannot be shown" in texts(shown)


def test_the_verdict_is_that_of_this_program_not_of_the_one_that_wrote_it_down(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given: as another version would have left it
    kept_copy(runs / "slow", tmp_path / "runs" / "old", "What it said then.", "another")

    # When
    shown = app(tmp_path / "runs", monkeypatch, "verdict", run="old")

    # Then
    said = diagnose_json(tmp_path / "runs" / "old")["verdict"]["headline"]
    assert said in texts(shown)
    assert "What it said then." not in texts(shown)
    assert "another version" in texts(app(tmp_path / "runs", monkeypatch))


def kept_copy(run: Path, folder: Path, headline: str, program: str) -> None:
    """A copy of a run with a diagnosis of that headline, made by that program."""
    shutil.copytree(run, folder)
    kept = json.loads((folder / DIAGNOSIS_FILE).read_text())
    kept["verdict"]["headline"] = headline
    (folder / DIAGNOSIS_FILE).write_text(json.dumps({**kept, "program": program}))


def test_a_run_ends_with_a_diagnosis_that_names_the_program(runs: Path) -> None:
    assert len(json.loads((runs / "slow" / DIAGNOSIS_FILE).read_text())["program"]) == 16


def test_what_this_program_wrote_down_is_not_computed_again(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    kept_copy(runs / "slow", tmp_path / "runs" / "now", "As it was kept.", fingerprint())

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it reads the traces")

    monkeypatch.setattr(state, "job", never)

    # When
    shown = app(tmp_path / "runs", monkeypatch, "verdict", run="now")

    # Then
    assert not shown.exception
    assert "As it was kept." in texts(shown)
    assert "another version" not in texts(app(tmp_path / "runs", monkeypatch))


@pytest.mark.parametrize("view", ["timeline", "ops", "stacks", "memory"])
def test_the_address_names_the_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    # Given
    folder = write_run(tmp_path / "runs" / "job", world=4)
    for rank in range(4):
        full_rank(folder, rank)

    # When
    shown = app(folder.parent, monkeypatch, view, run="job", rank="3")

    # Then
    assert not shown.exception
    assert shown.selectbox[0].value == 3
    shown.selectbox[0].set_value(2).run()
    assert shown.query_params["rank"] in ("2", ["2"])
    for nonsense in ("9", "-1", "x", "9" * 5_000):
        assert (
            app(folder.parent, monkeypatch, view, run="job", rank=nonsense).selectbox[0].value == 0
        )


def full_rank(folder: Path, rank: int) -> None:
    """Give a rank what every page needs to show it."""
    place = folder / f"rank-{rank}-{7 + rank}"
    (place / "trace-0.json").write_text(json.dumps(trace()))
    append(
        place,
        *window("trace-0.json"),
        Memory(BEGIN_NS, 0, 5, 8, 5, 0, 0),
        Memory(BEGIN_NS + MS, 0, 6, 8, 6, 0, 0),
    )
    header = Header(1, "stacks", "host", 7 + rank, 0, BEGIN_NS, rank=rank)
    frame, stack = Frame(1, "main", "/home/me/train.py", 3), Stack(1, [1])
    seen = Stacks(BEGIN_NS, BEGIN_NS + MS, MS, 7 + rank, 1, [(1, 5)], rank=rank)
    lines = [msgspec.json.encode(record) + b"\n" for record in (header, frame, stack, seen)]
    (place / "stacks.jsonl").write_bytes(b"".join(lines))


def test_a_number_of_thousands_of_digits_in_an_address_is_none(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = app(runs, monkeypatch, "timeline", run="slow", step="9" * 5_000)

    assert not shown.exception
    assert "Inside a step" in texts(shown)


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
    monkeypatch.setattr(state, "MIN_AGE_S", 600)  # however slow this machine is
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


READ_AGAIN = """
import streamlit as st
from boundscope.dashboard import state
source = state.lookup("live")
st.html(f"{state.job(source).diagnosis.run.steps} steps, {len(state.run(source).ranks)} rank")
"""


def test_of_a_run_that_goes_on_the_newest_state_alone_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given: a run that is read at once whenever it was written to
    from streamlit.testing.v1 import AppTest

    folder = write_run(tmp_path / "live", steps(0, 60), **going_on())
    monkeypatch.setenv(PATHS_VARIABLE, json.dumps([str(tmp_path)]))
    monkeypatch.setattr(state, "MIN_AGE_S", 0)
    monkeypatch.setattr(state, "MAX_SHARE", 1e9)
    shown = AppTest.from_string(READ_AGAIN, default_timeout=60)

    # When
    for number in range(3):
        append(folder / "rank-0-7", steps(60 + number * 10, 10))
        assert f"{70 + number * 10} steps, 1 rank" in texts(shown.run())

    # Then
    gc.collect()
    read = [one for one in gc.get_objects() if type(one) is Run and one.folder == folder]
    assert len(read) <= 1


def test_a_dropped_file_is_read_once_however_often_the_page_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given
    from streamlit.testing.v1 import AppTest

    monkeypatch.setattr(upload, "keep", counted := Counted())

    # When
    for name in ("good", "bad"):
        shown = AppTest.from_string(DROPPED.replace("NAME", name), default_timeout=60)
        first, again = texts(shown.run()), texts(shown.run())
        assert first == again
        assert not shown.exception

    # Then
    assert counted.names == ["good", "bad"]


DROPPED = """
import streamlit as st
from types import SimpleNamespace
from boundscope.dashboard import upload
st.html(str(upload._outcome(SimpleNamespace(name="NAME", file_id="NAME"))))
"""


class Counted:
    """Stands for `upload.keep`: notes what it is asked to keep."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str, data: Any) -> Source:
        self.names.append(name)
        if name == "bad":
            raise UnusableData("not-a-trace", "It is none.", "drop another")
        return Source(f"uploaded/{name}", Path(__file__), "trace")
