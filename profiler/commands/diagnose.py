"""`boundscope diagnose`: what a recorded run is bound by, as text, JSON or Markdown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError

if TYPE_CHECKING:
    from ..diagnosis import Diagnosis


def diagnose(
    path: Annotated[
        Path,
        typer.Argument(
            help="A run folder, a bundle, a torch-profiler trace, or a folder of traces."
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print the diagnosis as JSON.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print it as Markdown, to paste into an issue.")
    ] = False,
) -> None:
    """Say what a recorded run is bound by, with the evidence, and what to do."""
    if json and markdown:
        raise UsageError("bad-option", "--json and --markdown exclude each other.")
    from ..diagnose import diagnose_path
    from ..report.progress import on_terminal, reading_shown
    from ..trace.cache import stored_at_the_end

    with stored_at_the_end():  # the answer first
        with reading_shown(wanted=not json or on_terminal(sys.stdout)):
            diagnosis = diagnose_path(path)
        _tell_of_bundle(path)
        _print(diagnosis, json=json, markdown=markdown)


def simple(words: Sequence[str]) -> dict[str, Any] | None:
    """Return the arguments where `words` are one path and flags; else None, for typer to judge.

    Typer 0.29 loads pydantic to look at any argument, which takes 11 MB and longer than the
    diagnosis of a small trace.
    """
    flags = [word for word in words if word in ("--json", "--markdown")]
    paths = [word for word in words if not word.startswith("-")]
    if len(paths) != 1 or len(flags) + 1 != len(words):
        return None
    return {"path": Path(paths[0]), "json": "--json" in flags, "markdown": "--markdown" in flags}


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


def _tell_of_bundle(path: Path) -> None:
    """Say what the diagnosis of a bundle stands on, where that is not what is in the bundle."""
    from ..bundle.reading import is_bundle, open_bundle, sentence_of

    told = sentence_of(open_bundle(path)) if is_bundle(path) else ""
    if told:
        sys.stderr.write(f"note: {told}\n")
