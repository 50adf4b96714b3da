"""The roofs of a trace's device: measured where `calibrate` ran on it, else the catalogue's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from boundscope.profiler.device_roofs import DEVICE_ROOFS_FILE, device_roofs, keep_device_roofs
from boundscope.profiler.diagnose import diagnose_path
from boundscope.profiler.machine import calibrate
from boundscope.profiler.machine.identity import this_machine
from boundscope.profiler.machine.roofs import Roofs
from boundscope.profiler.trace.reader import read_trace
from boundscope.profiler.trace.table import Trace

H200 = "NVIDIA H200"
MEASURED = Roofs(
    flops={"bf16": 790e12, "tf32": 380e12, "fp32": 52e12},
    bandwidth={"dram_copy": 4.3e12},
    source="measured",
    device=H200,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BOUNDSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def calibrated(cache: Path, roofs: Roofs, where: str = "cuda_0") -> None:
    """Roofs as `boundscope calibrate --device cuda:0` keeps them."""
    cache.mkdir(exist_ok=True)
    key = this_machine().key
    path = cache / f"roofs{calibrate.LAYOUT}-{key}-{where}-t0-2.11.0.json"
    path.write_bytes(msgspec.json.encode(roofs))


def gemm_trace(folder: Path, name: str = H200) -> Trace:
    """A bf16 product of 8192³ in 1.5 ms: 733 TFLOP/s."""
    shapes = {"Input Dims": [[8192, 8192]] * 2, "Input type": ["c10::BFloat16"] * 2}
    host = {"ph": "X", "pid": 1, "tid": 1}
    events: list[dict[str, Any]] = [
        host | {"cat": "cpu_op", "name": "aten::mm", "ts": 0, "dur": 9, "args": shapes},
        host
        | {"cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 1, "dur": 2}
        | {"args": {"correlation": 1}},
        {"ph": "X", "pid": 0, "tid": 7, "cat": "kernel", "name": "nvjet_tst", "ts": 5}
        | {"dur": 1500, "args": {"device": 0, "stream": 7, "correlation": 1}},
    ]
    folder.mkdir(exist_ok=True)
    path = folder / "t.json"
    document = {"traceEvents": events, "deviceProperties": [{"id": 0, "name": name}]}
    path.write_bytes(msgspec.json.encode(document))
    return read_trace(path)


def test_what_was_measured_on_the_device_stands_before_its_data_sheet(
    tmp_path: Path, cache: Path
) -> None:
    # given
    trace = gemm_trace(tmp_path / "t")
    sold = device_roofs(trace)
    # when
    calibrated(cache, MEASURED)
    found = device_roofs(trace)
    # then: the data sheet says 989.4 TFLOP/s and 4.8 TB/s; fp8 was not measured
    assert sold is not None
    assert found is not None
    assert (sold.source, found.source) == ("catalogue", "measured")
    assert sold.flops["bf16"] == 989.4e12
    assert found.flops["bf16"] == 790e12
    assert found.flops["fp8"] == sold.flops["fp8"]
    assert sold.memory_bandwidth == pytest.approx(4.8e12, rel=0.01)
    assert found.memory_bandwidth == 4.3e12


def test_roofs_of_another_device_and_those_of_the_cpu_are_not_taken(
    tmp_path: Path, cache: Path
) -> None:
    trace = gemm_trace(tmp_path / "t")
    calibrated(cache, msgspec.structs.replace(MEASURED, device="NVIDIA A100-SXM4-40GB"))
    calibrated(cache, msgspec.structs.replace(MEASURED, device="Some CPU", threads=2), "cpu")

    found = device_roofs(trace)

    assert found is not None
    assert found.source == "catalogue"


def test_a_device_that_nobody_lists_has_the_roofs_that_were_measured(
    tmp_path: Path, cache: Path
) -> None:
    name = "Some Accelerator 9000"
    trace = gemm_trace(tmp_path / "t", name)
    assert device_roofs(trace) is None

    calibrated(cache, msgspec.structs.replace(MEASURED, device=name))

    assert device_roofs(trace) == msgspec.structs.replace(MEASURED, device=name)


def test_the_products_measured_on_matrix_units_are_not_taken_for_vector_arithmetic() -> None:
    # AMD's sheet: 45.3 TFLOP/s in FP32 on the matrix units, 22.6 on the vector units.
    sold = Roofs(flops={"fp32": 22.6e12, "fp32_matrix": 45.3e12}, bandwidth={"dram": 1.6e12})
    measured = Roofs(flops={"fp32": 40e12}, bandwidth={}, source="measured", device="x")

    found = sold.with_measured(measured)

    assert found.flops_for("fp32", matrix=True) == 40e12
    assert found.flops_for("fp32", matrix=False) == 22.6e12 / 2
    assert found.memory_bandwidth == 1.6e12


def test_roofs_kept_with_a_run_judge_it_alike_on_another_machine(
    tmp_path: Path, cache: Path
) -> None:
    # given: a run on the machine that was measured
    calibrated(cache, MEASURED)
    run = tmp_path / "run"
    run.mkdir()
    keep_device_roofs(run, ["Other", H200])
    assert (run / DEVICE_ROOFS_FILE).exists()
    # when: another machine, without measurements
    for file in cache.iterdir():
        file.unlink()
    # then
    found = device_roofs(gemm_trace(tmp_path / "t"), run)
    assert found is not None
    assert found.flops["bf16"] == 790e12
    assert device_roofs(gemm_trace(tmp_path / "t", "NVIDIA A100-SXM4-40GB"), run) is not None


def test_nothing_is_kept_where_nothing_was_measured(tmp_path: Path) -> None:
    keep_device_roofs(tmp_path, [H200])

    assert not (tmp_path / DEVICE_ROOFS_FILE).exists()


def test_a_diagnosis_holds_the_device_against_its_measured_roof(
    tmp_path: Path, cache: Path
) -> None:
    # 1.1 TFLOP in 1.5 ms are 733 TFLOP/s: 74 % of the data sheet, 93 % of what was measured.
    gemm_trace(tmp_path / "t")

    def reached() -> float:
        diagnosis = diagnose_path(tmp_path / "t" / "t.json")
        evidence = (e for finding in diagnosis.findings for e in finding.evidence)
        return next(e.value for e in evidence if e.quantity == "compute.roof_share")

    before = reached()
    calibrated(cache, MEASURED)
    after = reached()

    assert before == pytest.approx(2 * 8192**3 / 1.5e-3 / 989.4e12, rel=1e-3)
    assert after == pytest.approx(2 * 8192**3 / 1.5e-3 / 790e12, rel=1e-3)
