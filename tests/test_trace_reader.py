"""Reading traces: figures, columns, layouts, and what is done about damage."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boundscope.profiler.errors import UnusableData
from boundscope.profiler.trace import many
from boundscope.profiler.trace.device import device_time, device_work
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.table import Category, Trace

BASE_NS = 1_790_857_026_000_000_000


def span(
    name: str, cat: str, ts: Any, dur: Any, *, tid: Any = 1, pid: Any = 10, **args: Any
) -> Any:
    event = {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur}
    return event | ({"args": args} if args else {})


def kernel(ts: Any, dur: Any, **args: Any) -> Any:
    given = {"device": 0, "stream": 7, "correlation": 5, "External id": 3, "grid": [1, 2, 3]}
    return span("gemm", "kernel", ts, dur, pid=0, tid=7, **(given | args))


EVENTS = [
    {"ph": "M", "name": "thread_name", "pid": 10, "tid": 1, "ts": 0.0, "args": {"name": "main"}},
    span("ProfilerStep#3", "user_annotation", 100.0, 100.0, **{"External id": 1}),
    span(
        "aten::mm",
        "cpu_op",
        110.5,
        20.25,
        **{
            "External id": 3,
            "Ev Idx": 2,
            "Input Dims": [[2, 3], [3, 4], []],
            "Input type": ["float", "float", "Scalar"],
            "Concrete Inputs": ["", "", "1"],
        },
    ),
    span("cudaLaunchKernel", "cuda_runtime", 112.0, 3.0, correlation=5, **{"External id": 3}),
    {"ph": "s", "id": 5, "pid": 10, "tid": 1, "ts": 112.0, "cat": "ac2g", "name": "ac2g"},
    kernel(120.125, 40.0),
    span("Memcpy HtoD", "gpu_memcpy", 150.0, 30.0, pid=0, tid=8, device=0, stream=8, bytes=4096),
    {"ph": "f", "id": 5, "pid": 0, "tid": 7, "ts": 120.125, "cat": "ac2g", "name": "ac2g"},
]


def document(events: list[Any] | None = None, **footer: Any) -> str:
    head = {"schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "NVIDIA H100"}]}
    tail = {"traceName": "x.json", "baseTimeNanoseconds": BASE_NS} | footer
    return json.dumps(head | {"traceEvents": EVENTS if events is None else events} | tail)


def read(tmp_path: Path, content: str | bytes, name: str = "t.json") -> Trace:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_trace(path)


def slugs(trace: Trace) -> dict[str, int]:
    return {warning.slug: warning.count for warning in trace.warnings}


def row(trace: Trace, name: str) -> dict[str, int]:
    index = int(np.flatnonzero(trace.events.name == trace.names.index(name))[0])
    return {column: int(getattr(trace.events, column)[index]) for column in trace.events.__dict__}


def test_columns_hold_times_in_ns_since_the_epoch_and_ids_and_shapes(tmp_path: Path) -> None:
    trace = read(tmp_path, document())

    op, work, copy = row(trace, "aten::mm"), row(trace, "gemm"), row(trace, "Memcpy HtoD")
    assert trace.epoch
    assert op["start_ns"] == BASE_NS + 110_500
    assert op["duration_ns"] == 20_250
    assert op["external_id"] == 3
    signature = trace.signatures[op["signature"]]
    assert signature.dims == ((2, 3), (3, 4), ())
    assert signature.types == ("float", "float", "Scalar")
    assert signature.concrete == ("", "", "1")
    assert (work["device"], work["stream"], work["correlation"]) == (0, 7, 5)
    assert trace.args[work["args"]] == {"grid": [1, 2, 3]}
    assert copy["bytes"] == 4096
    assert op["device"] == op["stream"] == op["correlation"] == -1
    assert trace.metadata["deviceProperties"][0]["name"] == "NVIDIA H100"
    assert {(t.name, t.is_device) for t in trace.threads} == {("main", False), ("", True)}
    assert trace.warnings == []


def test_events_come_sorted_with_the_longer_first_at_the_same_start(tmp_path: Path) -> None:
    events = [span("b", "cpu_op", 5, 1), span("a", "cpu_op", 5, 9), span("c", "cpu_op", 1, 2)]

    trace = read(tmp_path, document(events))

    assert [trace.names[i] for i in trace.events.name] == ["c", "a", "b"]


@pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
@pytest.mark.parametrize("indent", [None, 2])
def test_plain_and_gzip_and_pretty_and_compact_files_read_the_same(
    tmp_path: Path, name: str, indent: int | None
) -> None:
    text = json.dumps(json.loads(document()), indent=indent).encode()

    trace = read(tmp_path, gzip.compress(text) if name.endswith("gz") else text, name)

    assert len(trace.events) == 5
    assert device_time(trace).busy_ns == 59_875  # type: ignore[union-attr]  # 120.125 to 180 us


def test_a_trace_in_many_chunks_reads_as_in_one(tmp_path: Path, monkeypatch: Any) -> None:
    events = [kernel(float(i), 0.5, correlation=i) for i in range(2000)]
    text = document(events)
    whole = read(tmp_path, text)

    monkeypatch.setattr("boundscope.profiler.trace.source.BLOCK_BYTES", 1000)
    chunked = read(tmp_path, text)

    for column in whole.events.__dict__:
        assert np.array_equal(getattr(whole.events, column), getattr(chunked.events, column))
    assert chunked.metadata == whole.metadata
    assert chunked.warnings == []


def test_time_stamps_in_epoch_microseconds_with_decimals_keep_their_nanoseconds(
    tmp_path: Path,
) -> None:
    # a double's digits end at 0.25 us here
    text = (
        '{"traceEvents": [{"ph":"X","cat":"kernel","name":"k","ts":1712195495519689.047,"dur":1}]}'
    )

    trace = read(tmp_path, text)

    assert trace.events.start_ns.tolist() == [1_712_195_495_519_689_047]
    assert trace.epoch


@pytest.mark.parametrize(
    "nanos", [4_458_676_522_690_655, 4_499_999_999_999_999, 7_889_237_999_999_999]
)
def test_every_nanosecond_of_a_base_and_offset_trace_survives(tmp_path: Path, nanos: int) -> None:
    lines = ",".join(
        f'{{"ph":"X","cat":"kernel","name":"k","ts":{n // 1000}.{n % 1000:03d},"dur":0.001}}'
        for n in range(nanos, nanos - 2000, -1)
    )

    trace = read(tmp_path, f'{{"traceEvents": [{lines}]}}')

    assert trace.events.start_ns.tolist() == list(range(nanos - 1999, nanos + 1))
    assert set(trace.events.duration_ns.tolist()) == {1}


def test_device_work_is_told_by_category_and_not_by_a_stream_argument(tmp_path: Path) -> None:
    events = [
        span("triton_poi_fused", "cpu_op", 0.0, 10.0, stream=0, kernel_backend="triton"),
        span("unlinked", "kernel", 20.0, 5.0, pid=1, tid=9),
        span("range", "gpu_user_annotation", 0.0, 90.0, pid=1, tid=9),
    ]

    trace = read(tmp_path, document(events))

    work = device_work(trace)
    assert [trace.names[i] for i in trace.events.name[work]] == ["unlinked"]
    assert (trace.events.device[work][0], trace.events.stream[work][0]) == (1, 9)
    assert np.all(trace.events.stream[~work] == -1)


@pytest.mark.parametrize(
    ("cat", "name", "expected"),
    [
        ("Kernel", "k", Category.KERNEL),
        ("Memcpy", "c", Category.MEMCPY),
        ("Operator", "aten::add", Category.CPU_OP),
        ("Runtime", "cudaLaunchKernel", Category.RUNTIME),
        ("xpu_runtime", "urEnqueueKernelLaunch", Category.RUNTIME),
        ("mtia_ccp_events", "pe_exe", Category.KERNEL),
        ("mtia_ccp_events", "dma_request", Category.MEMCPY),
        ("mtia_ccp_events", "event_wait", Category.SYNC),
        ("cuda_sync", "Stream Sync", Category.SYNC),
        ("never_heard_of", "x", Category.OTHER),
    ],
)
def test_categories_of_all_years_and_builds_are_known(
    tmp_path: Path, cat: str, name: str, expected: Category
) -> None:
    trace = read(tmp_path, document([span(name, cat, 1.0, 2.0)]))

    assert trace.events.category.tolist() == [expected]


def test_collectives_carry_their_bytes_on_device_and_host(tmp_path: Path) -> None:
    nccl = {
        "Collective name": "all_gather",
        "In msg nelems": 100,
        "Out msg nelems": 800,
        "dtype": "BFloat16",
        "Group size": 8,
    }
    gloo = {"Input Dims": [[1000]], "Input type": ["float"]}
    events = [
        kernel(1.0, 2.0, **nccl),
        span("gloo:all_reduce", "user_annotation", 5.0, 3.0, tid=2, **gloo),
    ]

    trace = read(tmp_path, document(events))

    assert trace.events.bytes.tolist() == [1600, 4000]
    assert trace.args[int(trace.events.args[0])]["Collective name"] == "all_gather"


GOOD = document()
EVENT_TEXT = ", ".join(json.dumps(event) for event in EVENTS)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\ufeff" + GOOD, {"byte-order-mark"}),
        (GOOD.encode("utf-16"), {"byte-order-mark"}),
        ("[" + EVENT_TEXT + "]", set()),
        ("[" + EVENT_TEXT, {"truncated"}),
        ("[" + EVENT_TEXT + ",\n", {"truncated"}),
        ('{"traceEvents": [' + EVENT_TEXT + "]", {"missing-footer"}),
        ('{"traceEvents": [' + EVENT_TEXT + '], "traceName": "x', {"missing-footer"}),
        (GOOD.replace('"grid": [1, 2, 3]', '"bandwidth": inf'), {"not-finite-values"}),
        (GOOD.replace('"grid": [1, 2, 3]', '"bandwidth": -NaN'), {"not-finite-values"}),
        (GOOD.replace('"main"', r'"C:\users\me"'), {"bad-escapes"}),
        (GOOD.encode().replace(b'"main"', b'"m\xe4in"'), {"unreadable-arguments"}),
        (GOOD.encode().replace(b"aten::mm", b"aten::m\xe4"), {"bad-encoding"}),
        (GOOD.replace('"ts": 112.0', '"ts": "112.0"'), {"string-time-stamps"}),
        (GOOD.replace('"name": "main"', '"name": "ma\x01in"'), {"bad-encoding"}),
        ('"oops"}, ' + EVENT_TEXT + "]}", {"damaged-header"}),
        (GOOD.replace('[{"id"', '{"id"'), {"damaged-header"}),
        (GOOD + "\0" * 512, set()),
        (GOOD + " trailing rubbish", {"trailing-bytes"}),
        (GOOD + "\n" + GOOD, {"concatenated-files"}),
    ],
)
def test_damage_that_loses_no_event_gives_the_right_figures_and_says_so(
    tmp_path: Path, content: str | bytes, expected: set[str]
) -> None:
    trace = read(tmp_path, content)

    found = device_time(trace)
    assert found is not None
    assert (found.busy_ns, found.window_ns, found.copies_ns) == (59_875, 59_875, 30_000)
    assert set(slugs(trace)) == expected


@pytest.mark.parametrize(
    ("event", "slug"),
    [
        (kernel(200.0, -1.5), "negative-durations"),
        (kernel(200.0, 1.8e16), "absurd-durations"),
        (kernel(1e15, 2.0), "absurd-time-stamps"),
        (kernel(None, 2.0), "unreadable-times"),
        (kernel("noon", 2.0), "unreadable-times"),
        (kernel(200.0, "long"), "unreadable-durations"),
    ],
)
def test_an_event_with_an_impossible_time_adds_no_device_time_and_is_counted(
    tmp_path: Path, event: Any, slug: str
) -> None:
    trace = read(tmp_path, document([*EVENTS, event]))

    found = device_time(trace)
    assert found is not None
    assert found.busy_ns == 59_875
    assert slugs(trace)[slug] == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"stream": 7', '"stream": 7, "x": NaN'),
        ('"name": "gemm"', '"name": "ge\x02mm"'),
        ('"name": "gemm"', '"name": "g\\mm"'),
    ],
)
def test_the_last_event_is_mended_like_every_other(tmp_path: Path, old: str, new: str) -> None:
    trace = read(tmp_path, document([kernel(1.0, 2.0)]).replace(old, new))

    assert len(trace.events) == 1
    assert len(trace.warnings) == 1
    assert trace.epoch


def test_one_unreadable_event_costs_only_itself(tmp_path: Path) -> None:
    events = [kernel(float(i * 10), 5.0) for i in range(50)]
    text = document(events).replace('"ts": 200.0, "dur": 5.0', '"ts": 200.0 "dur" 5.0')

    trace = read(tmp_path, text)

    assert len(trace.events) == 49
    assert slugs(trace) == {"unreadable-events": 1}
    assert trace.epoch


def test_events_with_their_keys_in_another_order_are_read(tmp_path: Path, monkeypatch: Any) -> None:
    events = [{"zone": 1, "id": i} | kernel(float(i * 10), 5.0) for i in range(300)]
    monkeypatch.setattr("boundscope.profiler.trace.source.BLOCK_BYTES", 5000)

    trace = read(tmp_path, document(events))

    assert len(trace.events) == 300
    assert trace.warnings == []


def test_a_list_of_objects_inside_the_arguments_does_not_split_an_event(
    tmp_path: Path, monkeypatch: Any
) -> None:
    nested = [{"name": "a", "ph": 1}, {"name": "b"}, {"ts": 3}]
    events = [kernel(float(i * 10), 5.0, nested=nested) for i in range(100)]
    monkeypatch.setattr("boundscope.profiler.trace.source.BLOCK_BYTES", 3000)

    trace = read(tmp_path, document(events))

    assert len(trace.events) == 100
    assert trace.args[int(trace.events.args[50])]["nested"] == nested


def test_a_footer_with_lists_of_objects_is_not_taken_for_events(tmp_path: Path) -> None:
    text = document(INFO=[{"name": "x", "ph": "X", "cat": "kernel", "ts": 1, "dur": 1}] * 3)

    trace = read(tmp_path, text)

    assert len(trace.events) == 5
    assert len(trace.metadata["INFO"]) == 3


def test_a_cut_gzip_file_gives_what_is_left_and_says_so(tmp_path: Path) -> None:
    events = [
        kernel(float(i * 10), 5.0, correlation=i, grid=[i * 7919 % 1000]) for i in range(4000)
    ]
    packed = gzip.compress(document(events).encode())

    trace = read(tmp_path, packed[: len(packed) * 6 // 10], "t.json.gz")

    assert 1000 < len(trace.events) < 4000
    assert {"gzip-truncated", "truncated"} <= set(slugs(trace))


@pytest.mark.parametrize(
    ("content", "slug"),
    [
        (b"", "trace-empty"),
        (gzip.compress(b"", mtime=0), "trace-empty"),
        (b"hello", "not-a-trace"),
        (b'{"a": 1}', "not-a-trace"),
        (b"[1, 2, 3]", "not-a-trace"),
        (b"\x00" * 4096, "not-a-trace"),
        (b"\x1f\x8bnot gzip at all", "trace-empty"),
        (b'{"traceEvents": []}', "not-a-trace"),
    ],
)
def test_what_is_no_trace_is_refused_with_a_slug(tmp_path: Path, content: bytes, slug: str) -> None:
    with pytest.raises(UnusableData) as caught:
        read(tmp_path, content)

    assert caught.value.slug == slug
    assert caught.value.hint


def test_a_missing_file_is_refused_with_a_slug(tmp_path: Path) -> None:
    with pytest.raises(UnusableData) as caught:
        read_trace(tmp_path / "none.json")

    assert caught.value.slug == "trace-unreadable"


def test_progress_reaches_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(document())
    seen: list[tuple[int, int]] = []

    read_trace(path, progress=lambda done, size: seen.append((done, size)))

    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


def test_a_trace_that_torch_records_now_is_read_whole(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "real.json"
    model = torch.nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.profiler.profile(record_shapes=True) as profiler:
        for _ in range(3):
            model(torch.ones(2, 8)).sum().backward()
            optimizer.step()
            profiler.step()
    profiler.export_chrome_trace(str(path))

    trace = read_trace(path)

    plain = [e for e in json.loads(path.read_text())["traceEvents"] if e["ph"] == "X"]
    assert len(trace.events) == len(plain)
    assert trace.warnings == []
    assert trace.epoch
    assert sum(e["dur"] for e in plain) * 1000 == pytest.approx(trace.events.duration_ns.sum())
    linear = [i for i, n in enumerate(trace.events.name) if trace.names[n] == "aten::linear"]
    shapes = {trace.signatures[int(trace.events.signature[i])].dims[:2] for i in linear}
    assert shapes == {((2, 8), (4, 8))}


def test_several_files_read_side_by_side_as_one_after_the_other(
    tmp_path: Path, monkeypatch: Any
) -> None:
    paths = [tmp_path / f"rank{i}.json" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_text(document([kernel(10.0 * j, 1.0 + i) for j in range(50)]))
    paths.append(tmp_path / "missing.json")
    monkeypatch.setattr(many, "MIN_PARALLEL_BYTES", 0)
    monkeypatch.setattr(many, "_cores", lambda: 2)

    found = many.read_traces(paths)

    assert isinstance(found[3], UnusableData)
    for path, trace in zip(paths[:3], found, strict=False):
        assert isinstance(trace, Trace)
        assert np.array_equal(trace.events.duration_ns, read_trace(path).events.duration_ns)


def test_a_list_that_a_stray_bracket_ends_too_early_loses_nothing(tmp_path: Path) -> None:
    text = document([kernel(10.0 * i, 5.0) for i in range(30)])
    middle = text.index(', {"ph"', len(text) // 2)

    trace = read(tmp_path, text[:middle] + "]" + text[middle:])

    assert len(trace.events) == 30
    assert trace.events.start_ns.tolist() == [BASE_NS + 10_000 * i for i in range(30)]
    assert "concatenated-files" in slugs(trace)


def test_values_that_first_appear_late_in_a_trace_are_kept(
    tmp_path: Path, monkeypatch: Any
) -> None:
    early = [span("aten::add", "cpu_op", 10.0 * i, 1.0) for i in range(500)]
    large, size = 2**40, 2**33
    late = kernel(9000.0, 2.0, correlation=large, bytes=size, **{"External id": large + 1})
    monkeypatch.setattr("boundscope.profiler.trace.source.BLOCK_BYTES", 2000)

    trace = read(tmp_path, document([*early, late, *early]))

    found = row(trace, "gemm")
    assert (found["correlation"], found["external_id"], found["bytes"]) == (large, large + 1, size)
    assert len(trace.events) == 1001
    for column in ("correlation", "external_id", "bytes", "device", "stream", "args"):
        assert np.count_nonzero(getattr(trace.events, column) != -1) == 1
