"""The page Share, and files that somebody sent dropped on the page Runs."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("streamlit")

from boundscope.dashboard import upload
from boundscope.profiler.bundle.reading import open_bundle
from boundscope.profiler.bundle.writing import make_bundle
from boundscope.profiler.errors import BoundscopeError
from boundscope.profiler.library import PATHS_VARIABLE, find_sources, list_entries

from .bundle_material import TRAINING, record

CHROMIUM = os.environ.get("BOUNDSCOPE_CHROMIUM") or shutil.which("chromium") or ""
WAIT_MS = 60_000
OVERFLOWING = """() => {
  const right = document.querySelector('[data-testid=stMain]').getBoundingClientRect().right + 1;
  return [...document.querySelectorAll('[data-testid=stMain] .bs, [data-testid=stMain] button')]
    .filter(e => e.getClientRects().length && e.getBoundingClientRect().right > right)
    .map(e => e.outerHTML.slice(0, 120));
}"""


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


@pytest.mark.parametrize("view", ["verdict", "timeline", "ops", "stacks", "ranks", "memory"])
def test_every_page_shows_a_bundle(runs: Path, monkeypatch: pytest.MonkeyPatch, view: str) -> None:
    shown = app(runs, monkeypatch, view, run="sent.boundscope.zip")

    assert not shown.exception
    assert "bs-note" not in texts(shown) or "error" not in texts(shown)


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
    assert "PyTorch version:" in shown.code[0].value


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
        ("x.json", b'{"traceEvents":[' + b"{}," * 10_100_000),
        ("x.json", bytes(201_000_000)),
    ],
    ids=["zip", "other-json", "bad-gzip", "too-many-events", "too-large"],
)
def test_a_dropped_file_that_is_no_run_is_a_sentence_and_is_not_kept(
    name: str, data: bytes
) -> None:
    before = upload.stored_sources()

    with pytest.raises(BoundscopeError) as caught:
        upload.keep(name, io.BytesIO(data))

    assert caught.value.hint
    assert upload.stored_sources() == before


# --- a real browser ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "boundscope", "dashboard", str(runs), "--no-open"]
    child = subprocess.Popen([*command, "--port", str(port)], cwd=runs.parent)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert child.poll() is None, "the dashboard ended"
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield url
    finally:
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 0


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_the_bundle_is_downloaded_from_the_page(
    chromium: Any, address: str, tmp_path: Path, width: int, theme: str
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{address}/share?run=slow")
    button = page.locator("[data-testid=stDownloadButton] button")
    button.wait_for(timeout=WAIT_MS)

    # When
    with page.expect_download(timeout=WAIT_MS) as waiting:
        button.click()
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)

    # Then
    assert path.name == "slow.boundscope.zip"
    assert open_bundle(path).manifest.same_from_data is True
    assert page.locator("[data-testid=stException]").count() == 0
    assert page.evaluate(OVERFLOWING) == []
    assert errors == []
    context.close()


def test_a_bundle_is_dropped_on_the_page_and_opened(
    chromium: Any, address: str, runs: Path
) -> None:
    page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(address)
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
    page.context.close()
