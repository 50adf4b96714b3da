"""Host, storage and power collectors: on real processes, and on recorded kernel files."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from boundscope.collectors.base import Job
from boundscope.collectors.beside import power
from boundscope.collectors.beside.host import HostCollector
from boundscope.collectors.beside.power import PowerCollector, energy_used_uj
from boundscope.collectors.beside.storage import StorageCollector
from boundscope.collectors.cgroups import ControlGroups, Throttling
from boundscope.collectors.mounts import mount_of, mounts
from boundscope.collectors.procfs import ProcessTree, TreeTotals
from boundscope.collectors.records import Sample
from boundscope.collectors.writer import Clock


def job_of(pid: int, folder: Path) -> Job:
    return Job(pid, folder, folder, Clock(), folder)


def started(code: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", code], **options)  # type: ignore[call-overload,no-any-return]


def up(code: str, *words: str) -> subprocess.Popen[bytes]:
    """A process that has come as far as the end of the lines before `print("up")` in its code."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", code.replace("UP", 'print("up", flush=True)'), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert answer(process) == "up"
    return process


def tell(process: subprocess.Popen[bytes]) -> None:
    """Let a process go on that waits for a line."""
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    made: list[subprocess.Popen[bytes]] = []
    yield made
    for process in made:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def values_of(records: list[object]) -> dict[str, float]:
    assert len(records) == 1
    assert isinstance(records[0], Sample)
    return records[0].values


def values_of_rank(rank: int, pid: int, folder: Path, *, after_s: float) -> dict[str, float]:
    """The host's values so long after its collector began to watch a job of this one rank."""
    collector = HostCollector()
    job = job_of(pid, folder)
    job.ranks = {pid: rank}
    collector.start(job)
    time.sleep(after_s)
    return values_of(collector.sample())


def wait_until(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


BURN = "import time\nend=time.process_time()+{s}\nwhile time.process_time()<end: pass\n"


def test_cpu_of_children_that_ended_between_two_looks_is_counted(
    children: list[subprocess.Popen[bytes]],
) -> None:
    burn = BURN.format(s=0.4)
    parent = started(
        "import subprocess,sys,time\ninput()\n"
        f"subprocess.run([sys.executable,'-S','-c',{burn!r}])\nprint(flush=True)\ntime.sleep(30)",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    children.append(parent)
    tree, totals = ProcessTree(lambda: parent.pid), TreeTotals()
    before = totals.update(tree.snapshot(0))
    with parent.stdin as questions, parent.stdout as answers:
        questions.write(b"\n")
        questions.flush()
        answers.readline()
    after = totals.update(tree.snapshot(0))

    assert len(tree.snapshot(0).processes) == 1
    assert 38 <= after.cpu_ticks - before.cpu_ticks <= 60


def test_cpu_of_a_child_that_nobody_in_the_job_reaps_is_not_lost(
    children: list[subprocess.Popen[bytes]],
) -> None:
    code = (
        "import signal,os,time\nsignal.signal(signal.SIGCHLD,signal.SIG_IGN)\n"
        f"if os.fork()==0:\n exec({BURN.format(s=0.5)!r})\n time.sleep(.5)\n os._exit(0)\n"
        "time.sleep(30)"
    )
    parent = started(code)
    children.append(parent)
    tree, totals = ProcessTree(lambda: parent.pid), TreeTotals()
    seen = 0
    both = 0

    def look() -> bool:
        nonlocal seen, both
        snapshot = tree.snapshot(0)
        now = totals.update(snapshot)
        assert now.cpu_ticks >= seen
        seen, both = now.cpu_ticks, max(both, len(snapshot.processes))
        return both == 2 and len(snapshot.processes) == 1

    wait_until(look)

    assert seen >= 47  # the last look at the child may be a few ticks old


def test_grandchildren_belong_to_the_job_also_when_their_parent_ended(
    children: list[subprocess.Popen[bytes]],
) -> None:
    grandchild = "import time;time.sleep(60)"
    child = (
        "import subprocess,sys\n"
        f"subprocess.Popen([sys.executable,'-S','-c',{grandchild!r}])\nsys.stdin.readline()"
    )
    parent = up(
        "import subprocess,sys,time\nUP\n"
        f"subprocess.run([sys.executable,'-S','-c',{child!r}])\ntime.sleep(60)"
    )
    children.append(parent)
    tree = ProcessTree(lambda: parent.pid)

    wait_until(lambda: len(tree.snapshot(0).processes) == 3)
    tell(parent)  # the child reads it, and ends
    wait_until(lambda: len(tree.snapshot(0).processes) == 2)
    stats = tree.snapshot(0).processes
    for pid in stats.keys() - {parent.pid}:
        os.kill(pid, signal.SIGKILL)

    parents = [stat.parent_pid for stat in stats.values()]
    assert parent.pid not in parents, "the grandchild's parent is another now"


def test_a_process_that_is_no_descendant_is_not_in_the_job(
    children: list[subprocess.Popen[bytes]],
) -> None:
    one, other = started("import time;time.sleep(30)"), started("import time;time.sleep(30)")
    children += [one, other]

    tree = ProcessTree(lambda: one.pid)

    assert set(tree.snapshot(0).processes) == {one.pid}


def test_a_look_at_fifty_processes_takes_under_three_ms(
    children: list[subprocess.Popen[bytes]],
) -> None:
    parent = started(
        "import os,time\nfor _ in range(49):\n"
        " if os.fork()==0: time.sleep(30); os._exit(0)\ntime.sleep(30)"
    )
    children.append(parent)
    tree = ProcessTree(lambda: parent.pid)
    wait_until(lambda: len(tree.snapshot(0).processes) == 50)

    times = []
    for _ in range(30):
        began = time.thread_time()  # what it costs: other programs may hold the core meanwhile
        tree.snapshot(0)
        times.append(time.thread_time() - began)
    for pid in tree.snapshot(0).processes.keys() - {parent.pid}:
        os.kill(pid, signal.SIGKILL)

    assert sorted(times)[3] < 0.003


def test_the_host_collector_tells_the_jobs_cpu_from_the_hosts(
    tmp_path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    idle, busy = up("import time\nUP\ntime.sleep(30)"), up("UP\nwhile True: pass")
    children += [idle, busy]

    values = values_of_rank(0, idle.pid, tmp_path, after_s=1.0)

    assert values["job.cpu_cores"] < 0.1
    assert values["host.cpu_percent"] > 100 / (os.cpu_count() or 1) * 0.5
    assert values["job.processes"] == 1
    assert values["rank.0.cpu_cores"] < 0.1
    assert 0 < values["job.rss_bytes"] < 100e6
    assert values["host.memory_total_bytes"] > values["host.memory_available_bytes"]


def test_a_thread_that_must_share_its_core_shows_involuntary_switches_and_run_delay(
    tmp_path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    pin = "import os\nos.sched_setaffinity(0,{min(os.sched_getaffinity(0))})\nUP\nwhile True: pass"
    one, other = up(pin), up(pin)
    children += [one, other]

    values = values_of_rank(3, one.pid, tmp_path, after_s=1.5)

    assert values["rank.3.main_run_delay_share"] > 0.25
    assert values["job.involuntary_switches_per_s"] > 5
    assert values["rank.3.cpu_cores"] < 0.75


def test_pages_that_a_rank_writes_for_the_first_time_are_its_minor_faults(
    tmp_path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    # Of each mapping of 8 MB every page is written once.
    write = "m = mmap.mmap(-1, 2**23)\n    m[::4096] = bytes(2**11)\n    m.close()"
    one = up(f"import mmap\nUP\nwhile True:\n    {write}")
    children.append(one)

    values = values_of_rank(3, one.pid, tmp_path, after_s=1.0)

    assert values["rank.3.minor_faults_per_s"] > 2**11
    assert values["rank.3.minor_faults_per_s"] <= values["job.minor_faults_per_s"] * 1.01


@pytest.fixture
def throttled_group() -> Iterator[Path]:
    """A real control group with a tenth of a core, where root may make one."""
    groups = ControlGroups("self")
    if os.geteuid() or groups.cpu is None:
        pytest.skip("no control group can be made here (not root)")
    folder = groups.cpu.folders[-1] / f"boundscope-test-{os.getpid()}"
    try:
        folder.mkdir()
        if groups.cpu.version == 2:
            (folder / "cpu.max").write_text("10000 100000")
        else:
            (folder / "cpu.cfs_quota_us").write_text("10000")
            (folder / "cpu.cfs_period_us").write_text("100000")
    except OSError as error:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    yield folder
    for _ in range(50):
        try:
            folder.rmdir()
            return
        except OSError:
            time.sleep(0.1)


def test_a_cpu_quota_and_its_throttling_are_seen_for_real(
    tmp_path: Path, throttled_group: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    busy = started("while True: pass")
    children.append(busy)
    (throttled_group / "cgroup.procs").write_text(str(busy.pid))
    collector = HostCollector()
    collector.start(job_of(busy.pid, tmp_path))

    time.sleep(1.2)
    values = values_of(collector.sample())
    busy.kill()
    busy.wait()

    assert values["cgroup.cpu_limit_cores"] == 0.1
    assert values["cgroup.cpu_throttled_share"] > 0.3
    assert values["cgroup.cpu_throttled_us"] > 50_000
    assert values["job.cpu_cores"] < 0.3


def recorded(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_cgroup_v2_limits_count_from_every_level(tmp_path: Path) -> None:
    top = "sys/fs/cgroup"
    root = recorded(
        tmp_path,
        {
            "proc/7/cgroup": "0::/kubepods/pod1/main\n",
            "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            f"{top}/kubepods/cpu.max": "max 100000\n",
            f"{top}/kubepods/pod1/cpu.max": "250000 100000\n",
            f"{top}/kubepods/pod1/cpu.stat": "nr_periods 40\nnr_throttled 10\nthrottled_usec 99\n",
            f"{top}/kubepods/pod1/memory.max": "8589934592\n",
            f"{top}/kubepods/pod1/main/cpu.max": "max 100000\n",
            f"{top}/kubepods/pod1/main/cpu.stat": "nr_periods 0\nnr_throttled 0\n",
            f"{top}/kubepods/pod1/main/memory.max": "max\n",
            f"{top}/kubepods/pod1/main/memory.stat": "anon 0\n",
            f"{top}/kubepods/pod1/main/memory.current": "1234\n",
        },
    )

    groups = ControlGroups(7, root)

    assert groups.cpu_limit_cores() == 2.5
    assert groups.memory_limit_bytes() == 8 << 30
    assert groups.memory_bytes() == 1234
    assert groups.throttling() == Throttling(40, 10, 99)


def test_cgroup_v1_in_a_container_is_read_from_the_mount_point(tmp_path: Path) -> None:
    root = recorded(
        tmp_path,
        {
            "proc/7/cgroup": "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n",
            "proc/self/mountinfo": (
                "33 31 0:30 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro "
                "- cgroup cgroup rw,cpu,cpuacct\n"
                "34 31 0:31 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
            ),
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.stat": (
                "nr_periods 8\nnr_throttled 2\nthrottled_time 5000000\n"
            ),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "77\n",
            "sys/fs/cgroup/memory/memory.stat": "cache 0\n",
        },
    )

    groups = ControlGroups(7, root)

    assert groups.cpu_limit_cores() == 1.5
    assert groups.throttling() == Throttling(8, 2, 5000.0)
    assert groups.memory_limit_bytes() is None
    assert groups.memory_bytes() == 77


def test_the_storage_collector_counts_what_the_job_writes(
    tmp_path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    code = (
        "import os,time,sys\nfd=os.open(sys.argv[1],os.O_WRONLY|os.O_CREAT)\nUP\n"
        "sys.stdin.readline()\n"
        "for _ in range(20): os.write(fd,bytes(1<<20))\nos.fsync(fd)\nUP\ntime.sleep(30)"
    )
    writer = up(code, str(tmp_path / "file"))
    children.append(writer)
    collector = StorageCollector()
    before = time.monotonic()
    collector.start(job_of(writer.pid, tmp_path))
    began = time.monotonic()

    tell(writer)
    assert answer(writer) == "up"
    ended = time.monotonic()
    values = values_of(collector.sample())
    after = time.monotonic()

    # The rate is over some time between these two; the writer's own answer is a few bytes more.
    rate, written = values["storage.job.wchar_bytes_per_s"], 20 << 20
    assert rate * (after - before) >= written * 0.9999
    assert rate * (ended - began) <= written * 1.0001
    assert values["storage.job.read_bytes_per_s"] >= 0
    assert values["storage.work.free_bytes"] > 0
    command = ["stat", "-f", "-c", "%T", str(tmp_path)]
    kind = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    told = [name for name in values if name.startswith("storage.work.fs.")]
    assert len(told) == 1
    assert told[0].rpartition(".")[2][:3] == kind[:3]  # stat says ext2/ext3 where mounts say ext4


def test_the_mount_of_a_folder_is_the_longest_one_above_it() -> None:
    text = (
        "27 1 254:0 / / rw - ext4 /dev/vda rw\n"
        "40 27 0:50 / /data rw - nfs4 server:/export rw\n"
        "41 40 8:17 / /data/my\\040disk rw - xfs /dev/sdb1 rw\n"
    )

    found = mounts(text)

    assert [m.kind for m in found] == ["ext4", "nfs4", "xfs"]
    assert found[2].point == "/data/my disk"
    proc = mount_of(Path("/proc/self"))
    assert proc is not None
    assert proc.kind == "proc"


def rapl(root: Path, uj: int) -> None:
    recorded(
        root,
        {
            "intel-rapl:0/name": "package-0\n",
            "intel-rapl:0/energy_uj": f"{uj}\n",
            "intel-rapl:0/max_energy_range_uj": "1000000\n",
            "intel-rapl:0:0/name": "dram\n",
            "intel-rapl:0:0/energy_uj": f"{uj // 2}\n",
            "intel-rapl:0:0/max_energy_range_uj": "1000000\n",
        },
    )


def test_power_is_energy_over_time_also_when_the_counter_wraps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are written by hand in the shape of a real machine's: none is read here."""
    rapl(tmp_path, 900_000)
    now_ns = 5_000_000_000
    clock = SimpleNamespace(monotonic_ns=lambda: now_ns)
    monkeypatch.setattr(power, "time", clock)
    collector = PowerCollector(tmp_path)
    assert collector.probe().works
    collector.start(job_of(os.getpid(), tmp_path))

    now_ns += 200_000_000
    rapl(tmp_path, 100_000)
    values = values_of(collector.sample())

    assert values["power.package-0.joules"] == pytest.approx(0.2)
    assert values["power.package-0.watts"] == pytest.approx(1.0)
    assert values["power.package-0.dram.joules"] == pytest.approx(0.6)
    assert energy_used_uj(5, 9, 100) == 4


def test_power_without_zones_says_not_supported(tmp_path: Path) -> None:
    availability = PowerCollector(tmp_path).probe()

    assert (availability.works, availability.reason) == (False, "not-supported")
