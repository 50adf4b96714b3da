"""Paths shortened to what says nothing of the machine: relative to the project, packages, torch."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...collectors.origins import TORCH_PARTS
from .kinds import HOME

SHORTENED = "…"
"""Stands for the part of a path that was left out."""

_DRIVE = r"[A-Za-z]:[\\/]+|\\\\"
_FILE = r"file:/{2,3}"
_ABOVE = r"~[\w-]*[\\/]|\.\.[\\/]"
_PATHLIKE = r"(?=[\w.@+~$%{-])"
_SPACED = r"(?:[^\\/:*?\"<>|;\x00-\x1f]{1,80}\\+)*"
_REST = r"(?:\\[ ]|:(?=[^\s/\"'<>|;`]{1,64}/)|[^\s:\"'<>|;`\x00-\x1f])+"

PATH = re.compile(
    rf"(?:(?<!\w)(?:{_DRIVE}){_SPACED}"
    rf"|{_FILE}"
    rf"|(?<![\w/…<>%)\]-])(?<!(?<!\w)\.)/+{_PATHLIKE}"
    rf"|(?<=(?<![\w-])-[A-Za-z])/{_PATHLIKE}"  # as compilers take them: -I/opt
    rf"|(?<![\w/\\])(?:{_ABOVE})"
    rf"){_REST}"
)
"""A path within a text. Once begun it goes on through signs that file names have, too: =(),[].
On Windows folders have spaces in them: what another backslash ends is one."""

_BEGINS = rf"(?:{_FILE}|/{{1,2}}(?![\s/])|{_ABOVE}|{_DRIVE})"
QUOTED_PATH = re.compile(
    rf"(?<!\\)(?:(\\*\")({_BEGINS}[^\"\n]{{1,4096}})\1|(\\*')({_BEGINS}[^'\n]{{1,4096}})\3)"
)
"""A path with whatever is in it, spaces as well."""

_PLACE = re.compile(r"\((?:\d{1,9}|\+?0x[0-9a-fA-F]{1,16})\)$")
_PAIRS = {")": "(", "]": "[", "}": "{"}

_LIBRARY = re.compile(r".*/((?:site|dist)-packages/.*)", re.DOTALL)
_STANDARD = re.compile(r".*/lib(?:64)?/(python[23][^/]*/.*)", re.DOTALL)
_TORCH = re.compile(rf".*/({TORCH_PARTS}(?:/.*)?)$", re.DOTALL)
_OWN = re.compile(
    r".*/((?:boundscope/(?:collectors|dashboard|profiler|__\w+\.py)|collectors/(?:inside|inject|beside))"
    r"(?:/.*)?)$",
    re.DOTALL,
)
_PROGRAM = re.compile(r".*/(bin/(?:python|pypy|torchrun|accelerate|deepspeed)[\w.]*)")
_SYSTEM = re.compile(r"/(?:proc|sys)/.*|/dev/(?:nvidia|kfd|dri|null|vd|sd|nvme).*")
_TOOLKITS = re.compile(r"(/usr/local/cuda[\d.-]*|/opt/rocm[\d.-]*)(?=/|$).*", re.DOTALL)
_SUFFIX = re.compile(
    r"\.(?:py|pyc|pyx|so|sh|cpp|cu|h|json|jsonl|gz|zip|tar|pt|pth|bin|ckpt|safetensors|onnx|yaml|yml"
    r"|toml|txt|log|csv|tsv|parquet|arrow|npy|npz|h5|jpg|jpeg|png|mp4|wav|db|lock|ipynb)$",
    re.IGNORECASE,
)
_ABSOLUTE = re.compile(r"/|\\\\|[A-Za-z]:[\\/]|~|file:/|\.\.(?:[\\/]|$)")


def is_outside(path: str) -> bool:
    """Whether the path leads somewhere by itself, not from the project's folder."""
    return _ABSOLUTE.match(path) is not None


def shortened(path: str, projects: Iterable[str]) -> str | None:
    """Return the path without what stands before package or project; None where it is in neither.

    `projects` are absolute folders, the innermost first. A relative path is returned as it is.
    """
    if path.startswith("<") or not is_outside(path):
        return path
    plain = path.replace("\\", "/").removeprefix("file://")
    for pattern in (_LIBRARY, _STANDARD, _OWN, _TORCH, _PROGRAM):
        match = pattern.match(plain)
        if match and "/../" not in plain:
            between = "lib/" if pattern is _STANDARD else ""
            return f"{SHORTENED}/{between}{match[1]}"
    for folder in projects:
        root = folder.replace("\\", "/").rstrip("/")
        if root and plain == root:
            return "."
        rest = plain[len(root) + 1 :]
        inside = root and plain.startswith(root + "/") and "/../" not in plain
        # Of a home folder only what lies directly in it belongs to a project.
        if inside and not ("/" in rest and is_home(root)):
            return rest
    if _SYSTEM.fullmatch(plain) or _TOOLKITS.fullmatch(plain):
        return plain
    return None


def is_home(folder: str) -> bool:
    """Whether a folder is a user's own."""
    match = HOME.search(folder)
    return match is not None and match.end() == len(folder)


def suffix(path: str) -> str:
    """Return the ending of a file's name where it is a common one, else ""."""
    match = _SUFFIX.search(path)
    return match.group().lower() if match else ""


def last_part(path: str) -> str:
    """Return the name of the file or folder itself."""
    return re.split(r"[\\/]+", path.rstrip("\\/"))[-1]


def without_tail(path: str) -> str:
    """Return what was found in a text without the signs of the sentence behind it.

    Those are full stops and the like, brackets that the path did not open, and the line in it.
    """
    place = _PLACE.search(path)
    if place is not None:
        return path[: place.start()]
    extra = {last: path.count(last) - path.count(first) for last, first in _PAIRS.items()}
    end = len(path)
    while end and (path[end - 1] in ".,!?*=([{" or extra.get(path[end - 1], 0) > 0):
        if path[end - 1] in extra:
            extra[path[end - 1]] -= 1
        end -= 1
    return path[:end]
