"""`boundscope diagnose`: what a recorded run is bound by, as text, JSON, Markdown or HTML."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError

if TYPE_CHECKING:
    from ..diagnosis import Diagnosis

PAGE_SUFFIXES = (".html", ".htm")


def diagnose(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="A run folder, a bundle, torch-profiler traces or folders of them; or a run "
            "folder and traces of the same run.",
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print the diagnosis as JSON.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print it as Markdown, to paste into an issue.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write it as one HTML page, too.", metavar="FILE")
    ] = None,
) -> None:
    """Say what a recorded run is bound by, with the evidence, and what to do."""
    if json and markdown:
        raise UsageError("bad-option", "--json and --markdown exclude each other.")
    if html is not None and html.suffix.lower() not in PAGE_SUFFIXES:
        raise UsageError(  # it may be the trace that somebody forgot to name a page before
            "bad-option",
            f"--html takes the page to write, not {html}.",
            "its name must end in .html: --html report.html",
        )
    from ..diagnose import diagnose_paths
    from ..report.progress import on_terminal, reading_shown
    from ..trace.cache import stored_at_the_end

    with stored_at_the_end():  # the answer first
        with reading_shown(wanted=not json or on_terminal(sys.stdout)):
            diagnosis = diagnose_paths(paths)
        if len(paths) == 1:
            _tell_of_bundle(paths[0])
        _print(diagnosis, json=json, markdown=markdown)
        if html is not None:
            _write_page(diagnosis, html.resolve())


def simple(words: Sequence[str]) -> dict[str, Any] | None:
    """Return the arguments where `words` are paths and flags; else None, for typer to judge.

    Typer 0.29 loads pydantic to look at any argument, which takes 11 MB and longer than the
    diagnosis of a small trace.
    """
    flags = [word for word in words if word in ("--json", "--markdown")]
    paths = [word for word in words if not word.startswith("-")]
    if not paths or len(flags) + len(paths) != len(words):
        return None
    return {
        "paths": [Path(path) for path in paths],
        "json": "--json" in flags,
        "markdown": "--markdown" in flags,
    }


def _print(diagnosis: Diagnosis, *, json: bool, markdown: bool) -> None:
    if json:
        import msgspec

        _echo(msgspec.json.format(msgspec.json.encode(diagnosis)).decode())
    elif markdown:
        from ..report.markdown import to_markdown

        _echo(to_markdown(diagnosis))
    else:
        from rich.console import Console

        from ..report.terminal import render

        render(diagnosis, Console())


def _echo(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()  # what is kept afterwards takes a moment


def _write_page(diagnosis: Diagnosis, path: Path) -> None:
    """Write the HTML page whole or not at all; raises UsageError."""
    from ..report.html import to_html

    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(to_html(diagnosis), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(
            "page-not-written",
            f"The page {path} cannot be written: {error.strerror}.",
            "name a file in a folder that exists and may be written: --html report.html",
        ) from error


def _tell_of_bundle(path: Path) -> None:
    """Say what the diagnosis of a bundle stands on, where that is not what is in the bundle."""
    from ..bundle.reading import is_bundle, open_bundle, sentence_of

    told = sentence_of(open_bundle(path)) if is_bundle(path) else ""
    if told:
        sys.stderr.write(f"note: {told}\n")
