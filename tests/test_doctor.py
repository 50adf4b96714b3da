"""What `boundscope doctor` says of a machine."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from boundscope.profiler.commands.doctor import Check, Findings, examine, show


def test_every_collector_and_the_machine_are_looked_at(tmp_path: Path) -> None:
    findings = examine(tmp_path)

    names = [check.name for check in findings.collectors]
    assert names == ["gpu", "host", "network", "power", "stacks", "storage"]
    machine = {check.name for check in findings.machine}
    assert machine >= {"torch", "ptrace", "limits", "pressure", "tc", "disk"}
    for check in findings.collectors + findings.machine:
        assert check.works or (check.reason and check.detail and check.effect), check


def test_the_json_is_whole_and_says_why_a_collector_does_not_work() -> None:
    command = [sys.executable, "-m", "boundscope", "doctor", "--json"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    told = json.loads(done.stdout)
    assert told["schema"] == 1
    assert (done.returncode == 0) == told["good"]
    reasons = {check["reason"] for check in told["collectors"] if not check["works"]}
    assert reasons <= {"no-driver", "no-permission", "not-supported", "not-installed"}


@pytest.mark.parametrize("width", [60, 200])
def test_the_line_that_mends_something_is_printed_whole_at_any_width(width: int) -> None:
    mend = "sudo some-command --with-a-long-option=[value] " + "x" * 80
    missing = Check("thing", False, "no-permission", "closed [to us]", "no things", mend)
    out = io.StringIO()

    show(Findings([missing], [Check("tc", True)]), Console(file=out, width=width))

    assert mend in out.getvalue()
    assert "no things" in out.getvalue()
    assert "[to us]" in out.getvalue()


def test_only_what_a_verdict_needs_makes_the_check_fail() -> None:
    gpu, torch = Check("gpu", False, "no-driver"), Check("torch", False, "not-installed")

    assert Findings([gpu], []).good
    assert not Findings([gpu], [torch]).good
