"""The redactor: text in, text with pseudonyms out, and an account of what was taken where."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import msgspec

from . import kinds, paths
from .entropy import random_strings

MAX_CACHED = 100_000
MAX_EXAMPLE = 70
MAX_TEXT = 1 << 16
"""Longer texts are cut: no name is so long, and a pattern's time grows with it."""

MIN_WORD = 3
"""Names of users shorter than this are replaced in paths only."""

_GROUP_OF = {kind: group for group, members in kinds.GROUPS.items() for kind in members}
_OPTION = re.compile(r"(--?[\w.-]+)(?:=(.*))?", re.DOTALL)
_VARIABLE = re.compile(r"([A-Z_][A-Z0-9_]{2,})=(.*)", re.DOTALL)
_NO_PATH = re.compile(r"\s|://|@")
_WHOLE_PATH = re.compile(r"/|~[\w-]*/|\.\./|[A-Za-z]:[\\/]|\\\\|file:/")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_NO_SECRET = re.compile(
    r"|true|false|none|null|yes|no|on|off|\*+|…|(?:secret|url)-\d+", re.IGNORECASE
)
_SMALL_NUMBER = re.compile(r"[+-]?\d{1,5}(?:\.\d*)?%?")


_Mode: TypeAlias = Literal["text", "name", "kernel"]
"""How a text is read: as words, as a name in code, as a name that a compiler made."""


class Redaction(msgspec.Struct, frozen=True):
    """How often a kind was replaced in one place of the recording, and what that looks like."""

    kind: str
    where: str
    count: int
    example: str


@dataclass
class Known:
    """What is known to be private before anything is redacted.

    `projects` are folders whose inside is shown relative to them; `hosts` and `users` are names.
    """

    projects: set[str] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)

    def look_at(self, text: str) -> None:
        """Learn the names of users from the paths in a text."""
        if "/" in text or "\\" in text:
            self.users.update(kinds.HOME.findall(text))


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
        self._projects = sorted((p for p in known.projects if len(p) > 1), key=len, reverse=True)
        self._keep = keep
        self._allowed = frozenset(allowed_variables)
        self._names: dict[tuple[str, str], str] = {}
        self._numbers: Counter[str] = Counter()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], str] = {}
        self._cache: dict[tuple[str, _Mode], _Result] = {}
        self._hits: list[str] = []
        self._words: dict[str, tuple[str, str]] = {}
        self._files: dict[str, str] = {}
        self._learn(known)

    def _learn(self, known: Known) -> None:
        for host in sorted(known.hosts):
            self._add_host(host)
        for user in sorted(known.users):
            if len(user) >= MIN_WORD and user.lower() not in kinds.PUBLIC_USERS:
                self._words.setdefault(user.lower(), ("user", user.lower()))
        self._compile()

    def _add_host(self, host: str) -> None:
        """A host is known by its full name and by the first part of it."""
        full = host.lower().rstrip(".")
        short = full.partition(".")[0]
        if full and full != "localhost" and not full.replace(".", "").isdigit():
            for name in (full, short):
                self._words.setdefault(name, ("host", short))

    def _compile(self) -> None:
        words = sorted(self._words, key=len, reverse=True)
        strong = [w for w in words if len(w) >= MIN_WORD + 1 and w not in kinds.VOCABULARY]
        weak = [w for w in words if w not in strong]
        self._strong = _alternation(strong, r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])")
        self._weak = _alternation(weak, r"(?<![\w.-])", r"(?![\w-])")
        files = sorted(self._files, key=len, reverse=True)
        self._outer_files = _alternation(files, r"(?<![\w./-])", r"(?![\w/-])", ignore_case=False)

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
        self._add_host(host)
        name = self._pseudonym("host", host.lower().partition(".")[0])
        return self._told(_Result(name, ("host",)), where)

    def path(self, path: str, where: str) -> str:
        """Return a path relative to project or packages, else a pseudonym."""
        if not paths.is_outside(path) and _NO_PATH.search(path):
            return self.text(path, where)
        self._hits = []
        made = self._path(path)
        return self._told(_Result(made, tuple(self._hits)), where)

    def remember_file(self, path: str) -> None:
        """Make a file's own name known where its path is replaced: texts say `file.py:12`."""
        if "paths" in self._keep or paths.shortened(path, self._projects) is not None:
            return
        name = paths.last_part(path)
        if len(name) > MIN_WORD and paths.suffix(name):
            self._files.setdefault(name, self._path(path))
            self._compile()

    def arguments(self, words: Sequence[str], where: str) -> list[str]:
        """Return a command's words; the value behind an option such as --token is replaced."""
        made: list[str] = []
        secret_follows = False
        told = self._told_by_neighbours(words)
        for word in words:
            if word in told:
                made.append(self.secret(word, where))
                continue
            option = _OPTION.fullmatch(word)
            if secret_follows and option is None:
                made.append(self.secret(word, where))
                secret_follows = False
                continue
            secret_follows = False
            variable = _VARIABLE.fullmatch(word)
            if option is not None:
                name = self._told(self._cached(option[1], "name"), where)
                named = kinds.SECRET_NAME.search(option[1]) is not None
                if option[2] is None:
                    secret_follows = named
                    made.append(name)
                else:
                    value = self.secret if named else self._word
                    made.append(f"{name}={value(option[2], where)}")
            elif variable is not None:
                made.append(f"{variable[1]}={self.variable(variable[1], variable[2], where)}")
            else:
                made.append(self._word(word, where))
        return made

    @staticmethod
    def _told_by_neighbours(words: Sequence[str]) -> set[str]:
        """Words that are secrets by the words before them: `Bearer …`, `password: …`."""
        told: set[str] = set()
        line = " ".join(words)[:MAX_TEXT]
        for pattern, group in ((kinds.AUTHORIZATION, 3), (kinds.ASSIGNED, 3), (kinds.SERIAL, 2)):
            told.update(match[group] for match in pattern.finditer(line))
        return {word for word in told if not _NO_SECRET.fullmatch(word)} & set(words)

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
        if _NO_SECRET.fullmatch(value):
            return value
        return self._told(_Result(self._pseudonym("secret", value), ("secret",)), where)

    def variable(self, name: str, value: str, where: str) -> str:
        """Return the value of an environment variable if it is an allowed one."""
        if kinds.SECRET_NAME.search(name):
            return self.secret(value, where)
        if name in self._allowed or "environment" in self._keep:
            return self._word(value, where)
        return self._told(_Result(self._pseudonym("fact", value), ("fact",)), where)

    def _word(self, word: str, where: str) -> str:
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

    # how

    def _cached(self, text: str, mode: _Mode) -> _Result:
        found = self._cache.get((text, mode))
        if found is None:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._hits = []
            made = self._scrubbed(text[:MAX_TEXT], mode)
            found = self._cache[text, mode] = _Result(made, tuple(self._hits))
        return found

    def _scrubbed(self, text: str, mode: _Mode) -> str:
        if _PERCENT.search(text):
            plain = urllib.parse.unquote(text, errors="replace")
            before, self._hits = self._hits, []
            made = self._passes(plain, mode)
            if self._hits:
                self._hits = before + self._hits
                return made
            self._hits = before
        return self._passes(text, mode)

    def _passes(self, text: str, mode: _Mode, *, with_paths: bool = True) -> str:
        if len(text) < MIN_WORD - 1:
            return text
        text = self._secrets(text)
        text = self._sub("uuid", kinds.UUID, text, self._device)
        text = self._sub("email", kinds.EMAIL, text)
        text = self._sub("mac", kinds.MAC, text)
        text = self._sub("ip", kinds.DASHED_IP, text)
        text = self._sub("ip", kinds.IPV4, text, self._address)
        text = self._sub("ip", kinds.IPV6, text, self._address)
        text = self._sub("serial", kinds.SERIAL, text, self._numbered)
        if with_paths:
            text = kinds.PATH.sub(lambda match: self._path_in_text(match.group()), text)
        hosts = kinds.HOSTNAME if mode == "text" else kinds.INNER_HOSTNAME
        text = self._sub("host", hosts, text, self._host_in_text)
        text = self._known_words(text, in_names=mode != "text")
        return text if mode == "kernel" else self._random(text)

    def _random(self, text: str) -> str:
        for piece in random_strings(text):
            if kinds.UUID.fullmatch(piece) and self._kept("uuid"):
                continue
            text = text.replace(piece, self._hit("secret", piece))
        return text

    def _secrets(self, text: str) -> str:
        text = self._sub("secret", kinds.PRIVATE_KEY, text)
        text = self._sub("url", kinds.URL, text)
        text = self._sub("secret", kinds.TOKEN, text)
        text = self._sub("secret", kinds.AUTHORIZATION, text, self._behind_name)
        return self._sub("secret", kinds.ASSIGNED, text, self._behind_name)

    def _known_words(self, text: str, *, in_names: bool) -> str:
        patterns = (self._strong,) if in_names else (self._strong, self._weak)
        for pattern in patterns:
            if pattern is not None:
                text = pattern.sub(self._word_hit, text)
        if self._outer_files is not None and not in_names:
            text = self._outer_files.sub(lambda match: self._files[match.group()], text)
        return text

    def _sub(
        self,
        kind: str,
        pattern: re.Pattern[str],
        text: str,
        replace: Callable[[re.Match[str]], str] | None = None,
    ) -> str:
        if self._kept(kind):
            return text
        return pattern.sub(replace or (lambda match: self._hit(kind, match.group())), text)

    def _kept(self, kind: str) -> bool:
        return _GROUP_OF[kind] in self._keep

    def _hit(self, kind: str, original: str) -> str:
        self._hits.append(kind)
        return self._pseudonym(kind, original)

    def _pseudonym(self, kind: str, original: str) -> str:
        key = (kind, original)
        if key not in self._names:
            self._numbers[kind] += 1
            self._names[key] = f"{kind}-{self._numbers[kind]}"
        return self._names[key]

    def _word_hit(self, match: re.Match[str]) -> str:
        kind, original = self._words[match.group().lower()]
        return match.group() if self._kept(kind) else self._hit(kind, original)

    def _device(self, match: re.Match[str]) -> str:
        kind = "device" if match[1] else "uuid"
        return self._hit(kind, match.group().lower())

    def _address(self, match: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(match.group())
        except ValueError:
            return match.group()
        plain = str(address) in kinds.HARMLESS_ADDRESSES
        if plain or (address.version == 6 and not _looks_like_ipv6(match.group())):
            return match.group()
        return self._hit("ip", str(address))

    def _numbered(self, match: re.Match[str]) -> str:
        if not any(character.isdigit() for character in match[2]):
            return match.group()
        return match[1] + self._hit("serial", match[2])

    def _behind_name(self, match: re.Match[str]) -> str:
        assigned = match[2].strip(" \t\n") != ""
        if _NO_SECRET.fullmatch(match[3]) or (not assigned and _SMALL_NUMBER.fullmatch(match[3])):
            return match.group()
        return match[1] + match[2] + self._hit("secret", match[3])

    def _host_in_text(self, match: re.Match[str]) -> str:
        short = match.group().lower().partition(".")[0]
        return self._hit("host", short if short in self._words else match.group().lower())

    def _path_in_text(self, path: str) -> str:
        end = len(path.rstrip(".!"))
        return self._path(path[:end]) + path[end:]

    def _path(self, path: str) -> str:
        if not path:
            return path
        made = path if "paths" in self._keep else paths.shortened(path, self._projects)
        if made is None:
            self._hits.append("path")
            return self._pseudonym("path", path) + paths.suffix(path)
        if made != path:
            self._hits.append("path")
        return self._sub(
            "host", kinds.HOSTNAME, self._passes(made, "name", with_paths=False), self._host_in_text
        )


def _looks_like_ipv6(text: str) -> bool:
    """Names of code such as a::b are addresses, too: a real one is longer or of a known range."""
    first = text.partition(":")[0].lower()
    ranges = re.fullmatch(r"[23][0-9a-f]{3}|f[cde][0-9a-f]{2}", first) is not None
    return text.count(":") >= 5 or (ranges and any(c.isdigit() for c in text))


def _alternation(
    words: Sequence[str], before: str, after: str, *, ignore_case: bool = True
) -> re.Pattern[str] | None:
    if not words:
        return None
    flags = re.IGNORECASE if ignore_case else 0
    return re.compile(f"{before}(?:{'|'.join(map(re.escape, words))}){after}", flags)


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_EXAMPLE else line[: MAX_EXAMPLE - 1] + "…"
