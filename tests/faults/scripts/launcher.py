"""Starts boundscope with a part of its launcher broken: `launcher.py FAULT run …`."""

import sys
import time

from boundscope.collectors import beside, pyspy
from boundscope.collectors.beside import stacks
from boundscope.profiler import cli


def fails(*_args, **_kwargs):
    raise RuntimeError("planted")


def hangs(*_args, **_kwargs):
    time.sleep(3600)


def late(original):
    def wrapper(*args, **kwargs):
        time.sleep(1.0)
        return original(*args, **kwargs)

    return wrapper


def every_collector(kind, method):
    for collector in beside.discover():
        original = getattr(collector, method)
        broken = {"raise": fails, "hang": hangs, "late": late(original)}[kind]
        setattr(collector, method, broken)


def without_py_spy():
    pyspy.find_py_spy = lambda: None


def other_py_spy(path):
    pyspy.find_py_spy = lambda: path


def environment_facts(kind):
    from boundscope.profiler import environment

    environment.hardware_facts = {"raise": fails, "hang": hangs}[kind]


def clock_taken_before_a_step(seconds):
    """The launcher's pair of clocks is that of a moment before the system clock was set."""
    from boundscope.collectors import writer

    original = writer.Clock.__init__

    def __init__(self):
        original(self)
        self.wall_ns += int(seconds * 1e9)
        self.offset_ns += int(seconds * 1e9)

    writer.Clock.__init__ = __init__


def plant(fault):
    kind, _, what = fault.partition(":")
    if kind == "clock":
        clock_taken_before_a_step(float(what))
    elif kind == "py-spy":
        other_py_spy(what) if what else without_py_spy()
    elif what == "facts":
        environment_facts(kind)
    elif what == "supervisor":
        from boundscope.collectors import supervisor

        supervisor.Supervisor.start = {"raise": fails}[kind]
    elif what:
        every_collector(kind, what)


plant(sys.argv[1])
assert stacks.pyspy is pyspy
sys.exit(cli.main(sys.argv[2:]))
