"""Traffic, errors and link speed per interface, in every network namespace that the job uses."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ..base import Availability, Job, Metric
from ..links import Link, interface_counters, read_links
from ..procfs import Rates, read_int, read_text, rounded
from ..records import Record, Sample

LINKS_AGAIN_S = 60.0
"""Link speeds are read at the start, with each new interface, and this often: tc may be changed."""

NAMED_NAMESPACES = Path("/run/netns")
_COLUMNS = {
    "rx_bytes_per_s": 0,
    "rx_packets_per_s": 1,
    "rx_errors_per_s": 2,
    "rx_drops_per_s": 3,
    "tx_bytes_per_s": 8,
    "tx_packets_per_s": 9,
    "tx_errors_per_s": 10,
    "tx_drops_per_s": 11,
}
_INFINIBAND_WORD_BYTES = 4  # port_rcv_data and port_xmit_data count octets divided by 4

Values = dict[str, float | None]


@dataclass
class _Namespace:
    """One network namespace: a process through which it is seen (None: our own), and its links."""

    label: str
    pid: int | None
    links: dict[str, Link] = field(default_factory=dict)
    links_read: float = 0.0


class NetworkCollector:
    """Reads /proc/PID/net of one process in each namespace once a second.

    The kernel counts by interface, not by process: traffic of other programs in the namespace is
    included. The loopback is an interface like others, `net.lo.…`.
    """

    name: ClassVar[str] = "network"
    period_s: ClassVar[float] = 1.0
    effect: ClassVar[str] = "no traffic, link speed or retransmits"
    runs_degraded: ClassVar[bool] = False
    metrics: ClassVar[dict[str, Metric]] = {
        "net.<if>.rx_bytes_per_s": Metric("bytes/s", "received"),
        "net.<if>.rx_packets_per_s": Metric("1/s", "packets received"),
        "net.<if>.rx_errors_per_s": Metric("1/s", "packets received with errors"),
        "net.<if>.rx_drops_per_s": Metric("1/s", "packets dropped on receipt"),
        "net.<if>.tx_bytes_per_s": Metric("bytes/s", "sent"),
        "net.<if>.tx_packets_per_s": Metric("1/s", "packets sent"),
        "net.<if>.tx_errors_per_s": Metric("1/s", "packets that could not be sent"),
        "net.<if>.tx_drops_per_s": Metric("1/s", "packets dropped before sending"),
        "net.<if>.link_bits_per_s": Metric(
            "bit/s", "speed of the link, lowered by a tbf, htb, cake or netem rate"
        ),
        "net.<if>.virtual": Metric("0/1", "1 for an interface without hardware (veth, bridge)"),
        "tcp.retransmits_per_s": Metric("1/s", "TCP segments sent again"),
        "tcp.segments_out_per_s": Metric("1/s", "TCP segments sent"),
        "tcp@<ns>.retransmits_per_s": Metric("1/s", "the same in another network namespace"),
        "tcp@<ns>.segments_out_per_s": Metric("1/s", "the same in another network namespace"),
        "ib.<device>.<port>.rx_bytes_per_s": Metric("bytes/s", "received over InfiniBand or RoCE"),
        "ib.<device>.<port>.tx_bytes_per_s": Metric("bytes/s", "sent over InfiniBand or RoCE"),
        "ib.<device>.<port>.xmit_wait_per_s": Metric("1/s", "ticks with data but no credit"),
        "ib.<device>.<port>.link_bits_per_s": Metric("bit/s", "rate of the port"),
    }

    def __init__(self, infiniband: Path = Path("/sys/class/infiniband")) -> None:
        self._infiniband = infiniband
        self._job: Job | None = None
        self._rates = Rates()
        self._namespaces: dict[str, _Namespace] = {}
        self._own = _namespace_of("self")
        self._samples = 0

    def probe(self) -> Availability:
        """It works wherever /proc shows a network."""
        if read_text("/proc/self/net/dev") is None:
            return Availability(False, "not-supported", "/proc/net is not there: needs Linux")
        return Availability(True)

    def start(self, job: Job) -> None:
        """Take the first look, which later rates are measured from."""
        self._job = job
        self.sample()

    def sample(self) -> list[Record]:
        """One record over all namespaces of the job."""
        assert self._job is not None
        self._find_namespaces()
        values: Values = {}
        for namespace in self._namespaces.values():
            self._of_interfaces(namespace, values)
            self._of_tcp(namespace, values)
        self._of_infiniband(values)
        self._samples += 1
        known = rounded(values)
        return [Sample(self._job.clock.now_ns(), known)] if self._samples > 1 and known else []

    def stop(self) -> list[Record]:
        """Nothing is held open."""
        return []

    def _find_namespaces(self) -> None:
        """Keep one living process for each namespace; forget namespaces that lost all theirs."""
        assert self._job is not None
        seen: dict[str, int] = {}
        for pid in self._job.processes.snapshot().processes:
            link = _namespace_of(pid)
            if link is not None:
                seen.setdefault(link, pid)
        if not seen and self._own is not None:
            seen[self._own] = os.getpid()
        for link in self._namespaces.keys() - seen.keys():
            del self._namespaces[link]
        for link, pid in seen.items():
            known = self._namespaces.get(link)
            if link == self._own:
                self._namespaces.setdefault(link, _Namespace("", None))
            elif known is None:
                self._namespaces[link] = _Namespace(f"@{_name_of(link)}", pid)
            else:
                known.pid = pid

    def _of_interfaces(self, namespace: _Namespace, values: Values) -> None:
        now_ns = time.monotonic_ns()
        process = "self" if namespace.pid is None else namespace.pid
        counters = interface_counters(process)
        self._refresh_links(namespace, list(counters))
        for interface, counts in counters.items():
            if not any(counts):
                continue  # never used: nothing to tell
            prefix = f"net.{interface}{namespace.label}"
            for name, column in _COLUMNS.items():
                key = f"{prefix}.{name}"
                values[key] = self._rates.per_s(key, counts[column], now_ns)
            link = namespace.links.get(interface, Link())
            values[f"{prefix}.link_bits_per_s"] = link.bits_per_s
            values[f"{prefix}.virtual"] = link.is_virtual

    def _refresh_links(self, namespace: _Namespace, interfaces: list[str]) -> None:
        now = time.monotonic()
        new = set(interfaces) - namespace.links.keys()
        if interfaces and (new or now - namespace.links_read > LINKS_AGAIN_S):
            namespace.links = read_links(interfaces, namespace.pid)
            namespace.links_read = now

    def _of_tcp(self, namespace: _Namespace, values: Values) -> None:
        process = "self" if namespace.pid is None else namespace.pid
        counts = _tcp_counts(read_text(f"/proc/{process}/net/snmp") or "")
        for name, column in (("retransmits", "RetransSegs"), ("segments_out", "OutSegs")):
            if column in counts:
                key = f"tcp{namespace.label}.{name}_per_s"
                values[key] = self._rates.per_s(key, counts[column], time.monotonic_ns())

    def _of_infiniband(self, values: Values) -> None:
        for folder in sorted(self._infiniband.glob("*/ports/*")):
            prefix = f"ib.{folder.parent.parent.name}.{folder.name}"
            now_ns = time.monotonic_ns()
            for name, file, factor in (
                ("rx_bytes_per_s", "port_rcv_data", _INFINIBAND_WORD_BYTES),
                ("tx_bytes_per_s", "port_xmit_data", _INFINIBAND_WORD_BYTES),
                ("xmit_wait_per_s", "port_xmit_wait", 1),
            ):
                count = read_int(folder / "counters" / file)
                if count is not None:
                    key = f"{prefix}.{name}"
                    values[key] = self._rates.per_s(key, count * factor, now_ns)
            values[f"{prefix}.link_bits_per_s"] = _port_bits_per_s(read_text(folder / "rate"))


def _namespace_of(pid: int | str) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None


def _name_of(link: str) -> str:
    """The name that `ip netns` gave to the namespace `net:[inode]`, else its inode."""
    inode = link.partition("[")[2].rstrip("]")
    try:
        for entry in NAMED_NAMESPACES.iterdir():
            if str(entry.stat().st_ino) == inode:
                return entry.name
    except OSError:
        pass
    return inode


def _tcp_counts(text: str) -> dict[str, int]:
    """The two `Tcp:` lines of /proc/net/snmp: names, then values (RFC 4022 counters)."""
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith("Tcp:")]
    if len(lines) != 2:
        return {}
    return {name: int(value) for name, value in zip(*lines, strict=False)}


def _port_bits_per_s(text: str | None) -> float | None:
    """A port's rate from "100 Gb/sec (4X EDR)"."""
    words = (text or "").split()
    if len(words) < 2 or words[1] != "Gb/sec":
        return None
    return float(words[0]) * 1e9
