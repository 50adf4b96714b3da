"""Starts Streamlit as a child process: on this machine only, and without its telemetry."""

from __future__ import annotations

import ctypes
import importlib.util
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

from .errors import BoundscopeError, UsageError
from .library import PATHS_VARIABLE

READY_WITHIN_S = 60.0
"""It takes 3 s on two idle cores, ten times that where other programs hold them."""
ENDS_WITHIN_S = 5.0
NEEDED = ("streamlit", "plotly", "pandas", "pyarrow")

OPTIONS = {
    "browser.gatherUsageStats": "false",
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "server.runOnSave": "false",
    "server.enableStaticServing": "true",
    "server.maxUploadSize": "200",
    "client.toolbarMode": "viewer",
    "client.showErrorLinks": "false",
    "client.showErrorDetails": "none",
    "theme.light.primaryColor": "#00549a",
    "theme.light.backgroundColor": "#ffffff",
    "theme.light.secondaryBackgroundColor": "#f3f5f8",
    "theme.dark.primaryColor": "#56b4e9",
    "theme.dark.backgroundColor": "#0f1218",
    "theme.dark.secondaryBackgroundColor": "#1a1f29",
}
"""Streamlit's own settings; they win over a `.streamlit/config.toml` in the current folder."""


DEFAULT_PORT = 8501
"""Streamlit's own."""
MORE_PORTS = 20
"""So many after the default one are tried where nobody asked for a port."""
ENDING = (signal.SIGTERM, signal.SIGHUP)
"""What ends a program whose terminal or supervisor goes away, beside Ctrl-C."""
_PR_SET_PDEATHSIG = 1


def serve(
    paths: Sequence[Path], *, address: str, port: int | None = None, open_browser: bool
) -> int:
    """Serve the paths until interrupted; returns the exit code.

    `port` None: the default one, or the next free one. Raises BoundscopeError when the packages are
    missing, the port is taken or the server fails.
    """
    _check_packages()
    if port is None:
        port = _free_port(address)
    _check_port(address, port)
    if not _is_loopback(address):
        sys.stderr.write(
            f"warning[not-only-local]: everyone who reaches {address}:{port} can read these runs; "
            "there is no password.\n"
        )
    url = f"http://{_shown(address)}:{port}"
    before = {number: signal.getsignal(number) for number in ENDING}
    child = None
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:  # under nohup
                signal.signal(number, _interrupt)
        child = subprocess.Popen(
            _command(address, port),
            env=_environment(paths),
            preexec_fn=_end_with_parent(),  # noqa: PLW1509 - no other thread runs here
        )
        _wait_until_ready(child, url)
        sys.stderr.write(f"boundscope dashboard: {url} (Ctrl-C ends it)\n")
        if open_browser:
            webbrowser.open(url)
        return child.wait()
    except KeyboardInterrupt:
        return 0
    except _Ended as ended:
        return 128 + ended.number
    finally:
        for number in ENDING:  # a closing terminal may send both
            signal.signal(number, signal.SIG_IGN)
        if child is not None:
            _end(child)
        for number, handler in before.items():
            signal.signal(number, handler)


class _Ended(BaseException):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _interrupt(number: int, _frame: object) -> None:
    raise _Ended(number)


def _end_with_parent() -> Callable[[], None] | None:
    """What the server does before it starts, so that it ends even where we are killed; Linux."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)

    def ask() -> None:
        library.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))

    return ask


def _free_port(address: str) -> int:
    """The default port, or the first free one of those behind it; the default where none is."""
    for port in range(DEFAULT_PORT, DEFAULT_PORT + MORE_PORTS):
        try:
            _check_port(address, port)
        except UsageError:
            continue
        return port
    return DEFAULT_PORT


def _check_packages() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise BoundscopeError(
            "dashboard-not-installed",
            f"The dashboard needs {', '.join(missing)}, which this Python does not have.",
            "pip install 'boundscope[dashboard]'",
        )


def _check_port(address: str, port: int) -> None:
    """Say that a port is taken before Streamlit silently fails or takes another."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise UsageError(
                "port-not-free",
                f"The dashboard cannot listen on {address}:{port}: {error.strerror or error}.",
                f"choose another port: boundscope dashboard --port {port % 65535 + 1}",
            ) from error


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _shown(address: str) -> str:
    """Return the address as a browser on this machine reaches it."""
    if address in ("0.0.0.0", "::"):  # noqa: S104 - compared with, never bound to
        return "127.0.0.1"
    return f"[{address}]" if ":" in address else address


def _command(address: str, port: int) -> list[str]:
    spec = importlib.util.find_spec("..dashboard.app", __package__)
    assert spec is not None
    assert spec.origin is not None
    options = {**OPTIONS, "server.address": address, "server.port": str(port)}
    options["browser.serverAddress"] = _shown(address).strip("[]")
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "streamlit", "run", spec.origin, *flags]


def _environment(paths: Sequence[Path]) -> dict[str, str]:
    """Return the child's environment; modules of the current folder must not shadow its own."""
    served = json.dumps([str(path.resolve()) for path in paths])
    return {**os.environ, PATHS_VARIABLE: served, "PYTHONSAFEPATH": "1"}


def _wait_until_ready(child: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise BoundscopeError(
        "dashboard-not-started",
        f"Streamlit did not answer on {url} within {READY_WITHIN_S:.0f} s.",
        "what it said stands above; `python -m streamlit hello` tells whether it works at all",
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
