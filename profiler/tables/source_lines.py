"""The source text around a line that a run names, where it may be shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

CONTEXT_LINES = 2
MAX_SOURCE_BYTES = 2_000_000


def source_lines(
    file: str, line: int, roots: Sequence[Path], not_after_ns: int
) -> list[tuple[int, str]]:
    """Return (number, text) of the lines around `line`; empty where they may not be shown.

    Only files below `roots` are read, and only where they were last changed before `not_after_ns`:
    text that changed since the run would put its mark on the wrong line.
    """
    try:
        path = Path(file).resolve()
        allowed = any(root.resolve() in path.parents for root in roots)
        if not allowed or path.suffix != ".py":
            return []
        facts = path.stat()
        if facts.st_mtime_ns > not_after_ns or facts.st_size > MAX_SOURCE_BYTES:
            return []
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return []
    if not 1 <= line <= len(lines):
        return []
    first, last = max(1, line - CONTEXT_LINES), min(len(lines), line + CONTEXT_LINES)
    return [(number, lines[number - 1]) for number in range(first, last + 1)]
