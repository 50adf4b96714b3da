"""The supervisor of the collectors beside: schedule, files, failures, hanging, full disks."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from boundscope.collectors import supervisor as supervisor_module
from boundscope.collectors.base import Availability, Collector, Job, Metric
from boundscope.collectors.beside import discover
from boundscope.collectors.records import Closed, Gap, Header, Record, Sample
from boundscope.collectors.supervisor import Supervisor
from boundscope.collectors.writer import Clock

LIMIT_S = 15.0
"""How long a test waits for what it looks for: on a machine that others use as well."""


class Ticker:
    name: ClassVar[str] = "ticker"
    period_s: ClassVar[float] = 0.05
    effect: ClassVar[str] = "no ticks"
    runs_degraded: ClassVar[bool] = False
    metrics: ClassVar[dict[str, Metric]] = {"ticks": Metric("1", "so many")}

    def __init__(self) -> None:
        self.times: list[float] = []
        self.stopped = 0

    def probe(self) -> Availability:
        return Availability(True)

    def start(self, job: Job) -> None:
        self.job = job

    def sample(self) -> list[Record]:
        self.times.append(time.monotonic())
        return [Sample(self.job.clock.now_ns(), {"ticks": float(len(self.times))})]

    def stop(self) -> list[Record]:
        self.stopped += 1
        return []


class Broken(Ticker):
    name: ClassVar[str] = "broken"

    def sample(self) -> list[Record]:
        if len(self.times) == 2:
            raise ZeroDivisionError("a planted failure")
        return super().sample()


class Hanging(Ticker):
    name: ClassVar[str] = "hanging"

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.release = threading.Event(), threading.Event()

    def sample(self) -> list[Record]:
        self.entered.set()
        self.release.wait(30)
        return super().sample()


class Absent(Ticker):
    name: ClassVar[str] = "absent"

    def probe(self) -> Availability:
        return Availability(False, "no-driver", "nothing there", "buy one")


class Degraded(Absent):
    name: ClassVar[str] = "degraded"
    runs_degraded: ClassVar[bool] = True


class Talkative(Ticker):
    name: ClassVar[str] = "talkative"

    def sample(self) -> list[Record]:
        return [Sample(0, {"x" * 60_000: 1.0})]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return job_in(tmp_path)


def job_in(folder: Path) -> Job:
    node = folder / "node-here"
    node.mkdir()
    return Job(os.getpid(), folder, node, Clock(), folder)


def records_in(path: Path) -> list[Any]:
    decoder = msgspec.json.Decoder(Record)
    return [decoder.decode(line) for line in path.read_bytes().splitlines()]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def run_until(
    condition: Callable[[], object], job: Job, *collectors: Any, **options: Any
) -> Supervisor:
    supervisor = Supervisor(job, "1.2.3", collectors=collectors, **options)
    supervisor.start()
    until(condition)
    supervisor.stop(LIMIT_S)
    return supervisor


def at_once() -> bool:
    return True


def test_each_collector_writes_a_file_with_header_samples_and_closing_line(job: Job) -> None:
    ticker = Ticker()

    run_until(lambda: len(ticker.times) >= 4, job, ticker)

    records = records_in(job.folder / "ticker.jsonl")
    assert isinstance(records[0], Header)
    assert (records[0].collector, records[0].version) == ("ticker", "1.2.3")
    assert isinstance(records[-1], Closed)
    assert [r.values["ticks"] for r in records[1:-1]] == list(range(1, len(records) - 1))
    assert len(records) >= 6
    assert ticker.stopped == 1


class Clockwork:
    """A clock that moves only when somebody waits or works: stands for `time` and for an event."""

    def __init__(self, seconds: float) -> None:
        self.now = 100.0
        self.end = self.now + seconds

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return 0.0

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return self.now > self.end

    def set(self) -> None:
        pass


class Punctual(Ticker):
    """Each sample takes `cost_s`; `ticks` are the multiples of the period at which they began."""

    name: ClassVar[str] = "punctual"
    period_s: ClassVar[float] = 0.0625  # exact in binary, and so are its multiples

    def __init__(self, clock: Clockwork, cost_s: float) -> None:
        super().__init__()
        self.clock, self.cost_s = clock, cost_s
        self.ticks: list[float] = []

    def sample(self) -> list[Record]:
        self.ticks.append((self.clock.now - 100.0) / self.period_s)
        self.clock.now += self.cost_s
        return []


@pytest.mark.parametrize(
    ("cost_s", "ticks"),
    [
        (0.0, [1, 2, 3, 4, 5, 6, 7, 8]),
        (0.05, [1, 2, 3, 4, 5, 6, 7, 8]),  # no drift: what a sample takes is not added
        (0.1, [1, 3, 5, 7]),  # ticks that a slow sample missed are skipped, not made up
        (0.15, [1, 4, 7]),
    ],
)
def test_samples_are_taken_at_multiples_of_the_period_and_missed_ones_are_skipped(
    job: Job, cost_s: float, ticks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clockwork(8 * Punctual.period_s)
    punctual = Punctual(clock, cost_s)
    supervisor = Supervisor(job, collectors=[punctual])
    monkeypatch.setattr(supervisor, "_stop", clock)
    monkeypatch.setattr(supervisor_module, "time", clock)

    supervisor.start()
    until(lambda: punctual.stopped)

    assert punctual.ticks == ticks


def test_a_collector_that_raises_leaves_a_gap_with_its_traceback_and_the_others_go_on(
    job: Job,
) -> None:
    broken, ticker = Broken(), Ticker()

    run_until(lambda: broken.stopped and len(ticker.times) > 4, job, broken, ticker)

    records = records_in(job.folder / "broken.jsonl")
    gaps = [r for r in records if isinstance(r, Gap)]
    assert [r.reason for r in gaps] == ["crashed"]
    assert gaps[0].detail.startswith("ZeroDivisionError: a planted failure")
    assert "in sample" in gaps[0].detail
    assert gaps[0].effect == "no ticks"
    assert len([r for r in records if isinstance(r, Sample)]) == 2
    assert broken.stopped == 1


def test_a_hanging_collector_does_not_hold_up_the_end(job: Job) -> None:
    hanging, ticker = Hanging(), Ticker()
    supervisor = Supervisor(job, collectors=[ticker, hanging])
    supervisor.start()
    until(lambda: hanging.entered.is_set() and ticker.times)

    began = time.monotonic()
    supervisor.stop(timeout_s=2)
    took = time.monotonic() - began
    hanging.release.set()
    until(lambda: hanging.stopped)

    assert took < 2 + 10, "it would have hung for 30 s"
    records = records_in(job.folder / "hanging.jsonl")
    assert [type(r) for r in records] == [Header, Gap]
    assert "hangs" in records[1].detail
    assert isinstance(records_in(job.folder / "ticker.jsonl")[-1], Closed)


def test_an_unavailable_collector_writes_why_on_its_second_line(job: Job) -> None:
    absent = Absent()

    run_until(at_once, job, absent)

    records = records_in(job.folder / "absent.jsonl")
    assert [type(r) for r in records] == [Header, Gap, Closed]
    assert (records[1].reason, records[1].detail) == ("no-driver", "nothing there")
    assert absent.times == []


def test_a_collector_that_has_a_fallback_runs_after_its_gap(job: Job) -> None:
    degraded = Degraded()

    run_until(lambda: len(degraded.times) >= 2, job, degraded)

    records = records_in(job.folder / "degraded.jsonl")
    assert isinstance(records[1], Gap)
    assert isinstance(records[2], Sample)


def test_a_collector_that_is_not_wanted_says_switched_off(job: Job) -> None:
    ticker, absent = Ticker(), Absent()

    supervisor = run_until(at_once, job, ticker, absent, without={"ticker", "absent"})

    records = records_in(job.folder / "ticker.jsonl")
    assert [type(r) for r in records] == [Header, Gap, Closed]
    assert records[1].reason == "switched-off"
    assert [gap.collector for gap in supervisor.gaps] == ["ticker", "absent"]
    assert ticker.times == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small file system can't be mounted here (not root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_the_collector_and_is_told_by_callback(small_disk: Path) -> None:
    job, told = job_in(small_disk), []
    talkative = Talkative()

    run_until(lambda: told and talkative.stopped, job, talkative, on_gap=told.append)

    assert len(told) == 1
    assert "No space left" in told[0].detail
    assert talkative.stopped == 1
    whole = (job.folder / "talkative.jsonl").read_bytes()
    assert whole.endswith(b"\n")


def test_a_folder_that_is_gone_is_told_by_callback_and_raises_nothing(tmp_path: Path) -> None:
    told: list[Gap] = []
    job = Job(os.getpid(), tmp_path, tmp_path / "not-there", Clock(), tmp_path)

    run_until(at_once, job, Ticker(), on_gap=told.append)

    assert [gap.collector for gap in told] == ["ticker"]


def test_the_folder_holds_the_six_collectors_and_they_keep_the_protocol() -> None:
    found = discover()

    assert [cls.name for cls in found] == ["gpu", "host", "network", "power", "stacks", "storage"]
    for cls in found:
        assert isinstance(cls(), Collector)
        assert cls.period_s > 0
        assert cls.effect.startswith("no ")
        assert all(metric.unit and metric.text for metric in cls.metrics.values())


def test_every_probe_answers_quickly_with_a_reason_from_the_closed_list() -> None:
    reasons = {"no-driver", "no-permission", "not-supported", "not-installed"}

    for cls in discover():
        cls().probe()  # the first one also imports and loads
        began, used = time.monotonic(), cpu_seconds()
        availability = cls().probe()
        took, used = time.monotonic() - began, cpu_seconds() - used

        assert used < 1.0, cls.name
        assert took < 10.0, cls.name  # none waits for anything; other programs may hold the cores
        assert availability.works or (availability.reason in reasons and availability.detail)


def cpu_seconds() -> float:
    """CPU time of this thread and of the processes that were started and have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.thread_time() + children.ru_utime + children.ru_stime


def test_what_the_collectors_write_is_named_in_their_metrics(job: Job) -> None:
    supervisor = Supervisor(job, without={"stacks"})

    supervisor.start()
    time.sleep(2.4)
    supervisor.stop()

    for cls in discover():
        patterns = [pattern_of(name) for name in cls.metrics]
        for record in records_in(job.folder / f"{cls.name}.jsonl"):
            for name in getattr(record, "values", {}):
                assert any(pattern.fullmatch(name) for pattern in patterns), name


def pattern_of(name: str) -> Any:
    import re

    return re.compile(re.sub(r"<[^>]+>", ".+", name.replace(".", r"\.")))


def test_the_page_on_collectors_names_every_metric_with_its_unit() -> None:
    page = (Path(__file__).parent.parent / "docs/collectors.md").read_text()

    for cls in discover():
        assert f"## {cls.name}\n" in page
        for name, metric in cls.metrics.items():
            escaped = name.replace("|", "\\|")
            assert f"| `{escaped}` | {metric.unit} | {metric.text} |" in page
