"""The redactor: text in, text with pseudonyms out, and an account of what was taken where."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from . import named, paths
from .arguments import redacted_arguments
from .known import Known
from .scrubber import Mode, Scrubber

MAX_CACHED = 100_000
MAX_EXAMPLE = 70

_NO_PATH = re.compile(r"\s|://|@")
_WHOLE_PATH = re.compile(r"/|~[\w-]*/|\.\./|[A-Za-z]:[\\/]|\\\\|file:/")


class Redaction(msgspec.Struct, frozen=True):
    """How often a kind was replaced in one place of the recording, and what that looks like."""

    kind: str
    where: str
    count: int
    example: str


@dataclass(frozen=True)
class _Result:
    text: str
    hits: tuple[str, ...] = ()


class Redactor:
    """Replaces what identifies people, machines and accounts, everywhere by the same pseudonym.

    `keep` names groups of `kinds.GROUPS` that stay as they are. `allowed_variables` are the
    environment variables whose values are shown where a command sets them.
    """

    def __init__(
        self,
        known: Known,
        keep: frozenset[str] = frozenset(),
        allowed_variables: Iterable[str] = (),
    ) -> None:
        self._scrubber = Scrubber(known, keep)
        self._keep = keep
        self._allowed = frozenset(allowed_variables)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], str] = {}
        self._cache: dict[tuple[str, Mode], _Result] = {}

    # the account

    def report(self) -> list[Redaction]:
        """Return what was replaced, by kind and place, most frequent first."""
        return [
            Redaction(kind, where, count, self._examples.get((kind, where), ""))
            for (kind, where), count in self._counts.most_common()
        ]

    def note(self, kind: str, where: str, example: str = "", count: int = 1) -> None:
        """Count something that was left out as a whole."""
        self._counts[kind, where] += count
        self._examples.setdefault((kind, where), example)

    # what callers use

    def text(self, text: str, where: str) -> str:
        """Return free text with everything private replaced."""
        return self._told(self._cached(text, "text"), where)

    def op_name(self, text: str, where: str) -> str:
        """Return the name of an op, kernel or function: what is common in code stays."""
        return self._told(self._cached(text, "name"), where)

    def kernel_name(self, text: str, where: str) -> str:
        """Return the name of compiled code, which looks random without being so."""
        return self._told(self._cached(text, "kernel"), where)

    def host(self, host: str, where: str) -> str:
        """Return the pseudonym of a host."""
        if not host or "hosts" in self._keep:
            return host
        self._scrubber.add_host(host)
        return self._one("host", host.lower().partition(".")[0], where)

    def path(self, path: str, where: str) -> str:
        """Return a path relative to project or packages, else a pseudonym."""
        inside = not paths.is_outside(path)
        if inside and (_NO_PATH.search(path) or path.startswith("<")):
            return self.text(path, where)
        self._scrubber.hits()
        made = self._scrubber.path(path)
        return self._told(_Result(made, self._scrubber.hits()), where)

    def remember_file(self, path: str) -> None:
        """Make a file's own name known where its path is replaced: texts say `file.py:12`."""
        self._scrubber.remember_file(path)

    def arguments(self, words: Sequence[str], where: str) -> list[str]:
        """Return a command's words; the value behind an option such as --token is replaced."""
        return redacted_arguments(words, self, where)

    def metric(self, name: str, where: str) -> str:
        """Return the name of a metric, in which a path can stand between its other parts."""
        begin, end = name.find("/"), name.rfind(".")
        if 0 < begin < end and not self.keeps("paths"):
            path = self.path(name[begin:end], where)
            return self.op_name(f"{name[:begin]}{path}{name[end:]}", where)
        return self.op_name(name, where)

    def keeps(self, group: str) -> bool:
        """Whether a group stays as it is."""
        return group in self._keep

    def secret(self, value: str, where: str) -> str:
        """Return the pseudonym of a secret; a word such as "true" is none."""
        if named.NO_SECRET.fullmatch(value):
            return value
        return self._one("secret", value, where)

    def variable(self, name: str, value: str, where: str) -> str:
        """Return the value of an environment variable if it is an allowed one."""
        if named.is_secret(name, value):
            return self.secret(value, where)
        if name in self._allowed or "environment" in self._keep:
            return self.named_value(name, value, where)
        return self._one("fact", value, where)

    def named_value(self, name: str, value: str, where: str) -> str:
        """Return a value that stands under a name, which may tell what it is."""
        if named.is_secret(name, value):
            return self.secret(value, where)
        if named.HOST_NAME.search(name) and not self.keeps("hosts"):
            self._scrubber.hits()
            made = self._scrubber.hosts(value, sure=True)
            if made != value:
                return self._told(_Result(made, self._scrubber.hits()), where)
        if named.SERIAL_NAME.search(name) and not self.keeps("devices"):
            return self._one("serial", value, where)
        return self.word(value, where)

    def word(self, word: str, where: str) -> str:
        """Return a word of a command, or a fact: a path as a whole, else a text."""
        if _WHOLE_PATH.match(word) and "\n" not in word:
            return self.path(word, where)
        return self.text(word, where)

    def _told(self, result: _Result, where: str) -> str:
        """Count the hits; with no place named, the same was counted before."""
        if not where:
            return result.text
        for kind in result.hits:
            key = (kind, where)
            self._counts[key] += 1
            if key not in self._examples:
                self._examples[key] = _shown(result.text)
        return result.text

    def _cached(self, text: str, mode: Mode) -> _Result:
        found = self._cache.get((text, mode))
        if found is None:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._scrubber.hits()
            made = self._scrubber.scrubbed(text, mode)
            found = self._cache[text, mode] = _Result(made, self._scrubber.hits())
        return found

    def _one(self, kind: str, original: str, where: str) -> str:
        return self._told(_Result(self._scrubber.pseudonym(kind, original), (kind,)), where)


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_EXAMPLE else line[: MAX_EXAMPLE - 1] + "…"
