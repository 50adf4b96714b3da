"""The texts of a bundle: what is pasted into an issue, and the environment on its own."""

from __future__ import annotations

import re

from ...collectors.records import Process
from ..diagnosis import Diagnosis, Finding
from ..printable import printable
from ..recorded_facts import is_count
from ..report.escape import MAX_WORDS, escaped, slug
from ..report.places import describe_place
from ..run.load import Run
from ..text import duration, milliseconds, percent, plural, scaled

MAX_COMMENT = 65_536
"""Characters that an issue's comment may have on GitHub."""

AIM = 4_000
MAX_FINDINGS = 3
MAX_EVIDENCE = 3
MAX_HEADLINE = 400


def to_issue(diagnosis: Diagnosis, run: Run | None, file_name: str) -> str:
    """Return the Markdown for an issue: verdict, slots, findings, environment, how to open it."""
    findings = [_finding(number, f) for number, f in enumerate(diagnosis.findings, start=1)]
    findings = findings[:MAX_FINDINGS]
    while True:
        text = "\n".join(
            [
                f"**{escaped(diagnosis.verdict.headline, MAX_HEADLINE)}**",
                "",
                escaped(" · ".join(_facts(diagnosis))),
                "",
                _slots(diagnosis),
                *findings,
                *_doubts(diagnosis),
                "",
                *_details("Environment", environment_lines(diagnosis, run)),
                "",
                *_how_to_open(file_name),
            ]
        )
        if len(text) <= AIM or not findings:
            return text[:MAX_COMMENT]
        findings.pop()


def _facts(diagnosis: Diagnosis) -> list[str]:
    run = diagnosis.run
    facts = []
    if run.step_ms is not None:
        median, p90 = milliseconds(run.step_ms.median), milliseconds(run.step_ms.p90)
        facts.append(f"step {median} (p90 {p90})")
    facts += [plural(run.steps, "step"), plural(run.world_size, "rank")]
    if run.startup_s is not None:
        facts.append(f"start-up {duration(run.startup_s)}")
    if diagnosis.verdict.bound != "unknown":
        facts.append(f"confidence {diagnosis.verdict.confidence:.2f}")
    if run.status != "finished":
        code = "" if run.exit_code is None else f" (exit code {run.exit_code})"
        facts.append(run.status + code)
    return facts


def _slots(diagnosis: Diagnosis) -> str:
    shares = sorted(diagnosis.breakdown.items(), key=lambda item: -item[1])
    shown = [(slot, share) for slot, share in shares if share >= 0.005]
    head = " | ".join(slot for slot, _ in shown)
    values = " | ".join(percent(share) for _, share in shown)
    return f"| {head} |\n|{'---|' * len(shown)}\n| {values} |" if shown else "No slots are known."


def _finding(number: int, finding: Finding) -> str:
    saving = finding.saving
    lines = [
        "",
        f"{number}. **{escaped(finding.title or finding.id)}**: saves about "
        f"{percent(saving.mid)} of step time ({percent(saving.low)} to {percent(saving.high)})",
    ]
    lines += [f"   - at {escaped(describe_place(place))}" for place in finding.where[:1]]
    lines += [f"   - {escaped(item.text)}" for item in finding.evidence[:MAX_EVIDENCE]]
    return "\n".join(lines)


def _doubts(diagnosis: Diagnosis) -> list[str]:
    lines = [f"- warning `{slug(w.slug)}`: {escaped(w.text)}" for w in diagnosis.warnings[:3]]
    missing = ", ".join(f"{m.collector} ({m.reason})" for m in diagnosis.missing[:8])
    if missing:
        lines.append(f"- not measured: {escaped(missing)}")
    return ["", *lines] if lines else []


def _details(title: str, lines: list[str]) -> list[str]:
    body = "\n".join(line.replace("`", "'") for line in lines)
    return [f"<details><summary>{title}</summary>", "", "```", body, "```", "", "</details>"]


def _how_to_open(file_name: str) -> list[str]:
    name = re.sub(r"[^A-Za-z0-9_.+-]", "_", file_name)
    return [
        f"The run is in the attached `{name}`, redacted. `boundscope diagnose {name}`",
        "shows it, and so does `boundscope dashboard`. Without boundscope: it is a ZIP file, and",
        "the `*.json.gz` in it open in https://ui.perfetto.dev.",
    ]


def environment_text(diagnosis: Diagnosis, run: Run | None) -> str:
    """Return the environment as a text of its own."""
    return "\n".join(environment_lines(diagnosis, run)) + "\n"


def environment_lines(diagnosis: Diagnosis, run: Run | None) -> list[str]:
    """Return the environment in the words of torch's collect_env, as far as it was recorded."""
    if run is None:
        devices = ", ".join(diagnosis.run.devices) or "not recorded"
        return [f"Devices: {_one_line(devices)}", "Only traces: no more is recorded."]
    groups = run.manifest.environment
    python, hardware = groups.get("python", {}), groups.get("hardware", {})
    limits, launcher = groups.get("limits", {}), groups.get("launcher", {})
    process = _process(run)
    rows = [
        ("PyTorch version", process.torch if process else ""),
        ("boundscope version", run.manifest.version),
        ("OS", " ".join(filter(None, [python.get("os"), _in_brackets(python.get("machine"))]))),
        ("Libc version", python.get("libc", "")),
        ("Python version", process.python if process else python.get("python", "")),
        ("Python platform", python.get("kernel", "")),
        ("GPU models and configuration", ", ".join(_gpus(process)) or hardware.get("gpus", "")),
        ("Nvidia driver version", hardware.get("gpu_driver", "")),
        ("CPU", _cpu(hardware)),
        ("Memory", _bytes(hardware.get("memory_bytes", ""))),
        ("Limits", _pairs(limits)),
        ("Launcher", _pairs(launcher)),
        ("Scheduler", _pairs(groups.get("scheduler", {}))),
        ("Backend", process.facts.get("backend", "") if process else ""),
        ("Threads", process.facts.get("threads", "") if process else ""),
        ("Git", _pairs(groups.get("git", {}))),
        ("Command", " ".join(run.manifest.command)),
    ]
    return [f"{name}: {_one_line(value)}" for name, value in rows if value]


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())[:MAX_WORDS]


def _process(run: Run) -> Process | None:
    found = [rank.process for rank in run.ranks if rank.process is not None]
    return next(iter([*found, *run.processes]), None)


def _gpus(process: Process | None) -> list[str]:
    if process is None:
        return []
    return [value for name, value in process.facts.items() if name.startswith("device.")]


def _cpu(hardware: dict[str, str]) -> str:
    model = hardware.get("cpu", "")
    cores = hardware.get("cpus_physical", "")
    logical = hardware.get("cpus_logical", "")
    counts = ", ".join(filter(None, [cores and f"{cores} cores", logical and f"{logical} CPUs"]))
    return ", ".join(filter(None, [model, counts]))


def _bytes(text: str) -> str:
    return scaled(float(text), "iB", 1024.0) if is_count(text) else ""


def _in_brackets(text: str | None) -> str:
    return f"({text})" if text else ""


def _pairs(facts: dict[str, str]) -> str:
    shown = {
        name: _bytes(value) if name.endswith("_bytes") and is_count(value) else value
        for name, value in facts.items()
    }
    return ", ".join(f"{name.removesuffix('_bytes')} {value}" for name, value in shown.items())
