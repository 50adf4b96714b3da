"""Runs trainings by turns: each takes a few steps and stops, then the next one goes on.

A machine's pace changes within minutes, by more than what is measured; so what is compared is
measured within seconds. A training stops its own process group after a step (families/job.py): all
that it has started stops with it, and no loader's worker prepares batches meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

POLL_S = 0.004
ENDING_S = 25.0
"""For two ranks to end and to remove their link."""
LAST_WORDS = 600


class Training:
    """A command in a process group of its own, which runs from turn to turn."""

    def __init__(self, command: list[str], folder: Path):
        self.command = command
        self.folder = folder
        self.words = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.words.close()
        if self.process is None or self.process.poll() is not None:
            return
        # It has ranks and a link to remove: it is asked to end before it is killed.
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        try:
            self.process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def go(self) -> None:
        """Go on, or start."""
        if self.process is not None:
            self._signal(signal.SIGCONT)
            return
        self.process = subprocess.Popen(
            self.command,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=self.words,
            start_new_session=True,
        )

    def stopped(self, deadline: float) -> bool:
        """Wait for its next stop; False when it has ended. TimeoutError after `deadline`.

        `deadline` is of `time.monotonic`.
        """
        assert self.process is not None
        pid = self.process.pid
        while True:
            # An exit is only looked at here, so that Popen can still take it.
            seen = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if seen is not None and seen.si_code == os.CLD_STOPPED:
                os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG)
                return True
            if seen is not None:
                self.process.wait()
                return False
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(POLL_S)

    def error(self) -> str:
        """ "" where it ended well, else its last words."""
        assert self.process is not None
        code = self.process.returncode
        if code == 0:
            return ""
        self.words.seek(0)
        words = self.words.read().decode(errors="replace")
        return words[-LAST_WORDS:] or f"exit code {code}"

    def _signal(self, number: int) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def by_turns(commands: dict[str, list[str]], folder: Path, timeout_s: float) -> dict[str, str]:
    """Run all commands from `folder` until they have ended; "" or the last words of each.

    They start side by side: the first turn, up to the first stop, is start-up.
    """
    deadline = time.monotonic() + timeout_s
    errors = {}
    with contextlib.ExitStack() as stack:
        going = {
            name: stack.enter_context(Training(command, folder))
            for name, command in commands.items()
        }
        for training in going.values():
            training.go()
        started = True
        while going:
            for name, training in list(going.items()):
                if not started:
                    training.go()
                try:
                    if training.stopped(deadline):
                        continue
                    errors[name] = training.error()
                except TimeoutError:
                    errors[name] = f"took more than {timeout_s:.0f} s"
                del going[name]
            started = False
    return errors
