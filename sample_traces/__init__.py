"""Recorded runs with what was planted in them, and what each removal was measured to save.

Each run is a folder here: `run.zip`, a run folder as `boundscope run` makes it, and `truth.json`.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ARCHIVE = "run.zip"
TRUTH = "truth.json"


def names() -> list[str]:
    """Return the names of the recorded runs, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{TRUTH}"))


def truth(name: str) -> dict[str, Any]:
    """Return what is known of a run.

    "planted" says what was put there, "savings" maps each removed bound to the share of step time
    that its removal saved (low, mid, high), "expected" is the bound whose removal saved most,
    "lines" are the planted places (file name, line), "machine" the facts of where it ran. Raises
    KeyError for an unknown name.
    """
    file = _folder(name) / TRUTH
    content: dict[str, Any] = json.loads(file.read_bytes())
    return content


def extract(name: str, into: Path) -> Path:
    """Unpack a run below `into` and return its run folder; raises KeyError for an unknown name."""
    target = into / name
    with zipfile.ZipFile(_folder(name) / ARCHIVE) as archive:
        archive.extractall(target)  # the package's own file: its names are relative
    return target


def _folder(name: str) -> Path:
    if name not in names():
        raise KeyError(name)
    return FOLDER / name
