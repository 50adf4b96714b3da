"""Chooses the bound from what the ranks' slots say once causes are followed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .contradictions import LEFT, doubt
from .diagnosis import Bound, Finding, Verdict
from .features import Features
from .headline import headline
from .rules.base import Evidenced
from .rules.compute import FINDINGS as ARITHMETIC
from .rules.compute import KNOWN_SHARE, NEAR_ROOF
from .rules.memory import FINDINGS as TRAFFIC
from .run.load import Run
from .text import percent, plural
from .trace.health import confidence_left

MIN_STEADY_STEPS = 5
"""Fewer steady steps show no pattern: the first steps of a run differ from the rest."""

BALANCED_BELOW = 0.30
"""No slot above this: nothing stands out among nine."""

BALANCED_MARGIN = 0.05
"""Two slots closer than this cannot be told apart (see MIN_SHARE in rules.base)."""

HEALTHY_BELOW = 0.10
"""An avoidable slot below a tenth: twice what is claimed at all, and TraceML's own threshold."""

MAX_OTHER = 0.5
"""With more than this unattributed, only a measured slot above it may be named."""

FULL_STEPS = 30
"""From so many steady steps on, their number no longer lowers the confidence."""

FULL_TRACE_STEPS = 5
"""A trace holds few steps, but every event of them."""

BY_NAME_PENALTY = 0.4
"""Work judged by the op's or kernel's name alone is often right, but compute and memory are easily
mixed up: a matrix product with one short side is limited by memory."""

AVOIDABLE = frozenset({"input", "network", "imbalance", "host", "storage", "evaluation"})
"""Slots that can go without less arithmetic or other data; in a tie with `compute` or `memory` the
verdict names the one that can be avoided. Of these two that is `memory` where a finding says so."""

STRETCHED = 0.1
"""Share of the roof below which ops on a busy host are taken to have waited: undisturbed, products
reach 60 to 100 % here and element-wise chains 70 to 100 %."""

FULL_MARGIN = 0.2
"""From this lead over the runner-up on, the lead no longer lowers the confidence."""


@dataclass(frozen=True)
class Choice:
    """The slot to be named and the next one, by how much it leads, whether none stands out, and
    what the headline adds."""

    top: str
    second: str
    lead: float
    balanced: bool = False
    note: str = ""


def judge(case: Evidenced, findings: list[Finding]) -> Verdict:
    """The verdict; `unknown` with what is missing where the evidence does not suffice."""
    if too_little := _too_little(case.features):
        return Verdict("unknown", 0.0, None, too_little)
    chosen = _chosen(case, findings)
    top, second = chosen.top, chosen.second
    if unclear := _unclear(case, top, chosen.balanced):
        return Verdict("unknown", 0.0, _bound(top), unclear)
    confidence = _confidence(case.features, chosen.lead)
    if chosen.balanced:
        words = _balanced_headline(case, findings, top, second)
        return Verdict("balanced", confidence, _bound(top), words)
    runner_up = _bound(second) if case.scores[second] > 0 else None
    words = headline(case, top, findings) + chosen.note
    return Verdict(_bound(top), confidence, runner_up, words)


def _chosen(case: Evidenced, findings: list[Finding]) -> Choice:
    """The largest slot; of two as large the one that goes more readily; what saves more than the
    largest where that is known."""
    scores = {slot: value for slot, value in case.scores.items() if slot != "other"}
    top, second = sorted(scores, key=lambda slot: -scores[slot])[:2]
    tie = scores[top] - scores[second] < BALANCED_MARGIN
    levels = {slot: _avoidable(slot, findings) for slot in (top, second)}
    if tie and levels[top] != levels[second]:
        top, second = sorted((top, second), key=lambda slot: -levels[slot])
        tie = False
    if top != "input" and (ahead := _workers_ahead(case, top)) >= BALANCED_MARGIN:
        return Choice("input", top, ahead)
    if top == "memory":
        better, ahead = _ahead_of_traffic(case, findings)
        if ahead >= BALANCED_MARGIN:
            moving, gained = percent(scores[top]), percent(_traffic_gains(findings))
            note = f" Moving data takes {moving}, but only {gained} could go."
            return Choice(better, top, ahead, note=note)
    balanced = scores[top] < BALANCED_BELOW or tie
    return Choice(top, second, abs(scores[top] - scores[second]), balanced)


def _workers_ahead(case: Evidenced, top: str) -> float:
    """By how much the removal of `input` leads where loader workers hold the step up behind `top`.

    Where they would take nearly as long without the largest slot, that is not what the run is bound
    by: not to wait for them saves more at its least than taking the largest slot away saves.
    """
    if not any(lane.workers_ms for lane in case.replay.lanes):
        return 0.0
    gained = case.saving(top).mid
    return 0.0 if gained >= case.scores[top] / 2 else case.saving("input").low - gained


def _ahead_of_traffic(case: Evidenced, findings: list[Finding]) -> tuple[str, float]:
    """The slot that promises most but for `memory`, and by how much more than what can go of that.

    Ops that come nowhere near the bandwidth are not limited by it, and what no fix takes away of
    them stays: then the run is bound by what saves more. Only a slot that stands out by itself
    counts; 0 where there is none, near the roof, and where neither is known.
    """
    if (_reached_in(case, "memory") or 1.0) >= NEAR_ROOF:
        return "", 0.0
    gains = {
        slot: max((f.saving.mid for f in findings if f.bound == slot), default=0.0)
        for slot, score in case.scores.items()
        if slot not in ("memory", "other") and score >= BALANCED_BELOW
    }
    best = max(gains, key=lambda slot: gains[slot], default="")
    return best, gains[best] - _traffic_gains(findings) if best else 0.0


def _traffic_gains(findings: list[Finding]) -> float:
    """Share of the step that can go of the data traffic, all findings together."""
    return sum(f.saving.mid for f in findings if f.bound == "memory")


def _avoidable(slot: str, findings: list[Finding]) -> int:
    """How readily a slot goes: 2 for what can be avoided, 0 for arithmetic and data traffic; 1 for
    `memory` where a finding takes a tenth of the step of it at least: the same arithmetic with less
    data moved."""
    if slot in AVOIDABLE:
        return 2
    gains = [f.saving.low for f in findings if f.id in TRAFFIC] if slot == "memory" else []
    return int(max(gains, default=0.0) >= HEALTHY_BELOW)


def _unclear(case: Evidenced, top: str, balanced: bool) -> str:
    """Why the slots name no bound; "" where they do."""
    other, score = case.features.shares["other"], case.scores[top]
    if other > score or (other > MAX_OTHER and score < MAX_OTHER):
        return (
            f"Unknown: {percent(other)} of the time could not be attributed, because "
            f"{_why_open(case.features)}."
        )
    if not _overloaded(case):
        return ""
    if balanced:
        return "Unknown: other programs held much of the CPU, and no slot stands out."
    return _stretched(case, top)


def _why_open(features: Features) -> str:
    """What kept time from being attributed, as the end of a sentence."""
    if any(warning.slug == "device-not-recorded" for warning in features.warnings):
        return "the traces show that a device was given work, but not what it did"
    if any(rank.windows or rank.device for rank in features.ranks):
        return "the torch-profiler windows do not show what happened in it"
    if any(rank.data.windows for rank in features.ranks):
        return "the traces of its torch-profiler windows could not be used"
    return "no torch-profiler window of steady steps was recorded"


def _balanced_headline(case: Evidenced, findings: list[Finding], top: str, second: str) -> str:
    words = (
        f"Balanced: nothing stands out; {top} takes {percent(case.scores[top])} of every step, "
        f"{second} {percent(case.scores[second])}."
    )
    if is_healthy(case, findings):
        return words + " Nothing that could be avoided takes a tenth: the run is healthy."
    reached = _reached(case)
    if reached is not None and reached < NEAR_ROOF:
        words += f" Its ops reach {percent(reached)} of what this machine allows."
    return words


def is_healthy(case: Evidenced, findings: list[Finding]) -> bool:
    """Whether the run is near the roof, and nothing avoidable takes as much as a tenth of the step.

    Avoidable are whole slots, and what a finding would take away but for the arithmetic itself: a
    chain of ops that fusion cuts, steps that got slower. Where no op's cost is known the roof is
    not asked for.
    """
    avoidable = max(case.scores[slot] for slot in AVOIDABLE)
    if max(avoidable, case.features.shares["other"]) >= HEALTHY_BELOW:
        return False
    gains = [f.saving.mid for f in findings if f.id not in ARITHMETIC]
    reached = _reached(case)
    near = reached is None or reached >= NEAR_ROOF
    return near and max(gains, default=0.0) < HEALTHY_BELOW


def _reached(case: Evidenced) -> float | None:
    """Share of the roofs that the arithmetic and the data traffic reach, the lower of the two."""
    found = [_reached_in(case, slot) for slot in ("compute", "memory")]
    return min((reached for reached in found if reached is not None), default=None)


def _reached_in(case: Evidenced, slot: str) -> float | None:
    """Share of its roof that a slot's ops reach on the rank that holds most of it.

    None for a slot below a tenth of the step, and where the ops' costs are not known for at least
    half of their time.
    """
    ops = [op for op in case.worst_rank(slot).ops if op.slot == slot and op.work_ns > 0]
    known = [op for op in ops if op.attainable_ns > 0]
    work = sum(op.work_ns for op in known)
    enough = work > 0 and work >= KNOWN_SHARE * sum(op.work_ns for op in ops)
    if not enough or case.scores[slot] < HEALTHY_BELOW:
        return None
    return sum(min(op.attainable_ns, op.work_ns) for op in known) / work


def _overloaded(case: Evidenced) -> bool:
    return any(w.slug == "overloaded-host" for w in case.features.warnings)


def _stretched(case: Evidenced, top: str) -> str:
    """Why work that others' load stretched cannot be called arithmetic or bandwidth; "" if it can.

    Ops that take ten times as long as either roof asks for, on a host of which others held two
    fifths, waited for cores.
    """
    if top not in ("compute", "memory"):
        return ""
    ops = [op for op in case.worst_rank(top).ops if op.slot == top and op.attainable_ns > 0]
    work = sum(op.work_ns for op in ops)
    reached = sum(op.attainable_ns for op in ops) / work if work else 1.0
    if reached >= STRETCHED:
        return ""
    return (
        f"Unknown: other programs held much of the CPU, and the ops of {top} reach "
        f"{percent(reached)} of what this machine allows: they waited for cores."
    )


def _bound(slot: str) -> Bound:
    return slot  # type: ignore[return-value]  # every slot but "other" is a bound


def _confidence(features: Features, lead: float) -> float:
    """Between 0 and 1: what is attributed, how many steps, how clear the lead, what is missing.

    It orders verdicts by how much they rest on; it is not a measured frequency of being right.
    """
    attributed = 1.0 - features.shares["other"]
    traces_only = features.ranks[0].timeline.source == "trace"
    full, root = (FULL_TRACE_STEPS, 0.25) if traces_only else (FULL_STEPS, 0.5)
    steps = min(1.0, (features.steady_steps / full) ** root)
    clear = 0.6 + 0.4 * min(1.0, lead / FULL_MARGIN)
    # One rank of eight says much of compute and input, little of who waits for whom.
    exchange = features.shares["network"] + features.shares["imbalance"]
    absent = 1.0 - min(1.0, len(features.ranks) / max(1, features.run.world_size))
    all_ranks = 1.0 - absent * min(1.0, 0.2 + exchange)
    work = features.shares["compute"] + features.shares["memory"]
    judged = float(np.mean([rank.judged_by_cost for rank in features.ranks]))
    by_cost = 1.0 - BY_NAME_PENALTY * work * (1.0 - judged)
    own = (warning.slug for warning in features.warnings if warning.slug not in LEFT)
    healthy = confidence_left(own) * doubt(features.warnings)
    value = 0.98 * attributed * steps * clear * healthy * all_ranks * by_cost
    return round(float(np.clip(value, 0.0, 0.98)), 2)


def _too_little(features: Features) -> str:
    """What is missing for any verdict; "" where there are steady steps enough."""
    run = features.run
    traces_only = bool(features.ranks) and features.ranks[0].timeline.source == "trace"
    if features.ranks and features.steady_steps >= (1 if traces_only else MIN_STEADY_STEPS):
        starting = [w.text for w in features.warnings if w.slug == "still-starting"]
        return f"Unknown: {starting[0].partition(': ')[2]}." if starting else ""
    if features.ranks:
        count = plural(features.steady_steps, "steady step")
        return f"Unknown: only {count} recorded; {MIN_STEADY_STEPS} are needed."
    if run.ranks:
        return "Unknown: the run ended before its second step."
    if any(gap.collector == "inside" for gap in run.gaps):
        gap = next(gap for gap in run.gaps if gap.collector == "inside")
        return (
            f"Unknown: the training could not be watched from inside ({_first_line(gap.detail)})."
        )
    if run.lost_ranks:
        return (
            "Unknown: what the training processes recorded is not here: the run's folders rank-… "
            "are missing."
        )
    if run.processes:
        text = "Unknown: the command imported torch but took no optimizer step and read no batch."
    else:
        text = (
            "Unknown: the command never imported torch in a Python process that could be watched."
        )
    return text + _bad_end(run)


def _bad_end(run: Run) -> str:
    """How the command failed, as one more sentence; "" where it did not."""
    if run.manifest.signal:
        return f" It was ended by signal {run.manifest.signal}."
    if run.manifest.exit_code:
        return f" It failed with exit code {run.manifest.exit_code}."
    return ""


def _first_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line]
    return lines[-1] if lines else "no reason recorded"
