"""What is redacted, in groups that can be kept, and the patterns by which it is found."""

from __future__ import annotations

import re

from ..errors import UsageError

GROUPS: dict[str, tuple[str, ...]] = {
    "paths": ("path",),
    "hosts": ("host", "url"),
    "users": ("user", "email"),
    "addresses": ("ip", "mac"),
    "devices": ("device", "uuid", "serial"),
    "environment": ("fact",),
    "secrets": ("secret",),
}
"""Group to its kinds; a pseudonym is the kind with a number, e.g. host-2."""

KEEPABLE = tuple(group for group in GROUPS if group != "secrets")


def parse_keep(text: str) -> frozenset[str]:
    """Return the groups of `--keep`, separated by commas; raises UsageError."""
    named = frozenset(word.strip() for word in text.split(",") if word.strip())
    unknown = sorted(named - set(KEEPABLE))
    if unknown:
        raise UsageError(
            "bad-option",
            f"--keep does not know {', '.join(unknown)}.",
            f"it takes some of: {', '.join(KEEPABLE)}; tokens and keys are never kept",
        )
    return named


PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)

TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"gh[opusr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}"
    r"|(?:AKIA|ASIA|AGPA|AROA|AIDA)[A-Z0-9]{12,}"
    r"|sk-[\w-]{16,}|[sr]k_(?:live|test)_\w{16,}"
    r"|xox[abeoprs]-[\w-]{10,}|gl(?:pat|dt|rt)-[\w-]{16,}"
    r"|AIza[\w-]{30,}|ya29\.[\w.-]{20,}"
    r"|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{16,}|dckr_pat_[\w-]{16,}|nvapi-[\w-]{16,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"
    r")",
    re.IGNORECASE,
)
"""Formats that their issuers publish, so that leaked ones can be found."""

AUTHORIZATION = re.compile(
    r"\b(bearer|basic|digest|negotiate)(\s+)([A-Za-z0-9+/=_.~:-]{8,})", re.IGNORECASE
)

_KEY_WORD = (
    r"(?:token|secret|passw(?:or)?d|passphrase|pwd|credentials?|authorization"
    r"|api[_-]?key|access[_-]?key(?:[_-]?id)?|private[_-]?key|secret[_-]?key|account[_-]?key"
    r"|auth[_-]?key|signing[_-]?key|encryption[_-]?key|ssh[_-]?key|license[_-]?key"
    r"|signature|session[_-]?id|cookie|webhook)"
)
SECRET_NAME = re.compile(rf"(?:^|[^A-Za-z]|(?<=[a-z])(?=[A-Z])){_KEY_WORD}$", re.IGNORECASE)
"""Names of options, variables and keys whose value is a secret. `tokenizer` and `tokens` are
none."""

ASSIGNED = re.compile(
    rf"((?<![A-Za-z])(?:[A-Za-z0-9]+[_-])*{_KEY_WORD})"
    r"""(["']?\s*(?:=|:(?!:))\s*["']?|\s+(?:is\s+)?(?=[^\s=:]*\d))"""
    r"""([^\s"',;&]+)""",
    re.IGNORECASE,
)
"""`token=…`, `"api_key": "…"`, `password …`: name, what is between, value."""

URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{1,20})://[^\s\"'<>|]+|\bgit@[\w.-]+:[\w./~-]+")

EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9_.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")

MAC = re.compile(
    r"(?<![0-9A-Fa-f:.-])(?:[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2}(?:\1[0-9A-Fa-f]{2}){4}(?:\1[0-9A-Fa-f]{2}"
    r"\1[0-9A-Fa-f]{2})?)|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4})(?![0-9A-Fa-f:-])"
    r"|(?<=enx)[0-9A-Fa-f]{12}(?![0-9A-Za-z])"
)
"""With colons, dashes or dots, also of 8 bytes (InfiniBand GUIDs); and in systemd's names of
interfaces, enx001122334455."""

IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
DASHED_IP = re.compile(r"(?<![\w])ip-\d{1,3}(?:-\d{1,3}){3}(?:\.[\w.-]+)?", re.IGNORECASE)
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
HARMLESS_ADDRESSES = ("127.0.0.1", "0.0.0.0", "255.255.255.255", "::1", "::")  # noqa: S104

UUID = re.compile(
    r"(?<![0-9A-Za-z])((?:GPU|MIG|CPU|NIC|DPU)-(?:GPU-)?)?[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-"
    r"[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}(?:/\d+/\d+)?",
    re.IGNORECASE,
)

SERIAL = re.compile(
    r"(\b(?:serial|s/n|asset[ _-]?tag)(?:[ _-]?(?:number|no\.?|num))?[\"']?\s*[:=#]?\s*[\"']?)"
    r"([A-Z0-9][A-Z0-9-]{5,})",
    re.IGNORECASE,
)

_LABELS = r"(?<![\w./@-])(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+"
INNER_HOSTNAME = re.compile(
    _LABELS + r"(?:internal|localdomain|lan|corp|intra|intranet)(?![\w(-]|\.\w)", re.IGNORECASE
)
"""Hosts of a network of one's own; also told from the names of modules."""

HOSTNAME = re.compile(
    _LABELS
    + r"(?:internal|local|localdomain|lan|corp|intra|intranet|home|cluster|com|net|org|edu|gov|mil"
    r"|cloud|ai|io|de|uk|fr|ch|nl|cn|jp|eu)(?![\w(-]|\.\w)",
    re.IGNORECASE,
)
"""Full names of hosts. Domains that are also endings of files or attributes (.py, .sh) are not
looked for."""

HOME_PARENTS = ("/home/", "/Users/", "/users/", "/u/", "/scratch/", "\\Users\\", ":/Users/")
"""Folders under which each user has one, with what stands around their names; /data/home/ and the
like contain them."""

HOME = re.compile(
    r"(?:/home|/Users|/users|(?<!\w)/u|(?<!\w)/scratch|[A-Za-z]:[\\/]+Users)[\\/]+"
    r"([A-Za-z0-9_][\w.@+-]*)"
)
"""A user's own folder."""

PATH = re.compile(
    r"(?:file:/{2,3}|(?<![\w/…<>%)\]-])(?<!(?<!\w)\.)/|(?<![\w/])(?:~[\w-]*/|\.\./)|(?<!\w)[A-Za-z]:[\\/]+|\\\\)"
    r"[^\s:\"'<>|,;()\[\]{}*?`=\x00-\x1f]+"
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PUBLIC_USERS = _words(
    "root user users admin administrator ubuntu debian centos fedora ec2-user opc azureuser "
    "vagrant docker nobody daemon runner jovyan home guest shared public default work data tmp "
    "test build conda"
)
"""Names of accounts that say nothing about a person."""

VOCABULARY = _words(
    "aten torch nccl gloo cuda cudnn cpu gpu rank node host input output memory network storage "
    "compute step train main model data loader optimizer forward backward python pytorch local "
    "localhost worker trainer server linux kernel profiler trace tensor float half int unknown "
    "none true false self grad autograd module conv linear batch gemm memcpy memset launch "
    "stream event add mul copy sum mean max min div sub mm bmm addmm relu norm layer"
)
"""Words of traces: a host that is called so is replaced only where a host's name stands."""
