"""Names that are known to be private, found in any text by looking words up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from .kinds import VOCABULARY

MIN_STRONG = 4
"""Shorter names, and those that are words of traces, are replaced only where they stand alone."""

_RUN = re.compile(r"[^\W_]+")
_JOINED = re.compile(r"[\w.-]")
_JOINED_BEHIND = re.compile(r"[\w-]")

Name = tuple[str, str]
"""A kind and the name that its pseudonym is kept by."""


class KnownWords:
    """Names by their letters and digits: the time for a text does not depend on their number."""

    def __init__(self) -> None:
        self._names: dict[str, Name] = {}
        self._first: set[str] = set()
        self._most_runs = 0

    def __contains__(self, word: str) -> bool:
        return word in self._names

    def add(self, word: str, name: Name) -> None:
        """Note a name, in lower case; signs around it are no part of it."""
        runs = list(_RUN.finditer(word))
        if runs:
            self._names.setdefault(word[runs[0].start() : runs[-1].end()], name)
            self._first.add(runs[0].group())
            self._most_runs = max(self._most_runs, len(runs))

    def replaced(self, text: str, replace: Callable[[str, Name], str], *, in_names: bool) -> str:
        """Return `text` with what `replace` gives for each name, the longest where some begin.

        `in_names`: the text is a name of code, in which only long and unusual names are.
        """
        lowered = _lowered(text)
        if self._first.isdisjoint(_RUN.findall(lowered)):
            return text
        parts, at = [], 0
        for begin, end in self._found(lowered, in_names):
            if begin >= at:
                word = text[begin:end]
                parts += [text[at:begin], replace(word, self._names[lowered[begin:end]])]
                at = end
        return "".join([*parts, text[at:]])

    def _found(self, lowered: str, in_names: bool) -> Iterator[tuple[int, int]]:
        runs = [match.span() for match in _RUN.finditer(lowered)]
        for index, (begin, first_end) in enumerate(runs):
            if lowered[begin:first_end] not in self._first:
                continue
            for _, end in reversed(runs[index : index + self._most_runs]):
                word = lowered[begin:end]
                if word in self._names and _stands(lowered, begin, end, word, in_names):
                    yield begin, end
                    break


def _stands(lowered: str, begin: int, end: int, word: str, in_names: bool) -> bool:
    if len(word) >= MIN_STRONG and word not in VOCABULARY:
        return True
    alone = not (begin and _JOINED.match(lowered[begin - 1]))
    return alone and not in_names and not _JOINED_BEHIND.match(lowered[end : end + 1])


def _lowered(text: str) -> str:
    """The text in lower case, each letter in its place."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
