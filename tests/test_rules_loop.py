"""What the loop itself does to a step: batches made in it, loaders begun again, lost packets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from boundscope.profiler.diagnosis import Finding
from boundscope.profiler.run.load import MetricTable
from boundscope.profiler.trace.collectives import Collective

from .device_material import device_rank, diagnosed
from .rule_material import MS, Recording, S, loader_site, named, value


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path / "run")


def test_a_batch_that_the_loop_makes_is_named_with_its_line(recording: Recording) -> None:
    # Given steps of 100 ms of which 60 pass before the model is called
    recording.steps([100.0] * 100)
    recording.spans += [("f", (100 * step + 60) * MS, 30 * MS, 0) for step in range(100)]
    recording.sampled(12, ("/u/train.py", "augment", 21))
    recording.sampled(8, ("/u/train.py", "main", 60))

    diagnosis = recording.diagnose()

    prepared = named(diagnosis, "batch-prepared-in-loop")
    assert diagnosis.verdict.bound == "input"
    assert "(60 ms) prepares the batch in the loop" in diagnosis.verdict.headline
    assert value(prepared, "input.preparation_ms") == pytest.approx(60, abs=0.1)
    assert prepared.saving.mid == pytest.approx(0.6, abs=0.01)
    assert (prepared.where[0].file, prepared.where[0].line) == ("/u/train.py", 21)


def test_single_slow_steps_do_not_hide_the_cause_from_the_headline(recording: Recording) -> None:
    # Given batches that take 20 ms, and each tenth one 700 ms, to prepare in the loop
    for step in range(100):
        begin = recording.spans[-1][1] + recording.spans[-1][2] if recording.spans else 0
        prepared = 700 if step % 10 == 7 else 20
        recording.spans.append(("f", begin + prepared * MS, 8 * MS, 0))
        recording.spans.append(("o", begin + (prepared + 9) * MS, MS, 0))

    diagnosis = recording.diagnose()

    assert diagnosis.findings[0].bound == "input"
    assert "step-outliers" in {finding.id for finding in diagnosis.findings}
    assert "prepares the batch in the loop" in diagnosis.verdict.headline


def test_a_wait_for_the_loader_that_is_longer_is_the_loaders(recording: Recording) -> None:
    recording.sites = loader_site()
    recording.steps([100.0] * 100, input_ms=50)
    recording.spans += [("f", (100 * step + 60) * MS, 30 * MS, 0) for step in range(100)]

    ids = {finding.id for finding in recording.diagnose().findings}

    assert "slow-store" in ids
    assert "batch-prepared-in-loop" not in ids


def test_waits_at_each_epochs_start_are_explained_where_the_workers_live_on(
    recording: Recording,
) -> None:
    # Given epochs of ten steps whose first batch is waited for, with workers that are kept
    recording.sites = loader_site(num_workers="2", persistent_workers="True")
    for _ in range(20):
        begin = recording.spans[-1][1] + recording.spans[-1][2] if recording.spans else 0
        recording.spans.append(("i", begin, MS, 0))
        recording.spans.append(("l", begin + MS, 350 * MS, 0))
        recording.spans.append(("o", begin + 359 * MS, MS, 0))
        recording.steps([20.0] * 9, input_ms=0.1)

    diagnosis = recording.diagnose()

    assert diagnosis.verdict.bound == "input"
    causes = [f.id for f in diagnosis.findings if f.bound == "input" and f.id != "step-outliers"]
    assert causes == ["workers-too-slow"]


def exchanging(again_per_s: float, sent_per_s: float, seconds: int, label: str) -> list[Finding]:
    """Findings of a step that exchanges for 60 % of its time, with the kernel's counters of TCP."""
    exchange = [Collective("gloo:all_reduce", 0, i, 4 << 20, i * MS, (i + 1) * MS, 2) for i in (0,)]
    rank = replace(device_rank({}, exposed={"network": 0.6}), collectives=exchange)
    times = np.arange(seconds, dtype=np.int64) * S
    series = {
        f"tcp{label}.retransmits_per_s": (times, np.full(seconds, again_per_s)),
        f"tcp{label}.segments_out_per_s": (times, np.full(seconds, sent_per_s)),
    }
    return diagnosed(rank, metrics=[MetricTable("network", "h", series)]).findings


@pytest.mark.parametrize("label", ["", "@bs1"])
def test_packets_that_are_lost_are_named_with_their_share(label: str) -> None:
    found = next(f for f in exchanging(60, 3_000, 6, label) if f.id == "retransmits")

    assert value(found, "network.retransmit_share") == pytest.approx(0.02)
    # What a clean link would reach is not known: nothing of the exchange, all of it, or a half.
    assert found.saving.low == 0.0
    assert found.saving.mid == pytest.approx(0.3, abs=0.005)
    assert found.saving.high == pytest.approx(0.69, abs=0.01)


@pytest.mark.parametrize(("again_per_s", "seconds"), [(15, 6), (60, 2), (0, 6)])
def test_few_lost_packets_or_few_readings_are_no_finding(again_per_s: float, seconds: int) -> None:
    ids = {finding.id for finding in exchanging(again_per_s, 3_000, seconds, "")}

    assert "retransmits" not in ids
    assert "exposed-all-reduce" in ids
