"""Names from recordings as Markdown that shows them as they are, and does nothing else."""

from __future__ import annotations

import re

from ..printable import printable

MAX_WORDS = 240
MAX_SLUG = 40

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$&])")
_JOINER = "\u2060"  # no width, no break: takes a mention or an address its meaning
_CALLING = re.compile(r"@(?=\w)|(?<=:)//|(?i:\bwww)(?=\.)|#(?=\d)|(?i:\bgh-)(?=\d)")


def escaped(text: str, limit: int = MAX_WORDS) -> str:
    """Return text that Markdown shows as it is, on one line: no link, no mention, no markup."""
    line = " ".join(printable(text).split())
    line = line if len(line) <= limit else line[: limit - 1] + "…"
    return _SPECIAL.sub(r"\\\1", _CALLING.sub(_parted, line))


def _parted(match: re.Match[str]) -> str:
    return match.group()[0] + _JOINER + match.group()[1:]


def slug(text: str) -> str:
    """Return what can stand between backticks as a slug."""
    return re.sub(r"[^a-z0-9-]", "", text)[:MAX_SLUG]
