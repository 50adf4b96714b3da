"""What a loop does after its optimizer's step, told from the making of its next batch.

Without a loader nothing marks where one step's work ends and the next one's batch begins. The order
of the lines does: in the body of the loop, what stands below the optimizer's step comes after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..collectors.records import Frame
from .hot_lines import plain_name, stack_phase
from .sampled import MIN_SAMPLES, thread_stacks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .run.load import RankData, Run
    from .timeline import Timeline

Call = tuple[str, str, int]
"""File, function and line of one frame."""
Place = Literal["before", "after", "at", "elsewhere"]


@dataclass(frozen=True)
class AfterStep:
    """Mean time of a step behind its optimizer's, ns, that no phase of its own measures: in
    functions that write checkpoints, and in the rest."""

    saving_ns: float = 0.0
    other_ns: float = 0.0


def after_step(run: Run, data: RankData, line: Timeline) -> AfterStep:
    """What stack samples say of a rank whose steps end with its optimizer and that has no loader.

    Nothing where a loader marks the batch's arrival, or too little was sampled.
    """
    sites = [site for site in data.sites if site.what == "optimizer" and site.file]
    if line.source != "optimizer" or not sites or line.phase_ns["loader"][line.steady].any():
        return AfterStep()
    last = max(sites, key=lambda site: (site.file, site.function, site.line))
    stacks = list(thread_stacks(run, data.pid, line))
    whole = sum(count for _, count in stacks)
    if whole < MIN_SAMPLES:
        return AfterStep()
    step = path_to((last.file, last.function, last.line), stacks)
    saves = [site for site in data.sites if site.what == "save"]
    lines = {(site.file, site.line) for site in saves}
    functions = {(site.file, site.function) for site in saves}
    after = {True: 0.0, False: 0.0}
    for frames, count in stacks:
        place, at = place_of(frames, step)
        phase = stack_phase(frames, worker=False)
        if place != "after" or phase in ("backward", "optimizer"):  # a second one's
            continue
        saving = phase == "storage" or any((f.file, f.line) in lines for f in frames[at:])
        saving |= any((f.file, plain_name(f)) in functions for f in frames[at + 1 :])
        after[saving] += count
    mean_ns = float(line.duration_ns[line.steady].mean()) / whole
    measured = {p: float(line.phase_ns[p][line.steady].mean()) for p in ("storage", "evaluation")}
    return AfterStep(
        saving_ns=max(0.0, after[True] * mean_ns - measured["storage"]),
        other_ns=max(0.0, after[False] * mean_ns - measured["evaluation"]),
    )


def path_to(step: Call, stacks: Iterable[tuple[list[Frame], float]]) -> list[Call]:
    """The calls that lead to a line, the outermost first; the line alone where no sample shows it.

    Of several ways (a warm-up before, two optimizers in one helper) the last in the order of the
    lines: nothing that leads to a step counts as what comes behind it.
    """
    seen = set()
    for frames, _ in stacks:
        calls = [(frame.file, plain_name(frame), frame.line) for frame in frames]
        if step in calls:
            seen.add(tuple(calls[: calls.index(step) + 1]))
    return list(max(seen, key=lambda calls: [line for _, _, line in calls])) if seen else [step]


def place_of(frames: list[Frame], step: list[Call]) -> tuple[Place, int]:
    """Where a stack is in the loop, against the path to the optimizer's step, and the index of the
    frame that tells."""
    begin = 0
    if len(step) == 1:  # the path is not known: the function may stand anywhere in the stack
        same = [(f.file, plain_name(f)) == step[0][:2] for f in frames]
        if True not in same:
            return "elsewhere", 0
        begin = same.index(True)
    at = begin
    for at, (file, function, line) in enumerate(step[: len(frames) - begin], start=begin):
        frame = frames[at]
        if (frame.file, plain_name(frame)) != (file, function):
            return "elsewhere", at
        if frame.line != line:
            return ("after" if frame.line > line else "before"), at
    return "at", at
