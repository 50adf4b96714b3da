"""Take a picture of every page: light and dark, wide and narrow.

python scripts/screenshots.py RUNS_FOLDER -o PICTURES [--run KEY] [--base KEY] [--page NAME]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = os.environ.get("BOUNDSCOPE_CHROMIUM", "/usr/bin/chromium")
WIDTHS = {"wide": 1280, "narrow": 390}
HEIGHT = 900
TALLEST = 6_000
FIRST = "runs"
"""The first page has no path of its own."""
WITH_BASE = ("compare",)
QUIET_MS = 900


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the folder on a free port; yields the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "boundscope", "dashboard", str(folder), "--no-open"]
    child = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, child)
        yield url
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(15)


def _wait(url: str, child: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if child.poll() is not None:
            raise SystemExit("the dashboard did not start")
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
            return
        time.sleep(0.1)
    raise SystemExit("the dashboard did not answer")


def settle(page: Page) -> None:
    """Wait until the page has been drawn and nothing runs any more."""
    page.wait_for_selector("[data-testid=stMain] [data-testid=stHtml]", timeout=60_000)
    deadline = time.monotonic() + 60
    quiet_since = time.monotonic()
    while time.monotonic() < deadline:
        busy = page.locator("[data-testid=stStatusWidget], [data-testid=stSpinner]").count()
        if busy:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > QUIET_MS / 1000:
            return
        page.wait_for_timeout(100)


def take(browser: Browser, address: str, theme: str, width: int, file: Path) -> None:
    """Write one picture of the whole page."""
    context = browser.new_context(
        viewport={"width": width, "height": HEIGHT},
        color_scheme=theme,  # type: ignore[arg-type]
    )
    page = context.new_page()
    try:
        page.goto(address)
        settle(page)
        inner = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        page.set_viewport_size({"width": width, "height": min(max(HEIGHT, inner), TALLEST)})
        settle(page)
        page.screenshot(path=str(file))
    finally:
        context.close()


def main() -> None:
    """Read the command line and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("screenshots"))
    parser.add_argument("--run", default="", help="the run that is shown, as in the address")
    parser.add_argument("--base", default="", help="the run that it is compared with")
    parser.add_argument("--page", action="append", help="only this page")
    parser.add_argument("--theme", action="append", choices=("light", "dark"))
    given = parser.parse_args()
    from boundscope.dashboard.navigation import PAGES

    given.output.mkdir(parents=True, exist_ok=True)
    with served(given.folder) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name in given.page or [path for path, *_ in PAGES]:
            query = {} if name == FIRST else {"run": given.run}
            if name in WITH_BASE:
                query["base"] = given.base
            address = f"{url}/{'' if name == FIRST else name}?{urlencode(query)}"
            for theme in given.theme or ("light", "dark"):
                for label, width in WIDTHS.items():
                    file = given.output / f"{name}-{theme}-{label}.png"
                    take(browser, address, theme, width, file)
                    print(file)
        browser.close()


if __name__ == "__main__":
    main()
