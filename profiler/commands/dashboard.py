"""`boundscope dashboard`: the recorded runs in a browser, served on this machine only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError


def dashboard(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of runs, run folders or traces; ./runs if none is given."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="The port to listen on.",
            min=1,
            max=65535,
            show_default="8501, or the next free one",
        ),
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the browser.")
    ] = True,
    address: Annotated[
        str, typer.Option(help="The address to listen on: others see what they reach.")
    ] = "127.0.0.1",
) -> int:
    """Show recorded runs in the browser, until Ctrl-C."""
    from ..serve import serve

    served = paths or [Path("runs")]
    for path in served:
        if not path.exists():
            raise UsageError(
                "no-such-path",
                f"{path} does not exist.",
                "name a folder of runs: boundscope dashboard FOLDER",
            )
    return serve(served, address=address, port=port, open_browser=open_browser)
