"""Where digests are kept: a folder each in the user's cache, named by what it was made from.

The name holds the source's path, the state of its files and the version of this program: whatever
changes, an older digest is not used. Folders are written apart and renamed into place. Any of them
may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..machine.calibrate import cache_folder
from ..program import fingerprint

MAX_KEPT = 60
"""Digests that are kept; the ones not used for longest go first."""

MAX_KEPT_BYTES = 2 << 30


def folder_for(path: Path, stamp: int, what: str) -> Path:
    """Return where the digest of a source in this state is, or will be."""
    text = f"{path.resolve()}|{stamp}|{what}|{fingerprint()}"
    return cache_folder() / "pages" / hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def encode(value: object) -> bytes:
    """Return plain data as JSON; numpy's scalars as Python's."""
    return msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(type(value).__name__)


def keep(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make `folder` with what `fill` writes into it, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        fill(part)
        with contextlib.suppress(OSError):  # another process was faster: its folder is as good
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _trim(folder.parent)


def used(folder: Path) -> None:
    """Note that a digest was looked at: it is kept longer."""
    with contextlib.suppress(OSError):
        os.utime(folder)


def _trim(home: Path) -> None:
    kept = []
    for folder in home.iterdir():
        with contextlib.suppress(OSError):
            size = sum(file.stat().st_size for file in folder.iterdir())
            kept.append((folder.stat().st_mtime, size, folder))
    whole = 0
    for number, (_, size, folder) in enumerate(sorted(kept, reverse=True)):
        whole += size
        if number >= MAX_KEPT or whole > MAX_KEPT_BYTES:
            shutil.rmtree(folder, ignore_errors=True)
