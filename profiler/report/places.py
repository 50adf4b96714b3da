"""Places of findings in words."""

from __future__ import annotations

import os

from ..diagnosis import Place
from ..text import short_name


def describe_place(where: Place) -> str:
    """File and line, then op or collective, then the rank."""
    parts = []
    if where.file:
        line = f":{where.line}" if where.line else ""
        function = f" in {where.function}" if where.function else ""
        parts.append(f"{shorten(where.file)}{line}{function}")
    names = [short_name(where.op or ""), short_name(where.kernel or ""), where.collective]
    parts += [name for name in names if name]
    if where.rank is not None:
        parts.append(f"(rank {where.rank})" if parts else f"rank {where.rank}")
    return " ".join(parts)


def shorten(path: str) -> str:
    """The path relative to the current folder where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(path) else path
