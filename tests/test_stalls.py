"""Loader stalls beside a device that fall between its trace windows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from boundscope.collectors.records import Site, Spans, Window
from boundscope.profiler.contradictions import unlike_device_windows
from boundscope.profiler.diagnose import diagnose_run
from boundscope.profiler.diagnosis import Diagnosis
from boundscope.profiler.shares import MEASURED_BESIDE_DEVICE, STALLS, combine, steady_phases
from boundscope.profiler.stalls import beside_windows
from boundscope.profiler.timeline import PHASES, StepSource, Timeline
from boundscope.profiler.trace.intervals import EMPTY

from .written_run import BEGIN_NS, write_run

MS = 1_000_000
WINDOW = slice(20, 25)


def line_of(
    waits_ms: list[float],
    work_ms: float | list[float] = 30.0,
    source: StepSource = "optimizer",
    saves_ms: list[float] | None = None,
) -> Timeline:
    waits = np.array(waits_ms)
    work = np.full(len(waits), work_ms) if isinstance(work_ms, float) else np.array(work_ms)
    saves = np.zeros(len(waits)) if saves_ms is None else np.array(saves_ms)
    durations = ((waits + work + saves) * MS).astype(np.int64)
    ends = np.cumsum(durations)
    profiled = np.zeros(len(waits), np.bool_)
    profiled[WINDOW] = True
    zeros = {phase: np.zeros(len(waits)) for phase in PHASES}
    return Timeline(
        rank=0,
        source=source,
        start_ns=ends - durations,
        end_ns=ends,
        phase_ns={**zeros, "loader": waits * MS, "forward": work * MS, "storage": saves * MS},
        phase_intervals=dict.fromkeys(PHASES, EMPTY),
        steady=np.ones(len(waits), np.bool_),
        profiled=profiled,
        first_ns=0,
    )


def window_of(line: Timeline) -> list[Window]:
    begin, end = int(line.start_ns[WINDOW][0]), int(line.end_ns[WINDOW][-1])
    return [Window(0, begin, end, WINDOW.start, WINDOW.stop - WINDOW.start)]


def stalls_ms(line: Timeline) -> float:
    """The mean stall of a step."""
    phases = beside_windows(steady_phases(line), line, window_of(line))
    return float(phases[STALLS].mean()) / MS if STALLS in phases else 0.0


def test_a_stall_every_tenth_batch_is_counted_though_the_window_shows_none() -> None:
    line = line_of([300.0 if step % 20 == 5 else 1.0 for step in range(100)])

    # Five stalls of 299 ms too many in 100 steps.
    assert stalls_ms(line) == pytest.approx(5 * 299 / 100)


def test_the_stalls_share_is_input_and_the_rest_is_as_the_windows_say() -> None:
    line = line_of([300.0 if step % 20 == 5 else 0.0 for step in range(100)])
    phases = beside_windows(steady_phases(line), line, window_of(line))

    shares = combine(
        {phase: float(times.mean()) for phase, times in phases.items()},
        {name: {"compute": 1.0} for name in phases if name not in MEASURED_BESIDE_DEVICE},
        MEASURED_BESIDE_DEVICE,
    )

    # 15 of 45 ms a step.
    assert shares["input"] == pytest.approx(1 / 3)
    assert shares["compute"] == pytest.approx(2 / 3)


def test_waits_that_the_window_shows_are_left_to_it() -> None:
    assert stalls_ms(line_of([20.0] * 100)) == 0.0


def test_waits_that_merely_vary_are_no_stalls() -> None:
    waits = [float(2 * (step % 10)) for step in range(100)]
    outside = waits[: WINDOW.start] + waits[WINDOW.stop :]
    waits[WINDOW] = [sum(outside) / len(outside)] * 5  # as long as the others on average

    assert stalls_ms(line_of(waits)) == pytest.approx(0.0, abs=0.01)


def test_a_stall_that_the_devices_queue_hides_costs_nothing() -> None:
    # The host waits 10 ms longer for its batch and 10 ms less for the device: no step is longer.
    waits = [10.0 if step % 20 == 5 else 0.0 for step in range(100)]
    work = [20.0 if wait else 30.0 for wait in waits]

    assert stalls_ms(line_of(waits, work)) == 0.0


def test_a_trace_alone_has_no_steps_beside_its_window() -> None:
    line = line_of([300.0 if step % 20 == 5 else 1.0 for step in range(100)], source="trace")

    assert stalls_ms(line) == 0.0


def warned(line: Timeline, profiler_share: float = 0.0) -> list[str]:
    return [w.slug for w in unlike_device_windows(line, window_of(line), profiler_share, 0)]


@pytest.mark.parametrize(
    ("first_wait_ms", "profiler_share", "unlike"),
    [
        (0.0, 0.0, False),
        (300.0, 0.0, True),  # an epoch's start: 90 ms a step where 30 are usual
        (60.0, 0.0, False),  # 42 ms
        (90.0, 0.0, True),  # 48 ms
        (90.0, 0.3, False),  # of which 14 ms may be the profiler's
    ],
)
def test_a_devices_window_is_held_against_the_steps_around_it(
    first_wait_ms: float, profiler_share: float, unlike: bool
) -> None:
    line = line_of([first_wait_ms if step == WINDOW.start else 0.0 for step in range(100)])

    assert warned(line, profiler_share) == (["window-unlike-run"] if unlike else [])


def test_a_checkpoint_in_the_window_makes_it_no_other() -> None:
    saves = [500.0 if step == WINDOW.start else 0.0 for step in range(100)]

    assert warned(line_of([0.0] * 100, saves_ms=saves)) == []


def recorded(folder: Path, *, starts: bool) -> Diagnosis:
    """A run of 100 steps of 10 ms with a device that is always busy; before every twentieth the
    loader is waited for 100 ms. The window holds none of these; `starts`: they make iterators."""
    parts: list[tuple[str, float, float]] = []
    now = 0.0
    began: dict[int, float] = {}
    for step in range(100):
        began[step] = now
        wait = 100.0 if step % 20 == 5 else 0.0
        if wait and starts:
            parts.append(("i", now, 60.0))
        made = 60.0 * bool(wait and starts)
        parts.append(("l", now + made, wait - made))
        now += wait + 10.0
        parts.append(("o", now - 1.0, 1.0))
    kinds, begins, lengths = zip(*parts, strict=True)
    spans = Spans(
        BEGIN_NS,
        "".join(kinds),
        [int(begin * MS) for begin in begins],
        [int(length * MS) for length in lengths],
        [0] * len(parts),
    )
    first = int(began[30] * MS)
    begin = BEGIN_NS + first
    marks = [
        Spans(BEGIN_NS, "w", [first], [30 * MS], [0]),
        Window(0, begin, begin + 30 * MS, 30, 3, "trace-0.json"),
    ]
    facts = {"num_workers": "2", "batch_size": "8", "persistent_workers": "False"}
    site = Site("loader-facts", 0, facts=facts)
    write_run(folder, site, spans, *marks)
    events = [
        {"ph": "X", "cat": kind, "name": name, "ts": begin / 1e3 + 10e3 * step + at, "dur": length,
         "pid": 7, "tid": 7, "args": {"correlation": step, "device": 0, "stream": 7}}
        for step in range(3)
        for kind, name, at, length in (
            ("cuda_runtime", "cudaLaunchKernel", 1, 5), ("kernel", "ampere_sgemm", 10, 9_980)
        )
    ]  # fmt: skip
    text = json.dumps({"schemaVersion": 1, "baseTimeNanoseconds": 0, "traceEvents": events})
    (folder / "rank-0-7" / "trace-0.json").write_text(text)
    return diagnose_run(folder)


def test_a_run_whose_loader_stalls_between_the_windows_has_the_finding(tmp_path: Path) -> None:
    diagnosis = recorded(tmp_path / "run", starts=False)

    # 500 of 1,500 ms, but for the steps that count as start-up.
    assert diagnosis.breakdown["input"] == pytest.approx(1 / 3, abs=0.01)
    assert diagnosis.breakdown["compute"] == pytest.approx(2 / 3, abs=0.01)
    assert causes(diagnosis) == {"workers-too-slow": pytest.approx(1 / 3, abs=0.01)}
    assert "step-outliers" in {finding.id for finding in diagnosis.findings}


def test_workers_that_start_again_between_the_windows_are_the_finding(tmp_path: Path) -> None:
    diagnosis = recorded(tmp_path / "run", starts=True)

    assert causes(diagnosis) == {"workers-restarted": pytest.approx(1 / 3, abs=0.02)}


def causes(diagnosis: Diagnosis) -> dict[str, float]:
    """Findings of the input and what they promise; that single steps stand out is no cause."""
    mine = [f for f in diagnosis.findings if f.bound == "input" and f.id != "step-outliers"]
    return {finding.id: finding.saving.mid for finding in mine}
