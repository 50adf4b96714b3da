"""Many trainings, each a fork of its own that takes itself for a rank: torch is imported once.

Reads `many.json`: for each its name, its words, and its environment. Each works in a folder of its
name, where its streams go to files and `ended` tells how it ended.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import torch  # noqa: F401
import training

AT_ONCE = 6
LIMIT_S = 150
"""One that takes longer hangs, and is ended: what a fault hangs in sleeps for an hour."""


def begin(rank, name, environment):
    """In the child: its folder, its streams, its rank, its fault."""
    os.chdir(name)
    for descriptor, stream in ((1, "stdout"), (2, "stderr")):
        file = os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.update(environment, RANK=str(rank))
    if "FAULT_INSIDE" in environment:
        sys.modules["sitecustomize"].plant(environment["FAULT_INSIDE"])


def wait_for_one(running):
    pid, status = os.waitpid(-1, os.WNOHANG)
    while not pid:
        time.sleep(0.02)
        for child, (_, started) in running.items():
            if time.monotonic() - started > LIMIT_S:
                os.kill(child, signal.SIGKILL)
        pid, status = os.waitpid(-1, os.WNOHANG)
    name, started = running.pop(pid)
    seconds = time.monotonic() - started
    ended = {"pid": pid, "code": os.waitstatus_to_exitcode(status), "seconds": seconds}
    Path(name, "ended").write_text(json.dumps(ended))


running = {}
for rank, (name, words, environment) in enumerate(json.loads(Path("many.json").read_text())):
    if len(running) == AT_ONCE:
        wait_for_one(running)
    os.makedirs(name)
    child = os.fork()
    if not child:
        begin(rank, name, environment)
        training.main(words)
        sys.exit()
    running[child] = name, time.monotonic()
while running:
    wait_for_one(running)
