"""The verdict on real runs: each script is run under boundscope and must be called by its name.

`VERDICT_REPEATS=3` asks for each of them three times.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from .quiet_runs import run_and_diagnose

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SCENARIOS = ROOT / "tests" / "scenarios"

EXPECTED = {
    "slow_store": ("input", "slow-store"),
    "decode_in_main": ("input", "decode-in-main"),
    "wide_gemm": ("compute", None),
    "elementwise_chain": ("memory", "elementwise-bandwidth"),
    "tiny_ops": ("host", "tiny-ops"),
    "checkpoint_often": ("storage", "checkpoint-in-loop"),
}

REPEATS = int(os.environ.get("VERDICT_REPEATS", "1"))
"""How many times of as many each verdict must be right."""


@pytest.fixture(autouse=True, params=range(REPEATS), ids=lambda number: f"run{number + 1}")
def _again(request: pytest.FixtureRequest) -> int:
    """Take every test of this file `REPEATS` times."""
    return int(request.param)


def assert_is_division(breakdown: dict[str, float]) -> None:
    assert sum(breakdown.values()) == pytest.approx(1.0, abs=1e-6)
    assert all(0 <= share <= 1 for share in breakdown.values())


@pytest.mark.parametrize("name", EXPECTED)
def test_each_example_gets_its_verdict(name: str, tmp_path: Path) -> None:
    bound, finding_id = EXPECTED[name]

    diagnosis = run_and_diagnose(tmp_path / "run", str(EXAMPLES / f"{name}.py"))

    assert diagnosis["verdict"]["bound"] == bound, diagnosis
    top = next(f for f in diagnosis["findings"] if f["bound"] == bound)
    assert finding_id in (None, top["id"])
    assert any(place.get("file", "").endswith(f"{name}.py") for place in top["where"]), top
    assert top["saving"]["low"] <= top["saving"]["mid"] <= top["saving"]["high"]
    assert_is_division(diagnosis["breakdown"])
    assert diagnosis["run"]["status"] == "finished"
    if not Path("/dev/nvidiactl").exists():
        missing = {(m["collector"], m["reason"]) for m in diagnosis["missing"]}
        assert ("gpu", "no-driver") in missing


def torchrun(*arguments: str) -> list[str]:
    program = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = ["--master-port", str(free.getsockname()[1])]
    return [*program, *port, str(SCENARIOS / "ddp.py"), *arguments]


def test_even_ranks_on_loopback_are_not_network_bound(tmp_path: Path) -> None:
    diagnosis = run_and_diagnose(tmp_path / "run", *torchrun())

    assert diagnosis["verdict"]["bound"] not in ("network", "imbalance", "input"), diagnosis
    assert [rank["rank"] for rank in diagnosis["ranks"]] == [0, 1]
    for rank in diagnosis["ranks"]:
        assert_is_division(rank["breakdown"])


def test_one_rank_with_a_slow_loader_is_input_on_that_rank(tmp_path: Path) -> None:
    diagnosis = run_and_diagnose(tmp_path / "run", *torchrun("--slow-loader-rank", "1"))

    assert diagnosis["verdict"]["bound"] == "input", diagnosis
    top = next(f for f in diagnosis["findings"] if f["bound"] == "input")
    assert {place.get("rank") for place in top["where"]} == {1}
    assert "rank 1" in diagnosis["verdict"]["headline"]


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("tc"),
    reason="network namespaces need root, ip and tc",
)
def test_ranks_over_a_thin_link_are_network_bound(tmp_path: Path) -> None:
    command = [sys.executable, str(SCENARIOS / "two_namespaces.py"), "--rate", "100mbit"]

    diagnosis = run_and_diagnose(tmp_path / "run", *command)

    assert diagnosis["verdict"]["bound"] == "network", diagnosis
    top = next(f for f in diagnosis["findings"] if f["bound"] == "network")
    link = next(e for e in top["evidence"] if e["quantity"] == "network.link_share")
    assert 0.5 < link["value"] <= 1.0
    assert "of 100 Mbit/s" in diagnosis["verdict"]["headline"]
