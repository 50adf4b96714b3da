"""Batches made by loader workers that cannot keep up: too few, at work, or waiting themselves."""

from __future__ import annotations

from ..diagnosis import Evidence, Finding, Fix
from ..text import percent, plural
from ..workers import WorkerTime, worker_time
from ._loader import Loader
from ._main_loader import WAITS_FOR, fetch_together, told
from ._saturation import full, under_the_lock
from .base import Evidenced


def in_workers(case: Evidenced, loader: Loader) -> Finding:
    """The finding for a loader whose workers cannot keep up with the loop."""
    time = worker_time(case.features.run, loader.rank)
    cause = "unknown" if time is None else time.cause
    if time is not None:
        loader.evidence.extend(_evidence(loader, time))
    id_, what = _named(cause)
    return case.finding(
        id=id_,
        bound="input",
        cold=loader.rank,
        title=f"{plural(loader.workers, 'loader worker')} cannot keep up with the loop{what}",
        share=loader.share,
        evidence=loader.evidence,
        where=loader.places,
        fixes=_fixes(case, loader, cause),
    )


def _named(cause: str) -> tuple[str, str]:
    if cause == "cpu":
        return "workers-cpu-bound", ": they work on the CPU all the time"
    if cause in WAITS_FOR:
        return "workers-waiting", f": they wait for {WAITS_FOR[cause]}"
    return "workers-too-slow", ""


def _evidence(loader: Loader, time: WorkerTime) -> list[Evidence]:
    found = [
        Evidence(
            f"the workers make batches in {percent(time.busy_share)} of {time.samples} stack "
            "samples and wait to be asked in the rest",
            "input.workers_busy_share",
            round(time.busy_share, 4),
            "share",
            "stacks",
        )
    ]
    if time.cpu_cores is not None:
        each = time.cpu_cores / max(1, loader.workers)
        found.append(
            Evidence(
                f"each worker uses {percent(each)} of a core",
                "input.worker_cpu_cores",
                round(each, 4),
                "cores",
                "metrics",
            )
        )
    return found


def _fixes(case: Evidenced, loader: Loader, cause: str) -> list[Fix]:
    if cause == "lock":
        return under_the_lock(loader)
    limit = full(case.features.run, loader.rank, cause)
    more = _more_workers(case, loader, cause, limit)
    fixes = [fetch_together(loader, told(0.0, limit))] if cause in WAITS_FOR else []
    if more is not None:
        fixes.insert(len(fixes) if limit else 0, more)
    if limit:
        title = "Keep the data nearer, or read fewer bytes"
        fixes.insert(0, Fix(title, f"{limit[:1].upper()}{limit[1:]}."))
    if loader.facts.get("persistent_workers") == "False":
        fixes.append(
            Fix(
                "Keep the workers between epochs",
                "Each new iterator starts them again.",
                loader.call(num_workers=loader.workers, persistent_workers=True),
            )
        )
    fixes.append(
        Fix(
            "Make a sample cheaper in the workers",
            "The line above is where they spend their time: store decoded samples, read larger "
            + ("pieces." if loader.iterable else "pieces, or fetch a batch in one (__getitems__)."),
        )
    )
    return fixes


def _more_workers(case: Evidenced, loader: Loader, cause: str, limit: str) -> Fix | None:
    """More workers where the machine has room: never more than its cores.

    Without a device the training's own threads need the cores, too: for workers at work one core
    less is there. `limit`: what is full already, so that no gain is promised.
    """
    most = case.cores_a_rank
    if cause == "cpu" and not loader.rank.device:
        most -= 1
    if loader.workers >= most:
        return None
    wait, step = loader.rank.phase_ms["loader"], sum(loader.rank.phase_ms.values())
    # The workers were never idle while the loop waited: their rate is their number.
    after = max(step - wait, step * loader.workers / most)
    saving = max(0.0, 1 - after / step) if step and not limit else 0.0
    return Fix(
        f"Use {most} workers instead of {loader.workers}",
        f"The rank may use {case.cores_a_rank} cores. {told(saving, limit)}".rstrip(),
        loader.call(num_workers=most),
        round(saving, 4),
    )
