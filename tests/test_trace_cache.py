"""Traces once read: found again by their bytes alone, and never wrong, whatever the files hold."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")

from boundscope.profiler.trace import cache as caching
from boundscope.profiler.trace import parquet
from boundscope.profiler.trace.cache import TraceCache, cached_trace, stored_at_the_end
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.table import Trace


@pytest.fixture(autouse=True)
def every_trace_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BOUNDSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(caching.SWITCH, raising=False)
    monkeypatch.setattr(caching, "MIN_EVENTS", 1)
    return tmp_path / "cache" / "traces"


def trace_file(path: Path, count: int = 60, duration: float = 5.0, age_s: float = 60) -> Path:
    events: list[dict[str, Any]] = [
        {
            "ph": "X",
            "cat": "kernel" if i % 2 else "cpu_op",
            "name": f"op_{i % 7}\ud83d",  # half of a pair, as a broken exporter writes it
            "pid": i % 3,
            "tid": 7,
            "ts": 10 * i,
            "dur": duration,
            "args": {"correlation": i, "stream": 7, "Input Dims": [[2, [3]]], "grid": [i, 1, 1]},
        }
        for i in range(count)
    ]
    text = json.dumps({"traceEvents": events, "distributedInfo": {"rank": 1}, "x": float("nan")})
    path.write_text(text.replace("\\ud83d", ""))
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def kept_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet")) if folder.exists() else []


def same(one: Trace, other: Trace) -> None:
    for field in dataclasses.fields(one.events):
        mine, theirs = getattr(one.events, field.name), getattr(other.events, field.name)
        assert mine.dtype == theirs.dtype, field.name
        assert mine.tobytes() == theirs.tobytes(), field.name
    for field in dataclasses.fields(one):
        if field.name != "events":
            assert repr(getattr(one, field.name)) == repr(getattr(other, field.name)), field.name


def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Trace:
        raise AssertionError("the file was read again")

    monkeypatch.setattr(caching, "read_trace", refuse)


def test_what_comes_from_the_cache_is_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = trace_file(tmp_path / "t.json")
    cached_trace(path)
    no_reading(monkeypatch)

    same(cached_trace(path), read_trace(path))


def test_the_same_bytes_under_another_name_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = trace_file(tmp_path / "t.json")
    cached_trace(path)
    copy = tmp_path / "copy.json"
    copy.write_bytes(path.read_bytes())
    no_reading(monkeypatch)

    assert cached_trace(copy).path == str(copy)


def test_a_change_that_keeps_size_and_time_stamp_is_noticed(tmp_path: Path) -> None:
    path = trace_file(tmp_path / "t.json", duration=5.0)
    before = path.stat()
    cached_trace(path)
    trace_file(path, duration=6.0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size

    assert set(cached_trace(path).events.duration_ns.tolist()) == {6000}


def test_another_version_of_the_reader_reads_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_trace_is_kept: Path
) -> None:
    path = trace_file(tmp_path / "t.json")
    cached_trace(path)
    monkeypatch.setattr(caching, "reader_version", lambda: "another")

    cached_trace(path)

    assert len(kept_files(every_trace_is_kept)) == 2


def test_a_file_that_was_only_just_written_is_not_kept(
    tmp_path: Path, every_trace_is_kept: Path
) -> None:
    cached_trace(trace_file(tmp_path / "t.json", age_s=0))

    assert kept_files(every_trace_is_kept) == []


def damaged(data: bytes, how: str) -> bytes:
    middle = len(data) // 3
    return {
        "empty": b"",
        "half": data[: len(data) // 2],
        "a bit": data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :],
        "zeros": bytes(len(data)),
        "text": b"PAR1 no PAR1",
        "other": data[: len(data) - 900] + os.urandom(900),
    }[how]


@pytest.mark.parametrize("how", ["empty", "half", "a bit", "zeros", "text", "other"])
def test_a_damaged_file_is_passed_over(tmp_path: Path, every_trace_is_kept: Path, how: str) -> None:
    path = trace_file(tmp_path / "t.json")
    cached_trace(path)
    (kept,) = kept_files(every_trace_is_kept)
    kept.write_bytes(damaged(kept.read_bytes(), how))

    same(cached_trace(path), read_trace(path))


def test_every_flipped_byte_gives_the_right_trace_or_none(
    tmp_path: Path, every_trace_is_kept: Path
) -> None:
    path = trace_file(tmp_path / "t.json", count=6)
    cached_trace(path)
    (kept,) = kept_files(every_trace_is_kept)
    data, right = kept.read_bytes(), read_trace(path)

    refused = 0
    for place in range(0, len(data), 3):
        kept.write_bytes(data[:place] + bytes([data[place] ^ 0x15]) + data[place + 1 :])
        found = parquet.load(kept, str(path))
        if found is not None:
            same(found, right)
        refused += found is None
    assert refused > len(data) // 6


def test_columns_that_point_nowhere_are_refused(tmp_path: Path) -> None:
    trace = read_trace(trace_file(tmp_path / "t.json"))
    hostile = dataclasses.replace(trace, names=trace.names[:2])
    file = tmp_path / "hostile.parquet"
    with file.open("wb") as out:
        parquet.store(out, hostile)

    assert parquet.load(file, "t.json") is None


def test_a_link_in_the_cache_is_not_followed(tmp_path: Path, every_trace_is_kept: Path) -> None:
    path = trace_file(tmp_path / "t.json")
    cached_trace(path)
    (kept,) = kept_files(every_trace_is_kept)
    elsewhere = kept.rename(tmp_path / "elsewhere.parquet")
    kept.symlink_to(elsewhere)

    same(cached_trace(path), read_trace(path))


def test_files_deleted_at_any_moment_do_no_harm(tmp_path: Path, every_trace_is_kept: Path) -> None:
    path = trace_file(tmp_path / "t.json", count=2000)
    right = read_trace(path)
    remover = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import pathlib, sys\nfolder = pathlib.Path(sys.argv[1])\nwhile True:\n"
            "    for file in folder.glob('*'):\n        file.unlink(missing_ok=True)\n",
            str(every_trace_is_kept),
        ]
    )
    try:
        for _ in range(30):
            same(cached_trace(path), right)
    finally:
        remover.kill()
        remover.wait()


def test_the_least_recently_used_go_when_the_cache_is_full(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    trace = read_trace(trace_file(tmp_path / "t.json"))
    TraceCache(folder).keep("1-first.parquet", trace)
    size = (folder / "1-first.parquet").stat().st_size
    for age, name in ((30, "2-old"), (20, "3-used"), (10, "4-new")):
        TraceCache(folder).keep(f"{name}.parquet", trace)
        os.utime(folder / f"{name}.parquet", (time.time() - age,) * 2)
    os.utime(folder / "1-first.parquet", (time.time() - 5,) * 2)

    TraceCache(folder, max_total_bytes=3 * size + size // 2).keep("5-last.parquet", trace)

    assert [f.name[0] for f in kept_files(folder)] == ["1", "4", "5"]


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    for name, age in ((".old.part", 7200), (".fresh.part", 1)):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (time.time() - age,) * 2)

    TraceCache(folder).keep("1-a.parquet", read_trace(trace_file(tmp_path / "t.json")))

    assert {f.name for f in folder.iterdir()} == {".fresh.part", "1-a.parquet"}


@pytest.mark.parametrize("value", ["off", "0", "no", "OFF"])
def test_an_environment_variable_switches_it_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_trace_is_kept: Path, value: str
) -> None:
    monkeypatch.setenv(caching.SWITCH, value)

    cached_trace(trace_file(tmp_path / "t.json"))

    assert not every_trace_is_kept.exists()


def test_a_place_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BOUNDSCOPE_CACHE", str(tmp_path / "file" / "below"))

    assert len(cached_trace(trace_file(tmp_path / "t.json")).events) == 60


def test_nothing_is_written_before_the_answer_and_nothing_after_an_error(
    tmp_path: Path, every_trace_is_kept: Path
) -> None:
    path = trace_file(tmp_path / "t.json")

    def failing() -> None:
        with stored_at_the_end():
            cached_trace(path)
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert kept_files(every_trace_is_kept) == []

    with stored_at_the_end():
        cached_trace(path)
        assert kept_files(every_trace_is_kept) == []
    assert len(kept_files(every_trace_is_kept)) == 1


def test_small_traces_are_read_again_rather_than_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_trace_is_kept: Path
) -> None:
    monkeypatch.setattr(caching, "MIN_EVENTS", 61)

    cached_trace(trace_file(tmp_path / "t.json"))

    assert not every_trace_is_kept.exists()


def test_the_modules_that_decide_what_is_read_are_all_there() -> None:
    folder = Path(caching.__file__).parent

    assert all((folder / f"{name}.py").is_file() for name in caching.READER_MODULES)
