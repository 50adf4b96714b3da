"""What the words after `boundscope run` mean: the program that is started, and how."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError

PYTHON_PROGRAM = re.compile(r"(python|pypy)[0-9.]*t?d?$")
PYTHON_SHEBANG = re.compile(rb"#!.*\b(python|pypy)[0-9.]*t?\b")
PYTHON_OPTIONS_WITH_VALUE = "cmWX"
"""Short options of the interpreter that take a value; `-c` and `-m` also end its options."""
ISOLATING = {
    "I": "isolated mode ignores PYTHONPATH",
    "E": "the interpreter ignores PYTHONPATH",
    "S": "the interpreter does not import site",
}
"""Interpreter options that keep a `sitecustomize` on PYTHONPATH out (`python --help`)."""
SHEBANG_BYTES = 256
"""Linux reads this much of a `#!` line (BINPRM_BUF_SIZE)."""
MAX_NAME_LENGTH = 60


@dataclass(frozen=True)
class CommandLine:
    """A command that can be started.

    `executable` is an absolute path, `argv` what it gets; `script` is the training script where
    the words name one; `launcher` is "python", "torchrun", "accelerate", "deepspeed", "srun" or
    "program"; `isolation` says why a Python started by it would not see PYTHONPATH, else "".
    """

    given: tuple[str, ...]
    argv: tuple[str, ...]
    executable: str
    name: str
    launcher: str
    script: Path | None
    isolation: str


def resolve(words: Sequence[str]) -> CommandLine:
    """Find what `words` start, without starting it; raises UsageError when nothing can."""
    if not words:
        raise UsageError(
            "no-command", "There is no command to run.", "write: boundscope run train.py"
        )
    executable, argv = _program(list(words))
    script = _script(argv)
    return CommandLine(
        given=tuple(words),
        argv=tuple(argv),
        executable=executable,
        name=_name(argv, script),
        launcher=_launcher(argv),
        script=script,
        isolation=isolation(argv) or _isolation_of_shebang(executable),
    )


def _program(words: list[str]) -> tuple[str, list[str]]:
    """Return the executable's absolute path and the full argument vector."""
    first = words[0]
    if first == "-m":
        if len(words) == 1:
            raise UsageError(
                "no-command", "-m names no module.", "write: boundscope run -m package.module"
            )
        return sys.executable, [sys.executable, *words]
    if first.startswith("-"):
        raise UsageError(
            "bad-option",
            f"boundscope run has no option {first}.",
            "options of boundscope stand before the command; see: boundscope run --help",
        )
    path = Path(first)
    found = shutil.which(first)
    if path.is_file() and (first.endswith(".py") or (found is None and _has_python_shebang(path))):
        return sys.executable, [sys.executable, *words]
    if found is None:
        raise _nothing_to_start(first, path)
    return os.path.abspath(found), words


def _nothing_to_start(first: str, path: Path) -> UsageError:
    if path.is_dir():
        return UsageError(
            "not-executable", f"{first} is a folder.", "name the script or program to run"
        )
    if path.exists() and os.access(path, os.X_OK):
        return UsageError(
            "command-not-found",
            f"There is no program {first} on PATH, but one in the current folder.",
            f"write: boundscope run ./{first}",
        )
    if path.exists():
        return UsageError(
            "not-executable",
            f"{first} is neither executable nor a Python script.",
            f"make it executable (chmod +x {first}) or name its interpreter before it",
        )
    if first.endswith(".py"):
        return UsageError(
            "script-not-found",
            f"There is no script {first} in {Path.cwd()}.",
            "check the path; it is taken relative to the current folder",
        )
    return UsageError(
        "command-not-found",
        f"There is no program {first} on PATH.",
        "check the spelling, or activate the environment that it is installed in",
    )


def _has_python_shebang(path: Path) -> bool:
    return bool(PYTHON_SHEBANG.match(_first_line(path)))


def _first_line(path: Path) -> bytes:
    """Return the first line of a regular file, b"" of anything that cannot be read."""
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return b""
            return file.read(SHEBANG_BYTES).partition(b"\n")[0]
    except OSError:
        return b""


def isolation(argv: Sequence[str]) -> str:
    """Say which interpreter option in `argv` keeps a sitecustomize on PYTHONPATH out, else ""."""
    for position, word in enumerate(argv):
        if PYTHON_PROGRAM.match(os.path.basename(word)):
            return _isolation_of_options(argv[position + 1 :])
    return ""


def _isolation_of_options(options: Sequence[str]) -> str:
    words = iter(options)
    for word in words:
        if word == "--check-hash-based-pycs":
            next(words, None)
        elif word.startswith("--"):
            continue
        elif not word.startswith("-") or word == "-":
            return ""
        else:
            for place, letter in enumerate(word[1:], start=1):
                if letter in ISOLATING:
                    return f"python -{letter}: {ISOLATING[letter]}"
                if letter in PYTHON_OPTIONS_WITH_VALUE:
                    if letter in "cm":
                        return ""
                    if place == len(word) - 1:
                        next(words, None)
                    break
    return ""


def _isolation_of_shebang(executable: str) -> str:
    line = _first_line(Path(executable))
    if not line.startswith(b"#!"):
        return ""
    return isolation(line[2:].decode("utf-8", "replace").split())


def _script(argv: Sequence[str]) -> Path | None:
    """Return the training script: the first word that is an existing Python file."""
    for word in argv:
        if word.endswith(".py") and os.path.isfile(word):
            return Path(word).absolute()
    for word in argv[1:2]:
        if _has_python_shebang(Path(word)):
            return Path(word).absolute()
    return None


def _name(argv: Sequence[str], script: Path | None) -> str:
    """Return a short name for the run, fit for a folder's name."""
    if script is not None:
        text = script.stem
    elif "-m" in argv[:-1]:
        text = argv[argv.index("-m") + 1]
    else:
        text = os.path.basename(argv[0])
    return safe_name(text)


def safe_name(text: str) -> str:
    """Return `text` with only letters, digits, dot, dash and underscore; never empty."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:MAX_NAME_LENGTH]
    return safe or "run"


def _launcher(argv: Sequence[str]) -> str:
    """Return which launcher of ranks the command uses."""
    program = os.path.basename(argv[0])
    if program in ("srun", "mpirun", "mpiexec"):
        return program
    words = [os.path.basename(word) for word in argv]
    for launcher in ("torchrun", "accelerate", "deepspeed"):
        if launcher in words[:2]:
            return launcher
    modules = {
        "torch.distributed.run": "torchrun",
        "torch.distributed.launch": "torchrun",
        "accelerate.commands.launch": "accelerate",
        "deepspeed.launcher.runner": "deepspeed",
    }
    if "-m" in argv[:-1]:
        module = argv[argv.index("-m") + 1]
        if module in modules:
            return modules[module]
    return "python" if PYTHON_PROGRAM.match(program) else "program"
