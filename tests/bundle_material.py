"""What the tests of bundles share: a real recorded run, and secrets to plant in it."""

from __future__ import annotations

import base64
import gzip
import random
import string
import subprocess
import sys
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

TRAINING = Path(__file__).parent / "scenarios" / "tiny_training.py"
ALPHANUMERIC = string.ascii_letters + string.digits
PEAK_KIB = """
import re, resource
own = int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
peak_kib = max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""The end of a program that tells its own peak memory, Linux. Its `ru_maxrss` would tell at least
what the process that started it had used by then."""


def record(folder: Path, *words: str) -> Path:
    """Record a small training into `folder`."""
    command = [sys.executable, "-m", "boundscope", "run", "-o", str(folder), "--", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@dataclass(frozen=True)
class Secret:
    """A planted secret: a text that carries it, and what must not be found afterwards."""

    kind: str
    text: str
    needles: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """The text as words of a command; a shell leaves what is in quotes together."""
        return [self.text] if "'" in self.text else self.text.split(" ")


def _made(rng: random.Random, count: int, alphabet: str = ALPHANUMERIC, digits: bool = True) -> str:
    while True:
        text = "".join(rng.choice(alphabet) for _ in range(count))
        if any(c.isdigit() for c in text) == digits and any(c.isalpha() for c in text):
            return text


ESCAPED_JSON = r"{{\"token\":\"{}\"}}"
PUNCTUATION = "!%&*+,-./:;=?^_~|"
"""What passwords have in them; quotes, brackets and spaces end a value that stands in no quotes."""


def _password(rng: random.Random, *, digits: bool = True) -> str:
    """Like one that a person or a program makes: signs in the middle of it."""
    letters = ALPHANUMERIC if digits else string.ascii_letters
    signs = "".join(rng.choice(PUNCTUATION) for _ in range(2))
    return _made(rng, 6, letters, digits) + signs + _made(rng, 6, letters, digits)


def _word(rng: random.Random) -> str:
    syllables = ("ka", "ro", "mi", "zu", "ne", "ta", "lo", "vi", "shu", "bre", "dan", "fel", "qui")
    return "".join(rng.choice(syllables) for _ in range(4))


def _hex(rng: random.Random, count: int) -> str:
    return _made(rng, count, "0123456789abcdef")


def _mac(rng: random.Random) -> str:
    return ":".join(_hex(rng, 2) for _ in range(6))


def _uuid(rng: random.Random) -> str:
    return "-".join(_hex(rng, count) for count in (8, 4, 4, 4, 12))


def _ipv6(rng: random.Random) -> str:
    return "fd" + _hex(rng, 2) + ":" + ":".join(_hex(rng, 4) for _ in range(7))


def _ipv4(rng: random.Random) -> str:
    return ".".join(["10", *(str(rng.randint(17, 250)) for _ in range(3))])


def _jwt(rng: random.Random) -> str:
    return f"eyJ{_made(rng, 30)}.eyJ{_made(rng, 60)}.{_made(rng, 43)}"


def _url(rng: random.Random) -> Secret:
    user, password, host = _word(rng), _made(rng, 14), f"git.{_word(rng)}.example"
    text = f"https://{user}:{password}@{host}/{_word(rng)}/code.git"
    return Secret("git remote", f"origin {text}", (user, password, host))


def _login(rng: random.Random) -> Secret:
    """An address whose host may be kept: who logs in with what, and its parameters, never are."""
    user, password, signature = _word(rng), _password(rng).replace("/", "_"), _made(rng, 9)
    text = f"postgres://{user}:{password}@db.internal/x?sig={signature}"
    return Secret("login in an address", f"to {text}", (f"{user}:", password, signature))


def _peer(rng: random.Random) -> Secret:
    """A host of which only an option tells that it is one."""
    name = f"acme-{_word(rng)}"
    return Secret("peer", f"--master_addr={name}", (name,))


def _plain(
    kind: str, make: Callable[[random.Random], str], around: str = "{}"
) -> Callable[..., Secret]:
    def secret(rng: random.Random) -> Secret:
        value = make(rng)
        return Secret(kind, around.format(value), (value,))

    return secret


KINDS: tuple[Callable[[random.Random], Secret], ...] = (
    _plain("github", lambda rng: "ghp_" + _made(rng, 36)),
    _plain("hugging face", lambda rng: "hf_" + _made(rng, 34)),
    _plain("aws key id", lambda rng: "AKIA" + _made(rng, 16, string.ascii_uppercase + "234567")),
    _plain("openai", lambda rng: "sk-proj-" + _made(rng, 48)),
    _plain("slack", lambda rng: f"xoxb-{rng.randint(10**10, 10**11)}-{_made(rng, 24)}"),
    _plain("jwt", _jwt),
    _plain("bearer", lambda rng: _made(rng, 18), "Authorization: Bearer {}"),
    _url,
    _plain("option token", lambda rng: _made(rng, 12), "--token {}"),
    _plain("option api key", lambda rng: _made(rng, 10), "--api-key={}"),
    _plain("password", lambda rng: _made(rng, 9), "db_password={}"),
    _plain("password with signs", _password, "dbPassword={}"),
    _plain("password without digits", lambda rng: _password(rng, digits=False), "--pass {}"),
    _plain(
        "password in JSON", lambda rng: _made(rng, 12, digits=False), '{{\\"token\\":\\"{}\\"}}'
    ),
    _login,
    _peer,
    _plain("random base64", lambda rng: _made(rng, 40)),
    _plain("random hex", lambda rng: _hex(rng, 40)),
    _plain("ipv4", _ipv4, "peer {} is gone"),
    _plain("ipv6", _ipv6, "peer [{}] is gone"),
    _plain("mac", _mac, "link {} down"),
    _plain("gpu uuid", lambda rng: f"GPU-{_uuid(rng)}"),
    _plain("serial", lambda rng: str(rng.randint(10**12, 10**13)), "Serial Number: {}"),
    _plain("board serial", lambda rng: _made(rng, 10, ALPHANUMERIC.upper()), "board_serial={}"),
    _plain("short gpu uuid", lambda rng: "GPU-" + _hex(rng, 8), "CUDA_VISIBLE_DEVICES={}"),
    _plain("guid", lambda rng: ":".join(_hex(rng, 4) for _ in range(4)), "node guid {}"),
    _plain("user", _word, "/home/{0}/data/x.bin of {0}"),
    _plain("user elsewhere", _word, "{0}@gpu17 C:\\Users\\{0}\\x.txt"),
    _plain("e-mail", lambda rng: f"{_word(rng)}@{_word(rng)}.example"),
    _plain("path", _word, "/mnt/{}/set/part.bin"),
    _plain("path with spaces", _word, "open('/mnt/our data/{}/x.bin')"),
    _plain("path of a partition", _word, "/data/client={}/date=2/x.parquet"),
    _plain("host of a country", lambda rng: f"n{rng.randint(10, 99)}.{_word(rng)}.se", "at {}:22"),
    _plain("host", lambda rng: f"trn-{_word(rng)}-{rng.randint(10, 99)}.cluster.internal"),
)


def secrets(count_each: int = 10, seed: int = 6) -> list[Secret]:
    rng = random.Random(seed)
    return [make(rng) for make in KINDS for _ in range(count_each)]


def forms(needle: str) -> Iterator[str]:
    """The needle as it is, and as it may be encoded."""
    yield needle
    yield needle.upper()
    yield needle.lower()
    yield urllib.parse.quote(needle, safe="")
    yield needle.encode().hex()
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + needle.encode()).decode()
        yield encoded[4:-4] if len(encoded) > 16 else encoded
    yield needle.replace("/", "\\/")


def everything_in(bundle: Path) -> dict[str, bytes]:
    """Every byte of a bundle: the file itself, its list of names, and its members, unpacked."""
    found = {"the file": bundle.read_bytes()}
    with zipfile.ZipFile(bundle) as file:
        found["names"] = "\n".join(file.namelist()).encode()
        for name in file.namelist():
            data = file.read(name)
            found[name] = gzip.decompress(data) if name.endswith(".gz") else data
    return found


def leaks(planted: list[Secret], contents: dict[str, bytes]) -> list[str]:
    """Which secrets are found where."""
    found = []
    for where, data in contents.items():
        for secret in planted:
            for needle in secret.needles:
                if any(form.encode() in data for form in forms(needle) if len(form) > 5):
                    found.append(f"{secret.kind} in {where}: {needle}")
    return found
