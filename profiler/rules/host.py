"""Host-bound: Python and dispatch, not the arithmetic, set the pace."""

from __future__ import annotations

from functools import partial

import numpy as np

from ..diagnosis import Evidence, Finding, Fix, Place
from ..features import RankFeatures
from ..hot_lines import hot_lines
from ..sampled import compiles, sampled_share, sure
from ..text import duration, milliseconds, percent
from ..trace.host import PYTHON_GAP_NS
from ..trace.idle import is_wait
from ._device import copy_shares, idle_shares, told
from ._waits import queue_evidence, spot_evidence, with_spots
from .base import MIN_SHARE, Evidenced, place

FINDINGS = (
    "tiny-ops",
    "python-in-loop",
    "synchronising-calls",
    "launch-bound",
    "garbage-collection",
)

MANY_OPS = 200
"""Ops per step from which dispatch is worth naming: 200 of 1 to 5 us are a millisecond."""

SYNC_EVERY = 4
"""A synchronisation for every four pieces of device work or fewer leaves no queue to run ahead."""


def find(case: Evidenced) -> list[Finding]:
    """Garbage collection where it is long, and dispatch or Python for the rest.

    The time without a core is told by `host_cores`, compiling by `host_stacks`.
    """
    share = case.scores["host"]
    if share < MIN_SHARE:
        return []
    rank = case.worst_rank("host")
    if rank.device:
        return _beside_device(case, rank)
    step = float(np.mean(rank.step_ms))
    garbage = rank.phase_ms["garbage"] / step if step else 0.0
    findings = []
    if garbage >= MIN_SHARE:
        findings.append(_garbage(case, rank, garbage))
    rest = share - rank.held - (garbage if garbage >= MIN_SHARE else 0.0)
    python = share * rank.python_share
    compiling = sampled_share(case.features.run, rank, compiles)
    if compiling is not None and sure(compiling):  # between ops, as Python is
        rest, python = rest - compiling.share, max(0.0, python - compiling.share)
    parts = [(rest, _dispatch)]
    if python > 0:
        python = _apart(rest, min(rest, python), many=_small_calls(rank) >= MANY_OPS)
        parts = [(python, _python), (rest - python, _dispatch)]
    named = [make(case, rank, part) for part, make in parts if part >= MIN_SHARE]
    return [*findings, *named]


def _apart(rest: float, python: float, *, many: bool) -> float:
    """How much of the host's share is told as Python: nothing where that would not be worth a word,
    all of it where what else there is would not be, or is no more than few calls."""
    if not many:
        return rest if python >= MIN_SHARE else 0.0
    if min(python, rest - python) >= MIN_SHARE:
        return python
    return rest if python > rest / 2 else 0.0


def _small_calls(rank: RankFeatures) -> float:
    """Calls a step of ops that are too small to be worth one."""
    return rank.per_step(sum(op.calls for op in rank.ops if op.slot == "host"))


def _beside_device(case: Evidenced, rank: RankFeatures) -> list[Finding]:
    """The device idles while the host synchronises, launches too slowly, or runs Python."""
    idle, copies = idle_shares(rank), copy_shares(rank)
    calls = [call for window in rank.device for call in window.synchronisations]
    number = sum(call.calls for call in calls if is_wait(call.name))
    kernels = sum(window.device.events for window in rank.device)
    waiting = idle.get("synchronisation", 0.0) + idle.get("copy", 0.0)
    waiting += copies.get("device-to-host", 0.0)
    launching = idle.get("launch", 0.0) + idle.get("dispatch", 0.0)
    loop, calling = _whose_python(rank, idle.get("python", 0.0), launching, kernels)
    launching += calling
    elsewhere = idle.get("another-thread", 0.0)
    if number * SYNC_EVERY >= kernels and number:
        # A stream that is drained for every few kernels leaves the next launch nothing to hide in.
        waiting, launching = waiting + launching, 0.0
    parts = [
        (idle.get("garbage", 0.0), partial(_garbage_beside_device, case, rank)),
        (loop + elsewhere, partial(_python_beside_device, case, rank, elsewhere=elsewhere)),
        (waiting, partial(_synchronising, case, rank, number=number, kernels=kernels)),
        (launching, partial(_launching, case, rank, kernels=kernels)),
    ]
    return told(parts)


def _whose_python(
    rank: RankFeatures, python: float, launching: float, kernels: int
) -> tuple[float, float]:
    """Shares of the step in the script's own Python, and in that of calling ops."""
    idle_ns = sum(window.idle_ns.get("python", 0.0) for window in rank.device)
    own = python > launching and idle_ns >= PYTHON_GAP_NS * kernels
    return (python, 0.0) if own else (0.0, python)


def _lines(case: Evidenced, rank: RankFeatures) -> list[Place]:
    """The lines that the training thread is at outside of the loader, backward and optimizer."""
    lines = hot_lines(case.features.run, rank.data.pid, "rest")
    return [place(line, rank.rank) for line in lines] or [Place(rank=rank.rank)]


def _synchronising(
    case: Evidenced, rank: RankFeatures, share: float, *, number: int, kernels: int
) -> Finding:
    return case.finding(
        id="synchronising-calls",
        bound="host",
        title="The host waits for the device, then the device for the host",
        share=share,
        evidence=[
            Evidence(
                f"{number:,} synchronising calls for {kernels:,} pieces of device work",
                "host.synchronisations",
                number,
                "calls",
                "trace",
            ),
            *spot_evidence(rank),
        ],
        where=with_spots(rank, _lines(case, rank)),
        fixes=[
            Fix(
                "Read values from the device rarely",
                "Every .item(), .cpu(), print of a tensor or nonzero() drains the queue; keep sums "
                "on the device and read them every hundred steps.",
                "total += loss.detach()  # and total.item() once at the end",
            )
        ],
    )


def _launching(case: Evidenced, rank: RankFeatures, share: float, *, kernels: int) -> Finding:
    step = float(np.mean(rank.step_ms))
    return case.finding(
        id="launch-bound",
        bound="host",
        title="The device idles because work is launched too slowly",
        share=share,
        evidence=[
            Evidence(
                f"{milliseconds(share * step)} of every step the device has nothing to do while "
                f"the host runs Python and launches ({kernels:,} pieces of device work recorded)",
                "host.idle_ms",
                round(share * step, 4),
                "ms",
                "trace",
            ),
            *queue_evidence(rank),
        ],
        where=_lines(case, rank),
        fixes=[
            Fix(
                "Launch whole graphs",
                "CUDA graphs replay hundreds of kernels with one launch.",
                'model = torch.compile(model, mode="reduce-overhead")',
            ),
            Fix("Do more per launch: larger batches, fused optimizer (fused=True)"),
        ],
    )


def _python_beside_device(
    case: Evidenced, rank: RankFeatures, share: float, *, elsewhere: float
) -> Finding:
    """Python of the script's own, not of calling ops, runs while the device idles."""
    step = float(np.mean(rank.step_ms))
    evidence = [
        Evidence(
            f"{milliseconds(share * step)} of every step the device has nothing to do while the "
            "training thread runs Python or waits, and launches nothing",
            "host.python_ms",
            round(share * step, 4),
            "ms",
            "trace",
        )
    ]
    if elsewhere:
        evidence.append(
            Evidence(
                f"{milliseconds(elsewhere * step)} of it the training thread waits for another "
                "thread of its process",
                "host.other_thread_ms",
                round(elsewhere * step, 4),
                "ms",
                "trace",
            )
        )
    return case.finding(
        id="python-in-loop",
        bound="host",
        title="Python between the launches leaves the device idle",
        share=share,
        evidence=evidence,
        where=_lines(case, rank),
        fixes=[
            Fix(
                "Take that Python out of the loop",
                "Do it once before the loop, in a loader worker, or every hundredth step; replace "
                "loops over elements by one op on the device.",
            ),
            Fix(
                "Let it run while the device computes",
                "Work that needs no result of this step can come after the launches of the next "
                "one: a queue that is full hides it.",
            ),
        ],
    )


def _garbage(case: Evidenced, rank: RankFeatures, share: float) -> Finding:
    spent = rank.phase_ms["garbage"]
    text = f"collections take {milliseconds(spent)} of every step"
    return _collected(
        case, rank, share, Evidence(text, "host.gc_ms", round(spent, 4), "ms", "steps")
    )


def _garbage_beside_device(case: Evidenced, rank: RankFeatures, share: float) -> Finding:
    """Only what the device's queue does not hide counts."""
    spent = share * float(np.mean(rank.step_ms))
    text = f"the device idles {milliseconds(spent)} of every step during collections"
    return _collected(
        case, rank, share, Evidence(text, "host.gc_ms", round(spent, 4), "ms", "trace")
    )


def _collected(case: Evidenced, rank: RankFeatures, share: float, told_by: Evidence) -> Finding:
    return case.finding(
        id="garbage-collection",
        bound="host",
        title="Python's garbage collector stops the loop",
        share=share,
        evidence=[told_by],
        where=_lines(case, rank),
        fixes=[
            Fix(
                "Freeze what lives for the whole run and collect less often",
                snippet="gc.collect(); gc.freeze(); gc.set_threshold(50_000, 50, 50)",
            )
        ],
    )


def _python(case: Evidenced, rank: RankFeatures, share: float) -> Finding:
    """Python of the script's own, not of calling ops."""
    held = rank.python_share * rank.shares["host"]
    spent = held * float(np.mean(rank.step_ms))
    times = max(1.0, rank.python_gaps)
    how_often = "once" if times < 1.5 else f"{times:,.0f} times"
    return case.finding(
        id="python-in-loop",
        bound="host",
        title="Python between the ops takes the time",
        share=share,
        evidence=[
            Evidence(
                f"{milliseconds(spent)} of every step is Python that calls no op, "
                f"{percent(held)} of it all: {how_often} a step, for "
                f"{duration(spent * 1e-3 / times)}",
                "host.python_ms",
                round(spent, 4),
                "ms",
                "trace",
            )
        ],
        where=_lines(case, rank),
        fixes=[
            Fix(
                "Take that Python out of the loop",
                "Do it once before the loop, in a loader worker, or every hundredth step.",
            ),
            Fix(
                "Replace loops over elements by array operations",
                "One op over the whole batch, or a compiled function (NumPy, Numba, C).",
            ),
        ],
    )


def _dispatch(case: Evidenced, rank: RankFeatures, share: float) -> Finding:
    small = [op for op in rank.ops if op.slot == "host"]
    calls = _small_calls(rank)
    each = sum(op.self_ns for op in small) / max(1, sum(op.calls for op in small)) * 1e-9
    step = float(np.mean(rank.step_ms))
    tiny = calls >= MANY_OPS
    of_calls = " of calling ops" if rank.python_share > 0 else ""
    evidence = [
        Evidence(
            f"{milliseconds(share * step)} of every step is dispatch and Python{of_calls}, "
            f"{percent(share)} of it all",
            "host.dispatch_ms",
            round(share * step, 4),
            "ms",
            "trace",
        )
    ]
    if calls:
        text = f"{calls:,.0f} ops a step are too small to be worth a call, {duration(each)} each"
        evidence.append(Evidence(text, "host.tiny_ops_per_step", round(calls, 1), "ops", "trace"))
    fixes = [
        Fix(
            "Replace the Python loop by one op over the whole sequence or batch",
            "E.g. a built-in nn.LSTM or GRU, a batched matmul, or foreach ops: one call does the "
            "work of hundreds.",
        ),
        Fix(
            "Let torch.compile fuse the loop",
            "It needs a C++ compiler on the CPU; the first steps get slower.",
            "step = torch.compile(step)",
        ),
        Fix("Do more per call: a larger batch costs the same dispatch"),
    ]
    return case.finding(
        id="tiny-ops" if tiny else "python-in-loop",
        bound="host",
        title="Many tiny ops: calling them costs more than their arithmetic"
        if tiny
        else "Python between the ops takes the time",
        share=share,
        evidence=evidence,
        where=_lines(case, rank),
        fixes=fixes,
    )
