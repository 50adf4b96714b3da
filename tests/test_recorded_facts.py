"""Facts of a stranger's run are text of any kind: none ends the diagnosis or holds it up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from boundscope import sample_traces
from boundscope.profiler.diagnose import diagnose_run
from boundscope.profiler.kept import is_sound
from boundscope.profiler.recorded_facts import MAX_CORES, cores_in, count_in, first_number
from boundscope.profiler.run.sound import MAX_RANKS, sound_world_size

NO_COUNTS = ["", "x" * 5000, "9" * 5000, "²", "٣", "-1", "1.5", "1e9", " 2", "nan"]
HUGE_CORES = "0-99999999999999"


@pytest.mark.parametrize("text", NO_COUNTS)
def test_what_is_no_count_is_the_default(text: str) -> None:
    assert count_in({"threads": text}, "threads", 1) == 1
    assert count_in({}, "threads", 7) == 7
    assert count_in({"threads": "12"}, "threads") == 12


@pytest.mark.parametrize(
    ("text", "number"),
    [("2.5 of 8", 2.5), ("8", 8.0), ("", 0.0), ("inf", 0.0), ("nan", 0.0), ("-3", 0.0), ("x", 0.0)],
)
def test_a_number_that_a_text_begins_with(text: str, number: float) -> None:
    assert first_number(text) == number


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("0-3,8", {0, 1, 2, 3, 8}),
        ("5", {5}),
        ("", set()),
        ("²", set()),
        ("3-1", set()),
        (HUGE_CORES, set()),
        (f"1,0-{MAX_CORES}", set()),
        (f"0-{MAX_CORES - 1}," * 1_000_000, set()),
    ],
)
def test_a_list_of_cores(text: str, cores: set[int]) -> None:
    assert cores_in(text) == cores


@pytest.mark.parametrize(
    ("said", "sound"),
    [
        (None, None),
        (0, None),
        (-3, None),
        (True, 1),
        (2, 2),
        (MAX_RANKS, MAX_RANKS),
        (2_000_000_000, None),
    ],
)
def test_a_number_of_ranks(said: int | None, sound: int | None) -> None:
    assert sound_world_size(said) == sound


def spoiled(record: dict[str, Any], text: str) -> dict[str, Any]:
    """The record with this text in place of every fact, and more ranks than there can be."""
    if record["t"] == "header":
        record["world_size"] = 2_000_000_000
    if "facts" in record:
        record["facts"] = dict.fromkeys([*record["facts"], "threads", "num_workers"], text)
        record["facts"].update(fetch_file="x.py", fetch_line=text)
    return record


@pytest.mark.parametrize("text", ["x" * 5000, "9" * 5000, "²", "1e300", "999999999999", "-1"])
@pytest.mark.parametrize("name", ["mlp-few-workers-strong", "cnn-prepare-strong"])
def test_a_run_with_such_facts_is_diagnosed(name: str, text: str, tmp_path: Path) -> None:
    if name not in sample_traces.names():
        pytest.skip("no recorded runs in sample_traces/")
    folder = sample_traces.extract(name, tmp_path)
    bound = diagnose_run(folder).verdict.bound
    files = list(folder.glob("rank-*/steps.jsonl"))
    assert files
    for file in files:
        records = [spoiled(json.loads(line), text) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    manifest = folder / "manifest.json"
    told = json.loads(manifest.read_text())
    limits = {"cores": text, "cores_allowed": HUGE_CORES}
    told["environment"] = {**told["environment"], "limits": limits}
    manifest.write_text(json.dumps(told))

    spoilt = diagnose_run(folder)

    assert spoilt.verdict.bound == bound == "input"
    assert spoilt.run.world_size == 1
    assert is_sound(spoilt)
