"""Take a picture of every page: light and dark, wide and narrow.

python scripts/screenshots.py -o PICTURES            records sample runs of its own, then looks
python scripts/screenshots.py -o PICTURES --runs DIR [--run KEY] [--base KEY] [--page NAME]

With BOUNDSCOPE_CORPUS set to a folder of public traces, GPU traces from it are looked at too.
"""

from __future__ import annotations

import argparse
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
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import msgspec
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = os.environ.get("BOUNDSCOPE_CHROMIUM", "/usr/bin/chromium")
ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = Path("tests", "scenarios")
WIDTHS = {"wide": 1280, "narrow": 390}
HEIGHT = 900
TALLEST = 6_000
FIRST = "runs"
"""The first page has no path of its own."""
WITH_BASE = ("compare",)
QUIET_MS = 900
BUSY = """() => {
  const app = document.querySelector('[data-testid=stApp]');
  return !app || app.getAttribute('data-test-script-state') !== 'notRunning'
    || !!document.querySelector('[data-testid=stSpinner], [data-testid=stSkeleton]');
}"""
CORPUS_TRACES = {
    "gpu-loader": "kineto_tb/resnet50_num_workers_0",
    "gpu-ranks": "param/dlrm_kineto",
    "gpu-h100": "tracelens/h100",
}


@dataclass(frozen=True)
class Subject:
    """What is looked at: a served folder, the run in it, and the pages."""

    name: str
    folder: Path
    run: str = ""
    base: str = ""
    pages: tuple[str, ...] = ()


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
    page.wait_for_selector("[data-testid=stMain] .bs-title", timeout=60_000)
    deadline = time.monotonic() + 60
    quiet_since = time.monotonic()
    while time.monotonic() < deadline:
        if page.evaluate(BUSY):
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


# --- sample runs -------------------------------------------------------------------------------


def record(folder: Path, name: str, *command: str) -> None:
    """Record a run into the folder unless it is there."""
    if (folder / "manifest.json").exists():
        return
    print(f"recording {folder.name}", flush=True)
    line = [sys.executable, "-m", "boundscope", "run", "-o", str(folder.resolve())]
    line += ["--name", name, "--"]
    subprocess.run([*line, *command], check=True, capture_output=True, timeout=300, cwd=ROOT)


def sample_runs(folder: Path) -> Path:
    """Record what is looked at: a base, a slower one with loader workers, one of two ranks."""
    runs = folder / "runs"
    tiny, ddp = str(SCENARIOS / "tiny_training.py"), str(SCENARIOS / "ddp.py")
    demo = str(Path("examples", "slow_store.py"))
    record(runs / "resnet-base", "resnet", tiny, "--wait-ms", "0.2", "--steps", "600")
    record(runs / "resnet-slower", "resnet", tiny, "--wait-ms", "1.5", "--steps", "400")
    record(runs / "slow-store", "slow-store", demo)
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    job = [*launcher, "--standalone", "--nproc-per-node", "2", ddp, "--steps", "80"]
    record(runs / "two-ranks", "two-ranks", *job, "--slow-loader-rank", "1", "--sleep-ms", "60")
    broken = runs / "broken"
    broken.mkdir(exist_ok=True)
    (broken / "manifest.json").write_text("{")
    return runs


def running_copy(finished: Path, folder: Path) -> Path:
    """Copy a run so that it looks as it did while it went on: its launcher is this process."""
    from boundscope.profiler.library import DIAGNOSIS_FILE
    from boundscope.profiler.run.manifest import read_manifest, write_manifest
    from boundscope.profiler.run.status import process_start_ticks

    copy = folder / "going-on"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(finished, copy)
    (copy / DIAGNOSIS_FILE).unlink(missing_ok=True)
    going_on = msgspec.structs.replace(
        read_manifest(copy),
        status="running",
        exit_code=None,
        ended_ns=0,
        launcher_pid=os.getpid(),
        launcher_start_ticks=process_start_ticks(os.getpid()) or 0,
        host=socket.gethostname(),
    )
    write_manifest(copy, going_on)
    return folder


def corpus_traces(folder: Path) -> list[Subject]:
    """GPU traces of the corpus, where there is one."""
    from boundscope.profiler.library import find_sources

    corpus = os.environ.get("BOUNDSCOPE_CORPUS")
    found = []
    for name, where in CORPUS_TRACES.items() if corpus else ():
        source = Path(str(corpus)) / where
        if source.exists():
            target = folder / name / source.name
            if not target.exists():
                shutil.copytree(source, target)
            first = find_sources([target])[0]
            found.append(Subject(name, target, first.key))
    return found


def subjects(folder: Path) -> list[Subject]:
    """Everything that is looked at when no folder is given."""
    runs = sample_runs(folder)
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    live = running_copy(runs / "resnet-slower", folder / "live")
    return [
        Subject("cpu", runs, "resnet-slower", "resnet-base"),
        Subject("ranks", runs, "two-ranks", "slow-store"),
        Subject("demo", runs, "slow-store", "resnet-base", ("verdict", "stacks")),
        Subject("broken", runs, "broken", "", ("verdict",)),
        Subject("unknown", runs, "nothing", "", ("verdict",)),
        Subject("empty", empty, "", "", (FIRST, "verdict")),
        Subject("running", live, "going-on", "", (FIRST, "verdict", "timeline", "ranks")),
        *corpus_traces(folder),
    ]


def pictures(subject: Subject, browser: Browser, given: argparse.Namespace) -> None:
    """Take all pictures of one subject."""
    from boundscope.dashboard.navigation import PAGES

    every = [path for path, *_ in PAGES]
    with served(subject.folder) as url:
        for name in subject.pages or every:
            if given.page and name not in given.page:
                continue
            query = {} if name == FIRST else {"run": subject.run}
            if name in WITH_BASE:
                query["base"] = subject.base
            path = "" if name == FIRST else name
            address = f"{url}/{path}?{urlencode({k: v for k, v in query.items() if v})}"
            for theme in given.theme or ("light", "dark"):
                for label, width in WIDTHS.items():
                    if given.width in (None, label):
                        file = given.output / f"{subject.name}-{name}-{theme}-{label}.png"
                        take(browser, address, theme, width, file)
                        print(file, flush=True)


def main() -> None:
    """Read the command line and take the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("screenshots"))
    parser.add_argument("--runs", type=Path, help="a folder of runs instead of the samples")
    parser.add_argument("--run", default="", help="the run that is shown, as in the address")
    parser.add_argument("--base", default="", help="the run that it is compared with")
    parser.add_argument("--page", action="append", help="only this page")
    parser.add_argument("--subject", action="append", help="only this sample")
    parser.add_argument("--theme", action="append", choices=("light", "dark"))
    parser.add_argument("--width", choices=tuple(WIDTHS))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    if given.runs:
        chosen = [Subject(given.run or "runs", given.runs, given.run, given.base)]
    else:
        chosen = subjects(given.output / "samples")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for subject in chosen:
            if not given.subject or subject.name in given.subject:
                pictures(subject, browser, given)
        browser.close()


if __name__ == "__main__":
    main()
