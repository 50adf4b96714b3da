"""The dashboard's server: on this machine only, and what it says when it cannot start."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from boundscope.profiler import serve
from boundscope.profiler.cli import main
from boundscope.profiler.errors import BoundscopeError, UsageError


def test_streamlit_is_told_to_stay_local_and_to_report_nothing(tmp_path: Path) -> None:
    # When
    command = serve._command("127.0.0.1", 8501)
    environment = serve._environment([tmp_path])

    # Then
    assert command[:2] == [sys.executable, "-m"]
    assert "--server.address=127.0.0.1" in command
    assert "--browser.gatherUsageStats=false" in command
    assert "--client.showErrorDetails=none" in command  # paths and code stay in the terminal
    assert str(tmp_path) in environment[serve.PATHS_VARIABLE]
    assert environment["PYTHONSAFEPATH"] == "1"


def test_a_taken_port_is_said_with_the_next_one(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(UsageError) as raised:
            serve.serve([tmp_path], address="127.0.0.1", port=port, open_browser=False)

    assert raised.value.slug == "port-not-free"
    assert f"--port {port + 1}" in raised.value.hint


def test_missing_packages_are_named_with_the_line_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "NEEDED", ("sys", "a_package_that_is_not_there"))

    with pytest.raises(BoundscopeError, match="a_package_that_is_not_there") as raised:
        serve.serve([tmp_path], address="127.0.0.1", port=1, open_browser=False)

    assert raised.value.slug == "dashboard-not-installed"
    assert "pip install" in raised.value.hint


@pytest.mark.parametrize(
    ("address", "is_local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)],
)
def test_only_loopback_addresses_need_no_warning(address: str, is_local: bool) -> None:
    assert serve._is_loopback(address) is is_local


def test_a_server_for_others_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given: a child that ends at once, so that only the warning is seen
    ends = [sys.executable, "-c", "raise SystemExit(0)"]
    monkeypatch.setattr(serve, "_command", lambda address, port: ends)
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port = probe.getsockname()[1]

    # When
    with pytest.raises(BoundscopeError) as raised:
        serve.serve([tmp_path], address="0.0.0.0", port=port, open_browser=False)

    # Then
    assert raised.value.slug == "dashboard-not-started"
    assert "warning[not-only-local]" in capsys.readouterr().err


def test_a_path_that_is_not_there_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["dashboard", str(tmp_path / "nothing"), "--no-open"])

    assert code == 2
    assert "error[no-such-path]" in capsys.readouterr().err


def test_where_nobody_asked_for_a_port_the_next_free_one_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(serve, "DEFAULT_PORT", taken.getsockname()[1])

        assert serve._free_port("127.0.0.1") > taken.getsockname()[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_server_ends_with_the_program_that_started_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "boundscope", "dashboard", str(tmp_path), "--no-open"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr is not None
        said = ""
        while "Ctrl-C ends it" not in said:
            line = program.stderr.readline()
            assert line, said
            said += line
        (server,) = psutil.Process(program.pid).children()

        program.send_signal(number)
        code = program.wait(20)

    gone, alive = psutil.wait_procs([server], timeout=20)
    assert gone
    assert not alive
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    assert re.search(r"http://127\.0\.0\.1:\d+", said)
