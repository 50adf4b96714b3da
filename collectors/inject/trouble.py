"""What the start-up hook does when something goes wrong; loaded only then, by its path.

It runs in interpreters that may have neither boundscope nor msgspec.
"""

from __future__ import annotations

import json
import os
import sys
import time
from types import TracebackType

EFFECT = "no steps, input waits or torch-profiler windows of this process"


def report_gap(run_folder: str, error: Exception) -> None:
    """Write a record file by hand that says why the guest did not start."""
    host = os.uname().nodename
    folder = os.path.join(run_folder, "node-" + host)
    os.makedirs(folder, exist_ok=True)
    now = time.time_ns()
    header = {
        "t": "header",
        "schema": 1,
        "collector": "process",
        "host": host,
        "pid": os.getpid(),
        "mono_ns": time.monotonic_ns(),
        "wall_ns": now,
    }
    gap = {
        "t": "gap",
        "time_ns": now,
        "collector": "inside",
        "reason": "not-installed" if isinstance(error, ImportError) else "crashed",
        "detail": f"{sys.executable}: {type(error).__name__}: {error}",
        "effect": EFFECT,
    }
    with open(os.path.join(folder, f"process-{os.getpid()}.jsonl"), "a") as file:
        file.write(json.dumps(header) + "\n" + json.dumps(gap) + "\n")


def hide_import_frames(hook_file: str) -> None:
    """Let a failed import of torch print the traceback that it prints without us.

    The interpreter cuts the import machinery's frames from a traceback only where no frame of
    somebody else's, here of `hook_file`, stands between them.
    """
    previous = sys.excepthook
    hidden = (hook_file, "<frozen importlib")

    def excepthook(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        kept = []
        while trace is not None:
            if not trace.tb_frame.f_code.co_filename.startswith(hidden):
                kept.append(trace)
            trace = trace.tb_next
        for entry in reversed(kept):
            trace = TracebackType(trace, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
        error.__traceback__ = trace
        previous(kind, error, trace)

    sys.excepthook = excepthook
