"""The diagnosis as one HTML page: what it says, and that names of strangers stay text."""

from __future__ import annotations

import html.parser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from boundscope.profiler.cli import main
from boundscope.profiler.diagnosis import (
    SLOTS,
    Diagnosis,
    Evidence,
    Finding,
    Fix,
    Missing,
    Place,
    RankBreakdown,
    RunSummary,
    Saving,
    StepTime,
    Verdict,
    Warning_,
)
from boundscope.profiler.report.html import to_html

CHROMIUM = os.environ.get("BOUNDSCOPE_CHROMIUM") or shutil.which("chromium") or ""
HOSTILE = (
    "</style></title></pre><script>document.title='owned'</script>"
    '<img src=http://a.invalid/x onerror="document.title=\'owned\'">" style="x\' & \x1b[31m\u202e'
)


def diagnosis(name: str = "run", **slots: float) -> Diagnosis:
    """A diagnosis with every part; `name` stands wherever a recording's text would."""
    shares = dict.fromkeys(SLOTS, 0.0) | (slots or {"input": 0.62, "compute": 0.38})
    finding = Finding(
        id="slow-store",
        bound="input",
        saving=Saving(0.55, 0.6, 0.62),
        speedup=2.5,
        evidence=[Evidence(f"waits 6.2 ms {name}", "input.wait_ms", 6.2, "ms", "steps")],
        where=[Place(0, name, 31, name, name, name, name)],
        fixes=[Fix(f"Read ahead {name}", f"detail {name}", f"snippet({name})")],
        title=f"Samples arrive late {name}",
    )
    return Diagnosis(
        schema=1,
        run=RunSummary(
            id=name,
            status="killed",
            exit_code=None,
            world_size=2,
            steps=100,
            step_ms=StepTime(10.0, 12.0),
            devices=[name],
            startup_s=2.5,
            name=name,
        ),
        verdict=Verdict("input", 0.93, "compute", f"Input-bound: 62 % of every step {name}"),
        breakdown=shares,
        ranks=[RankBreakdown(n, shares) for n in range(2)],
        findings=[finding],
        missing=[Missing("gpu", "no-driver", f"no utilisation {name}", name)],
        warnings=[Warning_("busy-host", f"others took 20 % {name}")],
    )


class Reader(html.parser.HTMLParser):
    """Gathers the tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_says_what_the_diagnosis_says() -> None:
    text = Reader(to_html(diagnosis())).text

    for said in (
        "input-bound", "Input-bound: 62 % of every step", "confidence 0.93", "median 10 ms",
        "2 ranks", "start-up 2.5 s", "killed", "input 62 %", "compute 38 %",
        "Samples arrive late", "saves about 60 % of step time (55 % to 62 %), 2.5 times as fast",
        "run:31 in run", "waits 6.2 ms", "Read ahead", "snippet(run)",
        "gpu (no-driver): no utilisation", "busy-host: others took 20 %",
    ):  # fmt: skip
        assert said in text, said


def test_parts_of_the_bar_are_as_wide_as_their_shares() -> None:
    page = to_html(diagnosis(input=0.5, compute=0.3, host=0.2))

    widths = re.findall(r'class="c-(\w+)" style="flex:([\d.]+) 0 0"', page)

    assert widths == [("input", "0.5000"), ("compute", "0.3000"), ("host", "0.2000")]


def test_the_page_has_no_script_and_loads_nothing() -> None:
    page = to_html(diagnosis())
    tags = Reader(page).tags

    loading = {"src", "href", "srcset", "data", "action", "poster", "background"}
    assert {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object", "form"} == set()
    assert [attrs for _, attrs in tags if loading & set(attrs)] == []
    assert [attrs for _, attrs in tags if any(name.startswith("on") for name in attrs)] == []
    assert "url(" not in page
    assert "@import" not in page
    (policy,) = [attrs["content"] for _, attrs in tags if "http-equiv" in attrs]
    assert (policy or "").startswith("default-src 'none';")


def test_hostile_names_are_text() -> None:
    plain, hostile = Reader(to_html(diagnosis())), Reader(to_html(diagnosis(HOSTILE)))

    assert hostile.tags == plain.tags
    assert hostile.text.count("<script>document.title='owned'</script>") > 10
    assert "\x1b" not in hostile.text
    assert "\u202e" not in hostile.text


def test_a_slot_or_bound_that_is_none_of_ours_makes_no_class() -> None:
    strange = msgspec.structs.replace(
        diagnosis(), breakdown={'x"><b>': 0.6, "compute": 0.4}, ranks=[]
    )

    tags = Reader(to_html(strange)).tags

    bars = [attrs for tag, attrs in tags if tag == "div" and "style" in attrs]
    assert [attrs["class"] for attrs in bars] == ["c-unknown", "c-compute"]


def test_every_slot_has_a_colour_on_both_backgrounds() -> None:
    page = to_html(diagnosis())

    for slot in (*SLOTS, "balanced", "unknown"):
        assert len(re.findall(rf"\.c-{slot}{{--c:#[0-9a-f]{{6}};--t:#[0-9a-f]{{6}}}}", page)) == 2


def test_nothing_known_makes_a_page_too() -> None:
    empty = msgspec.structs.replace(
        diagnosis(other=1.0), findings=[], ranks=[], missing=[], warnings=[]
    )
    empty = msgspec.structs.replace(
        empty, verdict=Verdict("unknown", 0.0, None, "Unknown: nothing was recorded.")
    )

    text = Reader(to_html(empty)).text

    assert "Unknown: nothing was recorded." in text
    assert "confidence" not in text
    assert "Warnings" not in text


TRACE = (
    b'[{"ph":"X","cat":"kernel","name":"sgemm","pid":0,"tid":7,"ts":0,"dur":9,'
    b'"args":{"device":0,"stream":7}}]'
)


def test_the_command_writes_the_page_and_still_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.json").write_bytes(TRACE)

    assert main(["diagnose", "--html", "page.html", "--markdown", "t.json"]) == 0

    assert "| slot | share |" in capsys.readouterr().out
    assert Path("page.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "t.json"]


@pytest.mark.parametrize(
    ("page", "slug"),
    [("u.json", "bad-option"), ("no/page.html", "page-not-written"), (".", "bad-option")],
)
def test_a_page_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    page: str, slug: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in ("t.json", "u.json"):
        Path(name).write_bytes(TRACE)

    assert main(["diagnose", "--html", page, "t.json"]) == 2

    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error[{slug}]: ")
    assert hint.startswith("hint: ")
    assert Path("u.json").read_bytes() == TRACE  # forgotten in front of a trace's name


IN_A_BROWSER = """
import sys
from playwright.sync_api import sync_playwright
asked = []
with sync_playwright() as play:
    browser = play.chromium.launch(executable_path=sys.argv[2], args=["--no-sandbox"])
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            view.on("request", lambda request: asked.append(request.url))
            view.goto(sys.argv[1])
            wide = view.evaluate("document.documentElement.scrollWidth > innerWidth")
            dark = view.evaluate("getComputedStyle(document.body).backgroundColor")
            print(width, scheme, wide, view.title() == "owned", dark)
            view.close()
    browser.close()
print([url for url in asked if url != sys.argv[1]])
"""


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
def test_a_browser_shows_it_at_any_width_and_runs_nothing(tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    page = tmp_path / "page.html"
    page.write_text(to_html(diagnosis(HOSTILE + "x" * 300)), encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-c", IN_A_BROWSER, page.as_uri(), CHROMIUM],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip

    assert done.stdout.splitlines() == [
        "1280 light False False rgb(255, 255, 255)",
        "1280 dark False False rgb(21, 21, 26)",
        "390 light False False rgb(255, 255, 255)",
        "390 dark False False rgb(21, 21, 26)",
        "[]",
    ]
