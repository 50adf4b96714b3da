"""Measured roofs: taken for real, kept per machine, honest about a busy machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from boundscope.profiler.errors import UnusableData
from boundscope.profiler.machine import calibrate, identity, probe
from boundscope.profiler.machine.calibrate import Calibration, load, measure, start
from boundscope.profiler.machine.roofs import Roofs

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("BOUNDSCOPE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roofs]:
    """One real measurement on one thread, which a busy machine disturbs least."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOUNDSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield measure(threads=1, budget_s=60)


@needs_torch
def test_a_real_measurement_gives_plausible_roofs(measured: Roofs) -> None:
    # given a machine, when measured
    # then: from the slowest machine torch runs on to far above today's fastest core
    assert measured.source == "measured"
    assert measured.threads == 1
    assert 1e8 < measured.flops["fp32"] < 1e13
    assert 1e8 < measured.flops["bf16"] < 1e13
    assert 1e8 < measured.bandwidth["dram_copy"] < 1e12
    assert 1e8 < measured.bandwidth["dram_triad"] < 1e12
    assert 100 < measured.dispatch_ns < 1e6
    assert measured.flops["special"] > 0
    assert 10 < measured.fresh_page_ns < 1e5
    assert measured.page_bytes == os.sysconf("SC_PAGESIZE")


@needs_torch
def test_roofs_hold_for_an_op_that_is_timed_on_its_own(measured: Roofs) -> None:
    # given: a product of another size than the one measured
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a = torch.ones(640, 640)
    # when
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - began)
    torch.set_num_threads(threads)
    # then: no faster than the roof, less what two measurements on a shared machine differ by
    assert 2 * 640**3 / best < 1.5 * measured.flops["fp32"]


def lines(*figures: str) -> list[str]:
    """A program that prints these lines instead of measuring."""
    return [sys.executable, "-c", f"print({chr(10).join(figures)!r})"]


def finished(program: list[str], device: str = "cpu") -> Roofs:
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return Calibration(process, time.monotonic(), device).result(30)


GOOD = (
    '{"threads": 2, "torch": "9.9.9+cpu", "dram_bytes": 1000000000000}',
    '{"flops": {"fp32": 1e11}}',
    '{"bandwidth": {"dram_copy": 2e10}}',
    '{"rates": {"dispatch": 1e6, "exp": 1e9}}',
)


def test_of_several_rounds_the_best_figure_counts() -> None:
    # given: a disturbed second round and a better third
    program = lines(*GOOD, '{"flops": {"fp32": 1e9}}', '{"flops": {"fp32": 3e11}}')
    # when
    roofs = finished(program)
    # then
    assert roofs.flops["fp32"] == 3e11
    assert roofs.dispatch_ns == 1000
    assert roofs.flops["special"] == 20e9


def test_what_one_thread_reaches_several_reach_too() -> None:
    # given: two threads that got in each other's way
    program = lines(*GOOD, '{"flops_1": {"fp32": 4e11}}')
    # when
    roofs = finished(program)
    # then
    assert roofs.flops["fp32"] == 4e11


def test_an_op_that_takes_ten_slices_is_called_once() -> None:
    # given: bfloat16 on a processor without instructions for it
    calls: list[float] = []

    def slow() -> None:
        calls.append(time.sleep(0.02) or 0.02)

    # when, then
    assert probe.best_seconds(slow, 0.001) == pytest.approx(0.02, rel=0.9)
    assert len(calls) == 1


def test_a_larger_size_is_left_out_where_a_smaller_one_is_slow() -> None:
    # given: 10 units/ms, so that 200 units take 20 ms, twenty slices
    sizes: list[int] = []

    def figure(amount: int) -> probe.Figure:
        def run() -> None:
            sizes.append(amount)
            time.sleep(amount * 1e-4)

        return probe.Figure("flops", "bf16", 1, float(amount), run)

    # when
    torch = SimpleNamespace(set_num_threads=lambda _: None)
    list(probe.rounds(torch, [figure(200), figure(4000)], 0.001, time.perf_counter()))
    # then
    assert set(sizes) == {200}


def test_kept_roofs_are_found_by_threads_and_torch_version() -> None:
    # given
    roofs = finished(lines(*GOOD))
    # when, then
    assert load(2) == roofs
    assert load(2, "9.9.9+cpu") == roofs
    assert load(2, "9.9.8") is None
    assert load(1) is None
    assert load(2, device="cuda:0") is None


def test_the_newest_measurement_counts_where_no_version_is_asked_for(cache: Path) -> None:
    # given
    finished(lines(*GOOD))
    newer = finished(lines(*GOOD[1:], '{"threads": 2, "torch": "10.0"}'))
    old = next(cache.glob("*9.9.9*"))
    os.utime(old, (1, 1))
    # when
    found = load(2)
    # then
    assert found == newer


def test_roofs_of_another_machine_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    finished(lines(*GOOD))
    other = identity.Machine("another CPU", 64, 1 << 40)
    # when
    monkeypatch.setattr(calibrate, "this_machine", lambda: other)
    # then
    assert load(2) is None


def test_roofs_of_a_busy_machine_say_so_and_are_not_kept() -> None:
    # given
    program = lines(*GOOD, '{"waited_share": 0.4}')
    # when
    roofs = finished(program)
    # then
    assert any("busy" in note for note in roofs.notes)
    assert load(2) is None


def test_a_damaged_cache_file_is_as_good_as_none(cache: Path) -> None:
    # given
    finished(lines(*GOOD))
    next(cache.glob("roofs*")).write_text('{"flops": 3')
    # when
    found = load(2)
    # then
    assert found is None


def test_a_cache_that_cannot_be_written_costs_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: a file where the folder should be
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BOUNDSCOPE_CACHE", str(tmp_path / "file" / "cache"))
    # when
    roofs = finished(lines(*GOOD))
    # then
    assert roofs.flops["fp32"] == 1e11
    assert load(2) is None


def test_what_was_measured_before_the_time_ran_out_counts() -> None:
    # given: a measurement that hangs after its first figures
    code = f"print({chr(10).join(GOOD)!r}, flush=True); import time; time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # when
    began = time.monotonic()
    roofs = Calibration(process, began, "cpu").result(2)
    # then
    assert time.monotonic() - began < 20
    assert roofs.flops["fp32"] == 1e11
    assert any("cut off" in note for note in roofs.notes)
    assert process.poll() is not None


def test_an_interpreter_without_a_working_torch_is_an_error_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    (tmp_path / "torch.py").write_text("raise ImportError('this torch is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # when
    with pytest.raises(UnusableData, match="this torch is broken") as caught:
        measure(threads=1)
    # then
    assert caught.value.slug == "calibration-failed"
    assert "--python" in caught.value.hint


def test_an_interpreter_that_does_not_exist_is_an_error_with_a_hint() -> None:
    # given a path to nothing, when
    with pytest.raises(UnusableData) as caught:
        start("/no/such/python")
    # then
    assert caught.value.slug == "calibration-failed"


def test_the_measuring_process_does_not_start_our_collectors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given
    environment = {"BOUNDSCOPE_RUN": "/some/run", "PATH": "/bin"}
    # when
    given = calibrate._environment(environment)
    # then
    assert given == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"BOUNDSCOPE_CACHE": "/a/b"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/boundscope"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/u"}, "/home/u/.cache/boundscope"),
        ({"HOME": "/home/u"}, "/home/u/.cache/boundscope"),
    ],
)
def test_the_cache_folder_follows_the_users_settings(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    for name in ("BOUNDSCOPE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # when
    folder = calibrate.cache_folder()
    # then
    assert folder == Path(expected)


def test_rounds_go_on_while_they_bring_something_new(monkeypatch: pytest.MonkeyPatch) -> None:
    # given: an op that runs undisturbed only from the second round on; a round is four runs
    delays = [0.25] * 4 + [0.125] * 100
    now = 0.0

    def run() -> None:
        nonlocal now
        now += delays.pop(0)

    monkeypatch.setattr(probe, "time", SimpleNamespace(perf_counter=lambda: now))
    torch = SimpleNamespace(set_num_threads=lambda _: None)
    figure = probe.Figure("flops", "fp32", 1, 1.0, run)
    # when
    found = list(probe.rounds(torch, [figure], 0.0, 100.0))
    # then: a third round, which brings nothing, is the last
    assert found == [{"flops": {"fp32": 4.0}}, {"flops": {"fp32": 8.0}}]
    assert len(delays) == 100 - 2 * 4


@pytest.mark.parametrize(
    ("cache_bytes", "memory", "limit", "expected"),
    [
        (32 << 20, 64 << 30, 1 << 30, 128 << 20),
        (1 << 20, 64 << 30, 1 << 30, 64 << 20),
        (512 << 20, 64 << 30, 1 << 30, 1 << 30),
        (32 << 20, 1 << 30, 1 << 30, 64 << 20),
    ],
    ids=["four times the cache", "at least 64 MiB", "at most the limit", "a 16th of the memory"],
)
def test_main_memory_arrays_are_larger_than_the_caches_and_small_against_the_memory(
    cache_bytes: int, memory: int, limit: int, expected: int
) -> None:
    # given sizes, when
    found = probe.dram_bytes({"l3": cache_bytes}, memory, limit)
    # then
    assert found == expected


def recorded_machine(root: Path, cpus: int, shared_by: int) -> Path:
    """A /sys of `cpus` CPUs with private 32K and 1M caches and a 16M one a `shared_by` CPUs."""
    for cpu in range(cpus):
        first = cpu // shared_by * shared_by
        levels: list[tuple[str, str, str, str]] = [
            ("1", "Data", "32K", f"{cpu}"),
            ("1", "Instruction", "32K", f"{cpu}"),
            ("2", "Unified", "1024K", f"{cpu}"),
            ("3", "Unified", "16M", f"{first}-{first + shared_by - 1}"),
        ]
        for index, (level, kind, size, shared) in enumerate(levels):
            folder = root / f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
            folder.mkdir(parents=True)
            names = ("level", "type", "size", "shared_cpu_list")
            for name, value in zip(names, (level, kind, size, shared), strict=True):
                (folder / name).write_text(value + "\n")
    return root


@pytest.mark.parametrize(
    ("threads", "expected"),
    [
        (1, {"l1": 32 << 10, "l2": 1 << 20, "l3": 16 << 20}),
        (4, {"l1": 128 << 10, "l2": 4 << 20, "l3": 32 << 20}),
        (64, {"l1": 256 << 10, "l2": 8 << 20, "l3": 32 << 20}),
    ],
)
def test_caches_are_counted_once_for_the_cpus_that_share_them(
    threads: int, expected: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: eight CPUs, four to a level-3 cache
    root = recorded_machine(tmp_path, cpus=8, shared_by=4)
    monkeypatch.setattr(identity, "_allowed_cpus", lambda: set(range(8)))
    # when
    found = identity.cache_bytes(threads, root)
    # then
    assert found == expected


def test_a_machine_without_cache_files_has_no_known_caches(tmp_path: Path) -> None:
    # given an empty /sys, when
    found = identity.cache_bytes(4, tmp_path)
    # then
    assert found == {}


def test_the_same_machine_has_the_same_key_and_another_another() -> None:
    # given
    one = identity.Machine("CPU A", 8, 64 << 30)
    # when, then: a few reserved pages more or less do not matter, cores do
    assert identity.Machine("CPU A", 8, (64 << 30) + 4096).key == one.key
    assert identity.Machine("CPU A", 4, 64 << 30).key != one.key
    assert identity.Machine("CPU B", 8, 64 << 30).key != one.key


def test_the_command_prints_the_roofs_with_their_units(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given: a finished measurement
    import typer

    from boundscope.profiler.commands import calibrate as command

    def started(*_: Any, **__: Any) -> Any:
        process = subprocess.Popen(
            lines(*GOOD), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return Calibration(process, time.monotonic(), "cpu")

    monkeypatch.setattr(calibrate, "start", started)
    app = typer.Typer()
    app.command()(command.calibrate)
    # when
    result = CliRunner().invoke(app, [])
    # then
    assert result.exit_code == 0, result.output
    assert "100 GFLOP/s" in result.output
    assert "20.0 GB/s" in result.output
    assert "1.00 µs" in result.output
