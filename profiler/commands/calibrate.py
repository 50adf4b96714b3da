"""`boundscope calibrate`: how fast this machine can calculate and move data at best."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ..trace.costs_elementwise import EXP_FLOP

if TYPE_CHECKING:
    from ..machine.calibrate import Calibration
    from ..machine.roofs import Roofs

QUICK_BUDGET_S = 10.0
FULL_BUDGET_S = 60.0

LEVELS = {
    "l2": "level-2 cache",
    "l3": "level-3 cache",
    "dram_copy": "main memory, copy",
    "dram_triad": "main memory, triad",
}


def calibrate(
    threads: Annotated[
        int,
        typer.Option(
            "--threads", min=0, help="Threads of the training; 0 for what torch would take."
        ),
    ] = 0,
    python: Annotated[
        str, typer.Option("--python", help="The interpreter whose torch the training uses.")
    ] = sys.executable,
    device: Annotated[
        str, typer.Option("--device", help="cpu, or a device such as cuda:0.")
    ] = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="About two seconds, less exact.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the roofs as JSON.")] = False,
) -> int:
    """Measure this machine's arithmetic and memory roofs once and keep them."""
    from ..machine.calibrate import cache_folder, load, start

    began = time.monotonic()
    running = start(python, threads or None, full=not quick, device=device)
    roofs = _waited(running, QUICK_BUDGET_S if quick else FULL_BUDGET_S)
    if json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(roofs)))
        return 0
    kept = load(roofs.threads, device=device) == roofs
    where = f"Kept in {cache_folder()}." if kept else "Not kept."
    _print(roofs, f"{where} Took {time.monotonic() - began:.1f} s.")
    return 0


def _waited(running: Calibration, budget_s: float) -> Roofs:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task("measuring: best on an idle machine")
        return running.result(budget_s)


def _print(roofs: Roofs, footer: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    where = f"{roofs.device}, {roofs.threads} threads" if roofs.threads else roofs.device
    console.print(where, markup=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for label, value in _rows(roofs):
        table.add_row(label, value)
    console.print(table)
    for note in [*roofs.notes, footer]:
        console.print(note, markup=False)


def _rows(roofs: Roofs) -> Iterator[tuple[str, str]]:
    """Label and figure with its unit, in the order of the table."""
    for dtype, rate in roofs.flops.items():
        if dtype != "special":
            one = roofs.flops_1.get(dtype)
            alone = f" ({one / 1e9:.0f} on one thread)" if one else ""
            yield f"{dtype} matrix products", f"{rate / 1e9:.0f} GFLOP/s{alone}"
    if "special" in roofs.flops:
        yield "exponentials", f"{roofs.flops['special'] / EXP_FLOP / 1e9:.2f} G/s"
    for level, rate in roofs.bandwidth.items():
        yield LEVELS.get(level, level), f"{rate / 1e9:.1f} GB/s"
    if roofs.dispatch_ns:
        yield "dispatch of a small op", f"{roofs.dispatch_ns / 1e3:.2f} µs"
    if roofs.fresh_page_ns:
        yield "a page fresh from the system", f"{roofs.fresh_page_ns / 1e3:.2f} µs"
    ridge = roofs.ridge("fp32")
    if ridge:
        yield "ridge point, fp32", f"{ridge:.1f} FLOP/byte"
