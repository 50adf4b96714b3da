"""Trainings that take turns: real processes that stop themselves and are continued."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.truth import measure, turns
from benchmarks.truth.cases import all_cases

ROOT = Path(__file__).parents[1]
TURNS = 5
REST_S = 2.0
STOPS = """
    import os, signal, subprocess, sys, time
    log, name = sys.argv[1:]
    def note(what):
        with open(log, "a") as file:
            file.write(f"{name} {what} {time.monotonic()}\\n")
    worker = subprocess.Popen(
        [sys.executable, "-c", "import time\\nwhile 1: print(1, flush=True); time.sleep(.01)"],
        stdout=open(f"{log}-{name}", "w"),
    )
    for turn in range(TURNS):
        note("begins")
        time.sleep(0.1)
        note("ends")
        os.killpg(0, signal.SIGSTOP)
    worker.kill()
    worker.wait()
"""


def script(folder: Path, text: str) -> str:
    file = folder / "script.py"
    file.write_text(textwrap.dedent(text).replace("TURNS", str(TURNS)))
    return str(file)


def test_only_one_works_at_a_time_and_what_it_started_rests_with_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stops = script(tmp_path, STOPS)
    commands = {name: [sys.executable, stops, str(log), name] for name in ("a", "b")}

    errors = turns.by_turns(commands, tmp_path, 60.0)

    # Then, after the first turns, which are side by side, each ends before the next one begins
    noted = [line.split() for line in log.read_text().splitlines()]
    expected = [
        [name, what] for _ in range(TURNS - 1) for name in "ab" for what in ("begins", "ends")
    ]
    assert errors == {"a": "", "b": ""}
    assert [words[:2] for words in noted[4:]] == expected
    # A process that it started would otherwise have printed at each hundredth second of both
    lived_s = float(noted[-1][2]) - float(noted[4][2])
    assert len((tmp_path / "log-a").read_text()) / 2 < 0.8 * lived_s / 0.01


def test_words_of_one_that_fails_and_the_others_go_on(tmp_path: Path) -> None:
    fails = [sys.executable, "-c", "raise SystemExit('no such data')"]
    ends = [sys.executable, "-c", "pass"]

    errors = turns.by_turns({"fails": fails, "ends": ends}, tmp_path, 60.0)

    assert errors == {"fails": "no such data\n", "ends": ""}


def test_one_that_takes_too_long_is_ended_and_told(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    text = f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    errors = turns.by_turns({"sleeps": [sys.executable, "-c", text]}, tmp_path, 1.0)

    assert errors == {"sleeps": "took more than 1 s"}
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_pauses_are_no_part_of_a_step(tmp_path: Path) -> None:
    # Given a training that stops itself after 5 steps, and then each 10
    times = tmp_path / "times.json"
    case = next(case for case in all_cases() if case.name == "mlp-plain")
    command = measure.command_of(case, measure.PLAIN, times)
    training = turns.Training(command, ROOT)

    # When it rests after each of its first turns
    with training:
        taken = 0
        training.go()
        while training.stopped(time.monotonic() + 120):
            taken += 1
            time.sleep(REST_S if taken <= 3 else 0)
            training.go()

    # Then
    ends = json.loads(times.read_text())
    assert taken == 1 + (measure.PLAIN_STEPS - measure.START_UP_STEPS) // measure.TURN_STEPS
    assert max(after - before for before, after in pairwise(ends)) < 0.9 * REST_S
    assert len(measure.blocks_ms(ends)) == 4


def test_two_ranks_rest_together(tmp_path: Path) -> None:
    times = tmp_path / "times.json"
    case = next(case for case in all_cases() if case.name == "ddp-plain")
    training = turns.Training(measure.command_of(case, "network", times), ROOT)

    with training:
        training.go()
        assert training.stopped(time.monotonic() + 120)
        group = training.process
        assert group is not None
        listed = subprocess.run(
            ["ps", "-o", "stat=", "-g", str(group.pid)], capture_output=True, text=True, check=True
        )
        states = [line[0] for line in listed.stdout.split("\n") if line]
        taken = 1
        training.go()
        while training.stopped(time.monotonic() + 120):
            taken += 1
            time.sleep(REST_S if taken <= 3 else 0)
            training.go()

    # Then the one that started them and both ranks were stopped, and no pause is in a step
    assert len(states) >= 3
    assert set(states) == {"T"}
    ends = json.loads(times.read_text())
    assert max(after - before for before, after in pairwise(ends)) < 0.9 * REST_S
