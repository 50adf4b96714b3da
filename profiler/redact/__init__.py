"""Takes what names people, machines and secrets out of a recording, by stable pseudonyms."""

from __future__ import annotations

from .kinds import GROUPS, KEEPABLE, parse_keep
from .known import Known
from .redactor import Redaction, Redactor

__all__ = ["GROUPS", "KEEPABLE", "Known", "Redaction", "Redactor", "parse_keep"]
