"""A diagnosis with everything private replaced by the pseudonyms of the run's records."""

from __future__ import annotations

import msgspec

from ..diagnosis import Diagnosis, Evidence, Finding, Fix, Missing, Place, RunSummary, Warning_
from .redactor import Redactor

WHERE = "diagnosis"


def redacted_diagnosis(diagnosis: Diagnosis, redactor: Redactor, name: str = "") -> Diagnosis:
    """Return the diagnosis with pseudonyms; its figures stay. `name` stands for id and name."""
    return msgspec.structs.replace(
        diagnosis,
        run=_run(diagnosis.run, redactor, name),
        verdict=msgspec.structs.replace(
            diagnosis.verdict, headline=redactor.text(diagnosis.verdict.headline, WHERE)
        ),
        findings=[_finding(finding, redactor) for finding in diagnosis.findings],
        missing=[_missing(missing, redactor) for missing in diagnosis.missing],
        warnings=[
            Warning_(warning.slug, redactor.text(warning.text, WHERE))
            for warning in diagnosis.warnings
        ],
    )


def _run(run: RunSummary, redactor: Redactor, name: str) -> RunSummary:
    return msgspec.structs.replace(
        run,
        id=name or redactor.text(run.id, WHERE),
        name=name or redactor.text(run.name, WHERE),
        devices=[redactor.text(device, WHERE) for device in run.devices],
    )


def _finding(finding: Finding, redactor: Redactor) -> Finding:
    return msgspec.structs.replace(
        finding,
        title=redactor.text(finding.title, WHERE),
        evidence=[_evidence(evidence, redactor) for evidence in finding.evidence],
        where=[_place(place, redactor) for place in finding.where],
        fixes=[_fix(fix, redactor) for fix in finding.fixes],
    )


def _evidence(evidence: Evidence, redactor: Redactor) -> Evidence:
    return msgspec.structs.replace(
        evidence,
        text=redactor.text(evidence.text, WHERE),
        quantity=redactor.op_name(evidence.quantity, WHERE),
    )


def _place(place: Place, redactor: Redactor) -> Place:
    return msgspec.structs.replace(
        place,
        file=place.file and redactor.path(place.file, WHERE),
        function=place.function and redactor.op_name(place.function, WHERE),
        op=place.op and redactor.kernel_name(place.op, WHERE)
        if place.kernel
        else place.op and redactor.op_name(place.op, WHERE),
        kernel=place.kernel and redactor.kernel_name(place.kernel, WHERE),
        collective=place.collective and redactor.op_name(place.collective, WHERE),
    )


def _fix(fix: Fix, redactor: Redactor) -> Fix:
    return msgspec.structs.replace(
        fix,
        title=redactor.text(fix.title, WHERE),
        detail=redactor.text(fix.detail, WHERE),
        snippet=redactor.text(fix.snippet, WHERE),
    )


def _missing(missing: Missing, redactor: Redactor) -> Missing:
    return msgspec.structs.replace(
        missing,
        collector=redactor.text(missing.collector, WHERE),
        detail=redactor.text(missing.detail, WHERE),
        effect=redactor.text(missing.effect, WHERE),
    )
