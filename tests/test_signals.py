"""Signals reach the command as often as they would have without us. Real processes and ptys."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boundscope.profiler.run.manifest import read_manifest

BOUNDSCOPE = str(Path(sys.executable).parent / "boundscope")
LISTENER = """
import os, pathlib, signal, sys, time
log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
for number in (*numbers, signal.SIGQUIT):
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda number, frame: os.write(log, b"%d\\n" % number))
os.write(log, b"ready %d\\n" % os.getpid())
while not pathlib.Path("stop").exists():
    time.sleep(0.02)
sys.exit(7)
"""
SETTLED_S = 0.3
"""Longer than the launcher takes to decide (50 ms and an answer): what comes twice has come."""


def until(condition: Callable[[], object], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


class Run:
    """A listening command below a launcher, with what it heard."""

    def __init__(self, folder: Path, *prefix: str, **more: object) -> None:
        (folder / "train.py").write_text(LISTENER)
        self.folder = folder
        command = [*prefix, BOUNDSCOPE, "run", "--no-report", "-o", "run", "train.py"]
        self.launcher = subprocess.Popen(command, cwd=folder, start_new_session=True, **more)
        until(lambda: self.lines() and self.witnessed())

    def lines(self) -> list[str]:
        log = self.folder / "log"
        return log.read_text().split("\n")[:-1] if log.exists() else []

    def heard(self) -> list[int]:
        return [int(line) for line in self.lines()[1:]]

    @property
    def child(self) -> int:
        return int(self.lines()[0].split()[1])

    def group(self) -> list[int]:
        """The processes that share the launcher's group."""
        return [pid for pid in live_pids() if group_of(pid) == self.launcher.pid]

    def witness(self) -> int:
        (pid,) = (pid for pid in self.group() if b"set_wakeup_fd" in words_of(pid))
        return pid

    def witnessed(self) -> bool:
        """Whether the witness is up: it asks for its first question in a pipe read."""
        pids = [pid for pid in self.group() if b"set_wakeup_fd" in words_of(pid)]
        return bool(pids) and "S" in Path(f"/proc/{pids[0]}/stat").read_text().split()[2]

    def pkill(self, pattern: bytes) -> None:
        """What `pkill -TERM -f` does, within the group."""
        matching = [p for p in self.group() if pattern in words_of(p).replace(b"\0", b" ")]
        self.kill_each(matching)

    def kill_each(self, pids: list[int]) -> None:
        """Send SIGTERM to each, as fast as one after the other can be.

        The launcher stands still meanwhile: it allows a sender 50 ms, and other programs may hold
        this one up for longer between two of them.
        """
        os.kill(self.launcher.pid, signal.SIGSTOP)
        try:
            for pid in pids:
                os.kill(pid, signal.SIGTERM)
        finally:
            os.kill(self.launcher.pid, signal.SIGCONT)

    def settle(self, count: int) -> list[int]:
        until(lambda: len(self.heard()) >= count)
        time.sleep(SETTLED_S)
        return self.heard()

    def end(self) -> int:
        (self.folder / "stop").touch()
        return self.launcher.wait(30)


def live_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def words_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    started = Run(tmp_path)
    yield started
    if started.launcher.poll() is None:
        os.killpg(started.launcher.pid, signal.SIGKILL)
        started.launcher.wait()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_for_the_launcher_alone_reaches_the_command_once(run: Run, name: str) -> None:
    number = signal.Signals[name]

    run.launcher.send_signal(number)

    assert run.settle(1) == [number]
    assert run.end() == 7


def test_a_second_signal_reaches_the_command_too(run: Run) -> None:
    run.launcher.send_signal(signal.SIGINT)
    until(lambda: len(run.heard()) == 1)
    run.launcher.send_signal(signal.SIGINT)

    assert run.settle(2) == [signal.SIGINT, signal.SIGINT]
    assert run.end() == 7


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_for_the_whole_group_reaches_the_command_once(run: Run, name: str) -> None:
    number = signal.Signals[name]

    os.killpg(run.launcher.pid, number)

    assert run.settle(1) == [number]
    assert run.end() == 7


def test_a_signal_sent_to_each_process_of_a_job_reaches_the_command_once(run: Run) -> None:
    run.kill_each(run.group())  # as slurmstepd and systemd do

    assert run.settle(1) == [signal.SIGTERM]
    assert run.end() == 7


def test_pkill_by_the_scripts_name_reaches_the_command_once(run: Run) -> None:
    run.pkill(b"train.py")

    assert run.settle(1) == [signal.SIGTERM]
    assert run.end() == 7


def test_pkill_by_our_name_reaches_the_command_once(run: Run) -> None:
    run.pkill(b"bin/boundscope run")

    assert run.settle(1) == [signal.SIGTERM]
    assert run.end() == 7


def test_signals_are_passed_on_when_the_witness_is_gone(run: Run) -> None:
    os.kill(run.witness(), signal.SIGKILL)

    run.launcher.send_signal(signal.SIGTERM)

    assert run.settle(1) == [signal.SIGTERM]
    assert run.end() == 7


def test_signals_are_passed_on_when_the_witness_stands_still(run: Run) -> None:
    os.kill(run.witness(), signal.SIGSTOP)

    run.launcher.send_signal(signal.SIGTERM)

    assert run.settle(1) == [signal.SIGTERM]
    assert run.end() == 7


def test_a_signal_that_was_ignored_from_the_start_stays_ignored(tmp_path: Path) -> None:
    run = Run(tmp_path, "nohup", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    run.launcher.send_signal(signal.SIGHUP)
    os.killpg(run.launcher.pid, signal.SIGHUP)
    time.sleep(SETTLED_S)

    assert run.heard() == []
    assert run.end() == 7


def test_a_command_that_dies_of_the_passed_signal_ends_the_launcher_by_it(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import time; print('up', flush=True); time.sleep(60)")
    command = [BOUNDSCOPE, "run", "--no-report", "-o", "run", "train.py"]

    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as launcher:
        launcher.stdout.readline()
        launcher.terminate()
        code = launcher.wait(30)

    manifest = read_manifest(tmp_path / "run")
    assert code == -signal.SIGTERM
    assert (manifest.status, manifest.signal) == ("killed", signal.SIGTERM)


def test_a_signal_during_the_start_ends_everything_by_it(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import time; time.sleep(60)")
    codes, left = [], []

    for delay_ms in range(0, 260, 40):
        command = [BOUNDSCOPE, "run", "--no-report", "train.py"]
        launcher = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
        time.sleep(delay_ms / 1000)
        launcher.terminate()
        codes.append(launcher.wait(30))
        left += [pid for pid in live_pids() if group_of(pid) == launcher.pid]

    assert set(codes) == {-signal.SIGTERM}
    assert left == []


@pytest.mark.parametrize("whom", ["os.killpg(os.getpgrp(), 15)", "os.kill(os.getpid(), 15)"])
def test_a_signal_between_the_last_look_and_the_commands_start_reaches_the_command(
    whom: str,
) -> None:
    code = f"""
import os, signal, sys, time
from boundscope.profiler.relay import SignalRelay
relay = SignalRelay()
relay.start()
assert relay.arrived() is None
{whom}
time.sleep(0.2)  # the witness has told of it before there is a command, or has not
child = os.posix_spawn(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"],
                       os.environ)
relay.attach(child)
pid, until = 0, time.monotonic() + 15
while not pid and time.monotonic() < until:
    relay.wait(0.25)
    pid, status = os.waitpid(child, os.WNOHANG)
print(relay.passed_on, os.waitstatus_to_exitcode(status) if pid else "it waits")
os.kill(child, 9) if not pid else None
relay.stop()
"""

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        start_new_session=True,
    )  # fmt: skip

    assert done.stdout.split() == ["[15]", "-15"]


def test_a_trace_that_is_asked_for_before_there_is_a_rank_is_not_forgotten(tmp_path: Path) -> None:
    """Neither for a rank folder that cannot be written to: here it is a file."""
    text = """
import os, pathlib, time
run = pathlib.Path(os.environ["BOUNDSCOPE_RUN"])
(run / "rank-1-1").touch()
print("up", flush=True)
while not pathlib.Path("go").exists():
    time.sleep(0.02)
rank = run / f"rank-0-{os.getpid()}"
rank.mkdir()
until = time.monotonic() + 15
while not (rank / "want-trace").exists() and time.monotonic() < until:
    time.sleep(0.02)
print("asked" if (rank / "want-trace").exists() else "forgotten", flush=True)
"""
    (tmp_path / "train.py").write_text(text)
    command = [BOUNDSCOPE, "run", "--no-report", "-o", "run", "train.py"]

    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        launcher.stdout.readline()
        launcher.send_signal(signal.SIGRTMIN + 1)
        time.sleep(0.6)  # the launcher looks four times a second
        (tmp_path / "go").touch()
        said = launcher.stdout.read()

    assert said == b"asked\n"
    assert launcher.returncode == 0


def test_work_after_the_command_can_be_interrupted_and_nothing_after_that() -> None:
    code = """
import os, signal
from boundscope.profiler.relay import Interrupted, SignalRelay, interruptible
relay = SignalRelay()
relay.start()
relay.stop()
os.kill(os.getpid(), signal.SIGTERM)
try:
    with interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        print("not interrupted")
except Interrupted:
    print("interrupted")
os.kill(os.getpid(), signal.SIGTERM)
print("and on")
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == ["interrupted", "and on"]


class Terminal:
    """A terminal of its own with a program in it."""

    def __init__(self, folder: Path, *command: str) -> None:
        (folder / "train.py").write_text(LISTENER)
        self.folder = folder
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvp(command[0], command)

    def lines(self) -> list[str]:
        log = self.folder / "log"
        return log.read_text().split("\n")[:-1] if log.exists() else []

    def heard(self) -> list[int]:
        return [int(line) for line in self.lines()[1:]]

    def type(self, text: bytes) -> None:
        os.write(self.descriptor, text)

    def read(self) -> str:
        seen = b""
        try:
            while data := os.read(self.descriptor, 4096):
                seen += data
        except OSError:  # EIO: the other side has gone
            pass
        return seen.decode()

    def wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(status)


def test_ctrl_c_in_a_terminal_reaches_the_command_once_each_time(tmp_path: Path) -> None:
    words = (BOUNDSCOPE, "run", "--no-report", "-o", "run", "train.py")
    terminal = Terminal(tmp_path, *words)
    until(terminal.lines)
    counts = []

    for count in (1, 2):
        terminal.type(b"\x03")
        until(lambda count=count: len(terminal.heard()) >= count)
        time.sleep(SETTLED_S)
        counts.append(terminal.heard())
    (tmp_path / "stop").touch()
    terminal.read()

    assert counts == [[signal.SIGINT], [signal.SIGINT, signal.SIGINT]]
    assert terminal.wait() == 7


def test_ctrl_z_and_fg_work(tmp_path: Path) -> None:
    job = f"{BOUNDSCOPE} run --no-report -o run train.py"
    script = f"set -m; {job}; echo first $?; touch stopped; fg >/dev/null; echo then $?"
    terminal = Terminal(tmp_path, "bash", "--norc", "-c", script)
    until(terminal.lines)

    terminal.type(b"\x1a")
    until((tmp_path / "stopped").exists)
    (tmp_path / "stop").touch()
    seen = terminal.read()

    assert "first 148" in seen  # 128 + SIGTSTP
    assert "then 7" in seen
    assert terminal.wait() == 0
