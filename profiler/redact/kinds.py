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
    r")"
    # Looked for where a word begins: it needs a dot behind as many characters as there may be.
    r"|(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?",
    re.IGNORECASE,
)
"""Formats that their issuers publish, so that leaked ones can be found."""

AUTHORIZATION = re.compile(
    r"\b(bearer|basic|digest|negotiate)(\s+)([A-Za-z0-9+/=_.~:-]{8,})", re.IGNORECASE
)

URL = re.compile(
    r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s\"'<>]*[^\s\"'<>)\],.;!]|\bgit@[\w.-]+:[\w./~-]+"
)
URL_PARTS = re.compile(
    r"(?P<scheme>[A-Za-z][\w+.-]*://)(?P<user>[^/?#]*@|[^/?#@:]*:(?!\d+(?:[/?#]|$)).*@)?"
    r"(?P<place>[^?#]*)(?P<rest>[?#].*)?",
    re.DOTALL,
)
"""Whoever logs in stands before the host, also where a password has a slash in it; not a version
in a path (`host/project@v1`)."""

EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9_.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")

MAC = re.compile(
    r"(?<![0-9A-Fa-f:.-])(?:[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2}(?:\1[0-9A-Fa-f]{2}){4}(?:\1[0-9A-Fa-f]{2}"
    r"\1[0-9A-Fa-f]{2})?)|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4})(?![0-9A-Fa-f:-])"
    r"|(?<=enx)[0-9A-Fa-f]{12}(?![0-9A-Za-z])"
    r"|(?<![0-9A-Fa-f:.])(?:[0-9A-Fa-f]{4}:){3}[0-9A-Fa-f]{4}(?![0-9A-Fa-f:])"
    r"|(?<![0-9A-Za-z])0x(?!0000)[0-9A-Fa-f]{16}(?![0-9A-Za-z])"
)
"""With colons, dashes or dots, also of 8 bytes (InfiniBand GUIDs, as 0x506b4b0300c1e2f4 too, which
no pointer of today's machines is); and in systemd's names of interfaces, enx001122334455."""

IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
VERSION_BEFORE = re.compile(
    r"(?<![A-Za-z])(?:v|version|ver|release|driver|lib\w*|cu(?:da)?\d*|rocm\d*|cudnn\d*|nccl\d*"
    r"|cublas\w*|cufft\w*|torch|tensorrt|nvidia)[\s_=:-]{0,3}$",
    re.IGNORECASE,
)
"""Before four numbers that are a version: nvidia_curand_cu12-10.3.2.106."""
VERSIONS_BELOW = 16
"""What is written as one with a name is a version where it begins with a lower number than this,
and is of no network of one's own: CUDA's libraries have come to 13."""

DASHED_IP = re.compile(r"(?<![\w])ip-\d{1,3}(?:-\d{1,3}){3}(?:\.[\w.-]+)?", re.IGNORECASE)
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
HARMLESS_ADDRESSES = ("127.0.0.1", "0.0.0.0", "255.255.255.255", "::1", "::")  # noqa: S104

UUID = re.compile(
    r"(?<![0-9A-Za-z])((?:GPU|MIG|CPU|NIC|DPU)-(?:GPU-)?)?[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-"
    r"[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}(?:/\d+/\d+)?|(?<![0-9A-Za-z])(GPU|MIG)-[0-9A-Fa-f]{8,}"
    r"(?:-[0-9A-Fa-f]{1,12})*(?![0-9A-Za-z])",
    re.IGNORECASE,
)
"""As `CUDA_VISIBLE_DEVICES` takes them, also by their first digits alone."""

ACCOUNT = re.compile(
    r"(?<![\w.@+-])([A-Za-z_][\w.-]+)@(?!plt\b|got\b|\w*LIBC|CXX|v?\d)([A-Za-z][\w-]{2,})"
    r"(?![\w@(]|\.\w)"
)
"""Somebody on a host, as ssh and prompts write it; not the version of a symbol."""

LABELS = r"(?<![\w./@-])(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+"
"""The parts of a host's full name but for the last one."""

NO_CODE = r"(?![\w(\[-]|\.\w)"
"""What does not follow upon a host's name: a call, or another part."""

_INNER = r"internal|localdomain|lan|corp|intra|intranet"
_COUNTRIES = (
    r"ae|ar|at|au|be|bg|br|ca|ch|cn|cz|de|dk|ee|es|eu|fi|fr|gr|hk|hr|hu|id|ie|il|in|ir|is|it|jp"
    r"|ke|kr|kz|lt|lu|lv|mx|my|ng|nl|no|nz|ph|pk|pl|pt|qa|ro|ru|sa|se|sg|si|sk|th|tr|tw|ua|uk|vn|za"
)
_NAMED_LIKE_CODE = r"ar|at|id|in|ir|is|my|no|pt|si|th"
_BELOW_COUNTRIES = rf"(?:ac|co|com|edu|gov|org)\.(?:{_COUNTRIES})"

_BEFORE_PORT = rf"(?:{_COUNTRIES})(?=:\d{{2,5}}(?!\d))"

NAME_HOSTNAME = re.compile(
    rf"{LABELS}(?:{_INNER}|com|org|edu|gov|mil|{_BELOW_COUNTRIES}|{_BEFORE_PORT}){NO_CODE}",
    re.IGNORECASE,
)
"""Full names of hosts that are also told from the names of modules."""

HOSTNAME = re.compile(
    rf"{LABELS}(?:{_INNER}|local|home|cluster|com|net|org|edu|gov|mil|cloud|ai|io"
    rf"|{_BELOW_COUNTRIES}|{_BEFORE_PORT}|(?!(?:{_NAMED_LIKE_CODE})\b)(?:{_COUNTRIES})){NO_CODE}",
    re.IGNORECASE,
)
"""Full names of hosts in a text. Domains that are also endings of files or attributes (.py, .sh,
.is, .in) are not looked for."""

HOME_PARENTS = ("/home/", "/Users/", "/users/", "/u/", "/scratch/", "\\Users\\", ":/Users/")
"""Folders under which each user has one, with what stands around their names; /data/home/ and the
like contain them."""

HOME = re.compile(
    r"(?:/home|/Users|/users|(?<!\w)/u|(?<!\w)/scratch|[A-Za-z]:[\\/]+Users)[\\/]+"
    r"([A-Za-z0-9_][\w.@+-]*)"
)
"""A user's own folder."""


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
