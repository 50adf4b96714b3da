"""Runs a command unchanged under the collectors and keeps its run folder.

The command gets the launcher's own file descriptors, folder, process group and environment; only
PYTHONPATH has our start-up folder first and BOUNDSCOPE_RUN names the run folder. Whatever fails on
our side, the command runs to its end and its exit status is kept.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from ..collectors.base import Job
from ..collectors.records import SCHEMA, TRACE_MARKER, Gap, Manifest, Reason
from ..collectors.writer import Clock
from .command_line import CommandLine
from .errors import UsageError
from .jobs import await_members, holds_manifest, job_key, joinable
from .ranks import RankWatch
from .relay import SignalRelay
from .run.folder import DiskFullError, make_run_folder, run_exists
from .run.manifest import FILE_NAME, member_name, release_room, write_manifest
from .run.status import Status, process_start_ticks

if TYPE_CHECKING:
    from collections.abc import Mapping

POLL_S, LATER_POLL_S, EAGER_S = 0.25, 1.0, 15.0
"""How often the launcher looks for new ranks, at first and after so many seconds, when most jobs
have all of theirs; the command's end and signals are noticed at once."""
STOP_COLLECTORS_S = 2.0
"""How long the end of the run waits for collectors that hang."""
ENVIRONMENT_S = 2.0
"""How long the end of the run waits for the facts of the environment (git may take a second)."""
PR_SET_DUMPABLE = 4
"""prctl(2), from linux/prctl.h."""
INSIDE = "inside"
INSIDE_EFFECT = "no steps, input waits, collectives or torch-profiler windows"

Say = Callable[[str], None]


@dataclass(frozen=True)
class LaunchOptions:
    """What the user asked for; `run_folder` None means a new folder under runs/."""

    run_folder: Path | None = None
    name: str = ""
    without: frozenset[str] = frozenset()
    version: str = ""


@dataclass(frozen=True)
class Outcome:
    """How the command ended: exit code or fatal signal. `folder` is None when nothing was kept.

    `joined`: it is a part of a run that another launcher began, and reports.
    """

    exit_code: int | None
    signal: int | None
    folder: Path | None
    joined: bool = False

    @property
    def status(self) -> Status:
        """The manifest's word for it."""
        if self.signal is not None:
            return "killed"
        return "finished" if self.exit_code == 0 else "failed"


class _Collectors(Protocol):
    """What the launcher needs of the supervisor of the collectors beside."""

    def start(self) -> None: ...

    def stop(self, timeout_s: float) -> None: ...


def launch(
    command: CommandLine,
    options: LaunchOptions,
    say: Say,
    begun: Callable[[], object] = lambda: None,
) -> Outcome:
    """Run `command` under the collectors and return how it ended; call it in the main thread.

    `say` takes warnings, one line each; `begun` is called when the command and its collectors run,
    unless it joined another launcher's run. Raises UsageError before anything is started when the
    run folder cannot be used or the command cannot be started. Afterwards signals are caught and
    do nothing, so that the caller can finish its report (see `relay.interruptible`).
    """
    keeper = _keeper(command, options, say)
    relay = SignalRelay(command.argv)
    relay.start()
    try:
        return _run(command, relay, keeper, begun)
    finally:
        relay.stop()


def _keeper(command: CommandLine, options: LaunchOptions, say: Say) -> _RunKeeper | None:
    """Make the run folder with its first manifest; None, and a warning, when the disk is full."""
    try:
        keeper = _joined(command, options)
        if keeper is not None:
            return keeper
        keeper = _RunKeeper(
            command, options, make_run_folder(options.run_folder, options.name or command.name)
        )
        try:
            keeper.write(first=True)
        except FileExistsError:  # another launcher was faster by a moment
            keeper = _joined(command, options)
            if keeper is None:
                raise run_exists(options.run_folder or Path()) from None
        keeper.claim_host()
    except (DiskFullError, OSError) as error:
        say(f"boundscope: warning[disk-full]: the command runs without collectors: {error}")
        return None
    return keeper


def _joined(command: CommandLine, options: LaunchOptions) -> _RunKeeper | None:
    """A part in the run that another launcher of this job began; None where there is none."""
    folder = options.run_folder and options.run_folder.absolute()
    if folder is None or not holds_manifest(folder):
        return None
    first = joinable(folder, job_key(os.environ), list(command.given))
    if first is None:
        return None
    keeper = _RunKeeper(command, options, folder, first=first)
    keeper.claim_host()
    keeper.write()
    return keeper


def _run(
    command: CommandLine,
    relay: SignalRelay,
    keeper: _RunKeeper | None,
    begun: Callable[[], object],
) -> Outcome:
    early = relay.arrived()
    if early is not None:
        outcome = Outcome(None, early, None)
        return keeper.close(outcome) if keeper is not None else outcome
    try:
        child = spawn(command, keeper.child_environment() if keeper is not None else os.environ)
    except UsageError:
        if keeper is not None:
            keeper.remove()
        raise
    relay.attach(child)
    if keeper is None:
        return _outcome(_wait(child, relay, lambda: None))
    with contextlib.suppress(Exception):  # what fails here must not leave the command alone
        keeper.begin(child)
        if keeper.first is None:
            begun()
    return keeper.close(_outcome(_wait(child, relay, lambda: keeper.look(relay.trace_requests))))


def _wait(child: int, relay: SignalRelay, look: Callable[[], None]) -> int:
    """Wait for the command's end while passing signals on; return its wait status."""
    eager_until = time.monotonic() + EAGER_S
    while True:
        try:
            relay.wait(POLL_S if time.monotonic() < eager_until else LATER_POLL_S)
        except Exception:  # noqa: BLE001 - a fault of ours must not lose the exit code
            return os.waitpid(child, 0)[1]
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        with contextlib.suppress(Exception):
            look()


def _outcome(status: int) -> Outcome:
    code = os.waitstatus_to_exitcode(status)
    return Outcome(None, -code, None) if code < 0 else Outcome(code, None, None)


def spawn(command: CommandLine, environment: Mapping[str, str]) -> int:
    """Start the command with everything inherited and return its pid; UsageError when it can't."""
    try:
        return _posix_spawn(command.executable, command.argv, environment)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise UsageError(
                "command-not-started",
                f"{command.executable} cannot be started: {error.strerror}.",
                "check that it is made for this machine and that its interpreter (#!) exists",
            ) from error
    # A script without a #! line: shells run it themselves (POSIX, "Command Search and Execution").
    argv = ["sh", command.executable, *command.argv[1:]]
    return _posix_spawn("/bin/sh", argv, environment)


def _posix_spawn(path: str, argv: Sequence[str], environment: Mapping[str, str]) -> int:
    # Not subprocess: it closes descriptors that the user passed on purpose. SIGPIPE and SIGXFSZ
    # are ignored in every Python process; the command gets their defaults back.
    defaults = [signal.SIGPIPE, signal.SIGXFSZ]
    return os.posix_spawn(path, list(argv), environment, setsigdef=defaults)


def child_environment(run_folder: Path | None, version: str) -> dict[str, str]:
    """Return the command's environment; without `run_folder` nothing of ours starts inside."""
    environment = dict(os.environ)
    if run_folder is None:
        environment.pop("BOUNDSCOPE_RUN", None)
        return environment
    from ..collectors import inject

    ours = os.path.dirname(os.path.abspath(inject.__file__))
    theirs = environment.get("PYTHONPATH", "")
    if theirs.split(os.pathsep)[0] != ours:
        environment["PYTHONPATH"] = f"{ours}{os.pathsep}{theirs}" if theirs else ours
    environment["BOUNDSCOPE_RUN"] = str(run_folder)
    environment["BOUNDSCOPE_VERSION"] = version
    return environment


@dataclass
class _RunKeeper:
    """Keeps the run folder of one command: manifest, collectors beside, ranks."""

    command: CommandLine
    options: LaunchOptions
    folder: Path
    clock: Clock = field(default_factory=Clock)
    first: Manifest | None = None
    """The manifest of the launcher whose run this one joined."""

    def __post_init__(self) -> None:
        self._watch = RankWatch(self.folder)
        self._job: Job | None = None
        self._collectors: _Collectors | None = None
        self._facts: dict[str, dict[str, str]] = {}
        self._facts_thread: threading.Thread | None = None
        self._gaps: list[Gap] = []
        self._trace_requests = 0
        self._collects = True
        self._note_inside()
        self.manifest = Manifest(
            schema=SCHEMA,
            id=os.urandom(6).hex() if self.first is None else self.first.id,
            name=self.options.name or self.command.name,
            command=list(self.command.given),
            cwd=os.getcwd(),
            started_ns=self.clock.now_ns(),
            status="running",
            launcher_pid=os.getpid(),
            launcher_start_ticks=process_start_ticks(os.getpid()) or 0,
            host=socket.gethostname(),
            version=self.options.version,
            job=job_key(os.environ) if self.options.run_folder is not None else "",
        )

    @property
    def _node(self) -> Path:
        return self.folder / f"node-{self.manifest.host}"

    def claim_host(self) -> None:
        """Be the one that collects beside the training on this host, if no other launcher is."""
        try:
            self._node.mkdir()
        except FileExistsError:
            self._collects = not self.manifest.job
        except OSError:
            return  # each collector will say that it cannot write

    def _note_inside(self) -> None:
        """Say in advance why there will be nothing from inside the training processes."""
        if INSIDE in self.options.without:
            self.gap(INSIDE, "switched-off", "--without inside", INSIDE_EFFECT)
        elif self.command.isolation:
            self.gap(INSIDE, "switched-off", self.command.isolation, INSIDE_EFFECT)

    def gap(self, collector: str, reason: Reason, detail: str, effect: str) -> None:
        """Keep a gap for the manifest."""
        self.keep_gap(Gap(self.clock.now_ns(), collector, reason, detail, effect))

    def keep_gap(self, gap: Gap) -> None:
        """Keep a gap for the manifest; called from the collectors' threads too."""
        self._gaps.append(gap)

    def child_environment(self) -> dict[str, str]:
        """Return the command's environment."""
        inside = INSIDE not in self.options.without
        return child_environment(self.folder if inside else None, self.options.version)

    def write(self, *, first: bool = False) -> None:
        """Write the manifest as it stands; raises OSError when the disk is full.

        With `first`, FileExistsError when another launcher has begun a run in the folder.
        """
        self.manifest = msgspec.structs.replace(
            self.manifest, gaps=list(self._gaps), environment=dict(self._facts)
        )
        name = FILE_NAME
        if self.first is not None:
            name = member_name(self.manifest.host, self.manifest.launcher_pid)
        write_manifest(self.folder, self.manifest, name, first=first)

    def begin(self, child: int) -> None:
        """Start collecting beside the command, which runs already."""
        self.manifest = msgspec.structs.replace(self.manifest, child_pid=child)
        self._facts_thread = threading.Thread(target=self._find_facts, daemon=True)
        self._facts_thread.start()
        if not self._collects:
            return
        self._job = Job(child, self.folder, self._node, self.clock, Path.cwd())
        try:
            self._collectors = _supervisor(self._job, self.options, self.keep_gap)
            self._collectors.start()
        except Exception as error:  # noqa: BLE001 - the training goes on without samples
            detail = f"{type(error).__name__}: {error}"
            self.gap("beside", "crashed", detail, "no samples of host, network, storage or GPU")

    def _find_facts(self) -> None:
        from .environment import environment

        self._facts = environment(self.command, self.options.version)

    def look(self, trace_requests: int) -> None:
        """Notice new ranks, facts and requests for a trace; cheap, asked again and again."""
        if trace_requests > self._trace_requests and self._ask_for_traces():
            self._trace_requests = trace_requests
        if self._job is not None:
            self._job.ranks = self._watch.look()
        if self._facts_thread is not None and not self._facts_thread.is_alive():
            self._facts_thread = None
            with contextlib.suppress(OSError):
                self.write()

    def _ask_for_traces(self) -> bool:
        """Ask every rank for a trace window; False where there is none yet that could be asked."""
        asked = False
        for rank_folder in self.folder.glob("rank-*-*"):
            with contextlib.suppress(OSError):
                (rank_folder / TRACE_MARKER).touch()
                asked = True
        return asked

    def close(self, outcome: Outcome) -> Outcome:
        """Stop the collectors, write the last manifest and compress the traces; never raises."""
        outcome = replace(outcome, folder=self.folder, joined=self.first is not None)
        with contextlib.suppress(Exception):
            if self._collectors is not None:
                self._collectors.stop(STOP_COLLECTORS_S)
        ended_ns = self.clock.now_ns()
        with contextlib.suppress(Exception):
            if self._facts_thread is not None:
                self._facts_thread.join(ENVIRONMENT_S)
            if self.first is None:
                release_room(self.folder)
            self.manifest = msgspec.structs.replace(
                self.manifest,
                status=outcome.status,
                ended_ns=ended_ns,
                exit_code=outcome.exit_code,
                signal=outcome.signal,
            )
            self.write()
        with contextlib.suppress(Exception):
            from .compress import compress_traces

            compress_traces(self.folder)
        with contextlib.suppress(Exception):
            if self.manifest.job and self.first is None:
                await_members(self.folder)
        return outcome

    def remove(self) -> None:
        """Take back what was made for a command that never started."""
        if self.first is not None:
            with contextlib.suppress(OSError):
                name = member_name(self.manifest.host, self.manifest.launcher_pid)
                (self.folder / name).unlink()
            return
        with contextlib.suppress(OSError):
            self._node.rmdir()
        with contextlib.suppress(OSError):
            release_room(self.folder)
            (self.folder / FILE_NAME).unlink()
            if self.options.run_folder is None:
                self.folder.rmdir()


def _supervisor(job: Job, options: LaunchOptions, on_gap: Callable[[Gap], None]) -> _Collectors:
    from ..collectors.supervisor import Supervisor

    return Supervisor(job, version=options.version, without=options.without, on_gap=on_gap)


def end_like(outcome: Outcome) -> int:
    """End this process by the command's fatal signal, or return the command's exit code.

    So a shell sees what it would have seen from the command alone: WIFSIGNALED, 128 + signal.
    Returns 128 + signal where the signal does not kill (process 1 of a container).
    """
    if outcome.signal is None:
        return outcome.exit_code or 0
    _forbid_core_dump()
    number = outcome.signal
    with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler to reset
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    return 128 + number


def _forbid_core_dump() -> None:
    """Let no core of the launcher stand beside, or in place of, the command's own."""
    import ctypes
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    # The limit does not hold for core_pattern pipes (core(5)); the dumpable flag does.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
