"""Which of a process's threads is at work: CPU time beside stacks that look alike."""

from __future__ import annotations

import os
import threading
import time

import msgspec
import pytest

from boundscope.collectors import pyspy
from boundscope.collectors.beside.stacks import ThreadCpu
from boundscope.collectors.records import Stacks

LENGTH_S = 0.6


def test_a_thread_at_work_and_one_that_sleeps_are_told_apart() -> None:
    going = threading.Event()
    going.set()

    def spins() -> None:
        while going.is_set():
            pass

    def sleeps() -> None:
        while going.is_set():
            time.sleep(0.02)

    threads = [threading.Thread(target=target, daemon=True) for target in (spins, sleeps)]
    look = ThreadCpu()
    for thread in threads:
        thread.start()
    try:
        numbers = [thread.native_id or 0 for thread in threads]
        first = [look.share(os.getpid(), number) for number in numbers]
        time.sleep(LENGTH_S)
        second = [look.share(os.getpid(), number) for number in numbers]
    finally:
        going.clear()
        for thread in threads:
            thread.join()

    assert None not in first
    busy, idle = second
    assert busy is not None
    assert idle is not None
    assert busy > 0.2  # less than 1 where the machine has other work
    assert idle < 0.1
    assert look.share(os.getpid(), 2**22 + 1) is None


def event(ph: str, ts: int, name: str, file: str = "", line: int = 0) -> dict[str, object]:
    return {"name": name, "ph": ph, "tid": 9, "ts": ts, "args": {"filename": file, "line": line}}


@pytest.mark.parametrize(("role", "known"), [("rank", 0.5), ("worker", None)])
def test_the_share_of_a_ranks_other_threads_stands_with_their_samples(
    role: str, known: float | None
) -> None:
    events = []
    for number, name in ((7, "MainThread"), (8, "Thread-1")):
        thread = f"thread ({number}): {name}"
        events += [event("B", 0, thread), event("B", 0, "f", "/w/t.py", 1)]
        events += [event("E", 100_000, "f", "/w/t.py", 1), event("E", 100_000, thread)]
    asked: list[int] = []

    def half(thread: int) -> float:
        asked.append(thread)
        return 0.5

    records = pyspy.records_of(
        msgspec.json.encode(events),
        pyspy.Target(7, 0, role),
        50_000_000,
        2_000_000_000,
        pyspy.StackTable(),
        cpu_share=half,
    )

    found = {r.thread: r.cpu_share for r in records if isinstance(r, Stacks)}
    assert found == {7: None, 8: known}
    assert asked == ([8] if known else [])
