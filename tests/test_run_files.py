"""Record files and rank folders: a torn end, damage, other versions, restarts."""

from __future__ import annotations

import json
import socket
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boundscope.collectors.records import (
    Frame,
    Gap,
    Header,
    Manifest,
    Record,
    Sample,
    Site,
    SpanKind,
    Spans,
    Stack,
    Stacks,
)
from boundscope.collectors.writer import Clock, RecordWriter
from boundscope.profiler.run.files import read_records
from boundscope.profiler.run.load import Run, load_rank


def write(path: Path, *records: Record, rank: int = 0, close: bool = True) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = RecordWriter(path, "inside", Clock(), rank=rank, world_size=2)
    for record in records:
        writer.write(record)
    if close:
        writer.close()
    else:
        writer.abandon()
    return path.read_bytes()


def steps(count: int, base_ns: int = 1_000, thread: list[int] | None = None) -> Spans:
    numbers = list(range(count))
    return Spans(
        base_ns, "o" * count, [10 * i for i in numbers], [5] * count, numbers, thread or []
    )


def run_of(folder: Path) -> Run:
    manifest = Manifest(1, "id", "name", [], "", 0, "finished", 0, 0, "", "")
    return Run(folder, manifest, "finished")


RECORDS = (
    Sample(1, {"a": 0.5}),
    steps(3),
    Gap(2, "gpu", "no-driver"),
    Site("loader", 0, "t.py", 3),
)


@given(st.data())
def test_reading_is_monotone_in_a_file_cut_anywhere(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole = write(folder / "whole.jsonl", *RECORDS)
    first, second = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    (folder / "less.jsonl").write_bytes(whole[:first])
    (folder / "more.jsonl").write_bytes(whole[:second])

    less, more = read_records(folder / "less.jsonl"), read_records(folder / "more.jsonl")

    assert more.records[: len(less.records)] == less.records
    assert list(RECORDS)[: len(more.records)] == more.records
    assert (less.skipped, more.skipped) == (0, 0)
    assert more.closed == (second == len(whole))


def test_damage_and_unknown_types_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    lines = write(path, *RECORDS).split(b"\n")
    lines[2:2] = [b'{"t":"from-tomorrow","x":1}', b"\x00\xff", b"", b'{"t":"sample"}']
    path.write_bytes(b"\n".join(lines))

    file = read_records(path)

    assert file.records == list(RECORDS)
    assert file.skipped == 3
    assert file.closed


def test_a_missing_file_is_an_empty_one(tmp_path: Path) -> None:
    file = read_records(tmp_path / "none.jsonl")

    assert (file.header, file.records, file.closed) == (None, [], False)


def test_spans_of_other_threads_and_damaged_columns_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "rank-3-77"
    damaged = Spans(5_000, "ooo", [1], [1], [1])
    write(folder / "steps.jsonl", steps(4, thread=[0, 1, 0, 1]), damaged, steps(2, 500), rank=3)

    rank = load_rank(folder)

    assert (rank.rank, rank.world_size, rank.closed) == (3, 2, True)
    np.testing.assert_array_equal(rank.spans.start_ns, [500, 510, 1000, 1020])
    np.testing.assert_array_equal(rank.spans.detail, [0, 1, 0, 2])


def test_a_rank_folder_without_a_file_tells_its_rank_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "rank-5-123").mkdir()

    rank = load_rank(tmp_path / "rank-5-123")

    assert (rank.rank, rank.pid, len(rank.spans), rank.closed) == (5, 123, 0, False)


def test_of_several_processes_of_one_rank_the_one_with_most_steps_counts(tmp_path: Path) -> None:
    write(tmp_path / "rank-0-10" / "steps.jsonl", steps(3))
    write(tmp_path / "rank-0-11" / "steps.jsonl", steps(7))
    write(tmp_path / "rank-1-12" / "steps.jsonl", steps(7), rank=1)
    (tmp_path / "rank-of-somebody-else").mkdir()

    run = run_of(tmp_path)

    assert [rank.steps_seen for rank in run.ranks] == [7, 7]
    assert run.world_size == 2


def test_a_process_that_only_read_is_no_rank_where_others_trained(tmp_path: Path) -> None:
    reading = Spans(1_000, SpanKind.LOADER * 5, [0, 10, 20, 30, 40], [5] * 5, [0] * 5)
    write(tmp_path / "rank-0-10" / "steps.jsonl", reading)
    write(tmp_path / "rank-1-11" / "steps.jsonl", steps(4), rank=1)

    trained = run_of(tmp_path).ranks

    assert [rank.rank for rank in trained] == [1]


def py_spy_file(function: str, seconds: float) -> bytes:
    """What py-spy leaves of one thread that was in one function all the time."""
    end = int(seconds * 1e6)
    frames = [
        ('process 77:"python t.py"', {}),
        ("thread (77): MainThread", {}),
        (function, {"filename": "/w/t.py", "line": 3}),
    ]
    begun = [("B", 0, name, args) for name, args in frames]
    ended = [("E", end, name, args) for name, args in reversed(frames)]
    return json.dumps(
        [
            {"name": name, "ph": ph, "pid": 77, "tid": 9, "ts": ts, "args": args}
            for ph, ts, name, args in begun + ended
        ]
    ).encode()


def test_what_a_killed_launcher_left_of_its_last_recording_is_added_to_the_earlier_ones(
    tmp_path: Path,
) -> None:
    node = tmp_path / f"node-{socket.gethostname()}"
    earlier = [
        Stacks(second, second + 1, 50_000_000, 77, 77, [(0, 15), (1, 5)], "rank", "MainThread", 0)
        for second in range(10)
    ]
    frames = [Frame(0, "loads", "/w/t.py", 1), Frame(1, "trains", "/w/t.py", 2)]
    write(node / "stacks.jsonl", *frames, Stack(0, [0]), Stack(1, [1]), *earlier, close=False)
    (node / "stacks-77-rank-0-50000000.part").write_bytes(py_spy_file("saves", seconds=3))

    table = run_of(tmp_path).stacks[77]

    seen: Counter[str] = Counter()
    for sample in table.samples:
        for stack, count in sample.counts:
            seen[table.frames[table.stacks[stack][-1]].function] += count
    assert seen == {"loads": 150, "trains": 50, "saves": 60}  # twenty a second


def test_stacks_of_two_hosts_that_gave_one_pid_to_two_processes_are_not_mixed(
    tmp_path: Path,
) -> None:
    sample = Stacks(0, 1, 50_000_000, 77, 77, [(0, 20)], "rank", "MainThread", 0)
    for host, function, count in (("a", "mine", 3), ("b", "theirs", 2)):
        header = Header(1, "stacks", host, 5, 0, 0)
        lines = [header, Frame(0, function, "/w/t.py", 1), Stack(0, [0]), *[sample] * count]
        (tmp_path / f"node-{host}").mkdir()
        text = b"\n".join(msgspec.json.encode(line) for line in lines)
        (tmp_path / f"node-{host}" / "stacks.jsonl").write_bytes(text + b"\n")

    table = run_of(tmp_path).stacks[77]

    assert [frame.function for frame in table.frames.values()] == ["mine"]
    assert len(table.samples) == 3
