"""Which local ports are listened on: what tells inbound connections from outbound ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from socket import htons
from typing import Final

from sockwatch.tcp.batch import Batch
from sockwatch.tcp.changes import changes
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Direction, Family

PORTS: Final = 1 << 16
EVERY_PORT: Final = b"\1" * PORTS
"""Flags that are set for all ports."""

OUTBOUND_EPHEMERAL: Final = 0
"""The role of a local port that nobody listens on and that connect() takes by itself."""
INBOUND: Final = 1
"""The role of a local port that is listened on, or was when the connection came."""
OUTBOUND_FIXED: Final = 2
"""The role of a local port that nobody listens on and that was chosen by an application."""
ONLY: Final = tuple(
    bytes(role == chosen for role in range(256))
    for chosen in (OUTBOUND_EPHEMERAL, INBOUND, OUTBOUND_FIXED)
)
"""For each role a table for bytes.translate: 1 for it, 0 for the others."""

NO_PORTS: Final = bytes([OUTBOUND_FIXED, *range(1, 256)])
"""A table for bytes.translate: roles of connections that take no ephemeral port."""

_SHIFTS: Final = {Family.INET: 0, Family.INET6: 4}
"""Where in `Listening.roles` the role for a family stands."""
_ROLE_MASK: Final = 0b11
_INET6: Final = 0x80
"""Marks an IPv6 connection beside the roles of its port."""
_MARKS: Final = bytes(_INET6 * (family == Family.INET6) for family in range(256))
_ROLES: Final = bytes(
    both >> _SHIFTS[Family.INET6 if both & _INET6 else Family.INET] & _ROLE_MASK
    for both in range(256)
)
"""Tables for bytes.translate: from families to marks, from marked roles to the one that counts."""

_CHOSEN: Final = 0b100
"""Marks a connection whose remote port is one that connect() takes by itself."""
_CHOSEN_MARKS: Final = bytes([0, *[_CHOSEN] * 255])
_LEFT_BEHIND: Final = bytes(
    INBOUND if both == _CHOSEN | OUTBOUND_FIXED else both & _ROLE_MASK for both in range(256)
)
"""Tables for bytes.translate: from flags to marks, from marked roles to what they are in truth."""

_ANY6: Final = bytes(16)
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


class Listening:
    """The listened-on ports of one network namespace, by address family.

    A listener on `::` serves IPv4 too unless it is IPv6-only, and so does one on a v4-mapped
    address (RFC 3493 section 5.3).

    Connections outlive their listener: a service that hangs while it ends has closed that first. So
    what has a port that connect() takes at the other end and one that it does not take here, came
    from there. (Where it takes nearly all ports, that cannot be told.)
    """

    __slots__ = ("_chosen", "_newest", "roles")

    def __init__(self, listeners: Iterable[Row], ephemeral: bytes = EVERY_PORT) -> None:
        """Tell what local ports mean.

        Args:
            listeners: the listening sockets.
            ephemeral: flags of the ports that connect() takes by itself, indexed as `roles`.
        """
        self.roles = bytearray(_roles_of_unused(ephemeral))
        """The roles of each of 65,536 ports, IPv6 in the upper four bits; indexed by a port as the
        record's two bytes read natively, so that ports in bulk are looked up as they are."""
        self._chosen = _marks_of_chosen(ephemeral)
        self._newest: tuple[Batch, bytes] | None = None
        for row in listeners:
            at = htons(row.source_port)
            for family in _families_served(row):
                self.roles[at] &= ~(_ROLE_MASK << _SHIFTS[family])
                self.roles[at] |= INBOUND << _SHIFTS[family]

    def role(self, family: Family, local: int, remote: int) -> int:
        """The role of a local port for a connection of `family`, given both its ports."""
        role = self.roles[htons(local)] >> _SHIFTS[family] & _ROLE_MASK
        return _LEFT_BEHIND[role | self._chosen[htons(remote)]]

    def direction(self, family: Family, local: int, remote: int) -> Direction:
        """The direction of a connection of `family` with these ports."""
        inbound = self.role(family, local, remote) == INBOUND
        return Direction.INBOUND if inbound else Direction.OUTBOUND

    def roles_in(self, batch: Batch) -> bytes:
        """The role of each local port of a batch; asked again at once, it need not be looked up."""
        if self._newest is None or self._newest[0] is not batch:
            self._newest = batch, self._looked_up(batch)
        return self._newest[1]

    def _looked_up(self, batch: Batch) -> bytes:
        ports = _entries(self.roles, batch.local_ports())
        roles = _either(ports, batch.families().translate(_MARKS)).translate(_ROLES)
        if OUTBOUND_FIXED not in roles:
            return roles
        return _either(roles, _entries(self._chosen, batch.remote_ports())).translate(_LEFT_BEHIND)

    def inbound(self, batch: Batch) -> bytes:
        """1 for each inbound connection of a batch, 0 for each outbound one."""
        return self.roles_in(batch).translate(ONLY[INBOUND])


class ListeningMemory:
    """`Listening`, but only made anew where ports have changed: mostly it is queues that do."""

    def __init__(self) -> None:
        self._rows: Sequence[Row] = ()
        self._ephemeral = b""
        self._last = Listening(())

    def __call__(self, rows: Sequence[Row], ephemeral: bytes) -> Listening:
        """See `Listening`."""
        if ephemeral != self._ephemeral or not _serve_alike(self._rows, rows):
            self._last = Listening(rows, ephemeral)
        self._rows, self._ephemeral = rows, ephemeral
        return self._last


def _serve_alike(before: Sequence[Row], rows: Sequence[Row]) -> bool:
    changed = changes(before, rows)
    return changed is not None and all(_served(old) == _served(new) for old, new in changed)


def _served(row: Row) -> tuple[object, ...]:
    return row.family, row.source, row.source_port, row.v6_only


def _entries(table: bytes | bytearray, ports: Sequence[int]) -> bytes:
    # Two ports in front: of less than two values itemgetter makes no tuple.
    return bytes(itemgetter(0, 0, *ports)(table)[2:])


def _either(some: bytes, others: bytes) -> bytes:
    """The bits of both, byte by byte."""
    both = int.from_bytes(some, "big") | int.from_bytes(others, "big")
    return both.to_bytes(len(some), "big")


@lru_cache(maxsize=4)
def _marks_of_chosen(ephemeral: bytes) -> bytes:
    """Marks of the ports that connect() takes; none where they are not known, as any may be."""
    return bytes(PORTS) if ephemeral == EVERY_PORT else ephemeral.translate(_CHOSEN_MARKS)


@lru_cache(maxsize=4)
def _roles_of_unused(ephemeral: bytes) -> bytes:
    """The roles of ports that nobody listens on."""
    fixed, free = (
        sum(role << shift for shift in _SHIFTS.values())
        for role in (OUTBOUND_FIXED, OUTBOUND_EPHEMERAL)
    )
    return ephemeral.translate(bytes([fixed, *[free] * 255]))


def _families_served(listener: Row) -> tuple[Family, ...]:
    if listener.family is Family.INET:
        return (Family.INET,)
    address = listener.source
    dual_stack = address == _ANY6 and not listener.v6_only
    if dual_stack or address.startswith(_V4_MAPPED):
        return (Family.INET, Family.INET6)
    return (Family.INET6,)
