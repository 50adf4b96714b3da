"""Runs one training with and without boundscope, with one fault, and keeps what both did."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"
BOUNDSCOPE = str(Path(sys.executable).parent / "boundscope")
LIMIT_S = 240
"""On an idle machine; a busy one gets more."""
ENDING_S = 5.0
"""Time that the last helpers of a killed launcher get to end."""
AT_ONCE = 2
"""Trainings at a time: each sleeps for most of its own."""

Act = Callable[[subprocess.Popen[bytes], Path], None]
"""What happens to a run while it goes on: its first process, and the folder that it works in."""


@dataclass(frozen=True)
class Case:
    """One fault: the training, how it is broken or what is done to it, and the gap it leaves.

    `words` are the training's own; `launcher` names a fault of scripts/launcher.py, `inside` one
    of scripts/inside. `before` makes the folder ready and is told whether boundscope comes; `act`
    is done to the plain and to the wrapped run, `act_wrapped` to that one alone. `gap` is a
    collector and a reason that `diagnose` must name, `detail` a part of its text. No file gets
    larger than `file_bytes`, where that is given. Cases of one
    `group` run in forks of one process that has imported torch, each a rank; only `words` and
    `inside` hold there.
    """

    name: str
    words: tuple[str, ...] = ()
    launcher: str = ""
    inside: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    before: Callable[[Path, bool], None] | None = None
    act: Act | None = None
    act_wrapped: Act | None = None
    options: tuple[str, ...] = ()
    gap: tuple[str, str] | None = None
    detail: str = ""
    status: str = "finished"
    steps: int = 100
    file_bytes: int = 0
    group: str = ""
    needs: Callable[[], str] = field(default=lambda: "")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Done:
    """How a run ended, and the processes and temporary files that it left behind."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    cwd: Path
    left: tuple[str, ...] = ()
    pid: int = 0

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.cwd / "run"

    @property
    def streams(self) -> tuple[int, str, str]:
        """What the training showed: exit code and both streams."""
        return self.code, self.stdout, self.stderr


class Runs:
    """Runs every case once, some at a time, and every plain training once for all its cases."""

    def __init__(self, folder: Path, cases: list[Case]) -> None:
        self._folder = folder
        self._cases = cases
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._begun: dict[object, Future[dict[str, Done]]] = {}
        self._again: Counter[str] = Counter()
        for case in cases:
            self._begin(case, wrapped=True)
            self._begin(case, wrapped=False)

    def wrapped(self, case: Case) -> Done:
        """The case's run under boundscope, once it has ended."""
        return self._begin(case, wrapped=True).result()[case.name]

    def plain(self, case: Case) -> Done:
        """The same training without boundscope."""
        done = self._begin(case, wrapped=False).result()
        return done[plain_name(case)] if case.group else done[""]

    def whole_group(self, group: str) -> Done:
        """Any of the first runs of a group's cases: they share one run folder."""
        first = next(case for case in self._cases if case.group == group)
        return self._begun[True, group].result()[first.name]

    def forget(self, case: Case) -> None:
        """Run a case anew, on its own, when it is asked for once more."""
        self._again[case.name] += 1

    def close(self) -> None:
        """Wait for what still runs."""
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, case: Case, *, wrapped: bool) -> Future[dict[str, Done]]:
        alone = case.name if wrapped else (case.words, case.environment, case.act, case.file_bytes)
        key: tuple[object, ...] = (wrapped, case.group or alone)
        if self._again[case.name]:
            key = (wrapped, case.name, self._again[case.name])
        if key not in self._begun:
            work = self._group if case.group else self._alone
            self._begun[key] = self._pool.submit(work, case, wrapped)
        return self._begun[key]

    def _alone(self, case: Case, wrapped: bool) -> dict[str, Done]:
        cwd = self._place(case.name, case, wrapped)
        words = [sys.executable, str(SCRIPTS / "training.py"), *case.words]
        environment = dict(case.environment)
        if case.before is not None:
            cwd.mkdir(parents=True)
            case.before(cwd, wrapped)
        if wrapped:
            words = [*launcher_of(case), "run", "--no-report", "-o", "run", *case.options, *words]
            if case.inside:
                environment["FAULT_INSIDE"] = case.inside
                environment["PYTHONPATH"] = str(SCRIPTS / "inside")
        acts = [case.act, case.act_wrapped if wrapped else None]
        if case.file_bytes:
            words = [sys.executable, "-c", LIMITED, str(case.file_bytes), *words]
        done = finish(words, cwd, environment, acts)
        return {case.name if wrapped else "": done}

    def _group(self, case: Case, wrapped: bool) -> dict[str, Done]:
        """Every case of the group in a fork of its own; plain ones once for the same words."""
        cwd = self._place(case.group, case, wrapped)
        cwd.mkdir(parents=True)
        cases = [other for other in self._cases if other.group == case.group]
        cases = [case] if self._again[case.name] else cases
        entries = {
            other.name if wrapped else plain_name(other): (other.words, faults_of(other, wrapped))
            for other in cases
        }
        listed = [[name, *entry] for name, entry in entries.items()]
        (cwd / "many.json").write_text(json.dumps(listed))
        words = [sys.executable, str(SCRIPTS / "many.py")]
        if wrapped:
            words = [BOUNDSCOPE, "run", "--no-report", "-o", "run", *words]
        path = {"PYTHONPATH": str(SCRIPTS / "inside")} if wrapped else {}
        whole = finish(words, cwd, path, [])
        assert whole.streams == (0, "", ""), whole
        return {name: part_of(whole, name) for name in entries}

    def _place(self, name: str, case: Case, wrapped: bool) -> Path:
        """The folder of a run, another one for each time that it is run."""
        again = self._again[case.name]
        again_name = f"-{case.name}-{again}" if again else ""
        return self._folder / f"{name}{again_name}{'' if wrapped else '-plain'}"


def busy() -> float:
    """How many times as long all takes on a machine as busy as this one is now."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def plain_name(case: Case) -> str:
    """One name for all cases whose training is the same without boundscope."""
    return "-".join(["plain", *(word.strip("-") for word in case.words)])


def faults_of(case: Case, wrapped: bool) -> dict[str, str]:
    """What a fork of the group finds in its environment."""
    return {"FAULT_INSIDE": case.inside} if wrapped and case.inside else {}


def part_of(whole: Done, name: str) -> Done:
    """What one fork of a group did."""
    cwd = whole.cwd / name
    out, err = ((cwd / stream).read_text(errors="replace") for stream in ("stdout", "stderr"))
    notes = json.loads((cwd / "ended").read_text())
    return Done(
        notes["code"], without_own_places(out), without_own_places(err), notes["seconds"],
        whole.cwd, whole.left, notes["pid"],
    )  # fmt: skip


def launcher_of(case: Case) -> list[str]:
    """The words that start boundscope, broken or whole."""
    if case.launcher:
        return [sys.executable, str(SCRIPTS / "launcher.py"), case.launcher]
    return [BOUNDSCOPE]


LIMITED = """
import os, resource, sys
size = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
os.execv(sys.argv[2], sys.argv[2:])
"""


def finish(
    words: list[str], cwd: Path, environment: dict[str, str], acts: list[Act | None]
) -> Done:
    """Run a command in a session of its own to its end, and look at what is left of it."""
    begin = time.monotonic()
    temporary = cwd / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    environment = {**clean_environment(), "TMPDIR": str(temporary), **environment}
    with (cwd / "stdout").open("wb") as out, (cwd / "stderr").open("wb") as err:
        process = subprocess.Popen(
            words, cwd=cwd, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=out, stderr=err,
        )  # fmt: skip
        try:
            for act in acts:
                if act is not None:
                    act(process, cwd)
            code = process.wait(LIMIT_S * busy())
        finally:
            seconds = time.monotonic() - begin
            left = leftovers(process.pid)
            end_session(process.pid)
            process.wait()
    texts = [(cwd / name).read_text(errors="replace") for name in ("stdout", "stderr")]
    left += [path.name for path in sorted((cwd / "tmp").iterdir())]
    return Done(code, *map(without_own_places, texts), seconds, cwd, tuple(left))


def without_own_places(text: str) -> str:
    """The text without what differs between any two runs: process ids and the case's folder."""
    text = re.sub(r"pid\(s\) [\d, ]+", "pid(s) N", text)
    text = re.sub(r" at 0x[0-9a-f]+", " at ADDRESS", text)
    # Kineto's log lines about the script's own profiler: its level is read once, by our window.
    return re.sub(r"^USDT:.*\n", "", text, flags=re.MULTILINE)


def clean_environment() -> dict[str, str]:
    """This environment without what would change a training or a launcher."""
    hidden = ("PYTHONPATH", "BOUNDSCOPE_RUN", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "OMP_NUM_THREADS": "1"}


def leftovers(session: int) -> list[str]:
    """The processes of a session that are still there after a moment."""
    deadline = time.monotonic() + ENDING_S * busy()
    while members(session) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [described(pid) for pid in members(session)]


def members(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


def described(pid: int) -> str:
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return f"process {pid}, gone by now"


def end_session(session: int) -> None:
    """Kill what a case left behind: its own processes, by id."""
    for pid in members(session):
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue


def until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    """Wait for a condition that must come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
