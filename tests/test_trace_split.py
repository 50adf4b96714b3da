"""One file in several processes gives what one process gives, to the byte."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boundscope.profiler.trace import split
from boundscope.profiler.trace.decode import EventDecoder
from boundscope.profiler.trace.notes import Notes
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.table import Trace


def events(count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for i in range(count):
        thread = 7 if i % 3 else 8
        found.append(
            {
                "ph": "X",
                "cat": "cpu_op",
                "name": f"aten::op_{i % 97}_{i // 400}",
                "pid": 1,
                "tid": thread,
                "ts": 10.0 * i + (i * 7 % 5),
                "dur": 4.5,
                "args": {
                    "External id": i + 1,
                    "Input Dims": [[i % 50, 4], []],
                    "Input type": ["float", ""],
                },
            }
        )
        found.append(
            {
                "ph": "X",
                "cat": "kernel",
                "name": 'gemm, {"name": \\ }, {',
                "pid": 0,
                "tid": 7,
                "ts": 10.0 * i + 3,
                "dur": 2.0,
                "args": {"device": 0, "stream": 7, "correlation": i, "grid": [i % 31, 1, 1]},
            }
        )
        if i % 50 == 0:
            name = {"ph": "M", "name": "thread_name", "pid": 1, "tid": thread}
            found.append(name | {"args": {"name": f"thread {i}"}})
    return found


def write(path: Path, listed: list[dict[str, Any]], between: str = ",\n  ") -> Path:
    text = between.join(json.dumps(event) for event in listed)
    footer = '"deviceProperties": [{"name": "a"}, {"name": "b"}], "baseTimeNanoseconds": 5'
    path.write_text('{"schemaVersion": 1, "traceEvents": [\n' + text + "\n], " + footer + "}")
    return path


def same(one: Trace, other: Trace) -> None:
    for name in (field.name for field in dataclasses.fields(one.events)):
        mine, theirs = getattr(one.events, name), getattr(other.events, name)
        assert mine.dtype == theirs.dtype, name
        assert mine.tobytes() == theirs.tobytes(), name
    for field in dataclasses.fields(one):
        if field.name not in ("events", "warnings"):
            assert getattr(one, field.name) == getattr(other, field.name), field.name
    assert sorted(one.warnings, key=str) == sorted(other.warnings, key=str)


@pytest.fixture
def small_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "SPAN_BYTES", 40_000)
    monkeypatch.setattr(split, "END_BYTES", 20_000)
    monkeypatch.setattr("boundscope.profiler.trace.span.BLOCK_BYTES", 15_000)


@pytest.mark.usefixtures("small_spans")
def test_a_split_file_is_read_as_one_process_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", events(3000))

    split_trace, whole = read_trace(path, processes=3), read_trace(path)

    assert len(whole.events) == 6000
    same(split_trace, whole)


@pytest.mark.usefixtures("small_spans")
def test_other_processes_do_part_of_the_work(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", events(6000))
    decoder = EventDecoder(Notes())
    begin = path.read_bytes().index(b'{"ph"')

    found = [(reader, part) for reader, part, _ in split.read_split(path, begin, decoder, 3)]

    rows = {reader: 0 for reader, _ in found}
    for reader, part in found:
        rows[reader] += len(part.columns["start_ns"])
    assert rows.keys() - {0}, "no other process answered"
    assert sum(rows.values()) > 11_000


@pytest.mark.usefixtures("small_spans")
@pytest.mark.parametrize(
    "damage",
    [
        '{"ph": "X", "cat": "kernel", "name": "x", "ts": NaN, "dur": 1}',
        '{"ph": "X", "cat": "kernel", "name": "bad \\q escape", "ts": 1, "dur": 1}',
        '{"ph": "X", "cat": "kernel", "na',
        '{"ph": "X", "name": "n", "args": {"x": [{"name": 1}, {"name": 2}]}, "ts": 4, "dur": 1}',
        '], "other": [{"name": 1}',
    ],
    ids=["nan", "escape", "torn", "objects in arguments", "list ends"],
)
def test_damage_in_the_middle_of_a_split_file_is_met_as_by_one_process(
    tmp_path: Path, damage: str
) -> None:
    path = write(tmp_path / "t.json", events(2000))
    text = path.read_text()
    middle = text.index('{"ph"', len(text) // 2)
    path.write_text(text[:middle] + damage + ",\n" + text[middle:])

    split_trace, whole = read_trace(path, processes=2), read_trace(path)

    assert len(whole.events) >= 1900
    same(split_trace, whole)


@pytest.mark.usefixtures("small_spans")
def test_two_traces_in_one_file_are_read_alike(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", events(1000))
    path.write_text(path.read_text() + path.read_text())

    same(read_trace(path, processes=2), read_trace(path))


@pytest.mark.usefixtures("small_spans")
def test_a_process_that_cannot_start_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "t.json", events(1000))
    monkeypatch.setattr(split.sys, "executable", "/bin/false")

    same(read_trace(path, processes=2), read_trace(path))


@pytest.mark.usefixtures("small_spans")
def test_an_event_longer_than_a_span_is_read_once(tmp_path: Path) -> None:
    listed = events(1500)
    listed[700]["args"]["Call stack"] = "frame;" * 30_000
    path = write(tmp_path / "t.json", listed)

    split_trace, whole = read_trace(path, processes=2), read_trace(path)

    assert len(whole.events) == 3000
    same(split_trace, whole)


def test_times_that_need_more_digits_than_a_double_are_split_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "SPAN_BYTES", 10_000)
    monkeypatch.setattr(split, "END_BYTES", 5_000)
    lines = ",".join(
        f'{{"ph": "X", "cat": "kernel", "name": "k", "ts": 1718000000{i:06d}.{i % 1000:03d}, '
        f'"dur": 0.001, "pid": 0, "tid": 7}}'
        for i in range(3000)
    )
    path = tmp_path / "t.json"
    path.write_text('{"traceEvents": [' + lines + "]}")

    trace = read_trace(path, processes=2)

    expected = [(1718000000 * 10**6 + i) * 1000 + i % 1000 for i in range(3000)]
    assert np.array_equal(trace.events.start_ns, np.array(expected))


def test_only_files_far_larger_than_a_process_are_split() -> None:
    assert split.processes_for(700_000_000, 16) == 1
    assert split.processes_for(1_000_000_000, 16) == 2
    assert split.processes_for(4_000_000_000, 2) == 2
    assert split.processes_for(4_000_000_000, 16) == 6


def test_threads_named_without_a_time_keep_their_names_next_to_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", events(120))

    names = {(t.pid, t.tid): t.name for t in read_trace(path).threads}

    assert names["1", "7"] == "thread 100"
    assert names["1", "8"] == "thread 0"
