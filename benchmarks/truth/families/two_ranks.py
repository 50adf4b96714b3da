"""Starts ddp.py as two ranks: over loopback, or with `--rate` over a shaped link.

The link is a veth pair between two network namespaces, each end limited by `tc`; it needs root
and iproute2, and is removed at the end. Arguments that it does not know go to ddp.py.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

TRAINING = Path(__file__).with_name("ddp.py")
ADDRESSES = ("10.213.78.1", "10.213.78.2")
PORT = 29531


def call(*words: str) -> None:
    subprocess.run(words, check=True)


class Loopback:
    """Both ranks in this machine's own network."""

    def __enter__(self) -> Loopback:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was made."""

    def place(self, rank: int) -> tuple[list[str], dict[str, str]]:
        """What to put before a rank's command, and its environment."""
        del rank
        return [], {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.port)}


class Link:
    """Two network namespaces and a veth pair between them, each end limited to `rate`."""

    def __init__(self, rate: str):
        self.rate = rate
        self.namespaces = [f"truth-{os.getpid()}-{side}" for side in "ab"]
        self.interfaces = [f"tr{os.getpid()}{side}" for side in "ab"]

    def __enter__(self) -> Link:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        for namespace in self.namespaces:
            call("ip", "netns", "add", namespace)
        (first, second), (a, b) = self.namespaces, self.interfaces
        pair = ["type", "veth", "peer", "name", b, "netns", second]
        call("ip", "-n", first, "link", "add", a, *pair)
        for namespace, name, address in zip(
            self.namespaces, self.interfaces, ADDRESSES, strict=True
        ):
            call("ip", "-n", namespace, "link", "set", "lo", "up")
            call("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", name)
            call("ip", "-n", namespace, "link", "set", name, "up")
            limit = ["tbf", "rate", self.rate, "burst", "128kb", "latency", "200ms"]
            call("tc", "-n", namespace, "qdisc", "add", "dev", name, "root", *limit)

    def __exit__(self, *_: object) -> None:
        for namespace in self.namespaces:
            if Path("/run/netns", namespace).exists():
                subprocess.run(["ip", "netns", "del", namespace], check=False)

    def place(self, rank: int) -> tuple[list[str], dict[str, str]]:
        """What to put before a rank's command, and its environment."""
        environment = {
            "MASTER_ADDR": ADDRESSES[0],
            "MASTER_PORT": str(PORT),
            "GLOO_SOCKET_IFNAME": self.interfaces[rank],
        }
        return ["ip", "netns", "exec", self.namespaces[rank]], environment


def start(rank: int, site: Loopback | Link, arguments: list[str]) -> subprocess.Popen[bytes]:
    before, environment = site.place(rank)
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [*before, sys.executable, str(TRAINING), *arguments]
    return subprocess.Popen(command, env={**os.environ, **ranks, **environment})


def wait(ranks: list[subprocess.Popen[bytes]]) -> int:
    """Wait for both; the first failure ends it."""
    while True:
        codes = [rank.poll() for rank in ranks]
        failed = [code for code in codes if code]
        if failed:
            return failed[0]
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.05)


def end(ranks: list[subprocess.Popen[bytes]]) -> None:
    for rank in ranks:
        rank.terminate()
    for rank in ranks:
        try:
            rank.wait(10)
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()


def leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", help="of the link, as tc writes it")
    args, arguments = parser.parse_known_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(Link(args.rate) if args.rate else Loopback())
        ranks: list[subprocess.Popen[bytes]] = []
        try:
            ranks.extend(start(rank, site, arguments) for rank in (0, 1))
            return wait(ranks)
        finally:
            end(ranks)


if __name__ == "__main__":
    sys.exit(main())
