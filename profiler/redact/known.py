"""What is known to be private before anything is redacted."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import kinds, named


@dataclass
class Known:
    """What is known to be private before anything is redacted.

    `projects` are folders whose inside is shown relative to them; `hosts` and `users` are names.
    """

    projects: set[str] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)

    def look_at(self, text: str) -> None:
        """Learn the names of users from the paths in a text."""
        if "/" in text or "\\" in text:
            self.users.update(kinds.HOME.findall(text))

    def look_for_hosts(self, text: str) -> None:
        """Learn the names of hosts from what is set in a text: `--master_addr=…`."""
        found = [match["value"] for match in named.HOST_ASSIGNED.finditer(text)]
        options = named.OPTION.finditer(text)
        found += [match["value"] for match in options if named.HOST_NAME.search(match["name"])]
        for value in found:
            hosts = (match.group() for match in named.ONE_HOST.finditer(value))
            names = (host.partition(":")[0].strip("\"'") for host in hosts)
            self.hosts.update(name for name in names if named.is_host(name, sure=True))
