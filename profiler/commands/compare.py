"""`boundscope compare`: what got slower from one run to another, so that it can stand in CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import EXIT_CHECK_FAILED, UsageError

if TYPE_CHECKING:
    from ..compare import Comparison

MAX_OPS = 5


def compare(
    base: Annotated[
        Path, typer.Argument(help="The run, bundle, trace or folder of traces before.")
    ],
    new: Annotated[Path, typer.Argument(help="The one after.")],
    fail_over: Annotated[
        str, typer.Option(help="Exit with 1 if the new run is slower by more, e.g. 5%.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> int:
    """Say what got slower from BASE to NEW, by how much, and in which slot."""
    from ..compare import compare as compare_features
    from ..library import derive_path

    limit = parse_limit(fail_over) if fail_over else None
    found = compare_features(derive_path(base), derive_path(new))
    if json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        _print(found)
    if limit is None or not found.exceeds(limit):
        return 0
    if not json:
        typer.echo(f"failed: slower by more than {fail_over}", err=True)
    return EXIT_CHECK_FAILED


def parse_limit(text: str) -> float:
    """Return `5%`, `5 %` or `0.05` as a share; raises UsageError."""
    number = text.strip().removesuffix("%").strip()
    try:
        value = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 100:
        raise UsageError(
            "bad-option",
            f"--fail-over takes a share, not {text!r}.",
            "e.g. --fail-over 5% or --fail-over 0.05",
        )
    return value


def _print(found: Comparison) -> None:
    from rich.console import Console
    from rich.text import Text

    from ..printable import printable
    from ..report.colours import SLOT_COLOURS
    from ..text import milliseconds, short_name

    console = Console()

    def line(text: str, style: str = "") -> None:
        console.print(Text(printable(text), style=style), soft_wrap=True)

    line(found.headline, "bold")
    line(
        f"  {found.base.name}: {found.base.bound}, median {milliseconds(found.base.median_ms)}"
        f" · {found.new.name}: {found.new.bound}, median {milliseconds(found.new.median_ms)}",
        "dim",
    )
    for slot in found.slots:
        line(f"  {slot.slot:<11}{_times(slot.base_ms, slot.new_ms)}", SLOT_COLOURS[slot.slot])
    for words, named in (("new finding", found.gained), ("gone", found.lost)):
        for finding in named:
            line(f"  {words}: {finding.title or finding.id}")
    for op in found.ops[:MAX_OPS]:
        line(f"  {op.name}: {_times(op.base_ms, op.new_ms)}", "dim")
    for kernel in found.kernels[:MAX_OPS]:
        words = short_name(kernel.name)
        line(f"  kernel {words}: {_times(kernel.base_ms, kernel.new_ms)}", "dim")
    for difference in found.environment:
        line(
            f"  {difference.group}.{difference.name}: "
            f"{difference.base or 'not recorded'} → {difference.new or 'not recorded'}",
            "dim",
        )
    for caution in found.cautions:
        line(f"  caution: {caution}", "yellow")


def _times(base_ms: float, new_ms: float) -> str:
    from ..text import milliseconds

    sign = "+" if new_ms >= base_ms else "−"  # noqa: RUF001 - a minus sign
    change = milliseconds(abs(new_ms - base_ms))
    return f"{milliseconds(base_ms)} → {milliseconds(new_ms)} ({sign}{change})"
