"""No text makes the redactor slow: the time for one grows as its length does, not faster."""

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from boundscope.profiler import redact
from boundscope.profiler.redact import Known, Redactor
from boundscope.profiler.redact.scrubber import MAX_TEXT

UNITS = r"""
a-|a_|a.|a:|a/|a\|a=|a@|a,|0|a|A|1.|1:|f:|f-|0x|aB|-|_|.|:|/|\|=|@|,|;|%|~/|../|..|<a>|<a|é|(|)|()|[|{
<token>|token=|token='|token=\"|token:\|token:|token |secret=>|a_key=|_pass:|--token|--token |--a|-a
-u|-eyJa|eyJ|sk-|xox|serial|serial\|serial |mac=|mac |bearer |enx|ip-1-|GPU-|host=[|hostname=
node=a,|hostname=a,|://|a://|'/|"/|\"/|'/a |C:\|C:\a\|C:\a |/a:|/a,|/a(|%25|@a.|-----BEGIN |-----END
a-1|  a|/site-packages|/lib/python3|/home/|/torch/|A1a1A1a1A1a1A1a1A1a1B/
"""
HEADS = ("serial", "token", "token=", "hostname=", "--a", "'/a", "C:\\", "http://", "eyJaaaaaaaa")
REPEATED = (" ", "\\", "a", "0", "-", "a-", "a/", "a.", ":", ",", "(", "[")
ENDS = ("", "!")
SHORT, LONG = MAX_TEXT // 16, MAX_TEXT // 2
FLOOR_S = 0.005
"""Below this nothing is measured: eight times as long a text then takes 0.04 s at most."""
MOST = 24
"""Times as long for eight times the length: a pattern that looks back over all of it needs 64."""


ANCHORED = {
    *("arguments._OPTION", "arguments._VARIABLE", "arguments._ASSIGNMENT", "kinds.URL_PARTS"),
    *("named.NO_SECRET", "named._AMOUNT", "named._LOOKS_LIKE_HOST", "named._NO_HOST"),
    *("named.USER_AND_PASSWORD", "paths._ABSOLUTE", "paths._LIBRARY", "paths._STANDARD"),
    *("paths._TORCH", "paths._OWN", "paths._PROGRAM", "paths._SYSTEM", "paths._TOOLKITS"),
    *("records._COMMIT", "records._ID", "records.WINDOW_FILE", "redactor._WHOLE_PATH"),
    *("scrubber._DOMAIN", "words._JOINED", "words._JOINED_BEHIND"),
}
"""They are matched with the beginning of a text alone, never looked for within it."""


def units() -> list[str]:
    """What texts are made of that a pattern might look back over again and again."""
    return [unit for line in UNITS.strip().split("\n") for unit in line.split("|")] + [" ", "\n"]


def patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Every pattern of the package."""
    found = []
    for module in pkgutil.iter_modules(redact.__path__, f"{redact.__name__}."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
                found.append((f"{module.name.rpartition('.')[2]}.{name}", value))
    return found


def seconds(work: Callable[[str], object], text: str) -> float:
    """CPU time of this process: a busy machine makes nothing slow."""
    begin = time.process_time()
    work(text)
    return time.process_time() - begin


def too_slow(work: Callable[[str], object], unit: str, end: str, head: str = "x") -> bool:
    short, long = (head + unit * (size // len(unit)) + end for size in (SHORT, LONG))
    took = seconds(work, long)
    if took < 8 * FLOOR_S:
        return False
    return min(took, seconds(work, long)) > MOST * max(FLOOR_S / 4, seconds(work, short))


def test_every_pattern_is_looked_at_in_the_way_that_it_is_used() -> None:
    names = {name for name, _ in patterns()}
    sources = "".join(path.read_text() for path in Path(redact.__path__[0]).glob("*.py"))
    looked_for = set(re.findall(r"(\w+)\.(?:sub|search|finditer|findall)\(", sources))
    looked_for |= set(re.findall(r"_sub\(\"\w+\", (?:\w+\.)?(\w+)", sources))

    assert names >= {"named.ASSIGNED", "kinds.URL", "paths.PATH", "entropy._CANDIDATE"}
    assert len(names) > 40
    assert names >= ANCHORED
    assert {name.rpartition(".")[2] for name in ANCHORED} & looked_for == set()


@pytest.mark.parametrize(("name", "pattern"), patterns(), ids=lambda value: str(value)[:40])
def test_a_patterns_time_grows_with_the_text(name: str, pattern: re.Pattern[str]) -> None:
    def work(text: str) -> None:
        pattern.fullmatch(text)
        pattern.match(text)
        if name not in ANCHORED:
            pattern.sub("", text)

    texts = [*product(units(), ENDS, ["x"]), *product(REPEATED, ENDS, HEADS)]
    slow = [parts for parts in texts if too_slow(work, *parts)]

    assert slow == []


def test_the_time_for_a_whole_text_grows_with_it() -> None:
    known = Known({"/a/b"}, {f"gpu-{i}.a.b" for i in range(50)}, {"alice"})

    def work(text: str) -> None:
        redactor = Redactor(known)  # it remembers texts
        redactor.text(text, "")
        redactor.op_name(text, "")
        redactor.arguments(text.split(" "), "")
        redactor.path("/" + text, "")

    slow = [unit for unit in units()[::3] if too_slow(work, unit, "!")]

    assert slow == []


def test_a_measure_of_growth_sees_what_it_looks_for() -> None:
    backward = re.compile(r"(?:[a-z]+-)*token")
    two_gaps = re.compile(r"serial\s*:?\s*[a-z0-9]")

    assert too_slow(lambda text: backward.sub("", text), "a-", "")
    assert too_slow(lambda text: two_gaps.sub("", text), " ", "!", "serial")


def test_many_names_and_files_do_not_make_a_text_slow() -> None:
    """A recording names as many as it likes: what is known is looked up, not tried one by one."""
    # Given
    redactors = []
    for count in (10, 20_000):
        hosts, users = {f"gpu-{i}" for i in range(count)}, {f"user{i}x" for i in range(count)}
        redactors.append(Redactor(Known(hosts=hosts, users=users)))
        for i in range(count):
            redactors[-1].remember_file(f"/srv/x/model{i}.py")

    # When
    text = "gpu-7 ran aten::add of user3x in model5.py " * 200
    few, many = (
        min(seconds(lambda t, r=r: r.text(t, ""), f"{text}{n}") for n in range(3))
        for r in redactors
    )

    # Then
    assert many < 4 * few + 0.02
    assert redactors[1].text("gpu-19999 of user19999x", "") == "host-2 of user-2"
