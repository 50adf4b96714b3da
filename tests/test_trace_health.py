"""What is wrong with a trace is noticed, named and counted against the confidence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from boundscope.profiler.trace import decode, document
from boundscope.profiler.trace.health import PENALTIES, Health, check
from boundscope.profiler.trace.reader import read_trace

ROOT = Path(__file__).parents[1]


def launches(count: int, lead_us: float = 2.0) -> list[dict[str, Any]]:
    """A host thread that launches `count` kernels of 4 us, 10 us apart, each `lead_us` before."""
    events: list[dict[str, Any]] = []
    for i in range(count):
        at = 10.0 * i + 0.125
        events.append(
            {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 1, "tid": 1}
            | {"ts": at, "dur": 1.0, "args": {"correlation": i}}
        )
        events.append(
            {"ph": "X", "cat": "kernel", "name": "gemm", "pid": 0, "tid": 7}
            | {"ts": at + lead_us, "dur": 4.0}
            | {"args": {"device": 0, "stream": 7, "correlation": i}}
        )
    return events


def health(
    tmp_path: Path,
    events: list[dict[str, Any]],
    unprofiled_ns: npt.NDArray[np.float64] | None = None,
) -> Health:
    path = tmp_path / "t.json"
    path.write_bytes(msgspec.json.encode({"traceEvents": events, "baseTimeNanoseconds": 10**18}))
    return check(read_trace(path), unprofiled_ns)


def counts(found: Health) -> dict[str, int]:
    return {warning.slug: warning.count for warning in found.warnings}


def test_a_sound_trace_has_no_warning_and_full_confidence(tmp_path: Path) -> None:
    found = health(tmp_path, launches(200))

    assert found == Health([], 1.0)


def test_launches_without_a_device_record_are_lost_work(tmp_path: Path) -> None:
    events = launches(200)
    kept = [e for i, e in enumerate(events) if e["cat"] != "kernel" or i > 60]

    found = health(tmp_path, kept)

    assert counts(found) == {"lost-device-records": 30}
    assert found.confidence == 0.5


def test_memsets_of_no_bytes_leave_no_record_and_are_not_lost_work(tmp_path: Path) -> None:
    events = launches(50)
    empty = [
        e | {"name": "cudaMemsetAsync", "args": {"correlation": 1000 + i}}
        for i, e in enumerate(events)
        if e["cat"] == "cuda_runtime"
    ]

    found = health(tmp_path, events + empty)

    assert found.warnings == []


def test_work_without_ids_is_unlinked_and_not_lost(tmp_path: Path) -> None:
    events = launches(100)
    for event in events:
        if event["cat"] == "kernel":
            event["args"] = {"device": 0, "stream": 7}

    found = health(tmp_path, events)

    assert counts(found) == {"unlinked-work": 100}


def test_kernels_before_their_launch_show_that_the_clocks_disagree(tmp_path: Path) -> None:
    found = health(tmp_path, launches(100, lead_us=-3.0))

    assert counts(found) == {"work-before-launch": 100}


def test_kernels_that_overlap_on_one_stream_are_counted(tmp_path: Path) -> None:
    events = launches(100)
    events[1]["dur"] = 55.0  # runs over the five that follow

    found = health(tmp_path, events)

    assert counts(found) == {"overlapping-work": 5}


def test_the_same_overlap_on_two_streams_is_healthy(tmp_path: Path) -> None:
    events = launches(100)
    events[1] |= {"dur": 55.0, "tid": 8, "args": {"device": 0, "stream": 8, "correlation": 0}}

    found = health(tmp_path, events)

    assert found.warnings == []


def test_work_without_a_duration_is_counted_where_times_are_fine(tmp_path: Path) -> None:
    events = launches(100)
    for event in events[1:21:2]:
        event["dur"] = 0.0

    found = health(tmp_path, events)

    assert counts(found) == {"zero-durations": 10}


def test_whole_microseconds_are_said_and_short_kernels_of_0_are_not_a_fault(
    tmp_path: Path,
) -> None:
    events = launches(100)
    for event in events:
        event["ts"] = int(event["ts"])
    events[1]["dur"] = 0

    found = health(tmp_path, events)

    assert counts(found) == {"coarse-time-stamps": 1}


def test_device_work_alone_leaves_the_causes_open(tmp_path: Path) -> None:
    found = health(tmp_path, [e for e in launches(50) if e["cat"] == "kernel"])

    assert counts(found) == {"no-host-events": 1}


def test_the_profilers_own_time_is_named_when_it_matters(tmp_path: Path) -> None:
    own = {"ph": "X", "cat": "overhead", "name": "Activity Buffer Request", "pid": -1, "tid": 0}

    small = health(tmp_path, [*launches(100), own | {"ts": 0.5, "dur": 20.0}])
    large = health(tmp_path, [*launches(100), own | {"ts": 0.5, "dur": 200.0}])

    assert counts(small) == {}
    assert counts(large) == {"profiler-overhead": 1}


@pytest.mark.parametrize(
    ("unprofiled_us", "said"),
    [
        ([95.0] * 20, False),
        ([70.0] * 20, True),
        ([70.0] * 17 + [120.0] * 3, False),  # steps of 100 us and more are usual here
        ([70.0] * 5, False),  # too few to say what is usual
        (None, False),
    ],
)
def test_steps_that_the_profiler_slows_are_named(
    tmp_path: Path, unprofiled_us: list[float] | None, said: bool
) -> None:
    steps = [
        {"ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{i}", "pid": 1, "tid": 1}
        | {"ts": 100.5 * i, "dur": 100.0}
        for i in range(4)
    ]
    durations = None if unprofiled_us is None else np.array(unprofiled_us) * 1000

    found = health(tmp_path, launches(40) + steps, durations)

    assert ("profiler-slows" in counts(found)) is said


def test_every_slug_has_a_penalty_and_a_section_in_the_documentation() -> None:
    sources = [Path(decode.__file__), Path(document.__file__), Path(check.__code__.co_filename)]
    sources += list(sources[0].parent.glob("[cs]*.py"))
    said = {
        slug
        for source in sources
        for slug in re.findall(
            r'(?:notes\.add|TraceWarning)\(\s*"([a-z-]+)"|fixes\["([a-z-]+)"\]',
            source.read_text(),
        )
        for slug in slug
        if slug
    }
    sections = set(
        re.findall(r"^### `([a-z-]+)`", (ROOT / "docs/trace-health.md").read_text(), re.M)
    )

    assert said <= set(PENALTIES)
    assert set(PENALTIES) <= sections
