"""The command line `boundscope`: finds the command, and turns errors into sentences.

Each file in `commands/` is one command: the function of the file's own name, with its options as
typer reads them from the signature and its help from the docstring. It returns the exit code, or
nothing for 0. Only the command that is asked for is imported. `--debug` holds for every command.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from .errors import EXIT_UNUSABLE_DATA, EXIT_USAGE, BoundscopeError, UsageError

PROGRAM = "boundscope"
SUMMARY = "Says what a PyTorch training run is bound by, proves it, and says what to do."


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; the one place that catches errors."""
    given = list(sys.argv[1:] if words is None else words)
    try:
        return _dispatch(given)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)  # so that a shell's loop around it ends too
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); what is left unwritten must not raise again.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except Exception as error:  # noqa: BLE001 - every error reaches the user as a sentence
        return _explain(error, debug=_wants_traceback(given))


def _dispatch(words: list[str]) -> int:
    if words == ["--version"]:
        from .. import __version__

        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        return 0
    names = command_names()
    if words[:1] == ["run"]:
        # Without typer: the training must not wait for it.
        from .commands import run

        return run.run(run.parse(words[1:]))
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("--help", "-h"):
        return _invoke(_group(names), ["--help"], PROGRAM)
    if words[0] not in names:
        raise _unknown(words[0], names)
    if words[0] == "diagnose":
        from .commands import diagnose

        asked = diagnose.simple(words[1:])
        if asked is not None:
            diagnose.diagnose(**asked)
            return 0
    return _invoke(_command(words[0]), words[1:], f"{PROGRAM} {words[0]}")


def _wants_traceback(words: list[str]) -> bool:
    """Say whether --debug is among our own options, not among those of a training command."""
    if words[:1] != ["run"]:
        return "--debug" in words
    from .commands import run

    try:
        return run.parse(words[1:]).debug
    except UsageError:
        return False


def command_names() -> list[str]:
    """Return the commands there are: the files in `commands/`."""
    from . import commands

    names = [module.name for module in pkgutil.iter_modules(commands.__path__)]
    return sorted(name for name in names if not name.startswith("_"))


def _unknown(word: str, names: list[str]) -> UsageError:
    import difflib

    if word.startswith("-"):
        return UsageError(
            "bad-option", f"{PROGRAM} has no option {word}.", f"see: {PROGRAM} --help"
        )
    near = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean: {PROGRAM} {near[0]}" if near else f"the commands are: {', '.join(names)}"
    return UsageError("unknown-command", f"{PROGRAM} has no command {word}.", hint)


def _command(name: str) -> Any:
    """Return the one command as typer builds it."""
    import typer

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    _register(app, name)
    return typer.main.get_command(app)


def _group(names: list[str]) -> Any:
    """Return all commands, for the help page."""
    import typer

    app = typer.Typer(add_completion=False, rich_markup_mode=None, help=SUMMARY)
    shown = typer.Option(False, "--version", help="Show the version and exit.")

    @app.callback()
    def _(version: bool = shown) -> None:
        """For the help page alone: `_dispatch` answers it."""

    for name in names:
        _register(app, name)
    return typer.main.get_command(app)


def _register(app: Any, name: str) -> None:
    function = getattr(importlib.import_module(f".commands.{name}", __package__), name)
    if name == "run":
        app.command(name, help=function.__doc__)(lambda: None)
    else:
        app.command(name)(function)


def _invoke(command: Any, words: list[str], program: str) -> int:
    result = command.main(args=words, prog_name=program, standalone_mode=False)
    return result if isinstance(result, int) else 0


def _explain(error: Exception, *, debug: bool) -> int:
    """Print the error as one sentence, one hint and a slug; return its exit code."""
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    shown, code = _as_ours(error)
    from .printable import printable

    sys.stderr.write(f"{printable(str(shown))}\n")
    return code


def _as_ours(error: Exception) -> tuple[BoundscopeError, int]:
    if isinstance(error, BoundscopeError):
        return error, error.exit_code
    message = getattr(error, "format_message", None)
    if message is not None:  # typer's own, whichever click it stands on
        text = str(message()).rstrip(".").replace("\n", " ")
        return UsageError("bad-option", f"{text}.", "add --help to see the options"), EXIT_USAGE
    text = f"{type(error).__name__}: {error}"
    hint = f"run it again with --debug behind `{PROGRAM} COMMAND` and report the traceback"
    return BoundscopeError("internal", f"boundscope failed: {text}", hint), EXIT_UNUSABLE_DATA
