"""What a bundle is made of: its members, its own manifest, and the limits that it is read within.

A bundle is a ZIP file. `bundle.json` names every other member with its size and SHA-256;
`diagnosis.json` is the diagnosis that was made from the whole recording; `report.md` and
`environment.txt` are for those who have no boundscope. Below `run/` lies the redacted run folder
in its own format, or below `traces/` the traces of a run that had nothing else.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from ..library import BUNDLE_SUFFIX
from ..redact.redactor import Redaction

SCHEMA = 1
SUFFIX = BUNDLE_SUFFIX

MANIFEST = "bundle.json"
DIAGNOSIS = "diagnosis.json"
REPORT = "report.md"
ENVIRONMENT = "environment.txt"
RUN_FOLDER = "run"
TRACE_FOLDER = "traces"

DEFAULT_MAX_BYTES = 25_000_000
"""GitHub takes attachments of issues up to 25 MB."""

MAX_FILE_BYTES = 256 << 20
"""A larger bundle is not opened; made by default they have a tenth of that."""

MAX_MEMBERS = 8_192
"""A run of a thousand ranks has six files a rank."""

MAX_DIRECTORY_BYTES = MAX_MEMBERS * 160
"""Size of the ZIP file's list of members, which is read before anything can be checked."""

MAX_RATIO = 300
"""Deflate can pack 1,032 to 1; traces and records reach 10 to 60."""

SMALL_BYTES = 1 << 20
"""Below this size a ratio says nothing."""

MAX_JSON_BYTES = 16 << 20
"""`bundle.json`, `diagnosis.json` and the run's manifest; real ones stay below 1 MB."""

MAX_UNPACKED_BYTES = 1 << 30
"""All members together, traces unpacked. 25 MB of gzip hold about 400 MB of trace."""

MAX_BRACES = 10_000_000
"""Opening braces in all traces: an event has one or two, and every event costs memory."""

MAX_TRACE_BYTES = MAX_UNPACKED_BYTES // 2
MAX_TRACE_EVENTS = MAX_BRACES // 4
"""What is written stays well below what is read."""

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,119}"
MEMBER = re.compile(
    rf"{re.escape(MANIFEST)}|{re.escape(DIAGNOSIS)}|{re.escape(REPORT)}|{re.escape(ENVIRONMENT)}"
    rf"|{RUN_FOLDER}/(?:manifest|roofs)\.json"
    rf"|{RUN_FOLDER}/node-{_PART}/{_PART}\.jsonl"
    rf"|{RUN_FOLDER}/rank-\d{{1,9}}-\d{{1,12}}(?:-\d{{1,6}})?/(?:(?:steps|stacks[\w-]{{0,20}})\.jsonl"
    rf"|trace-\d{{1,6}}\.json\.gz)"
    rf"|{TRACE_FOLDER}/rank-\d{{1,9}}-\d{{1,6}}\.json\.gz"
)
"""The names that a member can have; anything else is no bundle of ours."""


class Member(msgspec.Struct, frozen=True):
    """One file in the bundle: `size` in bytes, unpacked, and its SHA-256 in hexadecimal."""

    name: str
    size: int
    sha256: str
    what: str = ""


class LeftOut(msgspec.Struct, frozen=True):
    """Something of the recording that is not, or not as a whole, in the bundle, and why."""

    what: str
    reason: str


class BundleManifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """`bundle.json`.

    `same_from_data` tells whether a diagnosis made anew from the bundle gave the stored one to
    the digit when the bundle was made; None where that was not tried: the traces are cut, or too
    large to read them once more.
    """

    schema: int
    kind: Literal["run", "traces"]
    version: str
    made_ns: int
    members: list[Member]
    left_out: list[LeftOut] = []
    redacted: list[Redaction] = []
    kept: list[str] = []
    same_from_data: bool | None = None
