"""Texts with pseudonyms for what is private in them, pattern by pattern."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections import Counter
from collections.abc import Callable
from typing import Literal, TypeAlias

from . import kinds, named, paths
from .entropy import random_strings
from .known import Known
from .words import KnownWords, Name

MAX_TEXT = 1 << 14
"""Longer texts are cut: no name is so long, and a pattern's time grows with it."""
MAX_CUT_WORD = 256
"""So long a word is cut off whole: a piece of a secret is no longer known as one."""
MAX_DECODED = 3
"""Times that a text may have been encoded for addresses, one within the other."""

PRIVATE_FIRST = 10
"""Of the networks of one's own the one whose addresses look like versions: 10.1.2.3."""

MAX_DOMAINS = 100
"""Networks by whose names hosts are known: a job runs in one or two."""

MIN_WORD = 3
"""Names of users shorter than this are replaced in paths only."""

_GROUP_OF = {kind: group for group, members in kinds.GROUPS.items() for kind in members}
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_FILE_WORD = re.compile(r"(?<![\w./+@-])[\w.+@-]+(?![\w/-])")
_DOMAIN = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+")
_BEFORE_CHARS = 24

Mode: TypeAlias = Literal["text", "name", "kernel"]
"""How a text is read: as words, as a name in code, as a name that a compiler made."""


class Scrubber:
    """Replaces what is private in texts and gives it its pseudonyms, the same everywhere.

    `keep` names groups of `kinds.GROUPS` that stay as they are.
    """

    def __init__(self, known: Known, keep: frozenset[str]) -> None:
        self._projects = sorted((p for p in known.projects if len(p) > 1), key=len, reverse=True)
        self._keep = keep
        self._names: dict[tuple[str, str], str] = {}
        self._numbers: Counter[str] = Counter()
        self._hits: list[str] = []
        self._words = KnownWords()
        self._domains: set[str] = set()
        self._domain: re.Pattern[str] | None = None
        self._files: dict[str, str] = {}
        for host in sorted(known.hosts):
            self.add_host(host)
        for user in sorted(known.users):
            name = user.lower().strip("._@+-")
            if len(name) >= MIN_WORD and name not in kinds.PUBLIC_USERS:
                self._words.add(name, ("user", name))

    def keeps(self, kind: str) -> bool:
        """Whether what is of this kind stays as it is."""
        return _GROUP_OF[kind] in self._keep

    def pseudonym(self, kind: str, original: str) -> str:
        """Return the name that stands for something private."""
        key = (kind, original)
        if key not in self._names:
            self._numbers[kind] += 1
            self._names[key] = f"{kind}-{self._numbers[kind]}"
        return self._names[key]

    def hits(self) -> tuple[str, ...]:
        """Return the kinds of what was replaced since this was last asked."""
        found, self._hits = tuple(self._hits), []
        return found

    def add_host(self, host: str) -> None:
        """Know a host by its full name and the first part of it; others of its domain too.

        A domain of one part alone says nothing: it may be the ending of a file.
        """
        full = host.lower().rstrip(".")
        short, _, domain = full.partition(".")
        if full and full != "localhost" and not full.replace(".", "").isdigit():
            for name in (full, short):
                self._words.add(name, ("host", short))
            if _DOMAIN.fullmatch(domain) and domain not in self._domains:
                self._domains.add(domain)
                self._domain = None

    def remember_file(self, path: str) -> None:
        """Make a file's own name known where its path is replaced: texts say `file.py:12`."""
        if self.keeps("path") or paths.shortened(path, self._projects) is not None:
            return
        name = paths.last_part(path)
        if len(name) > MIN_WORD and paths.suffix(name):
            self._files.setdefault(name, self.path(path))

    def _domain_pattern(self) -> re.Pattern[str] | None:
        if self._domain is None and self._domains:
            longest = sorted(self._domains, key=len, reverse=True)[:MAX_DOMAINS]
            ends = "|".join(map(re.escape, longest))
            self._domain = re.compile(f"{kinds.LABELS}(?:{ends}){kinds.NO_CODE}", re.IGNORECASE)
        return self._domain

    def scrubbed(self, text: str, mode: Mode) -> str:
        """Return a text with everything private replaced."""
        text = _cut(text)
        plain = text
        for _ in range(MAX_DECODED):
            if not _PERCENT.search(plain):
                break
            plain = urllib.parse.unquote(plain, errors="replace")
        if plain != text:
            before, self._hits = self._hits, []
            made = self._passes(plain, mode)
            if self._hits:
                self._hits = before + self._hits
                return made
            self._hits = before
        return self._passes(text, mode)

    def _passes(self, text: str, mode: Mode, *, with_paths: bool = True) -> str:
        if len(text) < MIN_WORD - 1:
            return text
        text = self._secrets(text)
        if "://" not in text or not self.keeps("url"):
            return self._rest(text, mode, with_paths=with_paths)
        parts, at = [], 0
        for match in kinds.URL.finditer(text):
            parts.append(self._rest(text[at : match.start()], mode, with_paths=with_paths))
            parts.append(self._kept_url(match.group(), mode))
            at = match.end()
        return "".join([*parts, self._rest(text[at:], mode, with_paths=with_paths)])

    def _kept_url(self, url: str, mode: Mode) -> str:
        """An address that stays, without who logs in with what, and without its parameters."""
        match = kinds.URL_PARTS.fullmatch(url)
        if match is None:  # git@host:path
            return url
        user = self._hit("secret", match["user"][:-1]) + "@" if match["user"] else ""
        rest = match["rest"] or ""
        if len(rest) > 1:
            rest = rest[0] + self._hit("secret", rest[1:])
        return match["scheme"] + user + self._rest(match["place"], mode, with_paths=False) + rest

    def _rest(self, text: str, mode: Mode, *, with_paths: bool) -> str:
        text = self._sub("uuid", kinds.UUID, text, self._device)
        text = self._sub("email", kinds.EMAIL, text)
        text = kinds.ACCOUNT.sub(self._account, text)
        text = self._sub("mac", kinds.MAC, text)
        text = self._sub("mac", named.NAMED_MAC, text, self._behind("mac"))
        text = self._sub("ip", kinds.DASHED_IP, text)
        text = self._sub("ip", kinds.IPV4, text, self._ipv4)
        text = self._sub("ip", kinds.IPV6, text, self._address)
        text = self._sub("serial", named.SERIAL, text, self._numbered)
        text = self._sub("host", named.HOST_ASSIGNED, text, self._set_host)
        if mode == "text":
            text = self._sub("host", named.MAYBE_HOST_ASSIGNED, text, self._set_host)
        if with_paths:
            text = paths.QUOTED_PATH.sub(self._quoted_path, text)
            text = paths.PATH.sub(lambda match: self._path_in_text(match.group()), text)
        hosts = kinds.HOSTNAME if mode == "text" else kinds.NAME_HOSTNAME
        text = self._sub("host", hosts, text, self._host_in_text)
        domain = self._domain_pattern()
        if domain is not None:
            text = self._sub("host", domain, text, self._host_in_text)
        text = self._known_words(text, in_names=mode != "text")
        return self._random(text, mode)

    def _random(self, text: str, mode: Mode) -> str:
        """Replace keys; of what a compiler made only those that are nothing but one."""
        for piece in random_strings(text):
            if kinds.UUID.fullmatch(piece) and self.keeps("uuid"):
                continue
            if mode != "kernel" or (piece == text and piece.isalnum()):
                text = text.replace(piece, self._hit("secret", piece))
        return text

    def _secrets(self, text: str) -> str:
        text = self._sub("secret", kinds.PRIVATE_KEY, text)
        if not self.keeps("url"):
            text = self._sub("url", kinds.URL, text)
        text = self._sub("secret", kinds.TOKEN, text)
        text = self._sub("secret", kinds.AUTHORIZATION, text, self._authorized)
        text = self._sub("secret", named.ELEMENT, text, self._element)
        if "-" in text:
            text = named.OPTION.sub(self._option, text)
        text = self._sub("secret", named.ASSIGNED, text, self._assigned)
        return self._sub("secret", named.WEAKLY_ASSIGNED, text, self._assigned)

    def _known_words(self, text: str, *, in_names: bool) -> str:
        text = self._words.replaced(text, self._word_hit, in_names=in_names)
        if self._files and not in_names:
            text = _FILE_WORD.sub(self._file_hit, text)
        return text

    def _sub(
        self,
        kind: str,
        pattern: re.Pattern[str],
        text: str,
        replace: Callable[[re.Match[str]], str] | None = None,
    ) -> str:
        if self.keeps(kind):
            return text
        return pattern.sub(replace or (lambda match: self._hit(kind, match.group())), text)

    def _hit(self, kind: str, original: str) -> str:
        self._hits.append(kind)
        return self.pseudonym(kind, original)

    def _word_hit(self, word: str, name: Name) -> str:
        kind, original = name
        return word if self.keeps(kind) else self._hit(kind, original)

    def _file_hit(self, match: re.Match[str]) -> str:
        name = match.group().rstrip(".")
        shown = self._files.get(name)
        return match.group() if shown is None else shown + match.group()[len(name) :]

    def _device(self, match: re.Match[str]) -> str:
        kind = "device" if match[1] or match[2] else "uuid"
        return self._hit(kind, match.group().lower())

    def _account(self, match: re.Match[str]) -> str:
        user, host = match[1], match[2]
        if user.lower() not in kinds.PUBLIC_USERS and not self.keeps("user"):
            user = self._hit("user", user.lower())
        if not self.keeps("host"):
            host = self._hit("host", host.lower())
        return f"{user}@{host}"

    def _ipv4(self, match: re.Match[str]) -> str:
        before = match.string[max(0, match.start() - _BEFORE_CHARS) : match.start()]
        if kinds.VERSION_BEFORE.search(before):
            return match.group()
        joined = before[-1:].isalnum() or before[-1:] in ("_", "-")
        first = int(match.group().partition(".")[0])
        if joined and first < kinds.VERSIONS_BELOW and first != PRIVATE_FIRST:
            return match.group()
        return self._address(match)

    def _address(self, match: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(match.group())
        except ValueError:
            return match.group()
        plain = str(address) in kinds.HARMLESS_ADDRESSES
        if plain or (address.version == 6 and not _looks_like_ipv6(match.group())):
            return match.group()
        return self._hit("ip", str(address))

    def _behind(self, kind: str) -> Callable[[re.Match[str]], str]:
        return lambda match: match[1] + self._hit(kind, match[2])

    def _numbered(self, match: re.Match[str]) -> str:
        if not any(character.isdigit() for character in match[2]):
            return match.group()
        return match[1] + self._hit("serial", match[2])

    def _authorized(self, match: re.Match[str]) -> str:
        return match[1] + match[2] + self._secret_value(match[3])

    def _assigned(self, match: re.Match[str]) -> str:
        name, between, value = match["name"], match["between"], match["value"]
        weak = match.re is named.WEAKLY_ASSIGNED or name.lower().endswith("token")
        return name + between + self._secret_value(value, maybe_count=weak or not between.strip())

    def _element(self, match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        if not named.is_secret(name, value):
            return match.group()
        return f"<{name}>{self._secret_value(value)}"

    def _option(self, match: re.Match[str]) -> str:
        name, between, value = match["name"], match["between"], match["value"]
        login = name in named.USER_OPTIONS and named.USER_AND_PASSWORD.fullmatch(value)
        if login or named.SECRET_NAME.search(name):
            value = self._secret_value(value)
        elif named.HOST_NAME.search(name) and not self.keeps("host"):
            value = self.hosts(value, sure=True)
        return name + between + value

    def _secret_value(self, value: str, *, maybe_count: bool = False) -> str:
        """A secret within a text; the quotes around it stay."""
        opening, plain, closing = _unquoted(value)
        if not named.is_no_word(plain, maybe_count=maybe_count):
            return value
        return opening + self._hit("secret", plain) + closing

    def _set_host(self, match: re.Match[str]) -> str:
        sure = match.re is named.HOST_ASSIGNED
        return match["name"] + match["between"] + self.hosts(match["value"], sure=sure)

    def hosts(self, value: str, *, sure: bool) -> str:
        """Return the pseudonyms of the hosts in a value, with their ports."""

        def replaced(match: re.Match[str]) -> str:
            rest = match["rest"] or ""
            host = match.group()[: len(match.group()) - len(rest)]
            if not named.is_host(host, sure=sure):
                return match.group()
            return self._hit("host", self._host_key(host)) + rest

        opening, plain, closing = _unquoted(value)
        return opening + named.ONE_HOST.sub(replaced, plain) + closing

    def _host_key(self, host: str) -> str:
        short = host.lower().partition(".")[0]
        return short if short in self._words else host.lower()

    def _host_in_text(self, match: re.Match[str]) -> str:
        return self._hit("host", self._host_key(match.group()))

    def _quoted_path(self, match: re.Match[str]) -> str:
        quote = match[1] or match[3]
        return quote + self.path(match[2] or match[4]) + quote

    def _path_in_text(self, path: str) -> str:
        found = paths.without_tail(path)
        return self.path(found) + path[len(found) :]

    def path(self, path: str) -> str:
        """Return a path relative to project or packages, else a pseudonym."""
        if not path:
            return path
        made = path if self.keeps("path") else paths.shortened(path, self._projects)
        if made is None:
            self._hits.append("path")
            return self.pseudonym("path", path) + paths.suffix(path)
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


def _cut(text: str) -> str:
    """The beginning of a long text, without the word in which it would end."""
    if len(text) <= MAX_TEXT:
        return text
    kept = text[:MAX_TEXT]
    space = max(kept.rfind(" ", -MAX_CUT_WORD), kept.rfind("\n", -MAX_CUT_WORD))
    return kept[:space] if space > 0 else kept[:-MAX_CUT_WORD]


def _unquoted(value: str) -> tuple[str, str, str]:
    """The opening quote, what is between, and the closing one; each with its backslashes."""
    at = len(value) - len(value.lstrip("\\"))
    quote = value[at : at + 1]
    if quote not in ('"', "'") or not value.endswith(quote) or len(value) < at + 2:
        return "", value, ""
    inner = value[at + 1 : -1].rstrip("\\")
    return value[: at + 1], inner, value[at + 1 + len(inner) :]
