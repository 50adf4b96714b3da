"""`boundscope runs`: what ran, when, and what it was bound by."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ...collectors.records import Manifest
from ..errors import UnusableData, UsageError
from ..kept import read_diagnosis
from ..run.manifest import FILE_NAME, read_manifest
from ..run.status import effective_status

NOTHING = "–"  # noqa: RUF001 - an en dash is how tables show that there is nothing
COLUMNS = ("when", "run", "duration", "ranks", "steps", "status", "verdict")
PIPED_WIDTH = 250
"""Wide enough for any row: what is piped on must not be folded."""


@dataclass(frozen=True)
class Row:
    """One run as the table shows it; `started_ns` orders the rows."""

    started_ns: int
    cells: tuple[str, ...]


def runs(
    folder: Annotated[Path, typer.Argument(help="The folder that holds the runs.")] = Path("runs"),
) -> int:
    """List the runs in a folder and what each was bound by."""
    if not folder.is_dir():
        raise UsageError(
            "no-such-folder",
            f"There is no folder {folder}.",
            "name the folder that holds your runs: boundscope runs FOLDER",
        )
    rows = sorted((_row(path) for path in _run_folders(folder)), key=lambda row: row.started_ns)
    _print(rows, folder)
    return 0


def _run_folders(folder: Path) -> list[Path]:
    if (folder / FILE_NAME).exists():
        return [folder]
    return [path.parent for path in folder.glob(f"*/{FILE_NAME}")]


def _row(folder: Path) -> Row:
    try:
        manifest = read_manifest(folder)
    except UnusableData:
        cells = (NOTHING, folder.name, NOTHING, NOTHING, NOTHING, "unreadable", NOTHING)
        return Row(0, cells)
    diagnosis = read_diagnosis(folder / "diagnosis.json")
    run = diagnosis.run if diagnosis is not None else None
    named = folder.name if manifest.name in folder.name else f"{folder.name} ({manifest.name})"
    return Row(
        manifest.started_ns,
        (
            _when(manifest.started_ns),
            named,
            _duration(manifest),
            str(run.world_size) if run is not None else NOTHING,
            str(run.steps) if run is not None else NOTHING,
            effective_status(manifest, folder),
            diagnosis.verdict.bound if diagnosis is not None else NOTHING,
        ),
    )


def _when(time_ns: int) -> str:
    """Return local time as `ls -l` writes it: the clock this year, the year otherwise."""
    moment = time.localtime(time_ns / 1e9)
    this_year = moment.tm_year == time.localtime().tm_year
    return time.strftime("%b %d %H:%M" if this_year else "%b %d  %Y", moment)


def _duration(manifest: Manifest) -> str:
    """Return how long the command ran, e.g. "1 h 02 min", "3 min 04 s" or "12.3 s"."""
    if not manifest.ended_ns:
        return NOTHING
    seconds = (manifest.ended_ns - manifest.started_ns) / 1e9
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _print(rows: list[Row], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    if not rows:
        console.print(f"No runs in {folder}. Start one: boundscope run train.py", markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(
            column,
            justify="right" if column in ("ranks", "steps") else "left",
            no_wrap=column != "run",
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row.cells))
    console.print(table)
