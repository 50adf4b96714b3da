"""The words of a command: what stands behind `--token`, `--master_addr` or `env` is private."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import kinds, named

if TYPE_CHECKING:
    from .redactor import Redactor

MAX_LINE = 1 << 14
"""Characters of a command that are looked at as one text."""

_OPTION = re.compile(r"(--?[\w.-]+)(?:=(.*))?", re.DOTALL)
_VARIABLE = re.compile(r"([A-Z_][A-Z0-9_]{2,})=(.*)", re.DOTALL)
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_SETS_VARIABLE = ("-e", "--env", "-x")
_SETS_VARIABLES = ("env", "export")


def redacted_arguments(words: Sequence[str], redactor: Redactor, where: str) -> list[str]:
    """Return a command's words with what is private in them replaced."""
    made: list[str] = []
    told = _told_by_neighbours(words)
    waiting = ""
    in_variables = False
    for index, word in enumerate(words):
        if index in told:
            made.append(redactor.secret(word, where))
            waiting = ""
        elif waiting and not _is_option(word):
            made.append(_value(waiting, word, redactor, where))
            waiting = ""
        else:
            shown, waiting = _word(word, redactor, where, in_variables=in_variables)
            made.append(shown)
        in_variables = word in _SETS_VARIABLES or (in_variables and "=" in word)
    return made


def _is_option(word: str) -> bool:
    """Whether a word is an option: not a value that begins with a dash."""
    return word.startswith("--") or (len(word) == 2 and word[0] == "-" and word[1].isalpha())


def _word(word: str, redactor: Redactor, where: str, *, in_variables: bool) -> tuple[str, str]:
    """Return the word as it is shown, and its name where the next one is its value."""
    option = _OPTION.fullmatch(word)
    if option is not None:
        name = redactor.op_name(option[1], where)
        if option[2] is None:
            return name, option[1] if _takes_private(option[1]) else ""
        return f"{name}={_value(option[1], option[2], redactor, where)}", ""
    variable = (_ASSIGNMENT if in_variables else _VARIABLE).fullmatch(word)
    if variable is not None:
        return f"{variable[1]}={redactor.variable(variable[1], variable[2], where)}", ""
    return redactor.word(word, where), ""


def _takes_private(option: str) -> bool:
    special = option in _SETS_VARIABLE or option in named.USER_OPTIONS
    return special or named.is_private(option)


def _value(option: str, value: str, redactor: Redactor, where: str) -> str:
    if named.SECRET_NAME.search(option):
        return redactor.secret(value, where)
    if option in named.USER_OPTIONS and named.USER_AND_PASSWORD.fullmatch(value):
        return redactor.secret(value, where)
    assignment = _ASSIGNMENT.fullmatch(value) if option in _SETS_VARIABLE else None
    if assignment is not None:
        shown = redactor.variable(assignment[1], assignment[2], where)
        return f"{assignment[1]}={shown}"
    return redactor.named_value(option, value, where)


def _told_by_neighbours(words: Sequence[str]) -> set[int]:
    """Words that are secrets by the words before them: `Bearer …`, `password: …`."""
    begins = [0, *itertools.accumulate(len(word) + 1 for word in words)][:-1]
    line = " ".join(words)[:MAX_LINE]
    told: set[int] = set()
    for pattern, group in (
        (kinds.AUTHORIZATION, 3),
        (named.ASSIGNED, "value"),
        (named.SERIAL, 2),
    ):
        for match in pattern.finditer(line):
            if pattern is named.SERIAL and not any(c.isdigit() for c in match[2]):
                continue
            first, last = (bisect.bisect_left(begins, edge) for edge in match.span(group))
            told.update(range(first, last))
    return {index for index in told if not _is_harmless(words[index])}


def _is_harmless(word: str) -> bool:
    return not named.is_no_word(word, maybe_count=True)
