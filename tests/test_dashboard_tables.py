"""What the pages show is derived by pure functions: hand-worked cases of each."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from boundscope.collectors.records import Frame, Manifest, Memory, SpanKind, Stacks
from boundscope.profiler.diagnose import diagnose_run
from boundscope.profiler.diagnosis import SCHEMA, SLOTS, Diagnosis, RunSummary, Verdict
from boundscope.profiler.features import Features, RankFeatures
from boundscope.profiler.library import find_sources, list_entries, stored_diagnosis
from boundscope.profiler.run.load import MetricTable, RankData, Run, SpanTable, StackTable
from boundscope.profiler.run.manifest import write_manifest
from boundscope.profiler.tables.flame import flame_tree, phases_seen
from boundscope.profiler.tables.job import job_collectives, step_grid, wait_grid
from boundscope.profiler.tables.longest import PHASE_WORDS, longest_steps
from boundscope.profiler.tables.memory import device_memory, growth
from boundscope.profiler.tables.metrics import panels
from boundscope.profiler.tables.ops import op_rows
from boundscope.profiler.tables.ruled_out import ruled_out
from boundscope.profiler.tables.source_lines import source_lines
from boundscope.profiler.tables.steps import drift, outliers, step_series
from boundscope.profiler.timeline import PHASES, Timeline, build_timeline
from boundscope.profiler.trace.collectives import Collective
from boundscope.profiler.trace.host import OpTime

from .written_run import write_run

MS = 1_000_000
EMPTY = SpanTable(
    np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
)


def manifest(name: str = "train", started_ns: int = 0, **more: object) -> Manifest:
    fields = {
        "schema": 1,
        "id": name,
        "name": name,
        "command": ["python", "train.py"],
        "cwd": "/",
        "started_ns": started_ns,
        "status": "finished",
        "launcher_pid": 1,
        "launcher_start_ticks": 1,
        "host": "host",
        "version": "0",
        **more,
    }
    return Manifest(**fields)  # type: ignore[arg-type]


def rank_data(number: int = 0, spans: SpanTable = EMPTY) -> RankData:
    return RankData(number, 100 + number, "host", Path(), spans, [], [], None, [], [])


def run_of(ranks: list[RankData], **known: object) -> Run:
    """A run whose tables are given instead of read."""
    run = Run(Path("/nowhere"), manifest(), "finished")
    run.__dict__.update({"ranks": ranks, "metrics": [], "stacks": {}, "gaps": [], **known})
    return run


def line_of(durations_ms: list[int], saves: dict[int, int] | None = None) -> Timeline:
    """Steps of these durations; step i (from 0) holds a checkpoint of `saves[i]` ms."""
    ends = np.concatenate(([0], np.cumsum(durations_ms))) * MS
    rows = [("o", int(end) - 1, 1, 0) for end in ends]
    rows += [
        (SpanKind.SAVE, int(ends[i]) + MS, length * MS, 0) for i, length in (saves or {}).items()
    ]
    rows.sort(key=lambda row: row[1])
    kinds = np.array([ord(row[0]) for row in rows], np.uint8)
    spans = SpanTable(kinds, *(np.array([row[i] for row in rows], np.int64) for i in (1, 2, 3)))
    line = build_timeline(rank_data(0, spans))
    assert line is not None
    return line


def features_of(collectives: list[list[Collective]]) -> Features:
    line = line_of([10] * 8)
    ranks = [
        RankFeatures(
            data=rank_data(number),
            timeline=line,
            shares=dict.fromkeys(SLOTS, 0.0),
            block_shares=np.zeros((1, len(SLOTS))),
            phase_ms=dict.fromkeys(PHASES, 1.0),
            ops=[],
            window_ms=0.0,
            event_overhead_ns=0.0,
            collectives=mine,
        )
        for number, mine in enumerate(collectives)
    ]
    return Features(run_of([r.data for r in ranks]), ranks, {}, {})


def test_a_step_far_above_the_others_is_an_outlier_and_a_slightly_longer_one_is_not() -> None:
    # Given
    durations = np.array([10.0, 10.1, 9.9, 10.0, 10.1, 9.9, 10.0, 10.8, 20.0])

    # When
    marked = outliers(durations, durations)

    # Then
    assert marked.tolist() == [False] * 8 + [True]


def test_a_step_that_was_long_because_of_a_checkpoint_is_shaded_and_no_outlier() -> None:
    # Given
    line = line_of([10] * 20 + [60] + [10] * 5 + [60] + [10] * 5, saves={20: 50})

    # When
    series = step_series(line, started_ns=0)

    # Then
    assert np.flatnonzero(series.outlier).tolist() == [26]
    (band,) = (band for band in series.bands if band.what == "checkpoint")
    assert (band.start_s, band.end_s) == (pytest.approx(0.201), pytest.approx(0.251))


def test_drift_compares_the_end_of_the_run_with_its_beginning() -> None:
    assert drift(np.array([10.0] * 50 + [12.0] * 50)) == pytest.approx(0.2)
    assert drift(np.array([10.0] * 100)) == 0
    assert drift(np.array([10.0] * 5)) is None


def test_the_longest_step_names_the_phase_that_grew() -> None:
    # Given
    line = line_of([10] * 20 + [60] + [10] * 5, saves={20: 50})

    # When
    first = longest_steps(step_series(line, 0))[0]

    # Then
    assert (first.step, first.cause) == (21, "a checkpoint")
    assert first.grown_ms == pytest.approx(50)
    assert first.factor == pytest.approx(6)


def test_every_phase_of_a_step_has_words() -> None:
    assert set(PHASE_WORDS) == set(PHASES)


def collective(start_ms: float, end_ms: float, step: int = 0, ordinal: int = 0) -> Collective:
    return Collective(
        "gloo:all_reduce", step, ordinal, 1_000_000, int(start_ms * MS), int(end_ms * MS)
    )


def test_a_rank_waits_for_the_last_to_arrive_and_overlapping_waits_count_once() -> None:
    # Given: rank 0 enters two collectives at 0 and 10 ms; rank 1 comes to both at 30 ms
    early = [collective(0, 40), collective(10, 40, ordinal=1)]
    late = [collective(30, 40), collective(30, 40, ordinal=1)]

    # When
    grid = wait_grid(features_of([early, late]))

    # Then
    assert grid is not None
    assert grid.wait_ms.tolist() == [[0, 30], [0, 0]]
    assert (grid.collectives, grid.steps) == (2, 1)


def test_busbw_counts_from_the_last_arrival_as_nccl_tests_do() -> None:
    # Given: 1 MB over two ranks, moving for 10 ms: busbw = 1 MB / 10 ms * 2 * (2 - 1) / 2
    features = features_of([[collective(0, 40)], [collective(30, 40)]])

    # When
    (row,) = job_collectives(features)

    # Then
    assert row.moving_ms == pytest.approx(10)
    assert row.waiting_ms == pytest.approx(15)
    assert row.busbw == pytest.approx(100e6)


def test_a_gathered_size_is_what_comes_out_of_all_ranks() -> None:
    # Given: each of two ranks puts in 1 MB and gets 2 MB; NCCL's tests count those, at (n - 1) / n
    one = Collective("gloo:all_gather", 0, 0, 1_000_000, 30 * MS, 40 * MS)

    # When
    (row,) = job_collectives(features_of([[one], [one]]))

    # Then
    assert row.bytes == 2_000_000
    assert row.busbw == pytest.approx(2e6 / 10e-3 / 2)


def test_one_rank_has_no_matrix_of_waits() -> None:
    assert wait_grid(features_of([[collective(0, 40)]])) is None


def test_the_grid_of_step_times_has_a_row_a_rank_and_gaps_where_a_rank_has_no_step() -> None:
    # Given
    lines = {0: line_of([10] * 12), 3: line_of([20] * 6)}

    # When
    grid = step_grid(lines)

    # Then
    assert grid.ranks == [0, 3]
    assert grid.first_step[0] == 1
    assert grid.step_ms[0, -1] == pytest.approx(10)
    assert np.isnan(grid.step_ms[1, -1])


def test_an_op_that_would_beat_its_roof_has_no_rate() -> None:
    # Given: 1 GFLOP in 1 ms where the roof asks for 0.5 ms, and the same where it asks for 2 ms
    honest = OpTime("aten::mm", "gemm", "compute", 1, 1e6, 1e6, 1e9, 1e6, 0.5e6)
    wrapper = OpTime("aten::mv", "gemm", "compute", 1, 1e6, 1e6, 1e9, 1e6, 2e6)
    rank = features_of([[]]).ranks[0]
    object.__setattr__(rank, "ops", [honest, wrapper])

    # When
    first, second = op_rows(rank)

    # Then
    assert first.flop_per_s == pytest.approx(1e12)
    assert first.intensity == pytest.approx(1000)
    assert first.roof_share == pytest.approx(0.5)
    assert (second.flop_per_s, second.intensity, second.roof_share) == (None, None, None)


def stacked_run() -> Run:
    files = ["/home/me/train.py", "/x/site-packages/torch/utils/data/dataloader.py"]
    frames = {
        1: Frame(1, "main", files[0], 10),
        2: Frame(2, "__next__", files[1], 5),
        3: Frame(3, "load", files[0], 3),
    }
    counts = [(1, 6), (2, 4)]
    table = StackTable(frames, {1: [1, 2, 3], 2: [1]}, [Stacks(0, 1, 1, 100, 1, counts)])
    return run_of([rank_data()], stacks={100: table})


def test_the_flame_tree_counts_samples_below_each_caller() -> None:
    # When
    root = flame_tree(stacked_run(), 0, "all")

    # Then
    (main,) = root.children.values()
    assert (root.count, main.count, main.own) == (10, 10, 4)
    assert [child.function for child in main.children.values()] == ["__next__"]


def test_the_flame_tree_of_a_phase_has_its_samples_alone_and_can_leave_libraries_out() -> None:
    # When
    root = flame_tree(stacked_run(), 0, "input", only_user=True)

    # Then
    assert phases_seen(stacked_run(), 0) == {"input": 6, "rest": 4}
    (main,) = root.children.values()
    (load,) = main.children.values()
    assert (root.count, load.function, load.own) == (6, "load", 6)


def test_growth_is_told_from_start_up() -> None:
    assert growth(np.array([0.0] * 8 + [100.0] * 24)) == 0
    assert growth(np.arange(32, dtype=np.float64)) == pytest.approx(16)
    assert growth(np.arange(5, dtype=np.float64)) is None


def test_the_allocators_own_peak_is_kept_where_no_sample_saw_it() -> None:
    # Given
    data = rank_data()
    data.memory.extend([Memory(1, 0, 5, 8, 5, 0, 0), Memory(2, 0, 6, 8, 99, 2, 0)])

    # When
    (device,) = device_memory(run_of([data]))

    # Then
    assert (device.allocated.peak, device.peak_allocated, device.retries) == (6, 99, 2)


def test_metrics_become_panels_and_idle_interfaces_are_left_out() -> None:
    # Given
    times = np.array([1e9, 2e9], np.int64)
    series = {
        "net.eth0.rx_bytes_per_s": (times, np.array([1.0, 2.0])),
        "net.eth1.rx_bytes_per_s": (times, np.zeros(2)),
        "storage.job.read_bytes_per_s": (times, np.zeros(2)),
    }

    # When
    found = panels(run_of([], metrics=[MetricTable("any", "host", series)]))

    # Then
    assert [panel.title for panel in found] == ["Network", "Storage of the job"]
    assert [line.label for line in found[0].lines] == ["eth0 received"]
    assert found[0].lines[0].time_s.tolist() == [1.0, 2.0]


def diagnosis_of(bound: str, breakdown: dict[str, float]) -> Diagnosis:
    summary = RunSummary("id", "finished", 0, 1, 10, None, [], None)
    shares = {**dict.fromkeys(SLOTS, 0.0), **breakdown}
    verdict = Verdict(bound, 0.9, None, "words")  # type: ignore[arg-type]
    return Diagnosis(SCHEMA, summary, verdict, shares, [], [], [])


def test_slots_without_a_finding_are_ruled_out_with_the_ground() -> None:
    # When
    out = ruled_out(diagnosis_of("compute", {"compute": 0.96, "host": 0.04}))

    # Then
    grounds = {item.slot: item.reason for item in out}
    assert "4 %" in grounds["host"]
    assert grounds["network"] == "one rank: it waits for no other"
    assert grounds["storage"] == "no time of it was seen"


def test_nothing_is_ruled_out_when_the_verdict_is_unknown() -> None:
    assert ruled_out(diagnosis_of("unknown", {"other": 1.0})) == []


def test_source_text_is_shown_only_from_served_folders_and_as_it_was(tmp_path: Path) -> None:
    # Given
    inside = tmp_path / "served" / "train.py"
    outside = tmp_path / "train.py"
    link = tmp_path / "served" / "link.py"
    inside.parent.mkdir()
    for file in (inside, outside):
        file.write_text("a\nb\nc\nd\n")
    link.symlink_to(outside)
    roots, later = [inside.parent], inside.stat().st_mtime_ns + 1

    # Then
    assert source_lines(str(inside), 2, roots, later)[1] == (2, "b")
    assert source_lines(str(inside), 99, roots, later) == []
    assert source_lines(str(inside), 2, roots, 0) == []
    assert source_lines(str(outside), 2, roots, later) == []
    assert source_lines(str(link), 2, roots, later) == []
    assert source_lines(f"{inside.parent}/../train.py", 2, roots, later) == []


def make_run(folder: Path, name: str, started_ns: int, median: float | None) -> None:
    folder.mkdir(parents=True)
    write_manifest(folder, manifest(name, started_ns, ended_ns=started_ns + 10**9))
    if median is not None:
        diagnosis = json.loads(
            '{"schema":1,"run":{"id":"x","status":"finished","exit_code":0,"world_size":1,'
            '"steps":9,"step_ms":{"median":0,"p90":0},"devices":[],"startup_s":null},"verdict":'
            '{"bound":"host","confidence":0.5,"runner_up":null,"headline":"h"},"breakdown":{},'
            '"ranks":[],"findings":[],"missing":[]}'
        )
        diagnosis["run"]["step_ms"]["median"] = median
        (folder / "diagnosis.json").write_text(json.dumps(diagnosis))


def test_runs_are_found_below_the_folder_and_compared_with_the_one_before(tmp_path: Path) -> None:
    # Given
    make_run(tmp_path / "a", "train", 1, 100.0)
    make_run(tmp_path / "deep" / "b", "train", 2, 110.0)
    make_run(tmp_path / "c", "other", 3, 50.0)

    # When
    rows = list_entries(find_sources([tmp_path]))

    # Then
    assert [row.source.key for row in rows] == ["c", "deep/b", "a"]
    assert [row.change for row in rows] == [None, pytest.approx(0.1), None]


def test_traces_of_ranks_are_one_job_and_other_files_are_none(tmp_path: Path) -> None:
    # Given
    (tmp_path / "job").mkdir()
    for rank in (0, 1):
        with gzip.open(tmp_path / "job" / f"rank_{rank}.json.gz", "wt") as file:
            file.write('{"traceEvents": []}')
    (tmp_path / "one.json").write_text('{"traceEvents": []}')
    (tmp_path / "settings.json").write_text('{"lr": 0.1}')

    # When
    found = {source.key: source.kind for source in find_sources([tmp_path])}

    # Then
    assert found == {"job": "traces", "one.json": "trace"}


def test_links_that_lead_out_of_the_served_folder_are_not_followed(tmp_path: Path) -> None:
    # Given
    make_run(tmp_path / "secret" / "run", "secret", 1, None)
    served = tmp_path / "served"
    served.mkdir()
    (served / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "secret" / "t.json").write_text('{"traceEvents": []}')
    (served / "t.json").symlink_to(tmp_path / "secret" / "t.json")

    # Then
    assert find_sources([served]) == []
    assert len(find_sources([tmp_path])) == 2


def test_two_served_folders_with_a_run_of_the_same_name_have_two_keys(tmp_path: Path) -> None:
    # Given
    for folder in ("x", "y"):
        make_run(tmp_path / folder / "run", "train", 1, None)

    # When
    found = find_sources([tmp_path / "x", tmp_path / "y"])

    # Then
    assert sorted(source.key for source in found) == ["0:run", "1:run"]


def test_a_diagnosis_older_than_the_records_is_not_taken(tmp_path: Path) -> None:
    # Given
    make_run(tmp_path / "run", "train", 1, 10.0)
    (tmp_path / "run" / "rank-0-1").mkdir()
    steps = tmp_path / "run" / "rank-0-1" / "steps.jsonl"
    steps.write_text("")
    (source,) = find_sources([tmp_path])
    assert stored_diagnosis(source) is not None

    # When
    import os

    newer = (tmp_path / "run" / "diagnosis.json").stat().st_mtime + 3600
    os.utime(steps, (newer, newer))

    # Then
    assert stored_diagnosis(source) is None


@pytest.mark.parametrize(
    "edit",
    [
        lambda kept: kept["breakdown"].update(disk=0.5),
        lambda kept: kept["ranks"][0]["breakdown"].update(disk=0.5),
        lambda kept: kept["verdict"].update(confidence=7),
        lambda kept: kept["run"].update(steps=10**400),
    ],
    ids=["slot", "slot of a rank", "share", "count"],
)
def test_a_kept_diagnosis_that_no_report_can_show_counts_as_none(
    tmp_path: Path, edit: Callable[[Any], None]
) -> None:
    folder = write_run(tmp_path / "run")
    path = folder / "diagnosis.json"
    diagnosis = diagnose_run(folder)
    path.write_bytes(msgspec.json.encode(diagnosis))
    (source,) = find_sources([folder])
    assert stored_diagnosis(source) == diagnosis

    kept = json.loads(path.read_bytes())
    edit(kept)
    path.write_text(json.dumps(kept))

    assert stored_diagnosis(source) is None
