"""Names of options, variables and keys that tell that their value is private."""

from __future__ import annotations

import re

from .kinds import VOCABULARY

BEGINS = r"(?:(?<![A-Za-z])|(?-i:(?<=[a-z])(?=[A-Z])))"
"""A word of a name begins here: after anything but a letter, or as in camelCase. No more of the
name is looked at, so that a text of many pieces is gone through once."""

_STRONG = (
    r"(?:token|secret|passw(?:or)?d|passphrase|credentials?|authorization"
    r"|(?:api|access|private|secret|account|auth|signing|encryption|ssh|license)[ _-]?key"
    r"(?:[_-]?id)?|session[_-]?id|webhook)"
)
"""Also at the end of a longer word, as in PGPASSWORD. `tokenizer` and `tokens` are none."""

_PLAIN = rf"{BEGINS}(?:signature|cookie|pwd)"
_WEAK = rf"(?:{BEGINS}(?:pass|auth)|(?<=[A-Za-z0-9][_-])key)"
"""Words that mean other things as well: a backward pass, the key of a sort."""

SECRET_NAME = re.compile(rf"(?:{_STRONG}|{_PLAIN}|{_WEAK})$", re.IGNORECASE)
"""Names of options, variables and keys whose value is a secret."""

_MAYBE_COUNT = re.compile(rf"(?:token|{_WEAK})$", re.IGNORECASE)

NO_SECRET = re.compile(
    r"|true|false|none|null|yes|no|on|off|\*+|…|bearer|basic|(?:secret|url)-\d+", re.IGNORECASE
)
_AMOUNT = re.compile(
    r"[+-]?\d{1,5}(?:\.\d*)?(?:e[+-]?\d{1,3})?"
    r"(?:%|x|[nuµm]?s|[kmgt]?i?b(?:/s)?|[kmg]?hz|steps?)?",
    re.IGNORECASE,
)
"""Five digits are no secret where a count may stand: 12, 0.5 or 3.2ms."""


def is_secret(name: str, value: str) -> bool:
    """Whether a value is a secret by the name of what it is set for."""
    maybe = _MAYBE_COUNT.search(name) is not None
    return SECRET_NAME.search(name) is not None and is_no_word(value, maybe_count=maybe)


def is_no_word(value: str, *, maybe_count: bool) -> bool:
    """Whether a value that stands behind a secret's name can be one: `none` and `true` cannot."""
    return not (NO_SECRET.fullmatch(value) or (maybe_count and _AMOUNT.fullmatch(value)))


_QUOTED = r"\\*\"[^\"\n]{1,4096}\"|\\*'[^'\n]{1,4096}'"
_TO_ITS_END = r"(?:[^\s\"']|[\"'](?![\s,;:)\]}]|$))*[^\s\"')\]},;:.]"
"""A value that no quotes hold: it may have any punctuation inside, and none at its end."""

_WHOLE = r"[\[{][^\]}\n]{0,1024}[\]}]"
_EQUALS = r"\s*(?:=>|={1,2}|:(?![:=]))\s*"

ASSIGNED = re.compile(
    rf"(?P<name>{_STRONG}|{_PLAIN})"
    rf"(?P<between>(?P<closed>\\*[\"']){_EQUALS}|{_EQUALS}|\s+(?:is\s+)?(?=[^\s=:]*\d))"
    rf"(?P<value>{_QUOTED}|(?(closed)(?:{_WHOLE}|[^\s\"',;&}}\])]+)|{_TO_ITS_END}))",
    re.IGNORECASE,
)
"""`token=…`, `"api_key": "…"`, `password …`: name, what is between, value."""

WEAKLY_ASSIGNED = re.compile(
    rf"(?P<name>{_WEAK}|(?<=[A-Za-z0-9][_-])pass)"
    rf"(?P<between>(?P<closed>\\*[\"']){_EQUALS}|\s*(?:=>|={{1,2}})\s*|(?<=[_-]pass):\s*)"
    rf"(?P<value>{_QUOTED}|(?(closed)(?:{_WHOLE}|[^\s\"',;&}}\])]+)|{_TO_ITS_END}))",
    re.IGNORECASE,
)
"""As `ASSIGNED`, of names that are private only where a value is set: `DB_PASS=…`."""

OPTION = re.compile(
    r"(?<![\w-])(?P<name>--?[A-Za-z][\w.-]*)(?P<between>=|\s+)"
    rf"(?P<value>{_QUOTED}|(?![-\"'])\S+)"
)
"""An option and its value within a text: `--token …`, `--master_addr=…`."""

ELEMENT = re.compile(r"<(?P<name>[A-Za-z][\w:.-]{0,80})>(?P<value>[^<>]{1,4096})(?=</)")
"""`<password>…</password>`."""

USER_OPTIONS = ("-u", "--user")
USER_AND_PASSWORD = re.compile(r"(?![A-Za-z]:[\\/]|\d+:\d+$)[^\s:/@]+:[^\s/]\S*")
"""What curl and others take behind `-u`; not the numbers of a user and a group."""

SERIAL = re.compile(
    r"((?<![A-Za-z])(?:serial|s/n|asset[ _-]?tag)(?:[ _-]?(?:number|no\.?|num))?"
    r"(?:\\*[\"'])?(?:\s*[:=#]\s*|\s+)?(?:\\*[\"'])?)([A-Z0-9][A-Z0-9-]{5,})",
    re.IGNORECASE,
)

NAMED_MAC = re.compile(
    r"((?<![A-Za-z])(?:mac|hwaddr|ether|lladdr|(?:node|port|system)[ _-]?guid|guid)"
    r"(?:[ _-]?addr(?:ess)?)?(?:\\*[\"'])?(?:\s*[:=]\s*|\s+)?(?:\\*[\"'])?)"
    r"([0-9A-Fa-f]{16}|[0-9A-Fa-f]{12})(?![0-9A-Za-z])",
    re.IGNORECASE,
)
"""An address without anything between its bytes is told from a number by its name alone."""

SERIAL_NAME = re.compile(
    rf"{BEGINS}(?:serial|asset[ _-]?tag)(?:[ _-]?(?:number|no\.?|num))?$", re.IGNORECASE
)

_SURE_HOST = (
    r"(?:master[_-]?addr(?:ess)?|(?:rdzv|rendezvous)[_-]?endpoint|hostname|host[_-]?(?:name|list)"
    r"|node[_-]?(?:name|list)|(?:server|coordinator|peer|head|remote|scheduler|chief)"
    r"[_-]?(?:addr(?:ess)?|host|name|node|ip))s?"
)
_MAYBE_HOST = r"(?:hosts?|nodes?|server|coordinator|endpoint|peers?)"

HOST_NAME = re.compile(rf"{BEGINS}(?:{_SURE_HOST}|{_MAYBE_HOST})$", re.IGNORECASE)
"""Names of options, variables and keys whose value is a host."""

_HOSTS = r"(?:[^\s\"',;&=()<>\[\]\\]|,(?=[\w.-]{1,255}(?:[\s\"',;&:)\[]|$))|\[[\d,-]*\])+"
"""Several hosts also as SLURM writes them: gpu[01-04,07]."""

HOST_ASSIGNED = re.compile(
    rf"(?P<name>{BEGINS}{_SURE_HOST})"
    rf"(?P<between>\\*[\"']?\s*[:=]\s*\\*[\"']?)(?P<value>{_HOSTS})",
    re.IGNORECASE,
)
MAYBE_HOST_ASSIGNED = re.compile(
    rf"(?P<name>{BEGINS}{_MAYBE_HOST})"
    rf"(?P<between>\\*[\"']?=\\*[\"']?|\\*[\"']\s*:\s*\\*[\"'])(?P<value>{_HOSTS})",
    re.IGNORECASE,
)
"""As `HOST_ASSIGNED`, of names that stand for other things, too: only a value that looks like a
host is one."""

ONE_HOST = re.compile(r"(?:[^,:\[\]]|\[[\d,-]*\])+(?P<rest>:[^,]*)?")
"""One of the hosts in a value, with its port."""

_LOOKS_LIKE_HOST = re.compile(r"(?=[a-z0-9.-]*[a-z])(?=[a-z.]*[0-9.-])[a-z0-9][a-z0-9.-]*")
_NO_HOST = re.compile(
    r"localhost|\d+|\d[\d.]*|auto|env|static|c10d|etcd(?:-v2)?|tcp|none|null|true|false|yes|no|any"
    r"|all|self|(?:host|ip|url|path|fact|secret|mac|user)-\d+.*",
    re.IGNORECASE,
)


def is_host(text: str, *, sure: bool) -> bool:
    """Whether a value is the name of a host; `sure` where its own name says that it is one."""
    if _NO_HOST.fullmatch(text) or text.lower() in VOCABULARY:
        return False
    return sure or _LOOKS_LIKE_HOST.fullmatch(text) is not None


def is_private(name: str) -> bool:
    """Whether the value of an argument of this name is private, be it a number."""
    return any(pattern.search(name) for pattern in (SECRET_NAME, SERIAL_NAME, HOST_NAME))
