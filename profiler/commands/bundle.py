"""`boundscope bundle`: one redacted file of a run, and the text to paste into an issue."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from ..bundle.writing import Made

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)(i?)b?\s*", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3}


def bundle(
    path: Annotated[
        Path, typer.Argument(help="A run folder, a torch-profiler trace, or a folder of traces.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write, or its folder.")
    ] = None,
    max_size: Annotated[str, typer.Option(help="The bundle's largest size.")] = "25MB",
    keep: Annotated[
        str,
        typer.Option(
            help="What not to redact: paths, hosts, users, addresses, devices, environment."
        ),
    ] = "",
    preview: Annotated[
        bool, typer.Option("--preview", help="Show what would be in it, and write nothing.")
    ] = False,
) -> None:
    """Make one redacted file of a run, to attach to a bug report, and print the text for it."""
    from rich.console import Console

    from ..bundle.writing import make_bundle
    from ..redact import parse_keep

    limit, kept = parse_size(max_size), parse_keep(keep)
    notes = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="boundscope-") as folder:
        target = Path() if output is None else output
        place = Path(folder) if preview else target
        with notes.status("Making the bundle") as status:
            made = make_bundle(path, place, max_bytes=limit, keep=kept, progress=status.update)
        _account(made, notes, preview=preview)
    if preview:
        return
    typer.echo(made.markdown)
    if made.called != made.path.name:
        text = "The file's own name holds what is redacted in it; the text calls it"
        _line(notes, f"{text} {made.called}.", "yellow")
    _line(notes, f"\n{made.path}: {_megabytes(made.size)}. Attach it, and paste the text above.")


def parse_size(text: str) -> int:
    """Return `25MB`, `800 kB` or `1GiB` in bytes; raises UsageError."""
    match = _SIZE.fullmatch(text)
    size = 0
    if match is not None:
        base = 1024 if match[3] else 1000
        size = int(float(match[1]) * base ** _POWERS[match[2].lower()])
    if not 0 < size <= 1 << 40:
        raise UsageError(
            "bad-option", f"--max-size takes a size, not {text!r}.", "e.g. --max-size 25MB"
        )
    return size


def _account(made: Made, console: Console, *, preview: bool) -> None:
    """Say what is in the bundle, what is not, and what was redacted."""
    from ..text import plural

    _line(console, "In the bundle" if not preview else "Would be in the bundle", "bold")
    for member in made.manifest.members:
        _line(console, f"  {member.what or member.name}, {_megabytes(member.size)} ({member.name})")
    if made.manifest.left_out:
        _line(console, "Left out", "bold")
    for left in made.manifest.left_out:
        _line(console, f"  {left.what}: {left.reason}")
    _line(console, "Redacted" if made.manifest.redacted else "Nothing was redacted", "bold")
    for item in made.manifest.redacted:
        example = f", e.g. {item.example}" if item.example else ""
        _line(console, f"  {plural(item.count, item.kind)} in {item.where}{example}")
    if made.manifest.kept:
        _line(console, f"Kept as they are: {', '.join(made.manifest.kept)}", "yellow")


def _line(console: Console, text: str, style: str = "") -> None:
    from rich.text import Text

    from ..printable import printable

    console.print(Text(printable(text), style=style), soft_wrap=True)


def _megabytes(size: int) -> str:
    from ..text import scaled

    return scaled(float(size), "B")
