"""Makes the run folder, and says clearly when that cannot be."""

from __future__ import annotations

import errno
import time
from pathlib import Path

from ..errors import UsageError
from .manifest import FILE_NAME, reserve_room

DEFAULT_PARENT = "runs"
FULL = (errno.ENOSPC, errno.EDQUOT)
MAX_SAME_SECOND = 1000


class DiskFullError(Exception):
    """The disk has no room for a run; the training can still go on without one."""


def make_run_folder(wanted: Path | None, name: str) -> Path:
    """Make the run folder and return its absolute path.

    `wanted` is taken as it is; without it a new folder runs/<date>-<time>-<name> is made. Raises
    UsageError when it holds a run already or cannot be written, DiskFullError when the disk is
    full.
    """
    folder = wanted.absolute() if wanted is not None else None
    shown = folder or Path.cwd() / DEFAULT_PARENT
    if folder is not None and _holds_a_run(folder):
        raise run_exists(folder)
    try:
        if folder is None:
            folder = _make_new(shown, name)
        else:
            folder.mkdir(parents=True, exist_ok=True)
        reserve_room(folder)
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError(str(error)) from error
        raise UsageError(
            "output-not-writable",
            f"The run cannot be kept in {shown}: {error.strerror or error}.",
            "choose a folder that you may write to with -o",
        ) from error
    return folder


def run_exists(folder: Path) -> UsageError:
    """The error for a folder that cannot take another run."""
    return UsageError(
        "run-exists",
        f"{folder} already holds a run.",
        "choose another folder with -o, or remove that one",
    )


def _holds_a_run(folder: Path) -> bool:
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return False
    return any(name == FILE_NAME or name.startswith(("rank-", "node-")) for name in names)


def _make_new(parent: Path, name: str) -> Path:
    """Make a folder that did not exist, also when several launchers start in the same second."""
    parent.mkdir(parents=True, exist_ok=True)
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    for attempt in range(1, MAX_SAME_SECOND):
        folder = parent / (stem if attempt == 1 else f"{stem}-{attempt}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(errno.EEXIST, "too many runs of the same second", str(parent))
