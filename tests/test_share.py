"""The page Share, and files that somebody sent dropped on the page Runs."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("streamlit")

from boundscope.dashboard import upload
from boundscope.profiler.bundle import layout
from boundscope.profiler.bundle.reading import open_bundle
from boundscope.profiler.bundle.writing import make_bundle
from boundscope.profiler.digest.make import window_of
from boundscope.profiler.errors import BoundscopeError
from boundscope.profiler.library import (
    PATHS_VARIABLE,
    Source,
    find_sources,
    list_entries,
    open_rank,
)
from boundscope.profiler.timeline import Timeline, build_timeline

from .bundle_material import TRAINING, record
from .dashboard_browser import WAIT_MS, Watched, served, started_chromium  # noqa: F401


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded") / "runs"
    run = record(folder / "slow", str(TRAINING), "--steps", "60")
    make_bundle(run, folder / "sent.boundscope.zip")
    (folder / "bad.boundscope.zip").write_bytes(b"PK\x03\x04 nothing")
    return folder


def app(folder: Path, monkeypatch: pytest.MonkeyPatch, view: str, **query: str) -> Any:
    from streamlit.testing.v1 import AppTest

    monkeypatch.setenv(PATHS_VARIABLE, json.dumps([str(folder)]))
    script = f"from boundscope.dashboard.views import {view}\n{view}.page()\n"
    shown = AppTest.from_string(script, default_timeout=120)
    for name, value in query.items():
        shown.query_params[name] = value
    return shown.run()


def texts(shown: Any) -> str:
    return "\n".join(str(getattr(part, "body", "")) for part in shown.get("html"))


def test_a_bundle_is_listed_like_the_run_that_it_is_of(runs: Path) -> None:
    rows = {entry.source.key: entry for entry in list_entries(find_sources([runs]))}

    run, sent, bad = rows["slow"], rows["sent.boundscope.zip"], rows["bad.boundscope.zip"]
    assert sent.diagnosis is not None
    assert run.diagnosis is not None
    assert sent.diagnosis.verdict.bound == run.diagnosis.verdict.bound
    assert (sent.name, sent.started_ns, sent.duration_s) == (
        run.name, run.started_ns, run.duration_s,
    )  # fmt: skip
    assert bad.status == "unreadable"


EXPECTED = {
    "verdict": "Where the step time goes",
    "timeline": "Raw trace window, for Perfetto",
    "ops": "All ops by their own time",
    "stacks": "samples. Orange",
    "ranks": "Where the time of each rank goes",
    "memory": "Host memory of the job",
}
"""What is on each page of a bundle, as it is on that of its run."""


@pytest.mark.parametrize("view", EXPECTED)
@pytest.mark.parametrize("run", ["slow", "sent.boundscope.zip"], ids=["run", "bundle"])
def test_every_page_shows_a_bundle_as_it_shows_the_run(
    runs: Path, monkeypatch: pytest.MonkeyPatch, view: str, run: str
) -> None:
    shown = app(runs, monkeypatch, view, run=run)

    assert not shown.exception
    said = texts(shown) + "".join(toggle.label for toggle in shown.toggle)
    assert EXPECTED[view] in said
    assert "This page cannot be shown" not in said
    if view == "timeline":
        assert "No trace window covers this step" not in said
        assert lanes_of(shown) >= 2


def lanes_of(shown: Any) -> int:
    """How many names of lanes stand in the figure of a step."""
    drawn = json.loads(shown.get("bidi_component")[-1].proto.bytes)
    return len(drawn["figure"]["layout"]["annotations"])


def test_the_trace_window_of_a_bundle_gives_the_tables_that_the_runs_gives(
    runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Given
    monkeypatch.setenv("BOUNDSCOPE_CACHE", str(tmp_path))
    sources = {source.key: source for source in find_sources([runs])}
    line = timeline_of(sources["slow"])
    step = int(np.flatnonzero(line.profiled)[-1])
    span = int(line.start_ns[step]), int(line.end_ns[step])

    # When
    of_run = window_of(sources["slow"], 1, line, span)
    of_bundle = window_of(sources["sent.boundscope.zip"], 1, line, span)

    # Then
    assert of_run is not None
    assert of_bundle is not None
    assert of_bundle[0].tables == of_run[0].tables
    assert [lane.what for lane in of_bundle[0].lanes.lanes] == [
        lane.what for lane in of_run[0].lanes.lanes
    ]


def timeline_of(source: Source) -> Timeline:
    data = open_rank(source, 0)
    assert data is not None
    line = build_timeline(data)
    assert line is not None
    return line


def test_the_name_of_a_bundle_is_text_and_no_label_of_a_button(
    runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Given
    name = "![x](http:a.invalid) **b** [l](http:a.invalid).boundscope.zip"
    shutil.copy(runs / "sent.boundscope.zip", tmp_path / name)

    # When
    shown = app(tmp_path, monkeypatch, "share", run=name)

    # Then
    assert not shown.exception
    labels = [button.proto.label for button in shown.get("download_button")]
    assert labels
    assert not any("invalid" in label for label in labels)
    assert "[l](http:a.invalid)" in texts(shown)


def test_a_bad_bundle_is_an_error_with_a_hint(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = app(runs, monkeypatch, "verdict", run="bad.boundscope.zip")

    assert not shown.exception
    assert "not-a-bundle" in texts(shown)


def test_the_page_shows_what_is_in_the_bundle_what_was_redacted_and_the_text(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = app(runs, monkeypatch, "share", run="slow")

    assert not shown.exception
    assert "steps of rank 0" in texts(shown)
    assert "hosts in host names, e.g. host-1" in texts(shown)
    assert "PyTorch version:" in texts(shown)


def test_what_is_not_redacted_is_said(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = app(runs, monkeypatch, "share", run="slow")

    shown.multiselect[0].set_value(["hosts", "paths"]).run()

    assert not shown.exception
    assert "Not redacted: hosts, paths." in texts(shown)


def test_a_dropped_bundle_is_kept_under_a_harmless_name(runs: Path) -> None:
    data = (runs / "sent.boundscope.zip").read_bytes()

    source = upload.keep("../../<b>evil</b>.boundscope.zip", io.BytesIO(data))

    assert source.kind == "bundle"
    assert source in upload.stored_sources()
    assert "/" not in source.key.removeprefix(upload.KEY)
    assert "<" not in source.key
    assert open_bundle(source.path).diagnosis == open_bundle(runs / "sent.boundscope.zip").diagnosis
    source.path.unlink()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.boundscope.zip", b"PK\x03\x04" + bytes(100)),
        ("x.json", b'{"a": 1}'),
        ("x.json.gz", b"\x1f\x8b" + bytes(100)),
        ("x.json", b'{"traceEvents":[' + b"{}," * 1_100),
        ("x.json", bytes(1_000_001)),
    ],
    ids=["zip", "other-json", "bad-gzip", "too-many-events", "too-large"],
)
def test_a_dropped_file_that_is_no_run_is_a_sentence_and_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, name: str, data: bytes
) -> None:
    # Given: limits that a small file is beyond
    monkeypatch.setattr(upload, "MAX_MEGABYTES", 1)
    monkeypatch.setattr(layout, "MAX_BRACES", 1_000)
    before = upload.stored_sources()

    with pytest.raises(BoundscopeError) as caught:
        upload.keep(name, io.BytesIO(data))

    assert caught.value.hint
    assert upload.stored_sources() == before


# --- a real browser ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    with served(runs, runs.parent / "cache") as url:
        yield url


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_the_bundle_is_downloaded_from_the_page(
    chromium: Any, address: str, tmp_path: Path, width: int, theme: str
) -> None:
    watched = Watched(chromium, address, width, theme)
    page = watched.open("share", run="slow")
    button = page.locator("[data-testid=stDownloadButton] button")

    # When
    with page.expect_download(timeout=WAIT_MS) as waiting:
        button.click()
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)

    # Then
    assert path.name == "slow.boundscope.zip"
    assert open_bundle(path).manifest.same_from_data is True
    assert watched.flaws() == []
    watched.close()


def test_a_bundle_is_dropped_on_the_page_and_opened(
    chromium: Any, address: str, runs: Path
) -> None:
    watched = Watched(chromium, address, 1280)
    page = watched.open("runs")
    page.get_by_text("Open a bundle or a trace that somebody sent").click(timeout=WAIT_MS)

    # When
    page.locator("input[type=file]").set_input_files(str(runs / "sent.boundscope.zip"))
    page.locator("[data-testid=stMain] a", has_text="Open sent-").first.click(timeout=WAIT_MS)

    # Then
    headline = page.get_by_test_id("headline")
    headline.wait_for(timeout=WAIT_MS)
    said = open_bundle(runs / "sent.boundscope.zip").diagnosis.verdict.headline
    assert headline.inner_text() == said
    assert "run=uploaded" in page.url
    watched.close()


def test_a_file_beyond_the_limit_is_refused_before_it_is_sent(
    chromium: Any, address: str, tmp_path: Path
) -> None:
    # Given: a file of over 200 MiB that takes no room on the disk
    file = tmp_path / "huge.json"
    with file.open("wb") as made:
        made.truncate(201 << 20)
    watched = Watched(chromium, address, 1280)
    page = watched.open("runs")
    page.get_by_text("Open a bundle or a trace that somebody sent").click(timeout=WAIT_MS)

    # When
    page.locator("input[type=file]").set_input_files(str(file))

    # Then
    page.get_by_text("or smaller").first.wait_for(timeout=WAIT_MS)
    assert page.locator("[data-testid=stMain] a", has_text="Open huge-").count() == 0
    watched.close()
