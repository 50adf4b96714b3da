"""The sentence that names the bound: what holds the step up, where, and by which link or op."""

from __future__ import annotations

from .diagnosis import Finding
from .links import busiest_link
from .rules.base import MIN_SHARE, Evidenced
from .rules.unsteady import FINDINGS as UNSTEADY
from .text import milliseconds, percent, scaled, short_name

INPUT_WORDS = {
    "batch-prepared-in-loop": "prepares the batch in the loop",
    "exposed-copies": "copies the batch to the device",
    "pageable-copies": "copies the batch to the device",
}
"""What an input-bound step does, by its finding; all others wait for the loader."""


def headline(case: Evidenced, top: str, findings: list[Finding]) -> str:
    """The verdict's sentence on a slot that stands out."""
    share = percent(case.scores[top])
    mine = [f for f in findings if f.bound == top]
    # That steps are unlike each other tells no cause: it is the headline's where nothing else is.
    finding = next((f for f in mine if f.id not in UNSTEADY), next(iter(mine), None))
    words = {
        "input": _input_headline,
        "network": _network_headline,
        "storage": lambda *_: (
            f"Storage-bound: {share} of the time the loop {_writing(finding)}{_at(finding)}."
        ),
        "evaluation": lambda *_: (
            f"Evaluation-bound: {share} of the time goes into validation{_at(finding)}."
        ),
        "host": lambda *_: (
            f"Host-bound: {share} of every step is {_held_up_by(finding)}"
            f"{_at(finding)}, not arithmetic."
        ),
        "compute": lambda *_: f"Compute-bound: {share} of every step is arithmetic{_op(finding)}.",
        "memory": lambda *_: (
            f"Memory-bound: {share} of every step moves data through memory{_op(finding)}."
        ),
        "imbalance": lambda *_: (
            f"Imbalance-bound: {share} of every step ranks wait for a slower rank."
        ),
    }
    text = words[top](case, share, finding)
    if case.blame.charged.get(top, 0.0) >= MIN_SHARE:
        text = f"{text.removesuffix('.')}; the other ranks wait for rank {case.blame.rank}."
    return text


def _held_up_by(finding: Finding | None) -> str:
    """What the host is at, by the finding that holds most of the slot."""
    named = {
        "garbage-collection": "garbage collection, Python and dispatch",
        "cpu-throttled": "waiting for the CPU quota, Python and dispatch",
        "recompilation": "compilation, Python and dispatch",
        "synchronising-calls": "waiting for the device, Python and dispatch",
    }
    return named.get(finding.id if finding else "", "Python and dispatch")


def _writing(finding: Finding | None) -> str:
    """What the loop writes, by the finding that holds most of the slot."""
    written = {
        "checkpoint-in-loop": "waits for a checkpoint to be written",
        "log-in-loop": "writes its log",
    }
    return written.get(finding.id if finding else "", "waits for something to be written")


def _input_headline(case: Evidenced, share: str, finding: Finding | None) -> str:
    rank = case.worst_rank("input")
    where = f" on rank {rank.rank}" if len(case.features.ranks) > 1 else ""
    # Beside a device the host may wait for longer than the device idles.
    spent = max(rank.phase_ms["loader"], rank.phase_ms["preparation"])
    if rank.device:
        spent = rank.shares["input"] * float(rank.step_ms.mean())
    what = INPUT_WORDS.get(finding.id if finding else "", "waits for the next batch")
    return (
        f"Input-bound: {share} of every step ({milliseconds(spent)}) {what}{where}{_at(finding)}."
    )


def _network_headline(case: Evidenced, share: str, finding: Finding | None) -> str:
    link = busiest_link(case.features.run)
    collective = next((p.collective for p in finding.where if p.collective), "") if finding else ""
    operation = (collective or "communication").split(":")[-1].replace("_", "-")
    if finding is not None and finding.id == "peer-copies":
        return f"Network-bound: {share} of the time copies from device to device run exposed."
    text = f"Network-bound: {share} of every step waits for {operation}"
    if link is None:
        return text + "."
    if link.is_loopback:
        return f"{text} over loopback, at {scaled(link.peak_bits_per_s, 'bit/s')}."
    if link.speed_bits_per_s:
        speed = scaled(link.speed_bits_per_s, "bit/s")
        return f"{text} on {link.name}, which runs at {percent(link.share)} of {speed}."
    return f"{text} on {link.name}, at {scaled(link.peak_bits_per_s, 'bit/s')}."


def _at(finding: Finding | None) -> str:
    """The first file and line of a finding, as " (train.py:12)"."""
    if finding is None:
        return ""
    for where in finding.where:
        if where.file and where.line:
            return f" ({where.file.rsplit('/', 1)[-1]}:{where.line})"
    return ""


def _op(finding: Finding | None) -> str:
    if finding is None:
        return ""
    op = next((where.op for where in finding.where if where.op), None)
    return f", most of it in {short_name(op)}{_at(finding)}" if op else _at(finding)
