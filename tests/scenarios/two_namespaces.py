"""Runs ddp.py as two ranks in two network namespaces, joined by a link of a given rate.

Needs root, `ip` and `tc`. Arguments that it does not know go to ddp.py. The exit code is 0 when
both ranks ended well, else that of the first rank that did not. The namespaces are removed at the
end, also after a signal or a failure.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

TRAINING = Path(__file__).with_name("ddp.py")
PORT = 29511


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Link:
    """Two namespaces and a veth pair between them, each end limited to `rate`."""

    def __init__(self, rate: str):
        self.rate = rate
        self.namespaces = [f"bscope-{os.getpid()}-{side}" for side in "ab"]
        self.interfaces = [f"bs{os.getpid()}{side}" for side in "ab"]
        self.addresses = ["10.213.77.1", "10.213.77.2"]

    def __enter__(self) -> Link:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _make(self) -> None:
        for namespace in self.namespaces:
            ip("netns", "add", namespace)
        (first, second), (a, b) = self.namespaces, self.interfaces
        ip("-n", first, "link", "add", a, "type", "veth", "peer", "name", b, "netns", second)
        ends = zip(self.namespaces, self.interfaces, self.addresses, strict=True)
        for namespace, interface, address in ends:
            ip("-n", namespace, "link", "set", "lo", "up")
            ip("-n", namespace, "addr", "add", f"{address}/24", "dev", interface)
            ip("-n", namespace, "link", "set", interface, "up")
            limit = ["rate", self.rate, "burst", "32kbit", "latency", "400ms"]
            tbf = ["qdisc", "add", "dev", interface, "root", "tbf", *limit]
            subprocess.run(["tc", "-n", namespace, *tbf], check=True)

    def _remove(self) -> None:
        # Removing a namespace removes the interface in it, and with that its peer.
        for namespace in self.namespaces:
            if Path("/run/netns", namespace).exists():
                subprocess.run(["ip", "netns", "del", namespace], check=False)

    def start_rank(self, rank: int, training_args: list[str]) -> subprocess.Popen[bytes]:
        """Start ddp.py as `rank` inside its namespace."""
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": self.addresses[0],
            "MASTER_PORT": str(PORT),
            "GLOO_SOCKET_IFNAME": self.interfaces[rank],
            "OMP_NUM_THREADS": "1",
        }
        inside = ["ip", "netns", "exec", self.namespaces[rank]]
        return subprocess.Popen(
            [*inside, sys.executable, str(TRAINING), *training_args], env=environment
        )


def wait(ranks: list[subprocess.Popen[bytes]]) -> int:
    """Wait for all; as soon as one fails the others are told to end."""
    while True:
        codes = [rank.poll() for rank in ranks]
        failed = [code for code in codes if code]
        if failed:
            return failed[0]
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.1)


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
    parser.add_argument("--rate", default="100mbit", help="of the link, as tc writes it")
    args, training_args = parser.parse_known_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    with Link(args.rate) as link:
        ranks: list[subprocess.Popen[bytes]] = []
        try:
            ranks.extend(link.start_rank(rank, training_args) for rank in (0, 1))
            return wait(ranks)
        finally:
            end(ranks)


if __name__ == "__main__":
    sys.exit(main())
