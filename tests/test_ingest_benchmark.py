"""The benchmark of ingestion says which of its limits it did not measure."""

from __future__ import annotations

import argparse
import gzip
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def ingest() -> ModuleType:
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return importlib.import_module("benchmarks.ingest")


def options(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"hta": None, "tb": None, "peer_repeats": 1} | given)


def stand_in(folder: Path) -> str:
    """A peer that is done at once."""
    program = folder / "python"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    return str(program)


def test_a_limit_without_its_peer_is_not_kept_but_not_measured(
    ingest: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.json"
    path.write_text("[]")
    report = ingest.Report()

    ingest.peers(report, path, lambda: ingest.Cost(1.0, 1.0, 1), 1000, options())

    said = capsys.readouterr().out
    assert "times as fast as HolisticTraceAnalysis: not measured (no --hta)" in said
    assert "times as fast as torch-tb-profiler: not measured (no --tb)" in said
    assert report.summary() == (
        "limits: 0 kept, 0 missed, 2 not measured (times as fast as HolisticTraceAnalysis; "
        "times as fast as torch-tb-profiler)"
    )


@pytest.mark.parametrize(("megabytes", "missed", "unmeasured"), [(1000, 2, 0), (200, 0, 2)])
def test_the_limits_against_peers_hold_at_the_large_size_only(
    ingest: ModuleType, tmp_path: Path, megabytes: int, missed: int, unmeasured: int
) -> None:
    path = tmp_path / "t.json"
    path.write_text("[]")
    python = stand_in(tmp_path)
    report = ingest.Report()

    ours = ingest.Cost(1e6, 1e6, 1)
    ingest.peers(report, path, lambda: ours, megabytes, options(hta=python, tb=python))

    assert (report.failed, len(report.unmeasured)) == (missed, unmeasured)


def test_peers_are_asked_as_often_as_wanted_and_their_medians_count(
    ingest: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "t.json"
    path.write_text("[]")
    walls, mine = iter([90.0, 10.0, 30.0]), iter([1.0, 3.0, 7.0, 5.0])
    monkeypatch.setattr(ingest, "cost_of", lambda *_, **__: ingest.Cost(next(walls), 1.0, 1))
    report = ingest.Report()

    ours = lambda: ingest.Cost(next(mine), 1.0, 1)  # noqa: E731
    ingest.peers(report, path, ours, 1000, options(hta="x", peer_repeats=3))

    # 90 against 1 and 3, 10 against 3 and 7, 30 against 7 and 5
    assert "times as fast as HolisticTraceAnalysis: 5.00" in capsys.readouterr().out


def test_what_is_compared_is_measured_in_turns(ingest: ModuleType) -> None:
    asked: list[str] = []

    def measure(name: str) -> int:
        asked.append(name)
        return len(asked)

    found = ingest.in_turns([lambda: measure("plain"), lambda: measure("zipped")], 3)

    assert asked == ["plain", "zipped"] * 3
    assert found == [(1, 3, 5), (2, 4, 6)]


def test_only_a_run_that_measured_everything_says_that_every_limit_is_kept(
    ingest: ModuleType,
) -> None:
    report = ingest.Report()
    report.limit("one", 1.0, 2.0, True)
    assert report.summary() == "every limit is kept (1)"

    report.limit("two", 1.0, 2.0, False)
    assert report.summary() == "limits: 1 kept, 1 missed"

    report.not_measured("three", "no reason")
    assert report.summary() == "limits: 1 kept, 1 missed, 1 not measured (three)"


def test_a_whole_run_names_what_it_left_out(
    ingest: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source = tmp_path / "source.json.gz"
    event = (
        b'{"ph": "X", "cat": "kernel", "name": "k", "pid": 0, "tid": 7, "ts": 1, "dur": 2, '
        b'"args": {"device": 0, "stream": 7}}'
    )
    source.write_bytes(gzip.compress(b'{"traceEvents": [' + event + b"]}"))
    monkeypatch.setattr(ingest, "SOURCES", {"no stacks": source.name})
    monkeypatch.setattr(ingest, "diagnosis", lambda *_, **__: ingest.Cost(1.0, 1.0, 1))
    words = ["--corpus", str(tmp_path), "--sizes-mb", "1", "--no-gzip", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["ingest.py", *words])

    code = ingest.main()

    last = capsys.readouterr().out.splitlines()[-1]
    assert code == 0
    assert "0 missed, 6 not measured (" in last
    for what in ("gzip", "HolisticTraceAnalysis", "torch-tb-profiler", "CPU time a byte"):
        assert what in last
    assert "peak memory at 200 MB" in last
    assert "peak memory at 1000 MB" in last
