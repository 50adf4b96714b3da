"""Findings on recordings written by hand, through the whole way to a diagnosis."""

from __future__ import annotations

from pathlib import Path

import pytest

from boundscope.collectors.records import Memory

from .rule_material import (
    FETCH,
    LOADER,
    MS,
    QUEUE,
    START,
    WORKER,
    Recording,
    S,
    loader_site,
    named,
    value,
)


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path / "run")


# -- steps that are not alike -----------------------------------------------------------------


def test_a_slow_down_names_the_step_since_which_and_the_slot_in_which(recording: Recording) -> None:
    recording.sites = loader_site()
    recording.steps([10.0] * 100, input_ms=6)
    recording.steps([14.0] * 100, input_ms=10)

    drift = named(recording.diagnose(), "drift")

    assert drift.bound == "input"
    assert value(drift, "drift.since_step") == pytest.approx(100, abs=2)
    # 100 steps of 10 ms and 100 of 14 ms: all at 10 ms would save 400 of 2,400 ms.
    assert drift.saving.mid == pytest.approx(1 / 6, abs=0.01)


def test_a_slow_down_little_by_little_is_told_from_a_change_at_once(recording: Recording) -> None:
    recording.steps([10.0 + 0.05 * step for step in range(200)])

    drift = named(recording.diagnose(), "drift")

    assert "from the start" in drift.title


def test_steps_that_vary_but_do_not_drift_have_no_such_finding(recording: Recording) -> None:
    recording.steps([10.0 + (step * 7 % 5) for step in range(200)])

    assert not {f.id for f in recording.diagnose().findings} & {"drift", "step-outliers"}


def test_regular_outliers_tell_their_period_and_what_they_cost(recording: Recording) -> None:
    recording.steps([60.0 if step % 20 == 19 else 10.0 for step in range(200)])

    outliers = named(recording.diagnose(), "step-outliers")

    assert "one in every 20" in outliers.evidence[0].text
    # Nine to ten steps of 50 ms too many in 200 steps of 12.5 ms on average.
    assert outliers.saving.mid == pytest.approx(0.2, abs=0.02)


# -- memory -----------------------------------------------------------------------------------


def test_memory_that_grows_names_the_step_at_which_it_is_out(recording: Recording) -> None:
    recording.steps([100.0] * 201)  # ten steps a second, 20 s
    recording.metric("rank.0.rss_bytes", *[1e9 + 50e6 * second for second in range(21)])
    recording.metric("host.memory_available_bytes", 5e9)

    growth = named(recording.diagnose(), "memory-growth")

    assert value(growth, "memory.growth_per_step") == pytest.approx(5e6, rel=0.02)
    # 5 GB are left after 200 steps, at 5 MB a step.
    assert value(growth, "memory.out_at_step") == pytest.approx(1_200, rel=0.03)
    assert growth.saving.high == 0.0


def test_memory_that_levels_off_is_a_cache(recording: Recording) -> None:
    recording.steps([100.0] * 201)
    recording.metric("rank.0.rss_bytes", *[1e9 + 4e8 * min(1.0, t / 6) for t in range(21)])

    assert "memory-growth" not in {f.id for f in recording.diagnose().findings}


def test_device_memory_growth_retries_and_fragments_come_from_the_allocator(
    recording: Recording,
) -> None:
    recording.steps([100.0] * 201)
    recording.metric("gpu.0.memory_total_bytes", 8e9)
    recording.memory = [
        Memory(START + t * S, 0, int(1e9 + 1e8 * t), int(7e9), int(3e9), retries=t // 5, ooms=0)
        for t in range(21)
    ]

    diagnosis = recording.diagnose()

    growth = named(diagnosis, "device-memory-growth")
    # 3 GB in use after 200 steps, 10 MB a step, 8 GB in all.
    assert value(growth, "memory.out_at_step") == pytest.approx(700, rel=0.03)
    assert value(named(diagnosis, "allocator-retries"), "memory.allocator_retries") == 4
    assert value(named(diagnosis, "fragmentation"), "memory.unused_share") == pytest.approx(
        4 / 7, abs=1e-4
    )


def test_swapping_is_named_where_the_job_itself_waits_for_pages(recording: Recording) -> None:
    recording.steps([100.0] * 100)
    recording.metric("host.swap_in_bytes_per_s", 2e7)
    recording.metric("job.major_faults_per_s", 900.0)
    recording.metric("psi.memory.some_total_us", *[3e5 * second for second in range(11)])

    swapping = named(recording.diagnose(), "swapping")

    assert swapping.saving.mid == pytest.approx(0.3, abs=0.01)


# -- cores ------------------------------------------------------------------------------------


def test_a_quota_that_runs_out_is_host_bound_by_throttling(recording: Recording) -> None:
    recording.threads = 8
    recording.steps([100.0] * 100)
    recording.metric("cgroup.cpu_throttled_us", *[6e5 * second for second in range(11)])
    recording.metric("cgroup.cpu_throttled_share", 0.9)
    recording.metric("cgroup.cpu_limit_cores", 2.0)

    diagnosis = recording.diagnose()

    # 0.6 s of every second were held back; without a window the rest stays "other".
    assert diagnosis.verdict.bound == "host"
    assert diagnosis.breakdown["host"] == pytest.approx(0.6, abs=0.01)
    assert named(diagnosis, "cpu-throttled").saving.mid == pytest.approx(0.6, abs=0.01)
    assert "set_num_threads(2)" in named(diagnosis, "cpu-throttled").fixes[0].snippet


def test_more_threads_than_cores_are_named_only_when_the_main_thread_lacks_a_core(
    recording: Recording,
) -> None:
    recording.threads = 16
    recording.steps([100.0] * 100)
    recording.metric("rank.0.main_run_delay_share", 0.4)

    found = named(recording.diagnose(), "oversubscribed-threads")

    assert value(found, "host.threads") == 16
    assert (found.saving.low, found.saving.high) == (0.0, 0.4)
    assert "set_num_threads(4)" in found.fixes[0].snippet

    recording.threads = 4
    assert "oversubscribed-threads" not in {f.id for f in recording.diagnose().findings}


# -- loaders ----------------------------------------------------------------------------------


def test_workers_that_sleep_in_the_kernel_wait_and_may_be_as_many_as_cores(
    recording: Recording,
) -> None:
    recording.sites = loader_site(num_workers="2")
    recording.steps([100.0] * 100, input_ms=70)
    worker = {"pid": 300, "thread": 300, "role": "worker"}
    recording.sampled(9, WORKER, FETCH, ("/u/train.py", "__getitem__", 31), **worker)
    recording.sampled(1, WORKER, QUEUE, **worker)
    recording.metric("rank.0.workers_cpu_cores", 0.1)
    recording.metric("rank.0.workers_wait.storage_share", 0.8)
    recording.metric("rank.0.workers_wait.sleep_share", 0.0)

    diagnosis = recording.diagnose()

    waiting = named(diagnosis, "workers-waiting")
    assert diagnosis.verdict.bound == "input"
    assert "storage" in waiting.title
    assert value(waiting, "input.workers_busy_share") == pytest.approx(0.9)
    assert (waiting.where[0].file, waiting.where[0].line) == ("/u/train.py", 31)
    # Twice as many workers on the four cores make twice as many batches.
    assert waiting.fixes[0].title == "Use 4 workers instead of 2"
    assert waiting.fixes[0].saving == pytest.approx(0.5)


@pytest.mark.parametrize(("cores", "advised"), [(4, 3), (8, 7), (2, 0)])
def test_workers_at_work_are_never_advised_beyond_the_cores(
    recording: Recording, cores: int, advised: int
) -> None:
    recording.cores = cores
    recording.sites = loader_site(num_workers="1", persistent_workers="True")
    recording.steps([100.0] * 100, input_ms=70)
    worker = {"pid": 300, "thread": 300, "role": "worker"}
    recording.sampled(9, WORKER, FETCH, ("/u/train.py", "__getitem__", 31), **worker)
    recording.metric("rank.0.workers_cpu_cores", 0.95)

    finding = named(recording.diagnose(), "workers-cpu-bound")

    titles = [fix.title for fix in finding.fixes]
    assert (f"Use {advised} workers instead of 1" in titles) == bool(advised)
    assert not any("num_workers=8" in fix.snippet for fix in finding.fixes)


def test_a_wait_that_is_spent_in_collate_names_the_line_of_collate(recording: Recording) -> None:
    recording.sites = loader_site()
    recording.steps([100.0] * 100, input_ms=70)
    recording.spans += [("c", s + 1, int(0.9 * d), 0) for k, s, d, _ in recording.spans if k == "l"]
    recording.sampled(7, LOADER, FETCH, ("/u/train.py", "pad_batch", 44))
    recording.sampled(3, ("/u/train.py", "main", 70))

    collate = named(recording.diagnose(), "slow-collate")

    assert (collate.where[0].file, collate.where[0].line) == ("/u/train.py", 44)


def test_the_datasets_own_method_is_not_collate(recording: Recording) -> None:
    recording.sites = loader_site()
    recording.steps([100.0] * 100, input_ms=70)
    recording.spans += [("c", s + 1, int(0.9 * d), 0) for k, s, d, _ in recording.spans if k == "l"]
    recording.sampled(7, LOADER, FETCH, ("/u/data.py", "Images.__getitem__", 12))

    assert named(recording.diagnose(), "decode-in-main").where[0].line == 12


def test_workers_that_start_for_every_epoch_are_the_whole_finding(recording: Recording) -> None:
    recording.sites = loader_site(num_workers="2", persistent_workers="False")
    for _ in range(20):
        begin = recording.spans[-1][1] + recording.spans[-1][2] if recording.spans else 0
        recording.spans.append(("i", begin, 50 * MS, 0))
        recording.spans.append(("l", begin + 50 * MS, 30 * MS, 0))
        recording.spans.append(("o", begin + 99 * MS, MS, 0))
        recording.steps([20.0] * 9, input_ms=0.1)

    diagnosis = recording.diagnose()

    restarted = named(diagnosis, "workers-restarted")
    # 80 of the 280 ms of an epoch.
    assert restarted.saving.mid == pytest.approx(80 / 280, abs=0.02)
    assert not {f.id for f in diagnosis.findings} & {"workers-too-slow", "workers-waiting"}


# -- stacks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id_", "bound", "frames"),
    [
        ("recompilation", "host", [("/t/torch/_dynamo/convert_frame.py", "_compile", 1)]),
        ("recomputation", "compute", [("/t/torch/utils/checkpoint.py", "x.unpack_hook", 1)]),
        ("log-in-loop", "storage", [("/usr/lib/python3.11/logging/__init__.py", "emit", 1)]),
    ],
)
def test_what_only_stacks_show_has_its_share_and_its_line(
    recording: Recording, id_: str, bound: str, frames: list[tuple[str, str, int]]
) -> None:
    recording.steps([100.0] * 100)
    recording.sampled(3, ("/u/train.py", "main", 50), *frames)
    recording.sampled(7, ("/u/train.py", "main", 60))

    finding = named(recording.diagnose(), id_)

    assert finding.bound == bound
    assert finding.saving.mid == pytest.approx(0.3)
    assert finding.saving.low < 0.3 < finding.saving.high
    assert finding.where[0].line == 50


def test_time_in_a_logging_library_is_storage(recording: Recording) -> None:
    recording.steps([100.0] * 100)
    emit = ("/usr/lib/python3.11/logging/__init__.py", "emit", 1)
    recording.sampled(6, ("/u/train.py", "main", 50), emit)
    recording.sampled(4, ("/u/train.py", "main", 60))

    diagnosis = recording.diagnose()

    assert diagnosis.verdict.bound == "storage"
    assert diagnosis.breakdown["storage"] == pytest.approx(0.6)
    assert "checkpoint-in-loop" not in {finding.id for finding in diagnosis.findings}


def test_samples_that_a_rank_took_of_itself_are_of_the_thread_that_trains(
    recording: Recording,
) -> None:
    """As they were written before the thread was named: an address as its number, and no rank."""
    address = 139_637_976_737_600
    recording.steps([100.0] * 100)
    frames = [("/u/train.py", "main", 5), ("/usr/lib/python3.11/logging/__init__.py", "emit", 1)]
    recording.sampled(6, *frames, thread=address, thread_name="", rank=None)
    recording.sampled(4, ("/u/train.py", "main", 60), thread=address, thread_name="", rank=None)

    found = named(recording.diagnose(), "log-in-loop")

    assert value(found, "host.sampled_share") == pytest.approx(0.6)


def test_a_few_samples_are_no_finding(recording: Recording) -> None:
    recording.steps([100.0] * 30)
    frames = [("/u/train.py", "main", 5), ("/usr/lib/python3.11/logging/__init__.py", "emit", 1)]
    recording.sampled(1, *frames)
    recording.sampled(4, ("/u/train.py", "main", 60))

    assert "log-in-loop" not in {f.id for f in recording.diagnose().findings}


# -- bad input --------------------------------------------------------------------------------


def test_three_steps_are_unknown(recording: Recording) -> None:
    recording.steps([10.0] * 4, input_ms=9)

    diagnosis = recording.diagnose()

    assert diagnosis.verdict.bound == "unknown"
    assert diagnosis.verdict.confidence == 0.0


def test_a_run_that_is_all_start_up_is_unknown_and_says_so(recording: Recording) -> None:
    recording.sites = loader_site()
    recording.steps([1000 * 0.85**step for step in range(24)], input_ms=15)

    diagnosis = recording.diagnose()

    assert diagnosis.verdict.bound == "unknown"
    assert "start-up" in diagnosis.verdict.headline
    assert "still-starting" in {warning.slug for warning in diagnosis.warnings}


def test_a_run_that_settles_after_a_slow_start_keeps_its_verdict(recording: Recording) -> None:
    recording.sites = loader_site()
    recording.steps([900.0, 500.0, 200.0, *[100.0] * 27], input_ms=80)

    assert recording.diagnose().verdict.bound == "input"


@pytest.mark.parametrize(
    ("others", "factor", "slug"),
    [(0.0, 1.0, ""), (0.2, 0.7, "busy-host"), (0.6, 0.3, "overloaded-host")],
)
def test_somebody_elses_load_lowers_the_confidence(
    recording: Recording, others: float, factor: float, slug: str
) -> None:
    recording.sites = loader_site()
    recording.steps([100.0] * 100, input_ms=80)
    alone = recording.diagnose().verdict.confidence
    for core in range(4):
        recording.metric(f"host.cpu.{core}.percent", 50.0)
    recording.metric("host.cpu_percent", 100 * (0.25 + others))
    recording.metric("job.cpu_cores", 1.0)

    diagnosis = recording.diagnose()

    assert diagnosis.verdict.bound == "input"
    assert diagnosis.verdict.confidence == pytest.approx(alone * factor, abs=0.02)
    assert not slug or slug in {warning.slug for warning in diagnosis.warnings}


def test_stolen_time_lowers_the_confidence(recording: Recording) -> None:
    recording.sites = loader_site()
    recording.steps([100.0] * 100, input_ms=80)
    alone = recording.diagnose().verdict.confidence
    recording.metric("host.steal_percent", 15.0)

    diagnosis = recording.diagnose()

    assert "stolen-cpu" in {warning.slug for warning in diagnosis.warnings}
    assert diagnosis.verdict.confidence < alone


def test_nothing_is_called_balanced_on_a_machine_that_others_held(recording: Recording) -> None:
    recording.sites = loader_site()
    recording.steps([100.0] * 100, input_ms=46)
    recording.sampled(
        46, ("/u/train.py", "main", 50), ("/usr/lib/python3.11/logging/__init__.py", "emit", 1)
    )
    recording.sampled(54, ("/u/train.py", "main", 60))
    alone = recording.diagnose().verdict
    for core in range(4):
        recording.metric(f"host.cpu.{core}.percent", 90.0)
    recording.metric("host.cpu_percent", 90.0)
    recording.metric("job.cpu_cores", 0.5)

    beside_others = recording.diagnose().verdict

    assert alone.bound == "balanced"
    assert beside_others.bound == "unknown"
    assert "other programs" in beside_others.headline
