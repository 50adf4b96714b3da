"""A bar while traces are read: for somebody who looks on, and for nobody else."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from boundscope.profiler.report import progress
from boundscope.profiler.trace import many
from boundscope.profiler.trace.many import read_traces, watched

_AT_ONCE = """
import sys
from boundscope.profiler.report import progress
progress.SHOWN_AFTER_S = 0.0
from boundscope.profiler.cli import main
sys.exit(main())
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A trace of several blocks, so that it is told of before it is all read."""
    events = [
        {"ph": "X", "cat": "kernel", "name": "k" * 80, "pid": 0, "tid": 7, "ts": 10 * i, "dur": 9}
        for i in range(60_000)
    ]
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"traceEvents": events}))
    return path


def diagnosed(path: Path, *flags: str, terminal: bool) -> tuple[str, str]:
    """Run `boundscope diagnose`; returns what came on stdout, a pipe, and on stderr."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", _AT_ONCE, "diagnose", *flags, str(path)],
        stdout=subprocess.PIPE,
        stderr=follower if terminal else subprocess.PIPE,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    ) as child:
        os.close(follower)
        out, errors = child.communicate()
    shown = b"" if errors is None else errors
    while terminal:
        try:
            data = os.read(leader, 65536)
        except OSError:  # the other end is closed and all is read
            break
        if not data:
            break
        shown += data
    os.close(leader)
    assert child.returncode == 0
    return out.decode(), shown.decode()


def test_a_bar_is_shown_on_a_terminal(trace: Path) -> None:
    out, errors = diagnosed(trace, terminal=True)

    assert "reading traces" in errors
    assert "reading traces" not in out


def test_no_bar_where_nobody_looks(trace: Path) -> None:
    _, errors = diagnosed(trace, terminal=False)

    assert "reading traces" not in errors


def test_no_bar_where_json_goes_into_a_pipe(trace: Path) -> None:
    out, errors = diagnosed(trace, "--json", terminal=True)

    assert json.loads(out)["schema"] == 1
    assert errors == ""


def test_several_files_are_told_of_as_one_whole(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "MIN_PARALLEL_BYTES", 0)
    monkeypatch.setattr(many, "_cores", lambda: 2)
    monkeypatch.setattr(many, "_TELL_EVERY_S", 0.0)
    other = tmp_path / "other.json"
    other.write_bytes(trace.read_bytes())
    total = trace.stat().st_size * 2
    seen: list[tuple[int, int]] = []

    with watched(lambda done, whole: seen.append((done, whole))):
        read_traces([trace, other])

    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_work_that_is_soon_done_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress._Bar()

    bar.reached(1, 2)
    bar.stop()

    assert capsys.readouterr().err == ""
