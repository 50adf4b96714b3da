"""`boundscope diagnose`: what a recorded run is bound by, as text, JSON or Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError


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

    diagnosis = diagnose_path(path)
    _tell_of_bundle(path)
    if json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(diagnosis)).decode())
    elif markdown:
        from ..report.markdown import to_markdown

        typer.echo(to_markdown(diagnosis))
    else:
        from rich.console import Console

        from ..report.terminal import render

        render(diagnosis, Console())


def _tell_of_bundle(path: Path) -> None:
    """Say what the diagnosis of a bundle stands on, where that is not what is in the bundle."""
    from ..bundle.reading import is_bundle, open_bundle, sentence_of

    told = sentence_of(open_bundle(path)) if is_bundle(path) else ""
    if told:
        typer.echo(f"note: {told}", err=True)
