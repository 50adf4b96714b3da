"""py-spy as a process of its own: one recording of one process, and what its file holds.

py-spy writes its file only when it ends, so a recording is short; it ends, and writes, by itself
when its target ends, when its time is over, or on SIGINT. `setpriv` asks the kernel to send that
signal when the launcher dies; without `setpriv` the recording ends by itself a little later.
The file is a Chrome trace: begin and end events of frames, from which the samples are told.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

import msgspec

from .origins import is_own, is_standard
from .records import Frame, Reason, Record, Stack, Stacks

BUCKET_NS = 1_000_000_000
"""Samples are written in groups of this length, so that each can be placed within a second."""
MAX_LENGTH_US = 3_600_000_000
MAX_SAMPLES = 1_000_000
MAX_FRAMES_SEEN = 20_000_000
MAX_LINE = 1 << 31
"""Of one recording, which takes seconds at no more than 20 samples each of them."""
OUTER_FRAMES, INNER_FRAMES = 24, 72
"""Of a deeper stack the middle is left out: user code is outside, the running call inside."""

_THREAD = re.compile(r"thread \((0x[0-9a-fA-F]{1,16}|\d{1,19})\)(?:: (.*))?$", re.DOTALL)
_PART = re.compile(r"stacks-(\d{1,9})-(rank|worker)-(\d{1,9})-([1-9]\d{0,11})\.part")
_BACKGROUND = (
    "/tqdm/_monitor.py",
    "/torch/_inductor/compile_worker/",
)
"""Files of threads that only serve others: a thread with no frame but in these, in our own and in
the standard library is left out."""


@dataclass(frozen=True)
class Target:
    """A process to record, the rank that it is or serves, and its role ("rank" or "worker")."""

    pid: int
    rank: int
    role: str


@dataclass
class Recording:
    """A py-spy that runs: `interval_ns` between two samples, `path` where it will write."""

    target: Target
    pid: int
    path: Path
    interval_ns: int
    started_mono_ns: int
    messages: IO[bytes]


@dataclass(frozen=True)
class Ended:
    """How a recording ended: whether py-spy was content, its CPU time, and what it said."""

    good: bool
    cpu_s: float
    message: str


def find_py_spy() -> str | None:
    """The py-spy beside this interpreter, else the one on PATH."""
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("py-spy")


@lru_cache(maxsize=1)
def _prefix() -> tuple[str, ...]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    with tempfile.TemporaryFile() as out:
        status, _ = _wait(_spawn([setpriv, "--pdeathsig", "INT", "true"], out), block=True)
    return (setpriv, "--pdeathsig", "INT") if status == 0 else ()


def record(py_spy: str, target: Target, folder: Path, rate_hz: int, seconds: int) -> Recording:
    """Start py-spy on `target`; raises OSError when it cannot be started."""
    interval_ns = 1_000_000_000 // rate_hz
    name = f"stacks-{target.pid}-{target.role}-{target.rank}-{interval_ns}.part"
    path = folder / name
    command = [
        *_prefix(),
        py_spy,
        "record",
        "--pid",
        str(target.pid),
        "--duration",
        str(seconds),
        "--rate",
        str(rate_hz),
        "--format",
        "chrometrace",
        "--output",
        str(path),
        "--full-filenames",
        "--threads",
        "--idle",
        "--nonblocking",
    ]
    messages = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the recording has ended
    pid = _spawn(command, messages)
    return Recording(target, pid, path, interval_ns, time.monotonic_ns(), messages)


def _spawn(command: list[str], out: IO[bytes]) -> int:
    """Start `command` in a process group of its own and with no signal blocked.

    The launcher may block signals in its threads, and a terminal's Ctrl-C is not for py-spy:
    plain `subprocess` would hand on both. `posix_spawn` does not fork the launcher's threads.
    """
    return os.posix_spawnp(
        command[0],
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, out.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, out.fileno(), 2),
        ],
        setpgroup=0,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
    )


def poll(recording: Recording, *, block: bool = False) -> Ended | None:
    """How the recording ended, or None while it goes on."""
    status, cpu_s = _wait(recording.pid, block=block)
    if status is None:
        return None
    with recording.messages as messages:
        messages.seek(0)
        text = messages.read(20_000).decode("utf-8", "replace")
    return Ended(status == 0, cpu_s, text.strip())


def interrupt(recording: Recording, *, kill: bool = False) -> None:
    """Ask py-spy to write its file and end, or kill it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(recording.pid, signal.SIGKILL if kill else signal.SIGINT)


def _wait(pid: int, *, block: bool) -> tuple[int | None, float]:
    try:
        done, status, usage = os.wait4(pid, 0 if block else os.WNOHANG)
    except ChildProcessError:
        return 0, 0.0  # somebody else in this process has waited for it
    if not done:
        return None, 0.0
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def failure(message: str) -> tuple[Reason, str]:
    """The reason in py-spy's words for a recording that failed."""
    told = message.partition("Stack backtrace")[0]
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    text = " / ".join(lines[-3:])[:400] or "py-spy failed without a word"
    lowered = message.lower()
    if "permission denied" in lowered or "operation not permitted" in lowered:
        return "no-permission", text
    return "not-supported", text


class _Event(msgspec.Struct):
    """One event of py-spy's Chrome trace; `ts` in microseconds since the recording's start."""

    name: str
    ph: str
    tid: int
    ts: int
    args: dict[str, str | int | None] = {}


_decoder = msgspec.json.Decoder(list[_Event])

_Location = tuple[str, str, int]


@dataclass(frozen=True)
class Held:
    """One stack that a thread was seen in from `start_us` to `end_us`, outermost frame first."""

    thread: int
    thread_name: str
    start_us: int
    end_us: int
    frames: tuple[_Location, ...]


def held_stacks(data: bytes) -> Iterator[Held]:
    """The stacks in a Chrome trace of py-spy; raises ValueError on anything else."""
    stacks: dict[int, list[_Location]] = {}
    since: dict[int, int] = {}
    seen = 0
    for event in _decoder.decode(data):
        if not 0 <= event.ts <= MAX_LENGTH_US:
            raise ValueError("a time that no recording has")
        stack = stacks.setdefault(event.tid, [])
        if event.ts > since.get(event.tid, event.ts) and stack:
            seen += len(stack)
            if seen > MAX_FRAMES_SEEN:
                raise ValueError("deeper stacks than a recording has")
            held = _held(stack, since[event.tid], event.ts)
            if held is not None:
                yield held
        since[event.tid] = event.ts
        if event.ph == "B":
            line = event.args.get("line")
            file = str(event.args.get("filename") or "")
            known = line if isinstance(line, int) and 0 <= line < MAX_LINE else 0
            stack.append((event.name, file, known))
        elif stack:
            stack.pop()


def _held(stack: list[_Location], start_us: int, end_us: int) -> Held | None:
    """Peel off the two frames that stand for the process and the thread."""
    thread, name, frames = 0, "", []
    for location in stack:
        match = _THREAD.match(location[0]) if not location[1] else None
        if match is not None:
            thread, name = int(match[1], 0), match[2] or ""
        elif location[1]:
            frames.append(location)
    if not frames:
        return None
    if len(frames) > OUTER_FRAMES + INNER_FRAMES:
        frames = frames[:OUTER_FRAMES] + frames[-INNER_FRAMES:]
    return Held(thread, name, start_us, end_us, tuple(frames))


def owns_training_frame(frames: tuple[_Location, ...]) -> bool:
    """Whether a frame lies outside the standard library and of what only serves others."""
    return any(
        not (is_standard(file) or is_own(file)) and not any(part in file for part in _BACKGROUND)
        for _, file, _ in frames
    )


class StackTable:
    """Gives frames and stacks their numbers; new ones are records to be written first."""

    def __init__(self) -> None:
        self._frames: dict[_Location, int] = {}
        self._stacks: dict[tuple[_Location, ...], int] = {}

    def intern(self, frames: tuple[_Location, ...], new: list[Record]) -> int:
        """The number of a stack; records for what was not known yet are added to `new`."""
        known = self._stacks.get(frames)
        if known is not None:
            return known
        ids = []
        for location in frames:
            number = self._frames.get(location)
            if number is None:
                number = self._frames[location] = len(self._frames)
                new.append(Frame(number, *location))
            ids.append(number)
        index = self._stacks[frames] = len(self._stacks)
        new.append(Stack(index, ids))
        return index


def records_of(  # noqa: PLR0913 - one call site, each of its own kind
    data: bytes,
    target: Target,
    interval_ns: int,
    written_ns: int,
    table: StackTable,
    *,
    cpu_share: Callable[[int], float | None] = lambda _: None,
) -> list[Record]:
    """The records of one recording whose file was written at `written_ns`.

    A thread is kept if it is the process's main one or had a training frame at any moment.
    `cpu_share` tells the share of a core that a thread used; a rank's other threads are asked for.
    """
    held = list(held_stacks(data))
    if not held:
        return []
    base_ns = written_ns - max(one.end_us for one in held) * 1000
    kept = {one.thread for one in held if owns_training_frame(one.frames)} | {target.pid}
    names = {one.thread: one.thread_name for one in held}
    buckets: dict[tuple[int, int], Counter[int]] = {}
    samples = 0
    new: list[Record] = []
    for one in held:
        if one.thread not in kept:
            continue
        stack = table.intern(one.frames, new)
        samples += _samples(one, interval_ns)
        if samples > MAX_SAMPLES:
            raise ValueError("more samples than a recording has")
        for at_us in _sample_times(one, interval_ns):
            bucket = at_us * 1000 // BUCKET_NS
            buckets.setdefault((bucket, one.thread), Counter())[stack] += 1
    end_ns = max(one.end_us for one in held) * 1000
    others = kept - {target.pid} if target.role == "rank" else set()
    used = {thread: cpu_share(thread) for thread in others}
    for (bucket, thread), counts in sorted(buckets.items()):
        new.append(
            Stacks(
                start_ns=base_ns + bucket * BUCKET_NS,
                end_ns=base_ns + min((bucket + 1) * BUCKET_NS, end_ns),
                interval_ns=interval_ns,
                pid=target.pid,
                thread=thread,
                counts=list(counts.items()),
                role=target.role,
                thread_name=names[thread],
                rank=target.rank,
                cpu_share=used.get(thread),
            )
        )
    return new


def _samples(held: Held, interval_ns: int) -> int:
    return max(1, round((held.end_us - held.start_us) * 1000 / interval_ns))


def _sample_times(held: Held, interval_ns: int) -> Iterator[int]:
    """When the samples were taken that saw one stack: at least one, evenly spread."""
    length_us = held.end_us - held.start_us
    count = _samples(held, interval_ns)
    return (held.start_us + i * length_us // count for i in range(count))


def read_part(path: Path) -> list[Record]:
    """The samples of a recording that outlived its launcher (`stacks-*.part`), in ids of its own.

    Empty where the file is torn or is none of ours, and where it is a link or in a linked folder.
    """
    match = _PART.fullmatch(path.name)
    if match is None or path.is_symlink() or path.parent.is_symlink() or not path.is_file():
        return []
    target = Target(int(match[1]), int(match[3]), match[2])
    try:
        data, written_ns = path.read_bytes(), path.stat().st_mtime_ns
        return records_of(data, target, int(match[4]), written_ns, StackTable())
    except (OSError, ValueError, RecursionError):
        return []
