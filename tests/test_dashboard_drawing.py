"""What draws the figures in the browser, and what the server hands to it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("plotly")
pytest.importorskip("streamlit")

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs_version
from plotly.validator_cache import ValidatorCache

from boundscope.dashboard import browser
from boundscope.dashboard.charts import base

DASHBOARD = Path(browser.__file__).parent


def test_the_library_is_the_one_that_plotly_for_python_makes_figures_for() -> None:
    head = (DASHBOARD / "static" / "plotly.js").read_text()[:400]

    version = re.search(r"plotly\.js v(\d+)\.", head)
    assert version is not None
    assert version[1] == get_plotlyjs_version().split(".")[0]
    assert "MIT license" in head


def test_the_library_can_draw_every_kind_of_figure_that_there_is() -> None:
    known = set(ValidatorCache.get_validator("", "data").class_strs_map)
    charts = "".join(path.read_text() for path in (DASHBOARD / "charts").glob("*.py"))

    used = set(re.findall(r"\.add_(\w+)\(", charts)) & known
    used |= set(re.findall(r'"type": "(\w+)"', charts)) & known
    used |= {name.lower() for name in re.findall(r"go\.(\w+)\(", charts)} & known

    assert used == set(browser.KINDS)
    library = (DASHBOARD / "static" / "plotly.js").read_text()
    for kind in browser.KINDS:
        assert re.search(rf'name:"{kind}"', library), kind


class Component:
    """Stands for the browser's side, which the tests of the pages have for real."""

    def __init__(self) -> None:
        self.calls: dict[str, Any] = {}

    def __call__(self, **given: Any) -> None:
        self.calls.update(given)


@pytest.fixture
def component(monkeypatch: pytest.MonkeyPatch) -> Component:
    made = Component()
    monkeypatch.setattr(browser.st.components.v2, "component", lambda *_, **__: made)
    return made


def test_a_figure_goes_to_the_browser_as_one_text(component: Component) -> None:
    made = base.figure(200)
    made.add_bar(x=[1, 2], y=["</script>", "b"])

    browser.show_figure(made, "some", {"layout": {"font": {"size": 12}}}, bar=True)

    drawn = json.loads(component.calls["data"])
    assert {name: drawn[name] for name in ("subject", "bar", "dragged", "clicked")} == {
        "subject": "some",
        "bar": True,
        "dragged": False,
        "clicked": False,
    }
    assert drawn["template"] == {"layout": {"font": {"size": 12}}}
    assert drawn["figure"]["layout"]["height"] == 200
    assert drawn["figure"]["data"][0]["y"] == ["</script>", "b"]


def test_a_drag_is_told_from_left_to_right_and_a_click_by_its_number(
    component: Component, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told:
        drag = (7.5, 2.0)
        click = 12.0

    monkeypatch.setattr(browser.st, "session_state", {"some": Told})
    told: list[Any] = []

    browser.show_figure(
        base.figure(200),
        "some",
        {},
        on_drag=lambda *ends: told.append(ends),
        on_click=told.append,
    )
    component.calls["on_drag_change"]()
    component.calls["on_click_change"]()

    assert told == [(2.0, 7.5), 12]


def test_what_is_not_told_is_not_taken(
    component: Component, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told:
        drag = None

    monkeypatch.setattr(browser.st, "session_state", {"some": Told})

    browser.show_figure(
        base.figure(200), "some", {}, on_drag=lambda *_: pytest.fail("there was no drag")
    )
    component.calls["on_drag_change"]()


def test_an_address_changes_with_what_it_serves() -> None:
    draw, library = (browser._served(name) for name in ("draw.js", "plotly.js"))

    assert re.fullmatch(r"/app/static/draw\.js\?[0-9a-f]{12}", draw)
    assert draw.partition("?")[2] != library.partition("?")[2]


@pytest.mark.parametrize("dark", [True, False])
def test_all_figures_have_the_colours_of_the_page(dark: bool) -> None:
    template = base.theme(dark=dark)

    go.layout.Template(template)  # refuses what Plotly does not know
    words = template["layout"]["font"]["color"]
    assert template["layout"]["xaxis"]["tickfont"]["color"] == words
    assert (int(words[1:3], 16) > 128) is dark


def test_rows_are_text_and_the_first_cell_chooses() -> None:
    table = browser.markup.picks([{"step": "12", "what grew": "<b>forward</b>"}])

    assert 'data-pick="12"' in table
    assert "&lt;b&gt;forward" in table
    assert "<b>" not in table
