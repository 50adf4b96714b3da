"""What a bundle's file is called: its name leaves the machine with it."""

from __future__ import annotations

import re
from pathlib import Path

from ..redact import Redactor
from . import layout

MAX_STEM = 80
WHERE = "name of the file"


def own_name(path: Path, redactor: Redactor) -> str:
    """Return the name of a run's bundle: that of its folder, without what is private in it.

    A trace's is no part of it: those who write traces begin their names with the host's.
    """
    stem = redactor.text(path.resolve().name, WHERE) if path.is_dir() else "trace"
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-")[:MAX_STEM]
    return (kept or "run") + layout.SUFFIX


def shown_name(file: Path, redactor: Redactor) -> str:
    """Return how the texts in a bundle call its file, however its owner named that."""
    stem = file.name.removesuffix(layout.SUFFIX)
    return redactor.text(stem, WHERE) + file.name[len(stem) :]
