"""Every page of recorded runs in a real browser, at two widths, light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("streamlit")

from boundscope.dashboard import navigation
from boundscope.profiler.run.manifest import write_manifest
from boundscope.profiler.text import duration, milliseconds, percent

from .dashboard_browser import (
    WAIT_MS,
    Watched,
    served,
    settled,
    started_chromium,  # noqa: F401
    tab_to,
)
from .dashboard_material import HOSTILE, diagnose_json, recorded_runs, running_copy  # noqa: F401
from .written_run import append, going_on, manifest, steps, write_run

PAGES = [path for path, *_ in navigation.PAGES]
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
    with served(runs, runs.parent / "cache") as url:
        yield url


EVERY_LOOK = ("verdict", "timeline", "ranks")
"""Pages that are looked at in both themes at both widths; the others in one theme at each."""


@pytest.fixture
def wide(chromium: Any, address: str) -> Iterator[Watched]:
    made = Watched(chromium, address, 1280)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("name", "width", "theme"),
    [
        (name, width, theme)
        for name in PAGES
        for width, theme in ((1280, "light"), (390, "dark"), (1280, "dark"), (390, "light"))
        if name in EVERY_LOOK or (width == 1280) == (theme == "light")
    ],
)
def test_every_page_is_whole_in_a_browser(
    chromium: Any, address: str, name: str, width: int, theme: str
) -> None:
    # Given
    watched = Watched(chromium, address, width, theme)

    # When
    page = watched.open(name, run="slow", base="quick")

    # Then
    assert watched.title() == HEADINGS[name]
    allowed = 2 if name == "ranks" else 0
    many = f"document.querySelectorAll('[data-testid=stMain] .bs-empty').length > {allowed}"
    assert not settled(page, many)
    assert watched.flaws() == []
    watched.close()


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
    facts = wide.facts()
    assert facts["steps"] == f"{said['run']['steps']:,}"
    assert facts["median step"] == milliseconds(said["run"]["step_ms"]["median"])
    assert facts["90th percentile"] == milliseconds(said["run"]["step_ms"]["p90"])
    assert facts["start-up"] == duration(said["run"]["startup_s"])
    assert facts.get("runner-up") == said["verdict"]["runner_up"]
    if said["verdict"]["bound"] != "unknown":  # other programs may hold this machine
        card = page.locator(".bs-card").first.inner_text()
        assert f"confidence {said['verdict']['confidence']:.2f}" in card
    words = page.locator("[data-testid=stMain]").inner_text()
    for finding in said["findings"]:
        assert f"saves {percent(finding['saving']['mid'])} of step time" in words
        assert all(item["text"] in words for item in finding["evidence"])


def test_the_shares_of_the_ranks_are_those_of_diagnose(wide: Watched, runs: Path) -> None:
    # Given
    said = diagnose_json(runs / "two-ranks")

    # When
    page = wide.open("ranks", run="two-ranks")

    # Then
    page.locator(".js-plotly-plot .bars").first.wait_for(timeout=WAIT_MS)
    bars = page.evaluate(
        """() => Object.fromEntries(document.querySelector('.js-plotly-plot').data
             .map(bar => [bar.name, Array.from(bar.x)]))"""
    )
    for slot, shown in bars.items():
        assert shown == [rank["breakdown"][slot] for rank in said["ranks"]]
    assert sum(sum(shown) for shown in bars.values()) == pytest.approx(2, abs=0.01)


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


def test_a_snippet_is_copied_by_keyboard_as_it_stands(wide: Watched) -> None:
    # Given
    page = wide.open("verdict", run="slow")
    wide.context.grant_permissions(["clipboard-read", "clipboard-write"])
    snippet = page.locator(".bs-code pre").first.evaluate("e => e.textContent")

    # When
    tab_to(page, "e.matches('.bs-copy')")
    page.keyboard.press("Enter")

    # Then
    page.locator(".bs-copy", has_text="Copied").wait_for(timeout=WAIT_MS)
    assert page.evaluate("navigator.clipboard.readText()") == snippet
    assert "\n" in snippet or "=" in snippet


def test_a_page_is_reached_from_the_list_by_keyboard_and_keeps_the_run_in_its_address(
    wide: Watched,
) -> None:
    # Given
    page = wide.open("runs")

    # When
    page.get_by_label("Search").fill("slow")
    page.keyboard.press("Enter")
    wide.settle()
    tab_to(page, "e.matches('[data-testid=stMain] [data-testid=stPageLink] a')")
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
    folder = write_run(runs / "brand-new")
    try:
        page = wide.open("verdict", run="brand-new")

        # Then
        assert page.get_by_test_id("headline").count() == 1
    finally:
        shutil.rmtree(folder)


def shown_part(page: Any) -> str:
    """What the sentence below the lanes says."""
    return str(page.locator(".bs-sub", has_text="Drag over a part").last.inner_text())


def test_a_step_is_looked_into_by_keyboard_and_by_a_drag(wide: Watched) -> None:
    # Given
    page = wide.open("timeline", run="slow")
    assert "step=" in page.url  # the address leads back to this step
    whole = shown_part(page)
    assert "of it are shown" not in whole
    named = (
        page.locator(".js-plotly-plot")
        .last.locator(".bartext")
        .evaluate_all(
            "all => all.filter(e => !/scale.0[)]/.test(e.getAttribute('transform'))).length"
        )
    )
    assert named >= 1  # the widest boxes say what they are

    # When
    tab_to(page, "e.closest('.st-key-detail-Zoom-in')")
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
    perfetto.close()
    wide.context.unroute_all()


def test_the_whole_run_is_zoomed_into_by_a_drag_and_by_keyboard_in_all_rows(
    wide: Watched,
) -> None:
    # Given
    page = wide.open("timeline", run="slow")
    whole = ranges(page)
    assert len(whole) > 1
    assert len(set(whole)) == 1

    # When
    figure = page.locator(".js-plotly-plot").first
    box = figure.locator(".draglayer .xy .drag").first.bounding_box()
    left, top = box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"]
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + 0.5 * box["width"], top + 4, steps=4)
    page.mouse.up()
    page.locator(".bs-sub", has_text=" of ").filter(has_text=" to ").first.wait_for(timeout=WAIT_MS)
    wide.settle()

    # Then: a half of the run, from a fifth on
    (part,) = set(ranges(page))
    length = whole[0][1]
    assert part == pytest.approx((0.2 * length, 0.7 * length), abs=0.02 * length)
    tab_to(page, "e.closest('.st-key-timeline-Zoom-in')")
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => {FIRST_RANGE}[0] > {part[0] + 0.01 * length}", timeout=WAIT_MS)
    wide.settle()
    (closer,) = set(ranges(page))
    assert closer == pytest.approx((0.325 * length, 0.575 * length), abs=0.02 * length)
    page.locator(".st-key-timeline-Whole-run button").click()
    page.wait_for_function(f"() => {FIRST_RANGE}[0] === 0", timeout=WAIT_MS)
    assert ranges(page) == whole
    assert wide.errors == []


def test_a_click_on_a_step_shows_it_below(wide: Watched) -> None:
    # Given
    page = wide.open("timeline", run="slow", step="9")
    field = page.locator(".st-key-step-of-detail input")
    assert field.input_value() == "9"

    # When
    x, y, step = page.locator(".js-plotly-plot").first.evaluate(
        """(figure) => {
          const {xaxis, yaxis} = figure._fullLayout, drawn = figure._fullData[0];
          const at = figure.getBoundingClientRect(), i = Math.floor(drawn.x.length / 2);
          return [at.left + xaxis._offset + xaxis.l2p(drawn.x[i]),
            at.top + yaxis._offset + yaxis.l2p(drawn.y[i]), drawn.customdata[i][0]];
        }"""
    )
    page.mouse.click(x, y)
    for _ in range(100):
        if field.input_value() == str(step):
            break
        page.wait_for_timeout(100)

    # Then
    assert field.input_value() == str(step)
    assert f"step={step}" in page.url
    assert wide.errors == []


def test_figures_are_drawn_without_the_whole_of_plotly(wide: Watched) -> None:
    page = wide.open("ranks", run="two-ranks")

    loaded = page.evaluate("performance.getEntriesByType('resource').map(found => found.name)")
    assert page.locator(".js-plotly-plot").count() >= 2
    assert [name for name in loaded if "PlotlyChart" in name] == []
    assert len({name for name in loaded if "/static/plotly.js" in name}) == 1


FIRST_RANGE = "document.querySelector('.js-plotly-plot')?.layout.xaxis.range"


def ranges(page: Any) -> list[tuple[float, float]]:
    """What each row of the first figure shows."""
    found = page.evaluate(
        """() => {
          const layout = document.querySelector('.js-plotly-plot')._fullLayout;
          return Object.keys(layout).filter(key => /^xaxis/.test(key))
            .map(key => Array.from(layout[key].range));
        }"""
    )
    return [(float(low), float(high)) for low, high in found]


def test_a_frame_of_the_flame_graph_is_zoomed_to_by_keyboard(wide: Watched) -> None:
    # Given
    page = wide.open("stacks", run="slow")
    level = "document.querySelector('.js-plotly-plot').data[0].level"
    assert page.evaluate(level) in (None, "root")

    # When
    tab_to(page, "e.closest('.st-key-zoom-to')")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")

    # Then
    # The chart is gone for a moment while it is drawn anew.
    now = level.replace(").data", ")?.data")
    page.wait_for_function(f"() => ![undefined, null, 'root'].includes({now})", timeout=WAIT_MS)
    assert wide.errors == []


def test_the_address_leads_to_the_same_rank_and_step(wide: Watched) -> None:
    page = wide.open("timeline", run="two-ranks", rank="1", step="7")

    assert page.locator("[data-testid=stSelectbox] input").first.input_value() == "1"
    assert page.locator(".st-key-step-of-detail input").input_value() == "7"
    assert "rank=1" in page.url
    assert "step=7" in page.url
    page = wide.open("timeline", run="two-ranks", rank="9" * 5_000, step="9" * 5_000)
    assert wide.flaws() == []


def test_every_page_of_a_run_that_goes_on_says_that_it_is_provisional(
    wide: Watched, live: Path
) -> None:
    for name in ("verdict", "timeline", "ops", "stacks", "ranks", "memory"):
        page = wide.open(name, run="live")

        assert "these figures are provisional" in page.locator("[data-testid=stMain]").inner_text()
        assert page.locator("[data-testid=stException]").count() == 0


@pytest.fixture
def live(runs: Path) -> Iterator[Path]:
    """A run of 60 steps whose launcher, this process, is still at work."""
    folder = write_run(runs / "live", steps(0, 60), **going_on())
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_figures_follow_a_run_that_goes_on_until_it_ends(wide: Watched, live: Path) -> None:
    # Given
    page = wide.open("verdict", run="live")
    assert wide.facts()["steps"] == "60"
    assert "provisional" in page.locator(".bs-card").first.inner_text()

    # When
    append(live / "rank-0-7", steps(60, 40))

    # Then: 100 steps, and once it has ended a verdict that is not provisional
    page.locator(".bs-fact b", has_text="100").first.wait_for(timeout=WAIT_MS)
    assert "provisional" in page.locator(".bs-card").first.inner_text()
    write_manifest(live, manifest("live"))
    page.locator(".bs-card", has_text="finished").first.wait_for(timeout=WAIT_MS)
    wide.settle()
    assert "provisional" not in page.locator("[data-testid=stMain]").inner_text()
    assert page.locator("[data-testid=stException]").count() == 0


def test_a_run_that_vanishes_while_it_is_looked_at_is_a_sentence(wide: Watched, live: Path) -> None:
    # Given
    page = wide.open("timeline", run="live")

    # When
    shutil.rmtree(live)

    # Then
    page.locator(".bs-note", has_text="no-manifest").first.wait_for(timeout=WAIT_MS)
    assert page.locator("[data-testid=stException]").count() == 0


def test_the_list_follows_a_run_that_goes_on_until_it_ends(wide: Watched, live: Path) -> None:
    # Given
    page = wide.open("runs")
    card = page.locator("[data-testid=stVerticalBlock]", has_text="Running since")
    card.first.wait_for(timeout=WAIT_MS)

    # When
    write_manifest(live, manifest("live"))

    # Then
    page.wait_for_function(
        "() => !document.body.innerText.includes('Running since')", timeout=WAIT_MS
    )
    assert page.locator("[data-testid=stException]").count() == 0
