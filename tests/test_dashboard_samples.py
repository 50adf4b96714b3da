"""Pages of every recorded run in sample_traces/: whole, and with the figures of `diagnose`.

In a real browser those of one run for each kind of cause; `BOUNDSCOPE_EVERY_PAGE=1` opens every
page of every run there, in about a quarter of an hour.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("streamlit")

from boundscope import sample_traces
from boundscope.dashboard import navigation
from boundscope.profiler.diagnose import diagnose_path
from boundscope.profiler.diagnosis import Diagnosis
from boundscope.profiler.library import PATHS_VARIABLE
from boundscope.profiler.text import duration, milliseconds, percent

from .dashboard_browser import Watched, served, settled, started_chromium  # noqa: F401

NAMES = sample_traces.names()
EVERY_PAGE = os.environ.get("BOUNDSCOPE_EVERY_PAGE") == "1"
PAGES = [path for path, *_ in navigation.PAGES if path != "runs"]
OTHERS = [path for path in PAGES if path != "verdict"]
WIDE, NARROW = (1280, "light"), (390, "dark")
Look = tuple[str, int, str]

MAY_BE_EMPTY = {"ops", "memory", "stacks", "ranks"}
"""A training on the CPU has no memory of a device; one of a second may have no stack sample."""

needs_runs = pytest.mark.skipif(not NAMES, reason="no recorded runs in sample_traces/")


def size_of(name: str) -> int:
    return (sample_traces.FOLDER / name / sample_traces.ARCHIVE).stat().st_size


def chosen() -> list[str]:
    """The smallest run of each kind of training and each expected verdict."""
    found: dict[tuple[str, str], str] = {}
    for name in sorted(NAMES, key=size_of):
        truth = sample_traces.truth(name)
        found.setdefault((truth["kind"], truth["expected"]), name)
    return sorted(found.values())


CHOSEN = NAMES if EVERY_PAGE else chosen()


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples") / "runs"
    folder.mkdir()
    for name in NAMES:
        sample_traces.extract(name, folder)
    return folder


@pytest.fixture(scope="module")
def address(samples: Path) -> Iterator[str]:
    with served(samples, samples.parent / "cache") as url:
        yield url


@cache
def said(folder: Path) -> Diagnosis:
    return diagnose_path(folder)


def facts_of(diagnosis: Diagnosis) -> dict[str, str]:
    """What stands in the card of the verdict, by its labels."""
    run, verdict = diagnosis.run, diagnosis.verdict
    items = {
        "median step": milliseconds(run.step_ms.median) if run.step_ms else "",
        "90th percentile": milliseconds(run.step_ms.p90) if run.step_ms else "",
        "steps": f"{run.steps:,}",
        "ranks": f"{run.world_size:,}",
        "start-up": duration(run.startup_s) if run.startup_s is not None else "",
        "device": ", ".join(run.devices),
        "runner-up": verdict.runner_up or "",
    }
    return {label: value for label, value in items.items() if value}


def texts_of(diagnosis: Diagnosis) -> list[str]:
    """Sentences and figures that the page of the verdict must have."""
    verdict = diagnosis.verdict
    found = [verdict.headline]
    if verdict.bound != "unknown":
        found.append(f"confidence {verdict.confidence:.2f}")
    for finding in diagnosis.findings:
        saving = finding.saving
        found += [
            finding.title,
            f"saves {percent(saving.mid)} of step time",
            f"{percent(saving.low)} to {percent(saving.high)} · {finding.speedup:g}× as fast",  # noqa: RUF001
            *[item.text for item in finding.evidence],
            *[fix.title for fix in finding.fixes],
        ]
    return found + [warning.text for warning in diagnosis.warnings]


def shares_of(diagnosis: Diagnosis) -> dict[str, str]:
    if not diagnosis.run.steps:
        return {}
    return {slot: percent(share) for slot, share in diagnosis.breakdown.items() if share >= 0.005}


def together(text: str) -> str:
    """The words of a text with single spaces between them."""
    return " ".join(text.split())


# --- every run, in Streamlit's own harness -----------------------------------------------------


@needs_runs
@pytest.mark.parametrize("name", NAMES)
def test_the_verdict_of_a_recorded_run_is_what_diagnose_says(
    samples: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # Given
    diagnosis = said(samples / name)

    # When
    page = verdict_page(samples, monkeypatch, name)

    # Then
    facts = dict(re.findall(r"<span>([^<]*)</span><b>([^<]*)</b>", page))
    expected = facts_of(diagnosis)
    assert {label: html.unescape(facts.get(label, "")) for label in expected} == expected
    slots = re.findall(r'data-slot="(\w+)"><i [^>]*></i>\w+ <b>([^<]*)</b>', page)
    assert dict(slots) == shares_of(diagnosis)
    words = together(html.unescape(re.sub(r"<[^>]+>", " ", page)))
    assert [text for text in texts_of(diagnosis) if together(text) not in words] == []


def verdict_page(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    from streamlit.testing.v1 import AppTest

    monkeypatch.setenv(PATHS_VARIABLE, json.dumps([str(folder / name)]))
    monkeypatch.setenv("BOUNDSCOPE_CACHE", str(folder.parent / "cache"))
    script = "from boundscope.dashboard.views import verdict\nverdict.page()\n"
    shown = AppTest.from_string(script, default_timeout=120)
    shown.query_params["run"] = name
    shown.run()
    assert not shown.exception
    return "\n".join(str(getattr(part, "body", "")) for part in shown.get("html"))


# --- some of them, in a real browser -----------------------------------------------------------


@needs_runs
def test_every_verdict_that_is_stored_is_looked_at_in_a_browser() -> None:
    expected = {sample_traces.truth(name)["expected"] for name in NAMES}

    assert {sample_traces.truth(name)["expected"] for name in CHOSEN} == expected
    if len(CHOSEN) >= len(OTHERS):
        assert {page for number in range(len(CHOSEN)) for page, *_ in looks(number)} == set(PAGES)


def looks(number: int) -> list[Look]:
    """What is opened of the run of this number: its verdict, and another page in turn."""
    if EVERY_PAGE:
        return [*((page, *WIDE) for page in PAGES), *((page, *NARROW) for page in PAGES[:2])]
    other = (OTHERS[number % len(OTHERS)], *(NARROW if number % 2 else WIDE))
    return [("verdict", *WIDE), other, *([("verdict", *NARROW)] if number % 3 == 0 else [])]


@needs_runs
@pytest.mark.parametrize("name", CHOSEN)
def test_pages_of_a_recorded_run_are_whole_in_a_browser(
    chromium: Any, address: str, samples: Path, name: str
) -> None:
    base = NAMES[NAMES.index(name) - 1]

    for page, width, theme in looks(CHOSEN.index(name)):
        watched = Watched(chromium, address, width, theme)
        watched.open(page, run=name, base=base)
        check(watched, page)
        if page == "verdict":
            check_figures(watched, said(samples / name))
        watched.close()


def check(watched: Watched, page: str) -> None:
    flaws = watched.flaws()
    assert flaws == [], page
    if page != "verdict":  # its title is the name of the run
        assert watched.title() == page.capitalize()
    if page not in MAY_BE_EMPTY:
        empty = "[...document.querySelectorAll('[data-testid=stMain] .bs-empty')].length"
        assert not settled(watched.page, empty), page


def check_figures(watched: Watched, diagnosis: Diagnosis) -> None:
    page = watched.page
    assert page.get_by_test_id("headline").inner_text() == diagnosis.verdict.headline
    expected = facts_of(diagnosis)
    facts = watched.facts()
    assert {label: facts.get(label, "") for label in expected} == expected
    for slot, share in shares_of(diagnosis).items():
        shown = page.locator(f"[data-slot={slot}]").first.inner_text()
        assert shown.split(maxsplit=1) == [slot, share]
    words = together(page.locator("[data-testid=stMain]").inner_text())
    assert [text for text in texts_of(diagnosis) if together(text) not in words] == []
