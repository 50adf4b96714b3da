"""Every page of recorded runs in a real browser, at two widths, light and dark."""

from __future__ import annotations

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

import pytest

pytest.importorskip("streamlit")

from boundscope.dashboard import navigation
from boundscope.profiler.run.manifest import write_manifest
from boundscope.profiler.text import percent

from .dashboard_material import HOSTILE, diagnose_json, recorded_runs, running_copy  # noqa: F401

CHROMIUM = os.environ.get("BOUNDSCOPE_CHROMIUM") or shutil.which("chromium") or ""
PAGES = [path for path, *_ in navigation.PAGES]
WAIT_MS = 30_000
HEADINGS = {
    "runs": "Runs",
    "verdict": "tiny_training",
    "timeline": "Timeline",
    "ops": "Ops",
    "stacks": "Stacks",
    "ranks": "Ranks",
    "memory": "Memory",
    "share": "Share",
    "compare": "Compare",
}


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    """The dashboard, started as a user starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "boundscope", "dashboard", str(runs), "--no-open"]
    own = os.environ | {"BOUNDSCOPE_CACHE": str(runs.parent / "cache")}
    child = subprocess.Popen([*command, "--port", str(port)], cwd=runs.parent, env=own)
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
    .filter(e => e.innerText.trim() || e.querySelector('.js-plotly-plot, canvas, img'))
    .map(e => [e, e.querySelector('.js-plotly-plot .main-svg') || e])
    .map(([e, drawn]) => [e, drawn.getBoundingClientRect()])
   .filter(([e, r]) => r.width > 2 && r.height > 2);
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
    if said["verdict"]["bound"] != "unknown":  # other programs may hold this machine
        assert f"confidence {said['verdict']['confidence']:.2f}" in card


def test_names_from_a_run_are_text_in_the_browser(wide: Watched) -> None:
    for name in PAGES:
        page = wide.open(name, run="hostile", base="slow")

        pictures = page.locator("[data-testid=stMain] img").evaluate_all(
            "all => all.map(img => img.getAttribute('src').slice(0, 26))"
        )
        assert set(pictures) <= {"data:image/svg+xml;base64,"}  # our own small charts
        assert page.locator("a[href*='a.invalid']").count() == 0
        assert page.locator("[data-testid=stException]").count() == 0
        chosen = page.locator("[data-testid=stMain] input").evaluate_all(
            "inputs => inputs.map(input => input.value + input.getAttribute('aria-label'))"
        )
        seen = page.locator("[data-testid=stMain]").inner_text() + "".join(map(str, chosen))
        assert HOSTILE in seen or name == "share"  # what it shows is redacted
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


def test_the_list_of_runs_has_an_address_by_its_name_too(wide: Watched) -> None:
    wide.page.goto(f"{wide.address}/runs")
    wide.settle()

    assert wide.page.locator("[data-testid=stMain] .bs-title").first.inner_text() == "Runs"
    assert "Page not found" not in wide.page.locator("body").inner_text()


def test_a_run_recorded_after_the_list_was_read_opens_at_once(wide: Watched, runs: Path) -> None:
    # Given: the list of runs has just been kept
    wide.open("runs")

    # When
    shutil.copytree(runs / "slow", runs / "brand-new")
    page = wide.open("verdict", run="brand-new")

    # Then
    assert page.get_by_test_id("headline").count() == 1
    shutil.rmtree(runs / "brand-new")


def shown_part(page: Any) -> str:
    """What the sentence below the lanes says."""
    return str(page.locator(".bs-sub", has_text="Drag over a part").inner_text())


def test_a_step_is_looked_into_by_keyboard_and_by_a_drag(wide: Watched) -> None:
    # Given
    page = wide.open("timeline", run="slow")
    assert "step=" in page.url  # the address leads back to this step
    whole = shown_part(page)
    assert "of it are shown" not in whole

    # When
    page.locator(".st-key-detail-Zoom-in button").focus()
    page.keyboard.press("Enter")
    page.locator(".bs-sub", has_text="of it are shown").wait_for(timeout=WAIT_MS)

    # Then
    page.wait_for_timeout(500)  # the figure of the part takes the place of the whole one's
    wide.settle()
    once = shown_part(page)
    figure = page.locator(".js-plotly-plot").last
    figure.scroll_into_view_if_needed()
    box = figure.bounding_box()
    left, top = box["x"] + 0.4 * box["width"], box["y"] + 0.3 * box["height"]
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + 0.1 * box["width"], top + 4, steps=4)
    page.mouse.up()
    for _ in range(100):
        if shown_part(page) != once:
            break
        page.wait_for_timeout(100)
    assert shown_part(page) != once
    page.locator(".st-key-detail-Whole-step button").click()
    page.wait_for_timeout(300)
    wide.settle()
    assert shown_part(page) == whole
    assert wide.errors == []


PERFETTO = """<script>addEventListener("message", (event) => {
  if (event.data === "PING") event.source.postMessage("PONG", event.origin);
  else window.got = event.data;
});</script>"""


def test_the_raw_trace_goes_to_perfetto_on_a_click_and_not_before(
    wide: Watched, runs: Path
) -> None:
    # Given: Perfetto's protocol, as its documentation has it, in the place of its site
    wide.context.route(
        "https://ui.perfetto.dev/**",
        lambda route: route.fulfill(body=PERFETTO, content_type="text/html"),
    )
    page = wide.open("timeline", run="slow")
    page.get_by_text("Raw trace window, for Perfetto").click()
    wide.settle()
    assert wide.foreign == []

    # When
    button = page.frame_locator("iframe").get_by_role("button", name="Open in Perfetto")
    with wide.context.expect_page() as opening:
        button.click()
    perfetto = opening.value
    perfetto.wait_for_function("() => window.got", timeout=WAIT_MS)

    # Then
    size = perfetto.evaluate("window.got.perfetto.buffer.byteLength")
    title = perfetto.evaluate("window.got.perfetto.title")
    assert size in [file.stat().st_size for file in runs.glob(f"slow/rank-*/{title}")]


def test_a_run_that_goes_on_is_provisional_and_turns_into_the_finished_one(
    wide: Watched, runs: Path
) -> None:
    # Given: a recorded run whose launcher, this process, is still at work
    folder = runs / "live"
    finished = running_copy(runs / "slow", folder)
    page = wide.open("verdict", run="live")
    assert "provisional" in page.locator(".bs-card").first.inner_text()

    # When
    write_manifest(folder, finished)

    # Then
    page.locator(".bs-card", has_text="finished").first.wait_for(timeout=WAIT_MS)
    assert "provisional" not in page.locator("[data-testid=stMain]").inner_text()
    assert page.locator("[data-testid=stException]").count() == 0
    shutil.rmtree(folder)
