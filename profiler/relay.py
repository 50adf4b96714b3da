"""Passes signals on to the command: each one exactly as often as it would have got it alone.

The launcher and the command share a process group, so that a terminal's Ctrl-C, Ctrl-Z and window
changes reach the command by themselves. A signal that is sent to the whole group (Ctrl-C, `kill
%1`, `timeout`, a shell that hangs up) or to every process of a job (`scancel`, systemd) must not
be passed on, or the command gets it twice; a signal for the launcher alone must be. `siginfo` does
not tell the two apart: a group `kill` and a direct one both say SI_USER. So a witness stands
beside the launcher in the same group, a bare interpreter of ten lines: what it gets too was meant
for all. It carries the command's words in its own command line, so that `pkill -f train.py`, which
meets launcher and command, meets it as well, and `pkill -f boundscope`, which meets the launcher
alone, does not.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PASSED_ON = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
TRACE_REQUEST = signal.SIGRTMIN + 1
"""Asks boundscope itself for a torch-profiler window; never passed on. No shell, scheduler or
launcher is known to send it."""
GRACE_S = 0.05
"""How long a sender may take from one process of a group or job to the next: a group `kill` is one
system call; what walks over processes one by one takes microseconds for each."""
ANSWER_S = 2.0
"""The witness answers in well under 1 ms; past this it is taken as stopped."""
FORGET_S = 1.0
"""A signal that only the witness got is forgotten after this."""
ANSWER = 0

WITNESS = """\
import os, signal
os.set_blocking(1, False)
signal.set_wakeup_fd(1, warn_on_full_buffer=False)
for number in {numbers}:
    signal.signal(number, lambda *_: None)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {numbers})
while os.read(0, 1):
    os.write(1, b"\\0")
"""
"""Reports each signal by its number (as the wake-up byte) and each question by a zero byte, so that
an answer comes after all signals that it had got before; ends with the launcher."""


@dataclass(eq=False)
class _Arrival:
    """A signal that the launcher got and has not yet decided about."""

    number: int
    due: float
    asked: bool = False
    early: bool = False
    """It came before there was a command, which so never got it, whoever else did."""


class SignalRelay:
    """Catches the launcher's signals and passes on those that were for the launcher alone.

    Use it in the main thread: `start`, ask `arrived`, then `attach` the command's pid, then `wait`
    again and again; it returns at once when a signal came or a child ended. Signals that the
    launcher inherited as ignored (nohup, a background job of a script) stay ignored.
    """

    def __init__(self, command: Sequence[str] = ()) -> None:
        self._command = list(command)
        self._child = 0
        self._arrivals: list[_Arrival] = []
        self._asked: deque[_Arrival] = deque()
        self._witnessed: list[tuple[int, float]] = []
        self._wakeup = (-1, -1)
        self._witness = _Witness()
        self.passed_on: list[int] = []
        self.trace_requests = 0

    def start(self) -> None:
        """Take over the signals and start the witness."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        self._wakeup = reading, writing
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (*_caught(), signal.SIGCHLD, TRACE_REQUEST):
            signal.signal(number, _nothing)
        self._witness.start(self._command)

    def attach(self, pid: int) -> None:
        """Name the process that gets what is passed on; right after its start.

        What came until now is passed on whomever it was for: the command was not there yet, or has
        only just begun and cannot have got as far as a handler.
        """
        self._child = pid
        self._read(early=True)

    def arrived(self) -> int | None:
        """Return the first signal that came before there was a command, None when none did."""
        self._read()
        return self._arrivals[0].number if self._arrivals else None

    def wait(self, timeout_s: float) -> None:
        """Wait for a signal, the end of a child or the timeout, and pass on what is due."""
        now = time.monotonic()
        due = min((arrival.due for arrival in self._arrivals), default=now + timeout_s)
        poll = select.poll()
        for descriptor in (self._wakeup[0], *self._witness.readable()):
            poll.register(descriptor, select.POLLIN)
        poll.poll(max(0.0, min(timeout_s, due - now)) * 1e3)
        self._read()
        self._decide()

    def stop(self) -> None:
        """End the witness. The signals stay caught and do nothing, so that the report comes."""
        signal.set_wakeup_fd(-1)
        self._witness.stop()
        for descriptor in self._wakeup:
            if descriptor >= 0:
                os.close(descriptor)
        self._wakeup = (-1, -1)

    def _read(self, *, early: bool = False) -> None:
        now = time.monotonic()
        for number in _drain(self._wakeup[0]) or b"":
            if number in PASSED_ON:
                self._arrivals.append(_Arrival(number, now + GRACE_S, early=early))
            self.trace_requests += number == TRACE_REQUEST
        for number in self._witness.read():
            if number == ANSWER:
                self._answered()
            else:
                self._witnessed.append((number, now))
                self._match()

    def _match(self) -> None:
        """Drop the pairs that launcher and witness both got; the command got them as well."""
        for seen in list(self._witnessed):
            for arrival in self._arrivals:
                if arrival.number == seen[0]:
                    self._witnessed.remove(seen)
                    if arrival.early:
                        self._pass_on(arrival)
                    else:
                        self._arrivals.remove(arrival)
                    break

    def _answered(self) -> None:
        """The witness has told all that it got before the question: this one was not for all."""
        arrival = self._asked.popleft()
        if arrival in self._arrivals:
            self._pass_on(arrival)

    def _decide(self) -> None:
        now = time.monotonic()
        self._match()
        self._witnessed = [seen for seen in self._witnessed if now - seen[1] < FORGET_S]
        for arrival in list(self._arrivals):
            if arrival.due > now:
                continue
            if not arrival.asked and self._witness.ask():
                arrival.asked = True
                self._asked.append(arrival)
                arrival.due = now + ANSWER_S
            elif arrival.asked or not _from_terminal(arrival.number):
                self._pass_on(arrival)
            else:
                self._arrivals.remove(arrival)

    def _pass_on(self, arrival: _Arrival) -> None:
        self._arrivals.remove(arrival)
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, arrival.number)
                self.passed_on.append(arrival.number)


class _Witness:
    """The process that tells what was sent to the whole group."""

    def __init__(self) -> None:
        self._pid = 0
        self._questions = -1
        self._answers = -1

    def start(self, command: Sequence[str]) -> None:
        """Start it; without one (no interpreter, too many processes) `ask` says False."""
        theirs_in, self._questions = os.pipe()
        self._answers, theirs_out = os.pipe()
        os.set_blocking(self._answers, False)
        code = WITNESS.format(numbers=tuple(int(number) for number in _caught()))
        try:
            self._pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", "-c", code, *command],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs_in, 0),
                    (os.POSIX_SPAWN_DUP2, theirs_out, 1),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
                # Blocked until its handlers stand: a signal that comes earlier waits for them.
                setsigmask=[*signal.pthread_sigmask(signal.SIG_BLOCK, []), *PASSED_ON],
            )
        except OSError:
            self._close()
        finally:
            os.close(theirs_in)
            os.close(theirs_out)

    def readable(self) -> list[int]:
        """Return the descriptors to wait on."""
        return [self._answers] if self._answers >= 0 else []

    def read(self) -> bytes:
        """Return what it has told since the last call; notices when it is gone."""
        if self._answers < 0:
            return b""
        data = _drain(self._answers)
        if data is None:
            self.stop()
            return b""
        return data

    def ask(self) -> bool:
        """Ask whether it has told everything; False when there is no witness."""
        if self._questions < 0:
            return False
        try:
            os.write(self._questions, b"?")
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Let it end and wait for that; safe to call twice."""
        self._close()
        if self._pid:
            # Not left to the closed pipe alone: one that is stopped (SIGSTOP) would stay.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._pid = 0

    def _close(self) -> None:
        for descriptor in (self._questions, self._answers):
            if descriptor >= 0:
                os.close(descriptor)
        self._questions = self._answers = -1


class Interrupted(BaseException):
    """A signal came while boundscope did work of its own after the command had ended."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let a signal end the block with `Interrupted`; afterwards signals do nothing again."""

    def interrupt(_number: int, _frame: object) -> None:
        raise Interrupted

    caught = _caught()
    for number in caught:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, _nothing)


def _caught() -> list[signal.Signals]:
    """Return the signals to catch: all that are passed on but were not inherited as ignored."""
    return [number for number in PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN]


def _nothing(_number: int, _frame: object) -> None:
    """A handler: the wake-up byte alone is the news."""


def _drain(descriptor: int) -> bytes | None:
    """Return all that can be read now, None when the other side is closed."""
    data = b""
    while True:
        try:
            chunk = os.read(descriptor, 512)
        except BlockingIOError:
            return data
        if not chunk:
            return data or None
        data += chunk


def _from_terminal(number: int) -> bool:
    """Without a witness: say whether a terminal is likely to have sent the signal to all."""
    if number not in (signal.SIGINT, signal.SIGQUIT):
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
