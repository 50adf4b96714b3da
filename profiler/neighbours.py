"""Other programs on the job's hosts: how much CPU they took, and whether the job lacked it."""

from __future__ import annotations

import numpy as np

from .diagnosis import Warning_
from .recorded_facts import cores_in, is_count
from .run.load import MetricTable, Run

BUSY_HOST_SHARE = 0.1
"""A tenth of the CPU in other hands moves step times by more than the 5 % that is claimed."""

OVERLOADED_SHARE = 0.4
"""With so much of the CPU in other hands the job had little more than half of the machine."""

BUSY_MIN_SAMPLES = 3

LACKED = 0.05
"""Share of the time without a core from which on the job is taken to have lacked one: the least
that is claimed of anything (rules.base.MIN_SHARE)."""

PRESSURE = "psi.cpu.some_total_us"
DELAY = ".main_run_delay_share"


def busy_host(run: Run) -> list[Warning_]:
    """A warning for each host on which other processes took much of the CPU during the run.

    On a large host others may hold most cores and the job still get all that it asks for: only
    where it lacked a core, or where nothing tells, is the host called overloaded.
    """
    found = []
    for table in run.metrics:
        others = others_share(run, table)
        if others is None or others <= BUSY_HOST_SHARE:
            continue
        cpu = f"{others:.0%} of the CPU of host {table.host}"
        if others > OVERLOADED_SHARE and lacked_a_core(table):
            text = f"other processes held {cpu}: repeat the run alone"
            found.append(Warning_("overloaded-host", text))
        else:
            text = (
                f"other processes took {cpu}: step times and shares may be theirs as much as the "
                "job's"
            )
            found.append(Warning_("busy-host", text))
    return found


def others_share(run: Run, table: MetricTable) -> float | None:
    """Share of the cores that the job may run on, in use by others; None where it is not known."""
    whole, job = table.series.get("host.cpu_percent"), table.series.get("job.cpu_cores")
    cores = {
        int(number): values
        for name, (_, values) in table.series.items()
        if name.startswith("host.cpu.") and is_count(number := name.split(".")[2])
    }
    if whole is None or job is None or not cores or len(whole[1]) < BUSY_MIN_SAMPLES:
        return None
    used = float(np.mean(job[1]))
    own = _allowed(run, table.host) & set(cores)
    if own and len(own) < len(cores):
        return float(np.mean([cores[core].mean() for core in own])) / 100 - used / len(own)
    return float(np.mean(whole[1])) / 100 - used / len(cores)


def lacked_a_core(table: MetricTable) -> bool:
    """Whether ranks waited for a core, or anything on the host did; True where nothing tells.

    The ranks' main threads tell of themselves alone: while they sleep for their loader, workers
    without a core show only in the pressure of the host.
    """
    waits = [
        float(np.mean(values))
        for name, (_, values) in table.series.items()
        if name.endswith(DELAY) and len(values) >= BUSY_MIN_SAMPLES
    ]
    times, totals = table.series.get(PRESSURE, (np.empty(0), np.empty(0)))
    if len(totals) >= BUSY_MIN_SAMPLES and times[-1] > times[0]:
        waits.append(float(totals[-1] - totals[0]) * 1e3 / float(times[-1] - times[0]))
    return not waits or max(waits) > LACKED


def _allowed(run: Run, host: str) -> set[int]:
    """Numbers of the cores that the launcher might use on its own host, as "0-3,8" names them."""
    if host != run.manifest.host:
        return set()
    return cores_in(run.manifest.environment.get("limits", {}).get("cores_allowed", ""))
