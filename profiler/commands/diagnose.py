"""`boundscope diagnose`: what a recorded run is bound by, as text, JSON or Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UnusableData, UsageError

if TYPE_CHECKING:
    from ..diagnosis import Diagnosis


def diagnose(
    path: Annotated[Path, typer.Argument(help="A run folder, as boundscope run made it.")],
    json: Annotated[bool, typer.Option("--json", help="Print the diagnosis as JSON.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print it as Markdown, to paste into an issue.")
    ] = False,
) -> None:
    """Say what a recorded run is bound by, with the evidence, and what to do."""
    if json and markdown:
        raise UsageError("bad-option", "--json and --markdown exclude each other.")
    diagnosis = _diagnose(path)
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


def _diagnose(path: Path) -> Diagnosis:
    if not path.exists():
        raise UnusableData("no-such-path", f"{path} does not exist.", "see: boundscope runs")
    if not path.is_dir():
        raise UnusableData(
            "not-a-run",
            f"{path} is not a run folder.",
            "single trace files cannot be diagnosed yet; name a folder that boundscope run made",
        )
    from ..diagnose import diagnose_run

    return diagnose_run(path)
