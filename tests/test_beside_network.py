"""The network collector: on real interfaces and namespaces, and on recorded kernel files."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from boundscope.collectors.base import Job
from boundscope.collectors.beside.network import NetworkCollector
from boundscope.collectors.links import htb_ceil_bits_per_s, read_links
from boundscope.collectors.records import Record, Sample
from boundscope.collectors.writer import Clock

SEND = """
import socket, sys, time
peer = socket.create_connection((sys.argv[1], 5000))
end = time.time() + 60
block = bytes(1 << 16)
while time.time() < end:
    peer.sendall(block)
"""
RECEIVE = """
import socket
server = socket.create_server(("0.0.0.0", 5000))
print("ready", flush=True)
peer, _ = server.accept()
while peer.recv(1 << 20):
    pass
"""


def job_of(pid: int, folder: Path) -> Job:
    return Job(pid, folder, folder, Clock(), folder)


def values_of(records: list[Record]) -> dict[str, float]:
    assert len(records) == 1
    assert isinstance(records[0], Sample)
    return records[0].values


def test_loopback_traffic_stands_apart_and_is_virtual(tmp_path: Path) -> None:
    collector = NetworkCollector()
    began = time.monotonic()
    collector.start(job_of(os.getpid(), tmp_path))
    left, right = pair_on_loopback()

    reader = threading.Thread(target=drain, args=(right, 20 << 20))
    reader.start()
    left.sendall(bytes(20 << 20))
    reader.join()
    values = values_of(collector.sample())
    seconds = time.monotonic() - began
    left.close()
    right.close()

    assert values["net.lo.tx_bytes_per_s"] * seconds >= (20 << 20) * 0.9
    assert values["net.lo.virtual"] == 1
    assert "net.lo.link_bits_per_s" not in values
    assert values["tcp.segments_out_per_s"] > 0


def pair_on_loopback() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        left = socket.create_connection(server.getsockname())
        right, _ = server.accept()
    return left, right


def drain(right: socket.socket, size: int) -> None:
    while size > 0:
        size -= len(right.recv(1 << 20))


@dataclass
class TwoHosts:
    """Two network namespaces joined by a veth pair of 100 Mbit/s, and processes inside them."""

    names: tuple[str, str]
    interfaces: tuple[str, str]

    def start(self, index: int, code: str, *arguments: str) -> subprocess.Popen[str]:
        command = ["ip", "netns", "exec", self.names[index], sys.executable, "-S", "-c", code]
        return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)


def run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


@pytest.fixture
def two_hosts() -> Iterator[TwoHosts]:
    if os.geteuid() or not shutil.which("ip") or not shutil.which("tc"):
        pytest.skip("network namespaces need root, ip and tc")
    tag = f"{os.getpid() % 100000:x}"
    names, ends = (f"bsA{tag}", f"bsB{tag}"), (f"vA{tag}", f"vB{tag}")
    try:
        for name in names:
            run(f"ip netns add {name}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr!r}")
    try:
        veth = f"{ends[0]} netns {names[0]} type veth peer name {ends[1]} netns {names[1]}"
        run(f"ip link add {veth}")
        for index, (name, end) in enumerate(zip(names, ends, strict=True)):
            run(f"ip -n {name} addr add 10.99.7.{index + 1}/24 dev {end}")
            run(f"ip -n {name} link set {end} up")
            run(f"ip -n {name} link set lo up")
            rate = "rate 100mbit burst 32kbit latency 400ms"
            run(f"tc -n {name} qdisc add dev {end} root tbf {rate}")
        yield TwoHosts(names, ends)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


RX, TX = 0, 8
"""Columns of /proc/PID/net/dev: bytes received and sent."""


def count_of(process: subprocess.Popen[str], interface: str, column: int) -> int:
    """What the kernel has counted on the interface, read by the test itself."""
    for line in Path(f"/proc/{process.pid}/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == interface:
            return int(counts.split()[column])
    return 0


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_ranks_in_namespaces_are_seen_with_the_rate_of_their_shaped_link(
    tmp_path: Path, two_hosts: TwoHosts
) -> None:
    receiver = two_hosts.start(1, RECEIVE)
    assert receiver.stdout is not None
    receiver.stdout.readline()
    sender = two_hosts.start(0, SEND, "10.99.7.2")
    collector = NetworkCollector()
    ends = [(sender, two_hosts.interfaces[0], TX), (receiver, two_hosts.interfaces[1], RX)]
    looks: list[tuple[float, list[int]]] = []
    look = lambda: looks.append((time.monotonic(), [count_of(*end) for end in ends]))  # noqa: E731
    try:
        wait_until(lambda: count_of(*ends[1]) > 1_000_000)
        look()
        collector.start(job_of(os.getpid(), tmp_path))
        look()
        time.sleep(2.0)
        look()
        values = values_of(collector.sample())
        look()
    finally:
        for process in (sender, receiver):
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    sending = f"net.{two_hosts.interfaces[0]}@{two_hosts.names[0]}"
    receiving = f"net.{two_hosts.interfaces[1]}@{two_hosts.names[1]}"
    assert values[f"{sending}.link_bits_per_s"] == 100e6
    assert values[f"{receiving}.link_bits_per_s"] == 100e6
    assert values[f"{sending}.virtual"] == 1
    # Each rate is over some time between the first look and the last, the two in the middle within.
    (before, began, ended, after), counts = zip(*looks, strict=True)
    rates = (values[f"{sending}.tx_bytes_per_s"], values[f"{receiving}.rx_bytes_per_s"])
    for rate, (first, second, third, last) in zip(rates, zip(*counts, strict=True), strict=True):
        assert 0 < (third - second) / (after - before) <= rate * 1.001
        assert rate * 0.999 <= (last - first) / (ended - began)
        assert rate < 1.1 * 12.5e6
    assert values[f"tcp@{two_hosts.names[0]}.segments_out_per_s"] > 100
    assert "tcp.segments_out_per_s" in values


def test_htb_gives_the_ceiling_of_its_root_class(two_hosts: TwoHosts) -> None:
    name, end = two_hosts.names[0], two_hosts.interfaces[0]
    outer, inner = "rate 50mbit ceil 80mbit quantum 3000", "rate 20mbit quantum 3000"
    run(f"tc -n {name} qdisc replace dev {end} root handle 1: htb default 10")
    run(f"tc -n {name} class add dev {end} parent 1: classid 1:1 htb {outer}")
    run(f"tc -n {name} class add dev {end} parent 1:1 classid 1:10 htb {inner}")
    inside = two_hosts.start(0, "import time; print(1, flush=True); time.sleep(30)")
    assert inside.stdout is not None
    inside.stdout.readline()

    links = read_links(["lo", end], inside.pid)
    inside.kill()
    inside.wait()
    inside.stdout.close()

    assert links[end].shaped_bits_per_s == 80e6
    assert links[end].speed_bits_per_s is None
    assert links["lo"].bits_per_s is None


def test_htb_classes_below_another_do_not_count() -> None:
    text = (
        "class htb 1:1 root rate 1Gbit ceil 1.5Gbit burst 1600b cburst 1600b\n"
        "class htb 1:10 parent 1:1 prio 0 rate 20Mbit ceil 20Mbit burst 1600b\n"
    )

    assert htb_ceil_bits_per_s(text) == 1.5e9
    assert htb_ceil_bits_per_s("") is None


def port(root: Path, received: int, sent: int, wait: int) -> None:
    folder = root / "mlx5_0/ports/1"
    (folder / "counters").mkdir(parents=True, exist_ok=True)
    (folder / "rate").write_text("100 Gb/sec (4X EDR)\n")
    (folder / "counters/port_rcv_data").write_text(f"{received}\n")
    (folder / "counters/port_xmit_data").write_text(f"{sent}\n")
    (folder / "counters/port_xmit_wait").write_text(f"{wait}\n")


def test_infiniband_counters_are_four_bytes_each(tmp_path: Path) -> None:
    """The files are written by hand in the shape of a real port's: none is read here."""
    port(tmp_path, 1000, 2000, 5)
    collector = NetworkCollector(infiniband=tmp_path)
    before = time.monotonic()
    collector.start(job_of(os.getpid(), tmp_path))
    began = time.monotonic()

    port(tmp_path, 251_000, 502_000, 5)
    time.sleep(0.1)
    ended = time.monotonic()
    values = values_of(collector.sample())
    after = time.monotonic()

    # The rate is over some time between these two: a million bytes received, two million sent.
    for name, size in (("rx_bytes_per_s", 1e6), ("tx_bytes_per_s", 2e6)):
        rate = values[f"ib.mlx5_0.1.{name}"]
        assert rate * (after - before) >= size * 0.9999
        assert rate * (ended - began) <= size * 1.0001
    assert values["ib.mlx5_0.1.xmit_wait_per_s"] == 0
    assert values["ib.mlx5_0.1.link_bits_per_s"] == 100e9


def test_the_launchers_own_namespace_is_told_when_the_job_is_not_there(tmp_path: Path) -> None:
    collector = NetworkCollector()
    collector.start(job_of(2**22 + 1, tmp_path))
    time.sleep(0.1)

    values = values_of(collector.sample())

    assert any(name.startswith("net.lo.") for name in values)
