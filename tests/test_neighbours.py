"""Other programs on the host: how much of the job's cores they hold, and whether it lacked one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boundscope.collectors.records import Manifest
from boundscope.profiler.environment import limit_facts
from boundscope.profiler.neighbours import busy_host, others_share
from boundscope.profiler.run.load import MetricTable, Run

S = 1_000_000_000
SECONDS = 8


def run_of(
    per_core: list[float],
    job_cores: float,
    *,
    delay: float | None = None,
    pressure: float | None = None,
    allowed: str = "",
) -> Run:
    """A run on a host whose cores are in use as given, %, with the job's use of them."""
    values = {f"host.cpu.{number}.percent": used for number, used in enumerate(per_core)}
    values |= {"host.cpu_percent": float(np.mean(per_core)), "job.cpu_cores": job_cores}
    if delay is not None:
        values["rank.0.main_run_delay_share"] = delay
    times = np.arange(SECONDS, dtype=np.int64) * S
    series = {name: (times, np.full(SECONDS, value)) for name, value in values.items()}
    if pressure is not None:
        series["psi.cpu.some_total_us"] = (times, times * 1e-3 * pressure)
    limits = {"limits": {"cores_allowed": allowed}} if allowed else {}
    manifest = Manifest(1, "i", "n", [], "", 0, "finished", 0, 0, "h", "", environment=limits)
    run = Run(Path("r"), manifest, "finished")
    run.__dict__["metrics"] = [MetricTable("host", "h", series)]
    return run


BUSY = [90.0] * 7 + [100.0]
"""Eight cores of which a job of one core leaves nine tenths to others."""


@pytest.mark.parametrize(
    ("delay", "pressure", "slug"),
    [
        (0.01, 0.02, "busy-host"),  # others work, the job got every core that it asked for
        (0.30, 0.02, "overloaded-host"),  # its main thread waited for a core
        (0.01, 0.60, "overloaded-host"),  # its workers may have
        (0.01, None, "busy-host"),
        (None, None, "overloaded-host"),  # nothing tells that it lacked none
    ],
)
def test_a_host_is_overloaded_only_where_the_job_lacked_a_core(
    delay: float | None, pressure: float | None, slug: str
) -> None:
    warnings = busy_host(run_of(BUSY, 1.0, delay=delay, pressure=pressure))

    assert [warning.slug for warning in warnings] == [slug]


def test_a_job_alone_with_its_own_threads_is_not_warned_of() -> None:
    assert busy_host(run_of([100.0] * 4, 3.9, delay=0.4, pressure=0.9)) == []


@pytest.mark.parametrize(
    ("allowed", "others"),
    [
        # Cores 0 and 1 are half used, by the job; six others are full.
        ("0-1", 0.0),
        ("0,2", 0.25),
        ("", 0.75),
        ("0-7", 0.75),
    ],
)
def test_only_the_cores_that_the_job_may_use_count(allowed: str, others: float) -> None:
    run = run_of([50.0, 50.0, *[100.0] * 6], 1.0, allowed=allowed)

    assert others_share(run, run.metrics[0]) == pytest.approx(others)


def test_the_cores_of_the_mask_are_recorded_as_the_kernel_lists_them() -> None:
    status = Path("/proc/self/status").read_text()
    listed = next(line for line in status.splitlines() if line.startswith("Cpus_allowed_list"))

    assert limit_facts()["cores_allowed"] == listed.split(":")[1].strip()
