"""Several paths diagnosed together: traces as the ranks of one job, and a run with its traces."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

import boundscope
from boundscope.collectors.records import Gap, Header, Manifest, Spans, Window
from boundscope.profiler.bundle.writing import make_bundle
from boundscope.profiler.cli import main
from boundscope.profiler.commands.run import report
from boundscope.profiler.diagnose import diagnose_path, diagnose_paths, diagnose_run
from boundscope.profiler.diagnosis import Diagnosis
from boundscope.profiler.errors import UnusableData, UsageError
from boundscope.profiler.features import derive
from boundscope.profiler.report import progress
from boundscope.profiler.run.load import load_run
from boundscope.profiler.run.manifest import write_manifest
from boundscope.profiler.trace import cache
from boundscope.profiler.trace.many import watched
from boundscope.profiler.trace_run import load_traces

MS = 1_000_000
START = 1_700_000_000 * 1_000_000_000
STEPS = 60
STEP_MS = 10
FIRST = 30
"""The first of the five steps that the script's own profiler recorded."""


def record(folder: Path, ranks: Sequence[int] = (0,), *, slow: range = range(0)) -> Path:
    """Write a run of `STEPS` steps of 10 ms (20 ms those in `slow`), without any trace."""
    ends, now = [], 0
    for step in range(STEPS):
        now += STEP_MS * MS * (2 if step in slow else 1)
        ends.append(now)
    for rank in ranks:
        home = folder / f"rank-{rank}-{100 + rank}"
        home.mkdir(parents=True)
        header = Header(1, "steps", "host", 100 + rank, 0, START, rank=rank, world_size=len(ranks))
        spans = Spans(START, "o" * STEPS, [end - MS for end in ends], [MS] * STEPS, [0] * STEPS)
        ending = Gap(START + now, "memory", "not-supported", "", "")
        lines = [msgspec.json.encode(one) for one in (header, spans, ending)]
        (home / "steps.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    write_manifest(
        folder,
        Manifest(
            schema=1,
            id=folder.name,
            name=folder.name,
            command=["python", "train.py"],
            cwd="/",
            started_ns=START,
            status="finished",
            launcher_pid=1,
            launcher_start_ticks=1,
            host="host",
            version="0",
            ended_ns=START + now,
            exit_code=0,
        ),
    )
    return folder


def step_events(pid: int, start_us: float, number: int, length_us: float = 10_000) -> list[Any]:
    """One step: a matrix product for 3 ms, then an all-reduce that nothing hides for 7 ms."""
    host = {"ph": "X", "cat": "user_annotation", "pid": pid, "tid": pid, "args": {}}
    device = {"ph": "X", "cat": "kernel", "pid": 0, "tid": 7, "args": {"device": 0, "stream": 7}}
    scale = length_us / 10_000
    return [
        host | {"name": f"ProfilerStep#{number}", "ts": start_us, "dur": length_us},
        device | {"name": "volta_sgemm_128x64", "ts": start_us, "dur": 3_000 * scale},
        device
        | {"name": "ncclKernel_AllReduce", "ts": start_us + 3_000 * scale, "dur": 7_000 * scale},
    ]


def trace(
    path: Path,
    *,
    pid: int = 100,
    begin_ns: int = START + FIRST * STEP_MS * MS,
    rank: int | None = None,
    length_us: float = 10_000,
) -> Path:
    """Write a device trace of five steps."""
    events = [
        event
        for step in range(5)
        for event in step_events(pid, begin_ns / 1_000 + step * length_us, step, length_us)
    ]
    document: dict[str, Any] = {"traceEvents": events}
    if rank is not None:
        document["distributedInfo"] = {"rank": rank, "world_size": 2, "backend": "nccl"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def slugs(diagnosis: Diagnosis) -> set[str]:
    return {warning.slug for warning in diagnosis.warnings}


def test_traces_named_one_by_one_are_the_ranks_of_a_folder(tmp_path: Path) -> None:
    files = [trace(tmp_path / f"ranks/rank{n}.json", pid=100 + n) for n in range(2)]

    together = diagnose_paths(files)
    folder = diagnose_path(tmp_path / "ranks")

    assert [rank.rank for rank in together.ranks] == [0, 1]
    assert together.breakdown == folder.breakdown
    assert together.verdict == folder.verdict


def test_a_trace_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    file = trace(tmp_path / "ranks/t.json")

    assert len(diagnose_paths([file, tmp_path / "ranks", file]).ranks) == 1


def test_a_run_without_windows_is_judged_by_the_traces_of_its_script(tmp_path: Path) -> None:
    run = record(tmp_path / "run")
    file = trace(tmp_path / "log/t.json")

    alone, both = diagnose_path(run), diagnose_paths([run, file])

    assert alone.verdict.bound == "unknown"
    assert alone.breakdown["other"] == pytest.approx(1.0)
    assert both.breakdown["network"] == pytest.approx(0.7, abs=1e-6)
    assert both.breakdown["compute"] == pytest.approx(0.3, abs=1e-6)
    assert both.verdict.bound == "network"
    assert (both.run.id, both.run.steps) == ("run", STEPS)
    assert "trace-outside-run" not in slugs(both)


def test_the_order_of_the_paths_says_nothing(tmp_path: Path) -> None:
    run = record(tmp_path / "run")
    file = trace(tmp_path / "log/t.json")

    assert diagnose_paths([file, run]) == diagnose_paths([run, file.parent])


def test_steps_under_the_scripts_profiler_do_not_set_the_step_time(tmp_path: Path) -> None:
    # 30 of 60 steps take 20 ms, and the profiler ran in just these.
    slow = range(FIRST, STEPS)
    run = record(tmp_path / "run", slow=slow)
    begin = START + FIRST * STEP_MS * MS
    file = trace(tmp_path / "t.json", begin_ns=begin, length_us=len(slow) * 20_000 / 5)

    assert diagnose_path(run).run.step_ms != diagnose_paths([run, file]).run.step_ms
    both = diagnose_paths([run, file])
    assert both.run.step_ms is not None
    assert (both.run.step_ms.median, both.run.step_ms.p90) == (10.0, 10.0)


@pytest.mark.parametrize(
    ("begin_ns", "words"),
    [
        (START - 3_600 * 10**9, "is of another time than the run"),
        (START + 3_600 * 10**9, "is of another time than the run"),
        (5 * 10**9, "does not tell when it was made"),
    ],
)
def test_a_trace_of_another_time_is_left_out_and_named(
    tmp_path: Path, begin_ns: int, words: str
) -> None:
    run = record(tmp_path / "run")
    file = trace(tmp_path / "t.json", begin_ns=begin_ns)

    found = diagnose_paths([run, file])

    assert found.breakdown == diagnose_path(run).breakdown
    (warning,) = [w for w in found.warnings if w.slug == "trace-outside-run"]
    assert warning.text.startswith(f"t.json {words}")


def test_a_trace_goes_to_the_rank_whose_process_it_is_of(tmp_path: Path) -> None:
    run = record(tmp_path / "run", ranks=(0, 1))
    file = trace(tmp_path / "t.json", pid=101)

    found = {rank.rank: rank.breakdown for rank in diagnose_paths([run, file]).ranks}

    assert found[1]["compute"] == pytest.approx(0.3)
    assert found[0]["other"] == pytest.approx(1.0)


def test_a_trace_that_names_its_rank_goes_there(tmp_path: Path) -> None:
    run = record(tmp_path / "run", ranks=(0, 1))
    file = trace(tmp_path / "t.json", pid=100, rank=1)

    found = {rank.rank: rank.breakdown for rank in diagnose_paths([run, file]).ranks}

    assert found[1]["compute"] == pytest.approx(0.3)


def test_a_rank_that_the_run_did_not_record_is_taken_from_its_trace(tmp_path: Path) -> None:
    run = record(tmp_path / "run")
    files = [trace(tmp_path / f"{n}.json", pid=100 + n, rank=n) for n in range(2)]

    one, both = diagnose_paths([run, files[1]]), diagnose_paths([run, *files])

    assert [rank.rank for rank in both.ranks] == [0, 1]
    assert both.run.world_size == 2
    assert "ranks-missing" not in slugs(both)
    # Five steps of a trace do not make a run of 60 one of too few.
    assert both.run.steady_steps == STEPS - 2
    assert both.verdict.bound == "network"
    assert one.missing == both.missing == diagnose_path(run).missing


def test_a_window_of_the_run_that_is_named_again_counts_once(tmp_path: Path) -> None:
    run = with_window(record(tmp_path / "run"))
    window = next(run.glob("rank-*/trace-0.json"))

    assert diagnose_paths([run, window]) == diagnose_path(run)


def with_window(run: Path, count: int = 1) -> Path:
    """Add trace windows to a rank's records as the guest would have written them."""
    home = next(run.glob("rank-0-*"))
    for index in range(count):
        begin = START + (20 + 10 * index) * STEP_MS * MS
        trace(home / f"trace-{index}.json", begin_ns=begin)
        told = Window(index, begin, begin + 50 * MS, 20 + 10 * index, 5, f"trace-{index}.json", 15)
        with (home / "steps.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(told) + b"\n")
    return run


def test_windows_of_a_run_are_read_side_by_side_and_told_of(tmp_path: Path) -> None:
    run = with_window(record(tmp_path / "run"), count=2)
    whole = sum(file.stat().st_size for file in run.glob("rank-*/trace-*.json"))
    seen: list[tuple[int, int]] = []

    with watched(lambda done, total: seen.append((done, total))):
        found = diagnose_run(run)

    assert found.breakdown["network"] == pytest.approx(0.7, abs=1e-6)
    assert seen[-1] == (whole, whole)


def test_windows_of_a_run_are_kept_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOUNDSCOPE_CACHE", str(tmp_path / "kept"))
    monkeypatch.setenv(cache.SWITCH, "on")
    monkeypatch.setattr(cache, "MIN_EVENTS", 0)
    run = with_window(record(tmp_path / "run"))
    for file in run.glob("rank-*/trace-*.json"):
        os.utime(file, (1, 1))  # long ago: what was written just now may change again

    first = diagnose_run(run)

    assert len(list((tmp_path / "kept").glob("traces/*.parquet"))) == 1
    assert diagnose_run(run) == first


def test_steps_of_one_number_in_two_windows_are_not_the_same_collective(tmp_path: Path) -> None:
    early = trace(tmp_path / "a.json", rank=0)
    late = trace(tmp_path / "b.json", rank=0, begin_ns=START + 50 * STEP_MS * MS)

    _, (rank,), _ = load_traces([early, late])

    assert len({one.key for one in rank.collectives}) == len(rank.collectives) == 10


def test_a_window_that_cannot_be_read_is_named_and_the_run_stands(tmp_path: Path) -> None:
    run = with_window(record(tmp_path / "run"), count=2)
    next(run.glob("rank-*/trace-1.json")).write_text("")

    found = diagnose_run(run)

    assert found.breakdown["network"] == pytest.approx(0.7, abs=1e-6)
    assert "trace-empty" in slugs(found)
    assert derive(load_run(run), None).shares == pytest.approx(found.breakdown, abs=1e-6)


def test_a_trace_beside_a_run_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    run = record(tmp_path / "run")
    (tmp_path / "broken.json").write_text("")

    found = diagnose_paths([run, tmp_path / "broken.json"])

    (warning,) = [w for w in found.warnings if w.slug == "trace-empty"]
    assert warning.text.startswith("broken.json: ")


def test_two_runs_and_bundles_with_company_are_refused(tmp_path: Path) -> None:
    one, two = record(tmp_path / "one"), record(tmp_path / "two")
    file = trace(tmp_path / "t.json")
    bundle = make_bundle(file, tmp_path / "sent.boundscope.zip", max_bytes=10**6).path

    for paths in ([one, two], [bundle, file], [one, bundle]):
        with pytest.raises(UsageError) as caught:
            diagnose_paths(paths)
        assert caught.value.slug == "several-runs"
    assert diagnose_paths([one, one]) == diagnose_path(one)


def test_each_path_must_be_something(tmp_path: Path) -> None:
    file = trace(tmp_path / "ranks/t.json")
    (tmp_path / "empty").mkdir()

    for name, slug in (("no", "no-such-path"), ("empty", "nothing-to-diagnose")):
        with pytest.raises(UnusableData) as caught:
            diagnose_paths([file, tmp_path / name])
        assert caught.value.slug == slug


def test_a_run_folder_that_lost_its_manifest_is_called_one(tmp_path: Path) -> None:
    run = record(tmp_path / "run")
    (run / "manifest.json").unlink()

    with pytest.raises(UnusableData, match=r"manifest\.json is missing") as caught:
        diagnose_paths([run])

    assert caught.value.slug == "no-manifest"


def test_the_command_line_takes_several_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = record(tmp_path / "run"), trace(tmp_path / "t.json")

    assert main(["diagnose", "--json", str(run), str(file)]) == 0

    shown = json.loads(capsys.readouterr().out)
    assert shown["verdict"]["bound"] == "network"
    assert shown["run"]["id"] == "run"


def test_several_paths_from_python(tmp_path: Path) -> None:
    run, file = record(tmp_path / "run"), trace(tmp_path / "t.json")

    assert boundscope.diagnose(run, str(file)).verdict.bound == "network"


def test_the_report_after_a_run_shows_how_far_reading_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[bool] = []

    @contextlib.contextmanager
    def noted() -> Iterator[None]:
        shown.append(True)
        yield

    monkeypatch.setattr(progress, "reading_shown", noted)

    report(with_window(record(tmp_path / "run")), debug=True)

    assert shown == [True]
