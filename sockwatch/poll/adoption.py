"""Listeners that a service manager opened for somebody else: they get the unit that they serve.

Theory of operation. A socket carries the cgroup of who made it, and an accepted one that of its
listener. Where systemd listens for a service (socket activation) both carry systemd's own. Who
holds the socket is in the cgroup of the service, so where processes are known that is its unit.
With Accept=yes nobody but systemd holds the listener, and each connection has a unit of its own,
named after its peer; the unit is then the template of those that hold stuck connections. What was
found out about a listener holds as long as it exists: between two starts of the service systemd
alone holds it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from socket import ntohs
from typing import Final, NamedTuple

from sockwatch.observe.listeners import UnitOf
from sockwatch.observe.snapshot import Marked
from sockwatch.tcp.records import Row

CONNECTIONS_LIMIT: Final = 1_000
"""Stuck connections that are asked in one pass whose their listener is."""

_MANAGER: Final = re.compile(r"(?:init\.scope|user@\d+\.service)?")
_INSTANCE: Final = re.compile(r"@.+(?=\.service$)")

Heir = Callable[[int], str]
"""Names the unit of who holds the socket with that inode, empty if nobody is known to."""


class Came(NamedTuple):
    """From which listener a connection has what it carries."""

    port: int
    cgroup: int


def is_manager(unit: str) -> bool:
    """Whether a unit opens sockets for others, or is not known."""
    return _MANAGER.fullmatch(unit) is not None


class Adoption:
    """Remembers whose each listener is."""

    def __init__(self) -> None:
        self._units: Mapping[int, str] = {}

    def units(
        self, rows: Sequence[Row], unit_of: UnitOf, heir: Heir, marked: Iterable[Marked] = ()
    ) -> Mapping[int, str]:
        """The units of listeners that somebody else opened for them, by inode.

        Args:
            rows: the listening sockets.
            unit_of: names cgroups.
            heir: names the units of holders.
            marked: stuck connections.
        """
        cgroups = {row.cgroup or 0 for row in rows}
        managers = {cgroup for cgroup in cgroups if is_manager(unit_of(cgroup))}
        borrowed = {
            row.inode: Came(row.source_port, row.cgroup or 0)
            for row in rows
            if row.inode and (row.cgroup or 0) in managers
        }
        found = {inode: self._units.get(inode) or heir(inode) for inode in borrowed}
        without = {came: inode for inode, came in borrowed.items() if not found[inode]}
        if without:
            found |= _templates(without, heir, marked)
        self._units = {inode: unit for inode, unit in found.items() if unit}
        return self._units


def _templates(without: Mapping[Came, int], heir: Heir, marked: Iterable[Marked]) -> dict[int, str]:
    """Units of listeners that only their manager holds, by those who hold their connections."""
    found: dict[int, str] = {}
    connections = (one for batch in marked for one in _connections(batch) if one[0] in without)
    for came, inode in islice(connections, CONNECTIONS_LIMIT):
        if without[came] not in found and (unit := heir(inode)):
            found[without[came]] = _INSTANCE.sub("@", unit)
    return found


def _connections(marked: Marked) -> Iterator[tuple[Came, int]]:
    """The inbound ones, with their inodes."""
    ports, inodes = marked.records.local_ports(), marked.records.inode_numbers()
    columns = zip(marked.inbound, ports, marked.cgroups, inodes, strict=True)
    for inbound, port, cgroup, inode in columns:
        if inbound and inode:
            yield Came(ntohs(port), cgroup), inode
