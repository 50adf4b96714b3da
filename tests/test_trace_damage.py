"""Any damage to a trace gives figures or an error with a slug, and lost events are never silent."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boundscope.profiler.errors import UnusableData
from boundscope.profiler.trace.device import device_time
from boundscope.profiler.trace.health import check
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.steps import find_steps
from boundscope.profiler.trace.table import Trace

COUNT = 40


def sound_trace() -> bytes:
    events = []
    for i in range(COUNT):
        args = {"device": 0, "stream": 7, "correlation": i, "grid": [i, 1, 1]}
        at = 10.0 * i + 0.125
        events.append(
            {"ph": "X", "cat": "kernel", "name": "gemm", "pid": 0, "tid": 7}
            | {"ts": at, "dur": 4.0, "args": args}
        )
        events.append({"ph": "f", "id": i, "pid": 0, "tid": 7, "ts": at, "cat": "ac2g"})
    text = {"schemaVersion": 1, "traceEvents": events, "baseTimeNanoseconds": 10**18 + 1}
    return json.dumps(text, indent=1).encode()


SOUND = sound_trace()

faults = st.one_of(
    st.tuples(st.just("cut"), st.integers(0, len(SOUND)), st.just(b"")),
    st.tuples(st.just("behead"), st.integers(0, len(SOUND)), st.just(b"")),
    st.tuples(st.just("flip"), st.integers(0, len(SOUND) - 1), st.binary(min_size=1, max_size=1)),
    st.tuples(st.just("drop"), st.integers(0, len(SOUND) - 1), st.binary(min_size=1, max_size=200)),
    st.tuples(st.just("insert"), st.integers(0, len(SOUND)), st.binary(min_size=1, max_size=20)),
)


def apply(data: bytes, fault: tuple[str, int, bytes]) -> bytes:
    kind, at, junk = fault
    if kind == "cut":
        return data[:at]
    if kind == "behead":
        return data[at:]
    if kind == "flip":
        return data[:at] + junk + data[at + 1 :]
    if kind == "drop":
        return data[:at] + data[at + len(junk) :]
    return data[:at] + junk + data[at:]


def looked_at(path: Path) -> Trace | None:
    """Read a trace and derive all that is derived from it; None for an error with a slug."""
    try:
        trace = read_trace(path)
    except UnusableData as error:
        if not error.slug:
            raise
        return None
    steps, device = find_steps(trace), device_time(trace)
    assert 0.0 <= check(trace).confidence <= 1.0
    assert np.all(trace.events.duration_ns >= 0)
    assert np.all(np.diff(trace.events.start_ns) >= 0)
    assert np.all(steps.end_ns >= steps.start_ns)
    assert device is None or 0 <= device.busy_ns <= device.window_ns
    return trace


@pytest.mark.parametrize("block", [300, 1 << 20])
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damage=st.lists(faults, min_size=1, max_size=4), packed=st.booleans())
def test_any_damage_gives_figures_or_a_slug(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    block: int,
    damage: list[tuple[str, int, bytes]],
    packed: bool,
) -> None:
    monkeypatch.setattr("boundscope.profiler.trace.source.BLOCK_BYTES", block)
    data = gzip.compress(SOUND, 1) if packed else SOUND
    for fault in damage:
        data = apply(data, fault)
    path = tmp_path / "damaged.json"
    path.write_bytes(data)

    trace = looked_at(path)

    assert trace is None or len(trace.events) <= COUNT * (1 + len(damage))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, len(SOUND) - 1))
def test_a_cut_file_never_loses_events_silently_nor_invents_device_time(
    tmp_path: Path, length: int
) -> None:
    path = tmp_path / "cut.json"
    path.write_bytes(SOUND[:length])

    trace = looked_at(path)

    if trace is not None:
        whole_events = SOUND[:length].count(b'"grid"')
        assert whole_events - 1 <= len(trace.events) <= whole_events
        assert trace.warnings
        found = device_time(trace)
        assert (found.busy_ns if found else 0) == 4_000 * len(trace.events)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.integers(0, len(SOUND) - 1), min_size=2, max_size=2))
def test_reading_is_monotone_in_the_length_of_a_cut_file(tmp_path: Path, places: list[int]) -> None:
    counts = []
    for length in sorted(places):
        path = tmp_path / "cut.json"
        path.write_bytes(SOUND[:length])
        trace = looked_at(path)
        counts.append(len(trace.events) if trace else 0)

    shorter, longer = counts

    assert shorter <= longer


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    at=st.integers(SOUND.index(b'"traceEvents"') + 20, len(SOUND) - 60),
    junk=st.sampled_from([b"{", b"}", b"[", b"]", b'"', b"\\", b",,", b"\x80"]),
)
def test_an_event_that_a_stray_byte_costs_is_counted(tmp_path: Path, at: int, junk: bytes) -> None:
    path = tmp_path / "stray.json"
    path.write_bytes(SOUND[:at] + junk + SOUND[at:])

    trace = looked_at(path)

    assert trace is not None
    assert len(trace.events) >= COUNT - 10
    if len(trace.events) < COUNT:
        assert trace.warnings
