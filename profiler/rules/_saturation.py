"""What is full already: a disk or link that more workers would only queue for, a lock for one."""

from __future__ import annotations

import numpy as np

from ..diagnosis import Fix
from ..features import RankFeatures
from ..held_back import steady_span
from ..links import links
from ..metrics import within
from ..run.load import Run
from ..text import percent
from ._exchange import SATURATED
from ._loader import Loader

BUSY_DISK = 0.9
"""Share of the time in which a disk has requests. A disk that serves one request after the other is
full from about here on; one that serves many at once may not be (iostat(1) on %util)."""

MIN_READINGS = 3
"""Fewer readings, one a second, may be of the start alone."""


def full(run: Run, rank: RankFeatures, cause: str) -> str:
    """Why more requests at once may bring no more from what the loader waits for; "" where it is
    not seen to be full."""
    found = ""
    if cause == "storage":
        found = _busy_disk(run, rank)
    if cause in ("storage", "network"):  # a network file system is both
        found = found or _full_link(run)
    return found


def _busy_disk(run: Run, rank: RankFeatures) -> str:
    """The disk that was read from and had requests for nearly all of the steady state."""
    span = steady_span(rank)
    worst, share = "", 0.0
    for table in run.metrics:
        for name in table.series:
            if not (name.startswith("disk.") and name.endswith(".busy_percent")):
                continue
            disk = name.removeprefix("disk.").removesuffix(".busy_percent")
            busy = within(run, name, *span)
            read = within(run, f"disk.{disk}.read_bytes_per_s", *span)
            if len(busy) < MIN_READINGS or not float(np.sum(read)):
                continue
            if float(np.mean(busy)) / 100 > share:
                worst, share = disk, float(np.mean(busy)) / 100
    if share < BUSY_DISK:
        return ""
    return f"the disk {worst} has requests {percent(min(1.0, share))} of the time already"


def _full_link(run: Run) -> str:
    for link in links(run):
        if not link.is_loopback and link.share >= SATURATED:
            return f"{link.name} carries {percent(link.share)} of what it can already"
    return ""


def under_the_lock(loader: Loader) -> list[Fix]:
    """What helps where batches wait for a lock: whoever else asks for it waits, too."""
    at = next((p for p in loader.places if p.file and p.line), None)
    where = f" ({(at.file or '').rsplit('/', 1)[-1]}:{at.line})" if at is not None else ""
    return [
        Fix(
            f"Shorten what is done under the lock{where}",
            "One at a time gets through it: more workers or threads would wait for the same lock. "
            "Read and decode before it is taken, or after it is given back.",
            "sample = decode(path)  # before the lock\nwith lock:\n    cache[path] = sample",
        ),
        Fix(
            "Give each worker its own instead of the shared one",
            "A file, connection or cache for each worker needs no lock.",
        ),
    ]
