"""Every page of recorded runs: its logic in Streamlit's own harness, then in a real browser."""

from __future__ import annotations

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
from urllib.parse import urlencode

import msgspec
import pytest

pytest.importorskip("streamlit")

from boundscope.dashboard import navigation
from boundscope.profiler.library import DIAGNOSIS_FILE, PATHS_VARIABLE
from boundscope.profiler.run.manifest import read_manifest, write_manifest
from boundscope.profiler.run.status import process_start_ticks
from boundscope.profiler.text import percent

ROOT = Path(__file__).parents[1]
TRAINING = ROOT / "tests" / "scenarios" / "tiny_training.py"
CHROMIUM = os.environ.get("BOUNDSCOPE_CHROMIUM") or shutil.which("chromium") or ""
HOSTILE = '<img src=x onerror="document.title=1">**bold** $x$ [l](http://a.invalid)'
PAGES = [path for path, *_ in navigation.PAGES]
OF_A_RUN = [path for path in PAGES if path not in ("runs", "compare")]
WAIT_MS = 30_000
HEADINGS = {
    "runs": "Runs",
    "verdict": "tiny_training",
    "timeline": "Timeline",
    "ops": "Ops",
    "stacks": "Stacks",
    "ranks": "Ranks",
    "memory": "Memory",
    "compare": "Compare",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recorded runs, one with a slow loader; a hostile copy; one that cannot be read."""
    folder = tmp_path_factory.mktemp("recorded") / "runs"
    for name, wait_ms in (("quick", "0.2"), ("slow", "2")):
        recorded = subprocess.run(
            [
                sys.executable,
                "-m",
                "boundscope",
                "run",
                "-o",
                str(folder / name),
                "--",
                str(TRAINING),
                "--wait-ms",
                wait_ms,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert recorded.returncode == 0, recorded.stderr
    hostile = folder / "hostile"
    shutil.copytree(folder / "slow", hostile)
    manifest = read_manifest(hostile)
    write_manifest(hostile, msgspec.structs.replace(manifest, name=HOSTILE, command=[HOSTILE]))
    text = (hostile / DIAGNOSIS_FILE).read_text()
    diagnosis = json.loads(text)
    diagnosis["run"]["name"] = HOSTILE
    diagnosis["run"]["devices"] = [HOSTILE]
    diagnosis["verdict"]["headline"] = HOSTILE
    diagnosis["findings"][0]["evidence"][0]["text"] = HOSTILE
    diagnosis["findings"][0]["where"][0]["file"] = HOSTILE
    (hostile / DIAGNOSIS_FILE).write_text(json.dumps(diagnosis))
    (folder / "broken").mkdir()
    (folder / "broken" / "manifest.json").write_text("{")
    return folder


def diagnose_json(folder: Path) -> dict[str, Any]:
    shown = subprocess.run(
        [sys.executable, "-m", "boundscope", "diagnose", "--json", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, Any] = json.loads(shown.stdout)
    return found


# --- Streamlit's own harness -------------------------------------------------------------------


def app(folder: Path, monkeypatch: pytest.MonkeyPatch, view: str = "", **query: str) -> Any:
    """The whole app at its first page, or one view of it, as a browser would ask for it."""
    from streamlit.testing.v1 import AppTest

    monkeypatch.setenv(PATHS_VARIABLE, json.dumps([str(folder)]))
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
    snippets = [code.value for code in shown.code]
    assert said["findings"][0]["fixes"][0]["snippet"] in snippets


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


# --- a real browser ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    """The dashboard, started as a user starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "boundscope", "dashboard", str(runs), "--no-open"]
    child = subprocess.Popen([*command, "--port", str(port)], cwd=runs.parent)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            assert child.poll() is None, "the dashboard ended"
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield url
    finally:
        child.send_signal(signal.SIGINT)
        assert child.wait(15) == 0


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if not CHROMIUM:
        if os.environ.get("CI"):
            pytest.fail("no Chromium: the pages must be tested in a browser")
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


class Watched:
    """A page whose console errors, failed scripts and foreign requests are kept."""

    def __init__(self, browser: Any, address: str, width: int, theme: str = "light") -> None:
        self.address = address
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme
        )
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._request)

    def _console(self, message: Any) -> None:
        # Streamlit's own client asks below each part of the address where its server is; the
        # browser notes each answer of 404 on the way.
        probing = "/_stcore/" in (message.location or {}).get("url", "")
        if message.type == "error" and not probing:
            self.errors.append(message.text)

    def _request(self, request: Any) -> None:
        host = request.url.split("://", 1)[-1]
        local = request.url.startswith(("data:", "blob:"))
        if not local and not host.startswith(self.address.split("://")[1]):
            self.foreign.append(request.url)

    def open(self, name: str, **query: str) -> Any:
        path = "" if name == "runs" else name
        self.page.goto(f"{self.address}/{path}?{urlencode(query)}")
        self.settle()
        return self.page

    def settle(self) -> None:
        """Wait until the page is drawn and the server has nothing more to do."""
        self.page.locator("[data-testid=stMain] .bs-title").first.wait_for(timeout=WAIT_MS)
        quiet = 0
        while quiet < 4:
            busy = self.page.locator("[data-testid=stStatusWidget], [data-testid=stSpinner]")
            quiet = 0 if busy.count() else quiet + 1
            self.page.wait_for_timeout(100)


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["wide-light", "narrow-dark"])
def watched(chromium: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Watched]:
    width, theme = request.param
    made = Watched(chromium, address, width, theme)
    yield made
    made.context.close()


@pytest.fixture
def wide(chromium: Any, address: str) -> Iterator[Watched]:
    made = Watched(chromium, address, 1280)
    yield made
    made.context.close()


OVERFLOWING = """() => {
  const main = document.querySelector('[data-testid=stMain]');
  const right = main.getBoundingClientRect().right + 1;
  return [...main.querySelectorAll('.bs, .js-plotly-plot, [data-testid=stDataFrame], button')]
    .filter(e => e.getClientRects().length && e.getBoundingClientRect().right > right)
    .map(e => e.outerHTML.slice(0, 120));
}"""

OVERLAPPING = """() => {
  const boxes = [...document.querySelectorAll(
    '[data-testid=stMain] [data-testid=stElementContainer]')]
    .filter(e => e.innerText.trim())  // text on text; a chart's box is larger than what it draws
    .map(e => [e, e.getBoundingClientRect()]).filter(([e, r]) => r.width > 2 && r.height > 2);
  const found = [];
  for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
    const [a, p] = boxes[i], [b, q] = boxes[j];
    if (a.contains(b) || b.contains(a)) continue;
    const w = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const h = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (w > 2 && h > 2) found.push(a.innerText.slice(0, 60) + ' / ' + b.innerText.slice(0, 60));
  }
  return found;
}"""


def settled(page: Any, question: str) -> Any:
    """The answer once the page stands still: charts take their final height after a moment."""
    for _ in range(40):
        found = page.evaluate(question)
        if not found:
            break
        time.sleep(0.25)
    return found


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_whole_in_a_browser(watched: Watched, runs: Path, name: str) -> None:
    # When
    page = watched.open(name, run="slow", base="quick")

    # Then
    assert page.locator("[data-testid=stMain] .bs-title").first.inner_text() == HEADINGS[name]
    assert page.locator("[data-testid=stException]").count() == 0
    assert page.locator("[data-testid=stMain] .bs-empty").count() <= (2 if name == "ranks" else 0)
    assert page.evaluate(OVERFLOWING) == []
    assert settled(page, OVERLAPPING) == []
    assert watched.foreign == []
    assert watched.errors == []


@pytest.mark.parametrize("run", ["slow", "quick"])
def test_the_numbers_in_the_browser_are_those_of_diagnose(
    wide: Watched, runs: Path, run: str
) -> None:
    # Given
    said = diagnose_json(runs / run)

    # When
    page = wide.open("verdict", run=run)

    # Then
    assert page.get_by_test_id("headline").inner_text() == said["verdict"]["headline"]
    for slot, share in said["breakdown"].items():
        if share >= 0.005:
            shown = page.locator(f"[data-slot={slot}]").first.inner_text()
            assert shown.split(maxsplit=1) == [slot, percent(share)]
    card = page.locator(".bs-card").first.inner_text()
    assert f"{said['run']['steps']:,}" in card
    assert f"confidence {said['verdict']['confidence']:.2f}" in card


def test_names_from_a_run_are_text_in_the_browser(wide: Watched) -> None:
    for name in PAGES:
        page = wide.open(name, run="hostile", base="slow")

        assert page.locator("[data-testid=stMain] img").count() == 0
        assert page.locator("a[href*='a.invalid']").count() == 0
        assert page.locator("[data-testid=stException]").count() == 0
        chosen = page.locator("[data-testid=stMain] input").evaluate_all(
            "inputs => inputs.map(input => input.value + input.getAttribute('aria-label'))"
        )
        seen = page.locator("[data-testid=stMain]").inner_text() + "".join(map(str, chosen))
        assert HOSTILE in seen or name == "compare"  # there its select boxes name the runs
    assert wide.foreign == []


def test_a_page_is_reached_from_the_list_by_keyboard_and_keeps_the_run_in_its_address(
    wide: Watched,
) -> None:
    # Given
    page = wide.open("runs")

    # When
    page.get_by_label("Search").fill("slow")
    page.keyboard.press("Enter")
    wide.settle()
    link = page.locator("[data-testid=stMain] [data-testid=stPageLink] a").first
    link.focus()
    page.keyboard.press("Enter")
    page.get_by_test_id("headline").wait_for(timeout=WAIT_MS)

    # Then
    assert "/verdict?run=slow" in page.url
    page.locator("[data-testid=stSidebar] a", has_text="Timeline").click()
    page.locator(".bs-title", has_text="Timeline").wait_for(timeout=WAIT_MS)
    assert "run=slow" in page.url


def test_a_run_that_goes_on_is_provisional_and_turns_into_the_finished_one(
    wide: Watched, runs: Path
) -> None:
    # Given: a recorded run whose launcher, this process, is still at work
    folder = runs / "live"
    shutil.copytree(runs / "slow", folder)
    (folder / DIAGNOSIS_FILE).unlink()
    finished = read_manifest(folder)
    ticks = process_start_ticks(os.getpid())
    assert ticks is not None
    write_manifest(
        folder,
        msgspec.structs.replace(
            finished,
            status="running",
            exit_code=None,
            ended_ns=0,
            launcher_pid=os.getpid(),
            launcher_start_ticks=ticks,
            host=socket.gethostname(),
        ),
    )
    page = wide.open("verdict", run="live")
    assert "provisional" in page.locator(".bs-card").first.inner_text()

    # When
    write_manifest(folder, finished)

    # Then
    page.locator(".bs-card", has_text="finished").first.wait_for(timeout=WAIT_MS)
    assert "provisional" not in page.locator("[data-testid=stMain]").inner_text()
    assert page.locator("[data-testid=stException]").count() == 0
    shutil.rmtree(folder)
