"""Every slug that a user can meet has a section in docs/errors.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ERRORS = {"BoundscopeError", "UsageError", "UnusableData"}
WARNING = re.compile(r"warning\[([a-z-]+)\]")


def slugs_in(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and name_of(node.func) in ERRORS:
            yield slug_of(node, file)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from WARNING.findall(node.value)


def name_of(function: ast.expr) -> str:
    return getattr(function, "id", getattr(function, "attr", ""))


def slug_of(call: ast.Call, file: Path) -> str:
    slugs = [*call.args[:1], *(word.value for word in call.keywords if word.arg == "slug")]
    where = f"{file.relative_to(ROOT)}:{call.lineno}"
    assert len(slugs) == 1, where
    assert isinstance(slugs[0], ast.Constant), f"{where}: write the slug out, so that it is found"
    return str(slugs[0].value)


def used_slugs() -> set[str]:
    files = [*ROOT.glob("profiler/**/*.py"), *ROOT.glob("dashboard/**/*.py")]
    return {slug for file in files for slug in slugs_in(file)}


def sections() -> dict[str, str]:
    text = (ROOT / "docs" / "errors.md").read_text()
    parts = re.split(r"^### `([a-z-]+)`$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_slug_has_a_section_and_every_section_a_slug() -> None:
    assert set(sections()) == used_slugs()


def test_the_slugs_of_the_command_line_are_among_those_found() -> None:
    assert {"no-command", "run-exists", "no-manifest", "report-failed", "internal"} <= used_slugs()


def test_every_section_says_what_it_means_and_what_to_do() -> None:
    for slug, text in sections().items():
        assert "**What to do:**" in text, slug
        assert len(text.split("**What to do:**")[0].split()) > 5, slug
