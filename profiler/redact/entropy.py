"""Random strings told from names: what no known format names may still be a key."""

from __future__ import annotations

import itertools
import re

MIN_MIXED = 20
"""Keys of 120 bits and more have so many characters of base64; shorter ones have formats or stand
behind a name such as `--token`."""

MIN_HEX = 32
"""128 bits in hexadecimal."""

WORD_CHARACTERS = 4
"""A run of so many letters in one case is a piece of a word: of random base64 every seventh letter
stands in one, of names in camel case three in four."""

MAX_WORDY = 0.5
MIN_CHANGES = 0.15
"""Of random lower-case letters and digits 0.4 neighbours are of different kinds; of 10,000 random
strings of 20 one had fewer than 0.15. Names with a number or two stay below."""

_CANDIDATE = re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_=-]{20,}(?![A-Za-z0-9+/_=-])")
_PART = re.compile(r"[A-Za-z0-9]{20,}")
_HEX = re.compile(r"[0-9A-Fa-f]{32,}")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def random_strings(text: str) -> list[str]:
    """Return the pieces of `text` that look like keys, in order."""
    if len(text) < MIN_MIXED:
        return []
    found = []
    for match in _CANDIDATE.finditer(text):
        piece = match.group()
        if "/" in piece and not _is_random(piece):
            found += [part for part in piece.split("/") if _holds_random(part)]
        elif _holds_random(piece):
            found.append(piece)
    return found


def _holds_random(piece: str) -> bool:
    if piece.startswith("_Z"):  # a mangled name of C++
        return False
    return _is_random(piece) or any(_is_random(part) for part in _PART.findall(piece))


def _is_random(piece: str) -> bool:
    if len(piece) < MIN_MIXED:
        return False
    letters = sum(character.isalpha() for character in piece)
    digits = sum(character.isdigit() for character in piece)
    if not letters or not digits:
        return _is_shouted(piece, letters)
    if len(piece) >= MIN_HEX and _HEX.fullmatch(piece):
        return True
    if _wordy(piece, letters) <= MAX_WORDY and not (piece.islower() or piece.isupper()):
        return True
    return piece.isalnum() and _changes(piece) >= MIN_CHANGES


def _is_shouted(piece: str, letters: int) -> bool:
    """Whether letters alone change their case as no name does."""
    return letters == len(piece) and _wordy(piece, letters) <= MAX_WORDY


def _wordy(piece: str, letters: int) -> float:
    """Share of the letters that stand in pieces of words."""
    runs = [len(run) for run in _WORDS.findall(piece)]
    return sum(length for length in runs if length >= WORD_CHARACTERS) / letters


def _changes(piece: str) -> float:
    pairs = itertools.pairwise(piece)
    return sum(a.isdigit() != b.isdigit() for a, b in pairs) / (len(piece) - 1)
