"""Every rule keeps the form of a rule, and every bound and finding has its page."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

import pytest

from boundscope.profiler.diagnosis import SLOTS, Bound
from boundscope.profiler.rules import discover, finding_ids
from boundscope.profiler.rules.base import RISKS

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "profiler" / "rules"
PAGES = ROOT / "docs" / "findings"
SECTIONS = ("What it means", "How it is measured", "How it can be wrong", "How to fix it")


def pages() -> dict[str, str]:
    return {path.stem: path.read_text() for path in PAGES.glob("*.md") if path.stem != "README"}


def test_pages_and_ids_are_the_same() -> None:
    bounds = {f"bound-{bound}" for bound in get_args(Bound)}

    assert set(pages()) == set(finding_ids()) | bounds


@pytest.mark.parametrize("name", sorted(path.stem for path in PAGES.glob("*.md")))
def test_each_page_answers_its_four_questions(name: str) -> None:
    if name == "README":
        listed = set(re.findall(r"\(([a-z-]+)\.md\)", (PAGES / "README.md").read_text()))
        assert listed == set(pages())
        return
    parts = re.split(r"^## (.+)$", pages()[name], flags=re.MULTILINE)
    assert tuple(parts[1::2]) == SECTIONS
    assert all(len(text.split()) >= 4 for text in parts[2::2]), name
    linked = re.findall(r"\(([a-z-]+)\.md\)", pages()[name])
    assert set(linked) <= set(pages())


def written_ids() -> dict[str, set[str]]:
    """Ids that the rules' source gives to findings as plain strings, by file."""
    found: dict[str, set[str]] = {}
    for path in RULES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "id":
                values = [n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant)]
                ids = {v for v in values if isinstance(v, str) and re.fullmatch(r"[a-z-]+", v)}
                found.setdefault(path.stem, set()).update(ids - {"data", "-bandwidth"})
    return found


def test_no_rule_gives_an_id_that_it_does_not_name() -> None:
    used = set().union(*written_ids().values())

    assert used <= set(finding_ids())
    assert set(finding_ids()) >= RISKS


def test_an_id_belongs_to_one_rule() -> None:
    listed = [
        ast.literal_eval(node.value)
        for path in RULES.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FINDINGS"
    ]
    ids = [id_ for part in listed for id_ in part]

    assert len(listed) == len(discover())
    assert sorted(ids) == sorted(finding_ids())


def test_every_bound_that_is_a_slot_has_a_finding() -> None:
    named = {
        bound for text in pages().values() for bound in re.findall(r"Bound:\s+\[(\w+)\]", text)
    }

    assert named == set(SLOTS) - {"other"}
