"""What real processes wait for, by the kernel's word."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from boundscope.collectors.waits import KINDS, kind_of, wait_shares

SCRIPTS = {
    "sleep": "import time; time.sleep(60)",
    "network": (
        "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n"
        "c = socket.create_connection(s.getsockname()); c.recv(1)"
    ),
    "lock": ("import threading; lock = threading.Lock(); lock.acquire(); lock.acquire(timeout=60)"),
    "": "while True: pass",
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_waiting_process_shows_its_kind(kind: str) -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", SCRIPTS[kind]])
    try:
        deadline = time.monotonic() + 10
        shares = wait_shares([process.pid])
        while kind and not shares.get(kind) and time.monotonic() < deadline:
            time.sleep(0.05)
            shares = wait_shares([process.pid])
    finally:
        process.kill()
        process.wait()

    if kind and not any(shares.values()):
        pytest.skip("this kernel does not say what a process waits for")
    assert shares == {name: float(name == kind) for name in KINDS}


def test_processes_that_are_gone_say_nothing() -> None:
    assert wait_shares([2**22 + 1]) == {}
    assert wait_shares([]) == {}


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        ("futex_wait_queue", "lock"),
        ("sk_wait_data", "network"),
        ("folio_wait_bit_common", "storage"),
        ("rpc_wait_bit_killable", "storage"),
        ("hrtimer_nanosleep", "sleep"),
        ("poll_schedule_timeout.constprop.0", ""),
        ("pipe_read", ""),
        ("0", ""),
    ],
)
def test_kernel_functions_stand_for_kinds(function: str, kind: str) -> None:
    assert kind_of(function) == kind
