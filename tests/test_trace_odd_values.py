"""Whatever stands in a trace's events, a diagnosis adds up or an error has a slug."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]


def fuzz_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_trace", ROOT / "benchmarks/fuzz_trace.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FUZZ = fuzz_module()
SOURCES = {
    "device": FUZZ.small_trace(),
    "cpu": FUZZ.cpu_trace(),
    "exact": FUZZ.exact_trace(),
}


@pytest.mark.parametrize("kind", list(SOURCES))
def test_the_undamaged_traces_give_figures(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(SOURCES[kind])

    assert FUZZ.fault_of(path) == FUZZ.FIGURES


@pytest.mark.parametrize("way", ["damaged", "distorted"])
@pytest.mark.parametrize("kind", list(SOURCES))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_a_diagnosis_of_a_damaged_trace_adds_up_or_is_an_error_with_a_slug(
    tmp_path: Path, kind: str, way: str, seed: int
) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(getattr(FUZZ, way)(SOURCES[kind], random.Random(seed)))

    assert FUZZ.fault_of(path) in (FUZZ.FIGURES, None)
