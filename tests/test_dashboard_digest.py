"""What pages show is computed once and kept: the same figures, never those of other data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from boundscope.profiler.diagnose import diagnose_path
from boundscope.profiler.digest import make, store, window
from boundscope.profiler.errors import UnusableData
from boundscope.profiler.library import Source, derive_source, find_sources, open_rank
from boundscope.profiler.tables.job import step_grid
from boundscope.profiler.tables.ops import op_rows
from boundscope.profiler.timeline import Timeline, build_timeline
from boundscope.profiler.trace_run import load_traces

TRAINING = Path(__file__).parent / "scenarios" / "tiny_training.py"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A real training with a trace window."""
    folder = tmp_path_factory.mktemp("digest") / "run"
    command = [sys.executable, "-m", "boundscope", "run", "-o", str(folder), "--", str(TRAINING)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return find_sources([folder])[0]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BOUNDSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def steps_of(source: Source) -> Timeline:
    data = open_rank(source, 0)
    assert data is not None
    line = build_timeline(data)
    assert line is not None
    return line


def traced_span(line: Timeline) -> tuple[int, int]:
    step = int(np.flatnonzero(line.profiled)[-1])
    return int(line.start_ns[step]), int(line.end_ns[step])


@pytest.mark.parametrize("apart", [False, True], ids=["at-once", "in-a-process-of-its-own"])
def test_what_is_kept_is_what_the_features_give(
    recorded: Source, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    # Given
    monkeypatch.setattr(make, "APART_FROM_BYTES", 0 if apart else 1 << 40)
    features = derive_source(recorded)

    # When
    first = make.job_of(recorded, recorded.stamp)
    again = make.job_of(recorded, recorded.stamp)

    # Then
    assert first.diagnosis == again.diagnosis == diagnose_path(recorded.path)
    assert first.ops[0].rows == op_rows(features.ranks[0])[: len(first.ops[0].rows)]
    grid = step_grid({rank.rank: rank.timeline for rank in features.ranks})
    np.testing.assert_allclose(first.step_grid.step_ms, grid.step_ms, atol=1e-3)


def test_a_window_comes_back_from_its_files_as_it_was(recorded: Source, tmp_path: Path) -> None:
    # Given
    line = steps_of(recorded)
    found = make.window_of(recorded, recorded.stamp, line, traced_span(line))
    assert found is not None
    made = found[0]

    # When
    folder = tmp_path / "again"
    folder.mkdir()
    window.write(made, folder)
    read = window.read(folder)

    # Then
    assert read.tables == made.tables
    assert read.lanes.names == made.lanes.names
    for mine, other in zip(made.lanes.lanes, read.lanes.lanes, strict=True):
        assert (mine.label, mine.what, mine.deeper) == (other.label, other.what, other.deeper)
        for row, same in zip(mine.rows, other.rows, strict=True):
            np.testing.assert_array_equal(row.start_ns, same.start_ns)
            np.testing.assert_array_equal(row.name, same.name)


def device_trace(folder: Path) -> Path:
    """Six steps of a kernel each; the loader holds up the fourth."""
    events = []
    at = 0.5
    for i, wait in enumerate([10.0, 12.0, 11.0, 200.0, 10.0, 11.0]):
        end = at + 110.0 + wait
        host = {"ph": "X", "pid": 1, "tid": 1}
        loader = "enumerate(DataLoader)#_Iter.__next__"
        events += [
            host | {"cat": "user_annotation", "name": f"ProfilerStep#{i}", "ts": at}
            | {"dur": end - at},
            host | {"cat": "user_annotation", "name": loader, "ts": at, "dur": wait},
            host | {"cat": "cpu_op", "name": "aten::mm", "ts": at + wait, "dur": 3},
            host | {"cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": at + wait, "dur": 1}
            | {"args": {"correlation": i}},
            {"ph": "X", "pid": 0, "tid": 7, "cat": "kernel", "name": "gemm", "ts": at + wait + 5}
            | {"dur": 100.0, "args": {"device": 0, "stream": 7, "correlation": i}},
        ]  # fmt: skip
        at = end
    path = folder / "rank0.json"
    path.write_bytes(msgspec.json.encode({"traceEvents": events}))
    return path


def test_a_devices_window_shows_kernels_ops_its_queue_and_long_steps(tmp_path: Path) -> None:
    # Given
    _, inputs, _ = load_traces([device_trace(tmp_path)])

    # When
    made = window.window(inputs[0].line, inputs[0].traces[0][1])

    # Then
    (kernel,) = made.tables.kernels
    assert (kernel.name, kernel.calls, kernel.ops) == ("gemm", 6, ("aten::mm",))
    assert kernel.total_ms == pytest.approx(0.600)
    (op,) = made.tables.ops
    assert (op.name, op.total_device_ms) == ("aten::mm", pytest.approx(0.600))
    (queue,) = made.tables.queues
    assert (queue.work, queue.max_depth, queue.starved_share) == (6, 1, 1.0)
    assert queue.median_delay_us == pytest.approx(5)
    (outlier,) = made.tables.outliers
    assert outlier.number == 3
    assert outlier.differences[0] == ("loader", pytest.approx(0.189))
    folder = tmp_path / "kept"
    folder.mkdir()
    window.write(made, folder)
    assert window.read(folder).tables == made.tables


def test_a_window_with_a_damaged_column_is_refused(recorded: Source, tmp_path: Path) -> None:
    line = steps_of(recorded)
    found = make.window_of(recorded, recorded.stamp, line, traced_span(line))
    assert found is not None
    window.write(found[0], tmp_path)
    np.save(tmp_path / "name.npy", np.zeros(1, np.int32))

    with pytest.raises(ValueError, match="different lengths"):
        window.read(tmp_path)


def test_a_changed_source_or_program_is_never_shown_what_was_kept_before(
    recorded: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store.folder_for(recorded.path, recorded.stamp, "job")

    assert store.folder_for(recorded.path, recorded.stamp + 1, "job") != kept
    assert store.folder_for(recorded.path.parent, recorded.stamp, "job") != kept
    monkeypatch.setattr(store, "fingerprint", lambda: "another")
    assert store.folder_for(recorded.path, recorded.stamp, "job") != kept


def test_an_error_in_the_other_process_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    monkeypatch.setattr(make, "APART_FROM_BYTES", 0)
    file = tmp_path / "trace.json"
    file.write_text("{}")
    source = Source("trace.json", file, "trace")

    # When
    with pytest.raises(UnusableData) as raised:
        make.job_of(source, source.stamp)

    # Then
    assert raised.value.slug
    assert "\n" not in raised.value.message
    assert not list((tmp_path / "cache" / "pages").glob("*/job.json"))


def test_old_digests_go_when_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    monkeypatch.setattr(store, "MAX_KEPT", 3)
    home = tmp_path / "pages"

    # When
    for number in range(5):
        folder = home / f"{number}"
        store.keep(folder, lambda part: (part / "x").write_bytes(b"x") and None)
        os.utime(folder, (number, number))

    # Then
    assert sorted(path.name for path in home.iterdir()) == ["2", "3", "4"]
