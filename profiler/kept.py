"""Diagnoses that were kept: with a run, or in a bundle. Anybody may have written them."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from .diagnosis import SLOTS, Diagnosis
from .run.files import read_whole

MAX_FINDINGS = 200
MAX_RANKS = 100_000
MAX_COUNT = 10**9


def read_diagnosis(path: Path) -> Diagnosis | None:
    """Return a kept diagnosis; None where there is none, or none that a report can show."""
    try:
        found = msgspec.json.decode(read_whole(path), type=Diagnosis)
    except (OSError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return found if is_sound(found) else None


def is_sound(diagnosis: Diagnosis) -> bool:
    """Whether slots, numbers and lengths are such that every report can show them."""
    run = diagnosis.run
    counts = 0 <= run.steps < MAX_COUNT and 0 <= run.world_size < MAX_COUNT
    few = len(diagnosis.findings) <= MAX_FINDINGS and len(diagnosis.ranks) <= MAX_RANKS
    if not counts or not few:
        return False
    tables = [diagnosis.breakdown, *(rank.breakdown for rank in diagnosis.ranks)]
    numbers = [diagnosis.verdict.confidence, *(v for table in tables for v in table.values())]
    for finding in diagnosis.findings:
        saving = finding.saving
        numbers += [saving.low, saving.mid, saving.high]
    # What is a share must be one; what is measured must be a number.
    shares = all(-0.01 <= number <= 1.01 for number in numbers)
    others = [item.value for finding in diagnosis.findings for item in finding.evidence]
    others += [finding.speedup for finding in diagnosis.findings]
    if run.step_ms is not None:
        others += [run.step_ms.median, run.step_ms.p90]
    others.append(run.startup_s or 0.0)
    known = all(set(table) <= set(SLOTS) for table in tables)
    return shares and all(map(math.isfinite, others)) and known
