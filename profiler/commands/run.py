"""`boundscope run`: a command under the collectors, then the verdict.

Its words are read here and not by typer: typer, with the pydantic that it imports where that is
installed, takes 90 to 150 ms, and the training would wait for it.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import shlex
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ... import __version__
from ..errors import UsageError

if TYPE_CHECKING:
    from ..diagnosis import Diagnosis

WITH_VALUE = {"-o": "-o", "--output": "-o", "--name": "--name", "--without": "--without"}
FLAGS = {"--no-report": "--no-report", "--debug": "--debug", "--help": "--help", "-h": "--help"}
"""Every spelling of an option, to the one that it stands for."""
HELP = """\
Usage: boundscope run [OPTIONS] [--] COMMAND...

  Run a training command unchanged and say what it is bound by.

  Standard streams, signals and the exit code are the command's own. COMMAND is
  "train.py ...", "-m package.module ...", "python ...", "torchrun ...", or any
  other program; options of boundscope stand before it.

  kill -s RTMIN+1 LAUNCHER, the process id of this command, asks a training that
  runs for a trace window of its next steps.

Options:
  -o, --output RUN_FOLDER  Where to keep the run, instead of
                           runs/<date>-<time>-<name>.
  --name NAME              The run's name, instead of the script's.
  --without COLLECTOR,...  Leave collectors out: any of
                           {collectors}.
  --no-report              Print no verdict.
  --debug                  Show tracebacks of boundscope's own errors.
  --help                   Show this message and exit.
"""


@dataclass(frozen=True)
class RunRequest:
    """What the words after `boundscope run` ask for."""

    command: tuple[str, ...]
    output: str = ""
    name: str = ""
    without: str = ""
    no_report: bool = False
    debug: bool = False
    help: bool = False


def parse(words: Sequence[str]) -> RunRequest:
    """Read our options up to the first word that is none, `--` or `-m`; the rest is the command.

    Raises UsageError for an option that there is not, or one without its value.
    """
    values: dict[str, str] = {}
    flags: set[str] = set()
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-m":
        word = rest.pop(0)
        if word == "--":
            break
        option, has_value, value = word.partition("=")
        if word in FLAGS:
            flags.add(FLAGS[word])
        elif option in WITH_VALUE and (has_value or rest):
            values[WITH_VALUE[option]] = value if has_value else rest.pop(0)
        elif option in WITH_VALUE:
            raise UsageError("bad-option", f"{option} needs a value.", "see: boundscope run --help")
        else:
            raise UsageError(
                "bad-option",
                f"boundscope run has no option {word}.",
                "options of boundscope stand before the command; see: boundscope run --help",
            )
    return RunRequest(
        command=tuple(rest),
        output=values.get("-o", ""),
        name=values.get("--name", ""),
        without=values.get("--without", ""),
        no_report="--no-report" in flags,
        debug="--debug" in flags,
        help="--help" in flags,
    )


def run(request: RunRequest) -> int:
    """Run a training command unchanged and say what it is bound by."""
    if request.help:
        sys.stdout.write(HELP.format(collectors=", ".join(collector_names())))
        return 0
    from ..command_line import resolve, safe_name
    from ..launch import LaunchOptions, end_like, launch
    from ..relay import Interrupted, interruptible

    options = LaunchOptions(
        run_folder=Path(request.output) if request.output else None,
        name=safe_name(request.name) if request.name else "",
        without=_without(request.without),
        version=__version__,
    )
    preparation = threading.Thread(target=prepare_report, daemon=True)
    begun = (lambda: None) if request.no_report else preparation.start
    outcome = launch(resolve(request.command), options, say, begun)
    if outcome.folder is not None and not outcome.joined and not request.no_report:
        with contextlib.suppress(Interrupted), interruptible():
            if preparation.ident is not None:  # started: no module may be imported by two at once
                preparation.join()
            report(outcome.folder, debug=request.debug)
    return end_like(outcome)


def say(line: str) -> None:
    """Print a line on stderr; where there is none any more, nothing is lost but the line."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def collector_names() -> list[str]:
    """Return the names that --without takes: a file each in collectors/beside, and inside."""
    from ...collectors import beside

    names = {module.name for module in pkgutil.iter_modules(beside.__path__)} | {"inside"}
    return sorted(name for name in names if not name.startswith("_"))


def _without(text: str) -> frozenset[str]:
    """Read the value of --without; raises UsageError for a name that no collector has."""
    wanted = {part.strip() for part in text.split(",") if part.strip()}
    known = collector_names()
    for name in sorted(wanted.difference(known)):
        raise UsageError(
            "unknown-collector",
            f"There is no collector {name}.",
            f"--without takes any of: {', '.join(known)}",
        )
    return frozenset(wanted)


def prepare_report() -> None:
    """Import what the report needs while the command starts: it comes sooner at the end.

    The command is importing torch then, which leaves the other cores idle.
    """
    with contextlib.suppress(Exception):  # the report itself will say why it failed
        import rich.console  # noqa: F401

        from .. import diagnose, program, rules  # noqa: F401
        from ..report import progress, terminal  # noqa: F401

        rules.discover()


def report(folder: Path, *, debug: bool) -> None:
    """Diagnose the run, keep the diagnosis in its folder and print it; never raises."""
    try:
        from ..diagnose import diagnose_run
        from ..report.progress import reading_shown

        with reading_shown():
            diagnosis = diagnose_run(folder, measure_roofs=True)
        _print(diagnosis)
        _keep(diagnosis, folder)
    except Exception as error:  # noqa: BLE001 - a report that fails must not change the exit code
        if debug:
            say(traceback.format_exc())
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        say(f"boundscope: warning[report-failed]: the run is kept, its report failed: {text}")
    say(f"boundscope diagnose {shlex.quote(_shown(folder))}")


def _print(diagnosis: Diagnosis) -> None:
    from rich.console import Console

    from ..report.terminal import render

    render(diagnosis, Console(stderr=True))


def _keep(diagnosis: Diagnosis, folder: Path) -> None:
    """Store the diagnosis as `diagnosis.json`, whole or not at all, and which program made it."""
    import msgspec

    from ..program import fingerprint

    kept = {**msgspec.structs.asdict(diagnosis), "program": fingerprint()}
    part = folder / f".diagnosis.json.{os.getpid()}"
    try:
        part.write_bytes(msgspec.json.encode(kept))
        part.replace(folder / "diagnosis.json")
    except OSError:
        part.unlink(missing_ok=True)


def _shown(folder: Path) -> str:
    """Return the shorter of the absolute path and the one relative to the current folder."""
    relative = os.path.relpath(folder)
    return relative if len(relative) < len(str(folder)) else str(folder)
