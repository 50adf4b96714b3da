"""The training environment's own start-up hook: breaks a part of the guest, by name.

It stands where a user's `sitecustomize` stands. `FAULT_INSIDE` is this file's alone.
"""

import os
import sys
import time


def fails(*_args, **_kwargs):
    raise RuntimeError("planted")


def hangs(*_args, **_kwargs):
    time.sleep(3600)


def slow(original, seconds):
    def wrapper(*args, **kwargs):
        time.sleep(seconds)
        return original(*args, **kwargs)

    wrapper.__name__ = original.__name__
    return wrapper


def clock_taken_before_a_step(seconds):
    """The guest's pair of clocks is that of a moment before the system clock was set."""
    from boundscope.collectors import writer

    original = writer.Clock.__init__

    def __init__(self):
        original(self)
        self.wall_ns += int(seconds * 1e9)
        self.offset_ns += int(seconds * 1e9)

    writer.Clock.__init__ = __init__


def plant(fault):
    if fault.startswith("clock:"):
        return clock_taken_before_a_step(float(fault.partition(":")[2]))
    from boundscope.collectors.inside import (
        guest,
        memory,
        patches,
        recorder,
        stack_samples,
        windows,
    )

    places = {
        "arm": (guest, "announce"),
        "install": (patches, "_loaders"),
        "activate": (guest, "process_record"),
        "span": (recorder.Recorder, "span"),
        "wait": (guest.Guest, "_keep_wait"),
        "sites": (guest.SiteBook, "site"),
        "ticker": (guest.StepTicker, "batch"),
        "tick": (windows.Windows, "tick"),
        "flush": (recorder.Recorder, "_write_out"),
        "window-start": (windows.Windows, "_make_profile"),
        "window-stop": (windows.Windows, "_stop_profile"),
        "window-export": (windows.Windows, "_write"),
        "memory": (memory.DeviceMemory, "sample"),
        "stacks": (stack_samples.StackSampler, "look"),
        "before-fork": (recorder.Recorder, "hold"),
        "after-fork": (recorder.Recorder, "abandon"),
        "close": (recorder.Recorder, "close"),
    }
    kind, _, name = fault.partition(":")
    owner, attribute = places[name]
    original = owner.__dict__[attribute] if isinstance(owner, type) else getattr(owner, attribute)
    broken = {"raise": fails, "hang": hangs}.get(kind)
    if broken is None:
        broken = slow(getattr(owner, attribute), float(kind))
    static = isinstance(original, staticmethod)
    return setattr(owner, attribute, staticmethod(broken) if static else broken)


if os.environ.get("FAULT_INSIDE"):
    plant(os.environ["FAULT_INSIDE"])
    if "torch" in sys.modules:
        raise SystemExit("torch was imported too early")
