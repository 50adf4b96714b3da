"""Refuses to be imported, directly or not, by a program that isn't train.py."""

import sys
from pathlib import Path


def note(name: str) -> None:
    if Path(sys.argv[0]).name != "train.py":
        raise ImportError(f"{sys.argv[0]} imported the user's own {name}")
