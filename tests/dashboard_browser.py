"""The dashboard in a real browser: its server, the browser, and pages that stand still."""

from __future__ import annotations

import contextlib
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

CHROMIUM = os.environ.get("BOUNDSCOPE_CHROMIUM") or shutil.which("chromium") or ""
READY_S = 90
WAIT_MS = 60_000
STILL_MS = 400


@contextlib.contextmanager
def served(folder: Path, cache: Path) -> Iterator[str]:
    """The dashboard, started as a user starts it; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "boundscope", "dashboard", str(folder), "--no-open"]
    own = os.environ | {"BOUNDSCOPE_CACHE": str(cache)}
    child = subprocess.Popen([*command, "--port", str(port)], cwd=folder.parent, env=own)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, child)
        yield url
    finally:
        child.send_signal(signal.SIGINT)
        try:
            code = child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise
    assert code == 0


def wait_for(url: str, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        assert child.poll() is None, "the dashboard ended"
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
            return
        time.sleep(0.1)
    pytest.fail(f"the dashboard did not answer within {READY_S} s")


@pytest.fixture(scope="module", name="chromium")
def started_chromium() -> Iterator[Any]:
    if not CHROMIUM:
        if os.environ.get("CI"):
            pytest.fail("no Chromium: the pages must be tested in a browser")
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


STANDS_STILL = """(least) => {
  const app = document.querySelector('[data-testid=stApp]');
  const busy = !app || app.getAttribute('data-test-script-state') !== 'notRunning'
    || !document.querySelector('[data-testid=stMain] .bs-title')
    || document.querySelector('[data-testid=stSpinner], [data-testid=stSkeleton]');
  if (busy) { window.__still = 0; return false; }
  window.__still = window.__still || performance.now();
  return performance.now() - window.__still >= least;
}"""

TOO_WIDE = """() => {
  const main = document.querySelector('[data-testid=stMain]');
  const right = main.getBoundingClientRect().right + 1;
  return [...main.querySelectorAll('.bs, .js-plotly-plot, [data-testid=stDataFrame], button')]
    .filter(e => e.getClientRects().length && e.getBoundingClientRect().right > right)
    .map(e => e.outerHTML.slice(0, 120));
}"""

CUT_OFF = """() => {
  const found = [];
  const hides = e => ['hidden', 'clip'].includes(getComputedStyle(e).overflowX);
  for (const e of document.querySelectorAll('[data-testid=stMain] .bs, [data-testid=stMain] .bs *'))
    if (e.innerText && hides(e) && e.scrollWidth > e.clientWidth + 1)
      found.push(e.innerText.slice(0, 80));
  for (const plot of document.querySelectorAll('[data-testid=stMain] .js-plotly-plot')) {
    const box = plot.getBoundingClientRect();
    for (const text of plot.querySelectorAll('.main-svg text')) {
      const r = text.getBoundingClientRect();
      const seen = r.width && getComputedStyle(text).visibility !== 'hidden'
        && getComputedStyle(text).display !== 'none' && text.getAttribute('opacity') !== '0';
      if (seen && (r.left < box.left - 2 || r.right > box.right + 2))
        found.push('plot: ' + text.textContent.slice(0, 80));
    }
  }
  return found;
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

FACTS = """() => Object.fromEntries([...document.querySelectorAll(
  '[data-testid=stMain] .bs-fact')].map(e => [
    e.querySelector('span').textContent, e.querySelector('b').textContent]))"""


def settled(page: Any, question: str) -> Any:
    """The answer once the page stands still: charts take their final height after a moment."""
    for _ in range(40):
        found = page.evaluate(question)
        if not found:
            break
        time.sleep(0.25)
    return found


class Watched:
    """A page whose console errors, failed scripts and foreign requests are kept."""

    def __init__(self, browser: Any, address: str, width: int, theme: str = "light") -> None:
        self.address = address
        self.context = _context(browser, width, theme)
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
        self.page.wait_for_function(STANDS_STILL, arg=STILL_MS, polling=50, timeout=WAIT_MS)

    def flaws(self) -> list[str]:
        """What nobody should see: errors, foreign requests, boxes that do not fit."""
        page = self.page
        found = [f"exception: {box}" for box in page.locator("[data-testid=stException]").all()]
        found += [f"too wide: {box}" for box in settled(page, TOO_WIDE)]
        found += [f"overlapping: {boxes}" for boxes in settled(page, OVERLAPPING)]
        found += [f"cut off: {words}" for words in settled(page, CUT_OFF)]
        found += [f"foreign: {url}" for url in self.foreign]
        return found + [f"console: {text}" for text in self.errors]

    def title(self) -> str:
        return str(self.page.locator("[data-testid=stMain] .bs-title").first.inner_text())

    def facts(self) -> dict[str, str]:
        """The labelled values on the page; of several with one label the last."""
        found: dict[str, str] = self.page.evaluate(FACTS)
        return found

    def close(self) -> None:
        self.page.close()


def _context(browser: Any, width: int, theme: str) -> Any:
    """The browser's context of that look: what it has loaded once, it has at hand."""
    for context in browser.contexts:
        if getattr(context, "look", None) == (width, theme):
            return context
    made = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    made.look = (width, theme)
    return made


def tab_to(page: Any, question: str, most: int = 150) -> None:
    """Press Tab until the question is true of the element that has the focus."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate(f"(() => {{ const e = document.activeElement; return {question}; }})()"):
            return
    pytest.fail(f"Tab does not lead to {question}")
