"""From a run folder to a `Diagnosis`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from ..collectors.records import Gap
from .device_roofs import keep_device_roofs
from .diagnosis import (
    SCHEMA,
    SLOTS,
    Diagnosis,
    Finding,
    Missing,
    RankBreakdown,
    RunSummary,
    StepTime,
    Verdict,
    Warning_,
)
from .errors import BoundscopeError, UnusableData, UsageError
from .features import Features, derive, derive_from
from .machine import calibrate
from .machine.roofs import Roofs
from .recorded_facts import count_in
from .rules import discover
from .rules.base import MIN_SHARE, RISKS, Evidenced
from .run.files import read_whole
from .run.load import Run, load_run
from .run.manifest import FILE_NAME
from .verdict import is_healthy, judge

ROOFS_FILE = "roofs.json"
"""The machine's roofs, kept in the run folder, so that it is judged alike on another machine."""


def diagnose_run(folder: Path, *, measure_roofs: bool = False) -> Diagnosis:
    """Diagnose one run folder.

    `measure_roofs`: measure this machine's roofs when they are missing; only right after the run,
    on the machine that ran it. Raises UnusableData when `folder` is no run.
    """
    run = load_run(folder)
    return diagnose_features(derive(run, find_roofs(run, measure=measure_roofs)))


def diagnose_traces(paths: Sequence[Path]) -> Diagnosis:
    """Diagnose traces that nobody here recorded, one file a rank (or more).

    Raises UnusableData when none of them can be read.
    """
    from .trace_run import load_traces

    run, inputs, warnings = load_traces(paths)
    return diagnose_features(derive_from(run, inputs, None, warnings))


def diagnose_path(path: Path) -> Diagnosis:
    """Diagnose a run folder, a bundle, a trace file, or a folder of rank traces."""
    from .bundle.reading import is_bundle, open_bundle

    _must_exist(path)
    if (path / FILE_NAME).exists():
        return diagnose_run(path)
    if is_bundle(path):
        return open_bundle(path).diagnosis
    return diagnose_traces(_traces_of(path))


def diagnose_paths(paths: Sequence[Path]) -> Diagnosis:
    """Diagnose one path as `diagnose_path` does; of several, what they tell together.

    Traces and folders of traces are the ranks of one job. A run folder among them is that job's:
    they then say what it does not. Raises UsageError where there is more than one run, or a bundle.
    """
    from .bundle.reading import is_bundle

    if len(paths) == 1:
        return diagnose_path(paths[0])
    runs, bundles = [], []
    files: dict[Path, Path] = {}
    for path in paths:
        _must_exist(path)
        if (path / FILE_NAME).exists():
            runs.append(path)
        elif is_bundle(path):
            bundles.append(path)
        else:
            files |= {file.resolve(): file for file in _traces_of(path)}
    if bundles or len({run.resolve() for run in runs}) > 1:
        named = " and ".join(str(path) for path in [*bundles, *runs][:2])
        raise UsageError(
            "several-runs",
            f"Only traces of one job are diagnosed together, at most with its run: not {named}.",
            "diagnose them one by one; compare two runs: boundscope compare BASE NEW",
        )
    if not runs:
        return diagnose_traces(list(files.values()))
    from .joined import derive_joined

    run = load_run(runs[0])
    roofs = find_roofs(run, measure=False)
    return diagnose_features(derive_joined(run, roofs, list(files.values())))


def _must_exist(path: Path) -> None:
    if not path.exists():
        raise UnusableData("no-such-path", f"{path} does not exist.", "see: boundscope runs")


def _traces_of(path: Path) -> list[Path]:
    """The trace files that a path stands for; raises UnusableData where there is none, and for a
    run folder without its manifest."""
    from .trace_run import trace_files

    if any(path.glob("rank-*-*/steps.jsonl")):
        raise UnusableData(
            "no-manifest",
            f"{path} looks like a run folder, but its {FILE_NAME} is missing.",
            "copy it from where the run was recorded, or name one of the traces in rank-…",
        )
    files = trace_files(path)
    if not files:
        raise UnusableData(
            "nothing-to-diagnose",
            f"{path} is neither a run folder nor does it hold traces (.json, .json.gz).",
            "name the folder that boundscope run made, or a torch-profiler trace",
        )
    return files


@dataclass(frozen=True)
class Diagnosed(Features):
    """Features of a part of a recording, with the diagnosis that was made from the whole of it."""

    diagnosis: Diagnosis | None = None


def diagnose_features(features: Features) -> Diagnosis:
    """Judge features: the same features always give the same diagnosis."""
    if isinstance(features, Diagnosed) and features.diagnosis is not None:
        return features.diagnosis
    case = Evidenced(features)
    findings: list[Finding] = []
    if features.ranks:
        for find in discover().values():
            findings += find(case)
    findings.sort(key=lambda finding: -finding.saving.mid)
    verdict = judge(case, findings)
    findings = [finding for finding in findings if _is_claimed(finding, verdict)]
    # What explains the verdict comes first; within that and the rest the largest saving does.
    findings.sort(key=lambda finding: finding.bound != verdict.bound)
    if verdict.bound == "balanced" and is_healthy(case, findings):
        # Nothing is wrong: the findings say where the time goes, and advise nothing but on risks.
        findings = [f if f.id in RISKS else msgspec.structs.replace(f, fixes=[]) for f in findings]
    return Diagnosis(
        schema=SCHEMA,
        run=_summary(features),
        verdict=verdict,
        breakdown=_rounded(features.shares) if features.ranks else _nothing_known(),
        ranks=[RankBreakdown(r.rank, _rounded(r.shares)) for r in features.ranks],
        findings=findings,
        missing=_missing(features.run.gaps),
        warnings=_distinct(features.warnings),
    )


def _is_claimed(finding: Finding, verdict: Verdict) -> bool:
    """Whether a finding is worth naming: it saves something, is a risk, or explains the verdict."""
    worth = finding.saving.mid >= MIN_SHARE or finding.id in RISKS
    return worth or finding.bound == verdict.bound


def find_roofs(run: Run, *, measure: bool) -> Roofs | None:
    """The roofs kept with the run, else those kept for this machine, else measured ones."""
    kept = run.folder / ROOFS_FILE
    with contextlib.suppress(OSError, ValueError, RecursionError):
        return msgspec.json.decode(read_whole(kept), type=Roofs)
    process = next((rank.process for rank in run.ranks if rank.process), None)
    if process is None or not measure:
        return None
    facts = process.facts.items()
    keep_device_roofs(run.folder, [value for name, value in facts if name.startswith("device.")])
    threads = count_in(process.facts, "threads") or None
    roofs = calibrate.load(threads or os.cpu_count() or 1, process.torch)
    if roofs is None:
        with contextlib.suppress(BoundscopeError, OSError):
            roofs = calibrate.measure(process.facts["executable"], threads)
    if roofs is not None:
        with contextlib.suppress(OSError):
            kept.write_bytes(msgspec.json.format(msgspec.json.encode(roofs)))
    return roofs


def _summary(features: Features) -> RunSummary:
    run, ranks = features.run, features.ranks
    manifest = run.manifest
    times = np.concatenate([rank.step_ms for rank in ranks]) if ranks else np.empty(0)
    step = None
    if len(times):
        step = StepTime(round(float(np.median(times)), 4), round(float(np.quantile(times, 0.9)), 4))
    startup = None
    if ranks and ranks[0].timeline.steady.any() and ranks[0].timeline.source != "trace":
        line = ranks[0].timeline
        startup = round((int(line.start_ns[line.steady][0]) - manifest.started_ns) * 1e-9, 3)
    return RunSummary(
        id=manifest.id,
        status=run.status,
        exit_code=manifest.exit_code,
        world_size=run.world_size,
        steps=max((rank.timeline.steps for rank in ranks), default=0),
        step_ms=step,
        devices=_devices(features),
        startup_s=startup,
        name=manifest.name,
        steady_steps=features.steady_steps,
    )


def _devices(features: Features) -> list[str]:
    """Names of the devices that the ranks used; the CPU's where they used no other."""
    run = features.run
    names = [
        value
        for rank in run.ranks
        if rank.process is not None
        for name, value in rank.process.facts.items()
        if name.startswith("device.")
    ]
    names += [rank.roofs.device for rank in features.ranks if rank.roofs and rank.roofs.device]
    if names:
        return sorted(set(names))
    cpu = run.manifest.environment.get("hardware", {}).get("cpu")
    return [cpu] if cpu and run.ranks else []


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    """Shares to six digits that still sum to 1; the largest one takes the rounding."""
    rounded = {slot: round(shares[slot], 6) for slot in SLOTS}
    largest = max(rounded, key=lambda slot: rounded[slot])
    rounded[largest] = round(rounded[largest] + 1.0 - sum(rounded.values()), 6)
    return rounded


def _nothing_known() -> dict[str, float]:
    return {**dict.fromkeys(SLOTS, 0.0), "other": 1.0}


def _missing(gaps: Iterable[Gap]) -> list[Missing]:
    seen: dict[tuple[str, str], Missing] = {}
    for gap in gaps:
        key = (gap.collector, gap.reason)
        seen.setdefault(key, Missing(gap.collector, gap.reason, gap.effect, gap.detail))
    return list(seen.values())


def _distinct(warnings: list[Warning_]) -> list[Warning_]:
    """Each warning once; what several ranks have in common is said of the first, with a count."""
    seen: dict[tuple[str, str], list[str]] = {}
    for warning in warnings:
        who, separator, text = warning.text.partition(": ")
        of_rank = bool(separator) and who.startswith("rank ")
        key = (warning.slug, text if of_rank else warning.text)
        seen.setdefault(key, []).append(who if of_rank else "")
    result = []
    for (slug, text), owners in seen.items():
        named = sorted({owner for owner in owners if owner})
        prefix = f"{named[0]}: " if named else ""
        suffix = f" (and {len(named) - 1} more ranks)" if len(named) > 1 else ""
        result.append(Warning_(slug, f"{prefix}{text}{suffix}"))
    return result
