"""Stack samples from outside: real processes under the real py-spy."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from boundscope.collectors import pyspy
from boundscope.collectors.base import Job
from boundscope.collectors.beside.stacks import (
    EARLY,
    EARLY_RECORDINGS,
    LATER,
    MARKER,
    WORKER_TURN,
    StacksCollector,
)
from boundscope.collectors.records import Frame, Gap, Record, Stack, Stacks
from boundscope.collectors.writer import Clock

TRAINING = """
import threading, time, sys

def waits_in_its_loader():
    time.sleep(0.05)

def calculates():
    end = time.perf_counter() + 0.05
    while time.perf_counter() < end:
        pass

def only_standard_library():
    return threading.Thread(target=threading.Event().wait, name="idle-pool", daemon=True)

only_standard_library().start()
print("up", flush=True)
for _ in range(1000):
    waits_in_its_loader()
    calculates()
"""

LAUNCHER = """
import sys, time
from pathlib import Path
from boundscope.collectors.base import Job
from boundscope.collectors.supervisor import Supervisor
from boundscope.collectors.writer import Clock
pid, folder = int(sys.argv[1]), Path(sys.argv[2])
job = Job(pid, folder, folder, Clock(), folder, ranks={pid: 0})
Supervisor(job, only={"stacks"}).start()
time.sleep(60)
"""

LONG_S = 40.0
"""Six recordings and more: what is not seen until then is not seen at all."""

pytestmark = pytest.mark.skipif(
    not StacksCollector().probe().works, reason="py-spy may not look into processes here"
)


@pytest.fixture
def training(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    script = tmp_path / "train_here.py"
    script.write_text(TRAINING)
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    yield process
    process.kill()
    process.communicate()


def job_of(process: subprocess.Popen[bytes], folder: Path, rank: int = 0) -> Job:
    (folder / f"rank-{rank}-{process.pid}").mkdir()
    return Job(process.pid, folder, folder, Clock(), folder, ranks={process.pid: rank})


def run_for(seconds: float, collector: StacksCollector, job: Job) -> list[Record]:
    return run_until(lambda _: False, collector, job, seconds)


def run_until(
    enough: Callable[[list[Record]], bool],
    collector: StacksCollector,
    job: Job,
    limit_s: float = LONG_S,
) -> list[Record]:
    """Sample until `enough` was seen: on a busy machine py-spy may be late, or its file be lost."""
    records: list[Record] = []
    collector.start(job)
    end = time.monotonic() + limit_s
    while time.monotonic() < end and not enough(records):
        records += collector.sample()
        time.sleep(0.1)
    return records + collector.stop()


def functions_seen(records: list[Record], role: str = "rank") -> Counter[str]:
    """Samples by their innermost function that is the script's own."""
    frames = {record.id: record for record in records if isinstance(record, Frame)}
    stacks = {record.id: record.frames for record in records if isinstance(record, Stack)}
    seen: Counter[str] = Counter()
    for record in records:
        if isinstance(record, Stacks) and record.role == role:
            for stack, count in record.counts:
                own = [frames[i] for i in stacks[stack] if "train_here" in frames[i].file]
                seen[own[-1].function if own else "elsewhere"] += count
    return seen


def test_waiting_and_working_are_sampled_in_proportion_with_lines_and_full_paths(
    training: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    began_ns = time.time_ns()

    records = run_until(
        lambda records: sum(functions_seen(records).values()) >= 40,
        StacksCollector(),
        job_of(training, tmp_path, rank=3),
    )

    seen = functions_seen(records)
    known = seen["waits_in_its_loader"] + seen["calculates"]
    assert sum(seen.values()) >= 40
    assert known > 0.8 * sum(seen.values())
    # Half of the time is in each; one row of 40 samples in 5,000 leaves these bounds by chance.
    assert 0.2 < seen["waits_in_its_loader"] / known < 0.8
    frames = [record for record in records if isinstance(record, Frame)]
    assert {f.line for f in frames if f.function == "waits_in_its_loader"} == {5}
    assert {f.file for f in frames if f.function == "calculates"} == {
        str(tmp_path / "train_here.py")
    }
    samples = [record for record in records if isinstance(record, Stacks)]
    assert {s.rank for s in samples} == {3}
    assert all(began_ns - 1e9 < s.start_ns < s.end_ns < time.time_ns() + 1e9 for s in samples)
    assert all(s.end_ns - s.start_ns <= 1e9 for s in samples)
    assert {s.thread for s in samples} == {training.pid}, "the idle thread is left out"


def test_frames_and_stacks_come_before_their_first_use_and_once(
    training: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    records = run_until(
        lambda records: any(isinstance(record, Stacks) for record in records),
        StacksCollector(),
        job_of(training, tmp_path),
    )

    frames: set[int] = set()
    stacks: set[int] = set()
    for record in records:
        if isinstance(record, Frame):
            assert record.id not in frames
            frames.add(record.id)
        elif isinstance(record, Stack):
            assert record.id not in stacks
            assert frames.issuperset(record.frames)
            stacks.add(record.id)
        elif isinstance(record, Stacks):
            assert stacks.issuperset(stack for stack, _ in record.counts)
    assert stacks


def test_a_training_that_is_killed_leaves_its_samples_up_to_the_end(
    training: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    collector, job = StacksCollector(), job_of(training, tmp_path)
    collector.start(job)
    collector.sample()
    wait_until_it_samples(training.pid)

    training.kill()
    killed_ns = time.time_ns()
    training.wait()
    job.ranks = {}
    wait_until_no_py_spy(training.pid)
    records = collector.sample() + collector.stop()

    ends = [record.end_ns for record in records if isinstance(record, Stacks)]
    assert abs(max(ends) - killed_ns) < 1e9
    assert sum(functions_seen(records).values()) >= 1
    assert not [record for record in records if isinstance(record, Gap)]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv (util-linux) is not installed")
def test_a_launcher_that_is_killed_leaves_no_py_spy_and_its_samples_can_be_read(
    training: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    job_of(training, tmp_path)
    command = [sys.executable, "-c", LAUNCHER, str(training.pid), str(tmp_path)]
    launcher = subprocess.Popen(command)
    wait_until_it_samples(training.pid)

    launcher.send_signal(signal.SIGKILL)
    killed_ns = time.time_ns()
    launcher.wait()
    wait_until_no_py_spy(training.pid)

    assert training.poll() is None
    parts = list(tmp_path.glob("stacks-*.part"))
    assert len(parts) == 1
    records = pyspy.read_part(parts[0])
    ends = [record.end_ns for record in records if isinstance(record, Stacks)]
    assert abs(max(ends) - killed_ns) < 1e9
    assert sum(functions_seen(records).values()) >= 1


def py_spies_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if b"record" in words and str(pid).encode() in words:
                found.append(int(entry.name))
    return found


def wait_until_it_samples(pid: int) -> None:
    """Wait until py-spy has found its way in the process, and a second or two more.

    It tells nothing before its end; it has used a tick or two of CPU time by then. A recording
    lasts six seconds: no longer is waited for it than half of that.
    """
    deadline = time.monotonic() + 15.0
    while not py_spies_of(pid):
        assert time.monotonic() < deadline, "py-spy did not start"
        time.sleep(0.02)
    enough = time.monotonic() + 3.0
    while time.monotonic() < enough and max(map(cpu_ticks, py_spies_of(pid)), default=0) < 2:
        time.sleep(0.05)
    time.sleep(2.0)


def cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def wait_until_no_py_spy(pid: int) -> None:
    deadline = time.monotonic() + 10.0
    while py_spies_of(pid):
        assert time.monotonic() < deadline, "py-spy did not end"
        time.sleep(0.05)


WORKERS = """
import multiprocessing, time

def fetches_from_a_slow_store():
    time.sleep(120)

if __name__ == "__main__":
    workers = [multiprocessing.get_context("fork").Process(target=fetches_from_a_slow_store)
               for _ in range(2)]
    for worker in workers:
        worker.daemon = True
        worker.start()
    import subprocess
    other = subprocess.Popen(["sleep", "120"])
    time.sleep(120)
"""


def both_were_seen(records: list[Record]) -> bool:
    worker, rank = functions_seen(records, "worker"), functions_seen(records)
    return worker["fetches_from_a_slow_store"] > 3 and rank["<module>"] > 3


def test_loader_workers_are_told_from_the_rank_and_other_programs_are_let_alone(
    tmp_path: Path,
) -> None:
    script = tmp_path / "train_here.py"
    script.write_text(WORKERS)
    rank = subprocess.Popen([sys.executable, str(script)])
    try:
        job = job_of(rank, tmp_path)

        records = run_until(both_were_seen, StacksCollector(), job)

        children = set(job.processes.snapshot(0).processes) - {rank.pid}
    finally:
        for pid in (
            Job(rank.pid, tmp_path, tmp_path, Clock(), tmp_path).processes.snapshot(0).processes
        ):
            os.kill(pid, signal.SIGKILL)
        rank.wait()

    assert functions_seen(records, "worker")["fetches_from_a_slow_store"] > 3
    assert functions_seen(records, "rank")["<module>"] > 3
    seen = {r.pid for r in records if isinstance(r, Stacks) and r.role == "worker"}
    assert seen <= children
    assert not [record for record in records if isinstance(record, Gap)]


def test_a_rank_that_may_not_be_looked_into_is_asked_to_sample_itself(
    training: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    other_user = user_wrapper(tmp_path)
    collector, job = StacksCollector(other_user), job_of(training, tmp_path)
    collector._works = True  # the probe passed: only this rank is another user's

    records = run_until(
        lambda records: any(isinstance(record, Gap) for record in records), collector, job
    )

    gaps = [record for record in records if isinstance(record, Gap)]
    assert [gap.reason for gap in gaps] == ["no-permission"]
    assert "Permission Denied" in gaps[0].detail
    assert (tmp_path / f"rank-0-{training.pid}" / MARKER).exists()


def test_a_recording_that_makes_no_sense_is_a_failure_and_not_repeated_for_ever(
    training: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    nonsense = Path(__file__).parent / "faults" / "scripts" / "writes-nonsense"
    collector, job = StacksCollector(str(nonsense)), job_of(training, tmp_path)

    records = run_until(
        lambda records: any(isinstance(record, Gap) for record in records), collector, job
    )
    after = run_for(1.0, collector, job)

    gaps = [record for record in records if isinstance(record, Gap)]
    assert [gap.reason for gap in gaps] == ["not-supported"]
    assert "what py-spy wrote cannot be read" in gaps[0].detail
    assert (tmp_path / f"rank-0-{training.pid}" / MARKER).exists()
    assert after == []
    assert collector._started == 2


def test_without_py_spy_every_rank_is_asked_to_sample_itself(
    training: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyspy, "find_py_spy", lambda: None)
    collector, job = StacksCollector(), job_of(training, tmp_path)

    availability = collector.probe()
    records = run_for(0.3, collector, job)

    assert (availability.works, availability.reason) == (False, "not-installed")
    assert records == []
    assert (tmp_path / f"rank-0-{training.pid}" / MARKER).exists()


def test_a_probe_without_permission_says_so(tmp_path: Path) -> None:
    availability = StacksCollector(user_wrapper(tmp_path)).probe()

    assert (availability.works, availability.reason) == (False, "no-permission")


def user_wrapper(folder: Path) -> str:
    """A py-spy that runs as another user, as it does for a rank of somebody else."""
    found = pyspy.find_py_spy()
    if os.geteuid() or found is None or not shutil.which("setpriv"):
        pytest.skip("running py-spy as another user needs root and setpriv")
    # That user must be able to run it: the folder of an environment may be closed to others.
    copy = Path("/var/tmp") / f"py-spy-{os.getpid()}"
    shutil.copy(found, copy)
    wrapper = folder / "py-spy-as-nobody"
    wrapper.write_text(
        f'#!/bin/sh\nexec setpriv --reuid 65534 --regid 65534 --clear-groups {copy} "$@"\n'
    )
    wrapper.chmod(0o755)
    return str(wrapper)


@pytest.fixture(autouse=True)
def _no_copy_stays() -> Iterator[None]:
    yield
    (Path("/var/tmp") / f"py-spy-{os.getpid()}").unlink(missing_ok=True)


@pytest.mark.parametrize(
    "events",
    [
        [("f", "B", 0), ("f", "E", 10**15)],
        [("f", "B", -1), ("f", "E", 10**6)],
        [("f", kind, at) for _ in range(400) for kind, at in (("B", 0), ("E", 3_000_000_000))],
        [("f", "B", at) for at in range(7_000)],
    ],
    ids=["long", "before it began", "often", "deep"],
)
def test_a_recording_that_py_spy_never_makes_reads_as_nothing_at_once(
    tmp_path: Path, events: list[tuple[str, str, int]]
) -> None:
    path = tmp_path / "stacks-7-rank-0-1000000.part"
    place = {"filename": "/x/train_here.py", "line": 3}
    told = [{"name": n, "ph": ph, "tid": 7, "ts": ts, "args": place} for n, ph, ts in events]
    path.write_bytes(msgspec.json.encode(told))
    begin = time.process_time()

    assert pyspy.read_part(path) == []
    assert time.process_time() - begin < 10


@pytest.mark.parametrize("interval", ["0", "1" + "0" * 40])
def test_a_recordings_name_that_no_launcher_gives_reads_as_nothing(
    tmp_path: Path, interval: str
) -> None:
    path = tmp_path / f"stacks-7-rank-0-{interval}.part"
    path.write_bytes(b"[]")

    assert pyspy.read_part(path) == []


def test_a_torn_file_of_a_killed_py_spy_reads_as_nothing(tmp_path: Path) -> None:
    torn = tmp_path / "stacks-7-rank-0-50000000.part"
    torn.write_bytes(b'[{"name":"f","ph":"B","tid":1,"ts":0,"args":{"filename":"a.py"')

    assert pyspy.read_part(torn) == []
    assert pyspy.read_part(tmp_path / "something-else.part") == []


def event(ph: str, ts: int, name: str, file: str = "", line: int = 0) -> dict[str, object]:
    arguments = {"filename": file, "line": line}
    return {"name": name, "ph": ph, "pid": 7, "tid": 9, "ts": ts, "args": arguments, "cat": ""}


def test_a_recording_worked_by_hand_gives_its_samples() -> None:
    process, thread = 'process 7:"python t.py"', "thread (7): MainThread"
    main, wait = ("main", "/w/t.py", 9), ("wait", "/w/t.py", 3)
    data = msgspec.json.encode(
        [
            *(event("B", 0, name) for name in (process, thread)),
            event("B", 0, *main),
            event("B", 100_000, *wait),
            event("E", 300_000, *wait),
            event("E", 400_000, *main),
            *(event("E", 400_000, name) for name in (thread, process)),
        ]
    )
    target = pyspy.Target(7, 1, "rank")

    records = pyspy.records_of(data, target, 50_000_000, 2_000_000_000, pyspy.StackTable())

    assert records[-1] == Stacks(
        start_ns=1_600_000_000,
        end_ns=2_000_000_000,
        interval_ns=50_000_000,
        pid=7,
        thread=7,
        counts=[(0, 4), (1, 4)],
        role="rank",
        thread_name="MainThread",
        rank=1,
    )
    assert records[:2] == [Frame(0, *main), Stack(0, [0])]
    assert records[2:4] == [Frame(1, *wait), Stack(1, [0, 1])]


def test_the_first_recordings_of_each_rank_are_dense_and_later_ones_cheap() -> None:
    collector = StacksCollector()
    ranks = {11: 0, 12: 1}

    collector._recordings.update({11: EARLY_RECORDINGS, 12: EARLY_RECORDINGS - 1})
    assert collector._pace(ranks) is EARLY

    collector._recordings[12] += 1
    assert collector._pace(ranks) is LATER
    assert collector._pace({**ranks, 13: 2}) is EARLY  # a rank that has just appeared

    collector._given_up.update({11, 12, 13})
    assert collector._pace({**ranks, 13: 2}) is LATER
    assert LATER.cores < EARLY.cores
    assert LATER.attach_cores < EARLY.attach_cores


@pytest.mark.parametrize("places", [1, 2, 4])
def test_workers_get_their_turn_however_many_recordings_start_at_once(
    places: int,
) -> None:
    """Each start of several recordings moves the count on by as many."""
    collector = StacksCollector()
    started, given = 0, 0
    for _ in range(12):
        collector._started = started
        given += collector._is_workers_turn(places)
        started += places

    assert given >= 12 * places // WORKER_TURN // places
