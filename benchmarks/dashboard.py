"""How long pages take in headless Chromium, and what the server needs, against the limits.

    python benchmarks/dashboard.py [--repeats 5] [--size-mb 1000] [--folder KEPT]

Makes what it looks at: a trace of 1 GB (a window of a real training, its events again and again
with shifted times), a run of 10,000 steps and one of 1,024 ranks (records as the collectors write
them), and a trace with a million events in one step. Each has been looked at once before it is
measured, as the limits say ("already diagnosed once"); that first look is printed too. A page is
complete at its last change after which it stands still. Figures are medians.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import psutil
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ingest import enlarge
from screenshots import CHROMIUM, served

from boundscope.collectors.records import SCHEMA, Header, Spans
from boundscope.profiler.run.manifest import read_manifest, write_manifest

ROOT = Path(__file__).resolve().parents[1]
TRAINING = ROOT / "tests" / "scenarios" / "tiny_training.py"
VERDICT_LIMIT_S, PAGE_LIMIT_S, ACTION_LIMIT_S = 1.5, 2.0, 0.5
SERVER_LIMIT_BYTES = 1_000_000_000
QUIET_MS = 500
FIRST_LOOK_MS = 240_000
STEPS, RANKS, STEPS_OF_RANKS, EVENTS = 10_000, 1_024, 200, 1_000_000

WATCH = """
window.__changed = window.__ran = 0;
new MutationObserver((changes) => {
  window.__changed = performance.now();
  const state = (change) => change.target.getAttribute('data-test-script-state');
  if (changes.some((change) => change.attributeName === 'data-test-script-state'
      && (state(change) !== 'notRunning' || change.oldValue !== 'notRunning')))
    window.__ran = performance.now();
}).observe(document, {subtree: true, childList: true, attributes: true, characterData: true,
  attributeOldValue: true});
"""
"""Notes when the page last changed, and when the server last ran for it."""
BUSY = """() => {
  const app = document.querySelector('[data-testid=stApp]');
  const state = app && app.getAttribute('data-test-script-state');
  const title = document.querySelector('[data-testid=stMain] .bs-title');
  const open = document.querySelector('[data-testid=stSpinner], [data-testid=stSkeleton]');
  return !title || open || state !== 'notRunning'
    || performance.now() - window.__changed < QUIET;
}""".replace("QUIET", str(QUIET_MS))


# --- what is looked at -------------------------------------------------------------------------


def make_samples(folder: Path, size_mb: int) -> None:
    """Make whatever of the samples is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    recorded = folder / "recorded"
    if not recorded.exists():
        command = [sys.executable, "-m", "boundscope", "run", "-o", str(recorded), "--"]
        subprocess.run([*command, str(TRAINING)], check=True, capture_output=True, timeout=200)
    big = folder / "large.pt.trace.json"
    if not big.exists():
        enlarge(next(recorded.glob("rank-*/trace-*.json.gz")), big, size_mb * 1_000_000)
    million = folder / "million.pt.trace.json"
    if not million.exists():
        write_million(million)
    for name, ranks, steps in (("many-steps", 1, STEPS), ("many-ranks", RANKS, STEPS_OF_RANKS)):
        if not (folder / name).exists():
            write_run(recorded, folder / name, ranks, steps)


def write_run(recorded: Path, folder: Path, ranks: int, steps: int) -> None:
    """Write a run of so many ranks and steps: uneven loader waits, one slow rank in a hundred."""
    manifest = read_manifest(recorded)
    folder.mkdir(parents=True)
    begin = manifest.started_ns
    chance = random.Random(1)
    for rank in range(ranks):
        made = folder / f"rank-{rank}-{1000 + rank}"
        made.mkdir()
        header = Header(
            SCHEMA, "steps", manifest.host, 1000 + rank, 0, begin, "", rank, rank, ranks
        )
        spans = _spans(begin + 10**9, steps, chance, slow=rank % 100 == 7)
        lines = [msgspec.json.encode(record) for record in (header, *spans)]
        (made / "steps.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    ended = begin + 10**9 + steps * 14_000_000
    changed = msgspec.structs.replace(manifest, name=folder.name, id=folder.name, ended_ns=ended)
    write_manifest(folder, changed)


def _spans(begin: int, steps: int, chance: random.Random, *, slow: bool) -> list[Spans]:
    found, at = [], 0
    for first in range(0, steps, 500):
        kind, start, duration = "", [], []
        for _ in range(min(500, steps - first)):
            wait = int(2e6 + chance.random() * 1e6) * (4 if slow else 1)
            for letter, length in (
                ("l", wait),
                ("f", 3_000_000),
                ("b", 5_000_000),
                ("o", 1_000_000),
            ):
                kind += letter
                start.append(at)
                duration.append(length)
                at += length + 20_000
        found.append(Spans(begin, kind, start, duration, [0] * len(kind)))
    return found


def write_million(file: Path) -> None:
    """Write a trace of three steps, the middle one with a million nested events on four threads."""
    names = ["aten::linear", "aten::addmm", "aten::relu", "aten::add_", "aten::copy_", "aten::view"]
    with file.open("w") as out:
        out.write('{"schemaVersion": 1, "traceEvents": [')
        span = EVENTS * 1.25 / 4
        for step, begin in enumerate((0.0, span, 2 * span)):
            event = _event(f"ProfilerStep#{step}", "user_annotation", begin, span - 1, 1)
            out.write(("," if step else "") + json.dumps(event))
        for thread in range(1, 5):
            at = span + 1
            for number in range(EVENTS // 8):
                name = names[number % len(names)]
                out.write("," + json.dumps(_event(name, "cpu_op", at, 2, thread)))
                out.write("," + json.dumps(_event("aten::empty", "cpu_op", at + 0.5, 1, thread)))
                at += 2.5
        out.write("]}")


def _event(name: str, kind: str, ts: float, dur: float, thread: int) -> dict[str, Any]:
    return {
        "ph": "X", "cat": kind, "name": name, "ts": ts, "dur": dur, "pid": 1, "tid": thread,
    }  # fmt: skip


# --- measuring ---------------------------------------------------------------------------------


class Memory(threading.Thread):
    """The peak of the server's resident memory, and of it with the processes that it starts."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.server = self.tree = 0
        self._done = threading.Event()
        wanted = f"--server.port={port}"
        every = psutil.Process().children(recursive=True)
        self._process = next(p for p in every if wanted in p.cmdline())

    def run(self) -> None:
        while not self._done.wait(0.2):
            try:
                own = self._process.memory_info().rss
                below = [child.memory_info().rss for child in self._process.children(True)]
            except psutil.Error:
                continue
            self.server, self.tree = max(self.server, own), max(self.tree, own + sum(below))

    def end(self) -> None:
        self._done.set()
        self.join()


def complete(page: Page, limit_ms: int = 60_000) -> float:
    """Wait until the page stands still; returns when it last changed, s since navigation."""
    page.wait_for_function(f"() => !({BUSY})()", timeout=limit_ms, polling=50)
    return float(page.evaluate("window.__changed")) / 1000


def opened(context: Any, address: str, repeats: int) -> tuple[float, list[float]]:
    """Open a page once for the first look, then again and again; the times, s."""
    times = []
    for number in range(repeats + 1):
        page = context.new_page()
        page.add_init_script(WATCH)
        page.goto(address)
        times.append(complete(page, FIRST_LOOK_MS if number == 0 else 60_000))
        assert page.locator("[data-testid=stException]").count() == 0, address
        page.close()
    return times[0], times[1:]


def acted(page: Page, act: Any) -> float:
    """Time from an act to the last change that it causes, s; fails where the server ran nothing."""
    began = float(page.evaluate("window.__ran = 0, performance.now()")) / 1000
    act()
    page.wait_for_function("() => window.__ran > 0", timeout=10_000, polling=20)
    return complete(page) - began


@contextmanager
def looked_at(context: Any, address: str) -> Iterator[Page]:
    """A page that has been drawn."""
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(address)
    complete(page)
    yield page
    page.close()


def filters(context: Any, address: str, repeats: int, key: str, words: str) -> list[float]:
    """Type a search into the field of that key, and take it back."""
    times = []
    with looked_at(context, address) as page:
        field = page.locator(f".st-key-{key} input")
        for number in range(repeats):
            field.fill(words if number % 2 == 0 else "")
            times.append(acted(page, lambda: field.press("Enter")))
    return times


def ranks(context: Any, address: str, repeats: int) -> list[float]:
    """Choose another rank, by typing its number."""
    times = []
    with looked_at(context, address) as page:
        for number in range(repeats):
            page.locator("[data-testid=stSelectbox] input").first.click()
            page.keyboard.type(str(7 + 100 * number))
            page.wait_for_timeout(200)
            times.append(acted(page, lambda: page.keyboard.press("Enter")))
    return times


def zooms(context: Any, address: str, repeats: int, key: str, whole: str) -> list[float]:
    """Zoom by the button, and by a drag over the figure: into a step, or into the run."""
    times = []
    with looked_at(context, address) as page:
        figures = page.locator(".js-plotly-plot")
        for number in range(repeats):
            if number % 2:
                figure = figures.last if key == "detail" else figures.first
                times.append(acted(page, partial(_drag, page, figure)))
            else:
                page.locator(f".st-key-{key}-{whole} button").click()
                complete(page)
                times.append(acted(page, page.locator(f".st-key-{key}-Zoom-in button").click))
    return times


def _drag(page: Page, figure: Any) -> None:
    figure.scroll_into_view_if_needed()
    box = figure.bounding_box()
    assert box is not None
    left, top = box["x"] + 0.3 * box["width"], box["y"] + 0.4 * box["height"]
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + 0.3 * box["width"], top + 5, steps=3)
    page.mouse.up()


class Report:
    """Prints each figure beside its limit; `failed` once one is over it."""

    def __init__(self) -> None:
        self.failed = False

    def line(self, what: str, value: float, limit: float, unit: str, more: str = "") -> None:
        good = value <= limit
        self.failed |= not good
        print(
            f"{'pass' if good else 'FAIL'}  {what:<46} {value:7.2f} {unit:<3} limit {limit:g}{more}"
        )
        sys.stdout.flush()


@contextmanager
def looking(folder: Path) -> Iterator[tuple[str, Any, Memory]]:
    with (
        served(folder) as url,
        sync_playwright() as playwright,
        tempfile.TemporaryDirectory() as profile,
    ):
        # A profile on disk keeps compiled scripts from one page to the next, as a user's does.
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            args=["--no-sandbox"],
            viewport={"width": 1280, "height": 900},
        )
        memory = Memory(int(url.rpartition(":")[2]))
        memory.start()
        try:
            yield url, context, memory
        finally:
            context.close()
            memory.end()


def acts(report: Report, url: str, context: Any, repeats: int) -> None:
    """Measure searches, the choice of a rank, and zooms."""
    large, million = "large.pt.trace.json", "million.pt.trace.json"
    for words, path, key, typed in (
        ("search among runs", "", "search", "many"),
        ("search among ops", f"ops?run={large}", "ops-search", "addmm"),
        ("search among stacks", "stacks?run=recorded", "stack-search", "train"),
    ):
        times = filters(context, f"{url}/{path}", repeats, key, typed)
        report.line(words, statistics.median(times), ACTION_LIMIT_S, "s")
    times = ranks(context, f"{url}/timeline?run=many-ranks", repeats)
    report.line("another rank of 1,024", statistics.median(times), ACTION_LIMIT_S, "s")
    for run in (large, million):
        address = f"{url}/timeline?run={run}&step=2"
        times = zooms(context, address, 2 * repeats, "detail", "Whole-step")
        report.line(f"zoom in a step of {run}", statistics.median(times), ACTION_LIMIT_S, "s")
    for run in ("many-steps", "recorded"):
        address = f"{url}/timeline?run={run}"
        times = zooms(context, address, 2 * repeats, "timeline", "Whole-run")
        report.line(f"zoom in the run {run}", statistics.median(times), ACTION_LIMIT_S, "s")


def measure(folder: Path, repeats: int) -> bool:
    """Measure everything; returns whether all limits held."""
    report = Report()
    large, million = "large.pt.trace.json", "million.pt.trace.json"
    pages = [
        ("verdict", large, VERDICT_LIMIT_S),
        *((name, large, PAGE_LIMIT_S) for name in ("timeline", "ops", "stacks", "ranks", "memory")),
        ("share", large, PAGE_LIMIT_S),
        ("share", "recorded", PAGE_LIMIT_S),
        ("stacks", "recorded", PAGE_LIMIT_S),
        ("verdict", "many-steps", VERDICT_LIMIT_S),
        ("timeline", "many-steps", PAGE_LIMIT_S),
        ("verdict", "many-ranks", VERDICT_LIMIT_S),
        ("timeline", "many-ranks", PAGE_LIMIT_S),
        ("ranks", "many-ranks", PAGE_LIMIT_S),
        ("timeline", million, PAGE_LIMIT_S),
        ("compare", f"many-steps&base={quote('recorded')}", PAGE_LIMIT_S),
    ]
    with looking(folder) as (url, context, memory):
        first, times = opened(context, f"{url}/verdict?run=nothing", repeats)
        floor = statistics.median(times)
        print(f"      a page with nothing on it {floor:27.2f} s    (first {first:.1f})", flush=True)
        first, times = opened(context, f"{url}/", repeats)
        report.line("runs", statistics.median(times), PAGE_LIMIT_S, "s", f"  (first {first:.1f})")
        for name, run, limit in pages:
            first, times = opened(context, f"{url}/{name}?run={run}", repeats)
            words = f"{name} of {run.partition('&')[0]}"
            more = f"  (first look {first:.1f})"
            report.line(words, statistics.median(times), limit, "s", more)
        acts(report, url, context, repeats)
    report.line("server, peak", memory.server / 1e6, SERVER_LIMIT_BYTES / 1e6, "MB")
    print(f"      with the processes it starts for analysis      {memory.tree / 1e6:7.2f} MB")
    return not report.failed


def main() -> int:
    """Make the samples and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size-mb", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, help="keep the samples here, and use them again")
    given = parser.parse_args()
    if given.folder:
        make_samples(given.folder, given.size_mb)
        return 0 if measure(given.folder, given.repeats) else 1
    with tempfile.TemporaryDirectory() as folder:
        make_samples(Path(folder), given.size_mb)
        return 0 if measure(Path(folder), given.repeats) else 1


if __name__ == "__main__":
    sys.exit(main())
