"""Which local ports are listened on: what tells inbound connections from outbound ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import compress
from operator import getitem, is_not
from socket import htons
from typing import Final

from sockwatch.tcp.batch import Batch
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Direction, Family

PORTS: Final = 1 << 16
EVERY_PORT: Final = b"\1" * PORTS
"""Flags that are set for all ports."""

OUTBOUND_EPHEMERAL: Final = 0
"""The role of a local port that nobody listens on and that connect() takes by itself."""
INBOUND: Final = 1
"""The role of a local port that is listened on."""
OUTBOUND_FIXED: Final = 2
"""The role of a local port that nobody listens on and that was chosen by an application."""
ONLY: Final = tuple(
    bytes(role == chosen for role in range(256))
    for chosen in (OUTBOUND_EPHEMERAL, INBOUND, OUTBOUND_FIXED)
)
"""For each role a table for bytes.translate: 1 for it, 0 for the others."""

NO_PORTS: Final = bytes([OUTBOUND_FIXED, *range(1, 256)])
"""A table for bytes.translate: roles of connections that take no ephemeral port."""

_ANY6: Final = bytes(16)
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


class Listening:
    """The listened-on ports of one network namespace, by address family.

    A listener on `::` serves IPv4 too unless it is IPv6-only, and so does one on a v4-mapped
    address (RFC 3493 section 5.3).
    """

    __slots__ = ("_newest", "roles")

    def __init__(self, listeners: Iterable[Row], ephemeral: bytes = EVERY_PORT) -> None:
        """Tell what local ports mean.

        Args:
            listeners: the listening sockets.
            ephemeral: flags of the ports that connect() takes by itself, indexed as `roles`.
        """
        unused = _roles_of_unused(ephemeral)
        self.roles: Mapping[int, bytearray] = {family.value: bytearray(unused) for family in Family}
        """By family number: the role of each of 65,536 ports, indexed by a port as the record's
        two bytes read natively, so that ports in bulk are looked up without converting them."""
        self._newest: tuple[Batch, bytes] | None = None
        for row in listeners:
            for family in _families_served(row):
                self.roles[family][htons(row.source_port)] = INBOUND

    def direction(self, family: Family, port: int) -> Direction:
        """The direction of a connection of `family` whose local port is `port`."""
        listened = self.roles[family][htons(port)] == INBOUND
        return Direction.INBOUND if listened else Direction.OUTBOUND

    def roles_in(self, batch: Batch) -> bytes:
        """The role of each local port of a batch; asked again at once, it need not be looked up."""
        if self._newest is None or self._newest[0] is not batch:
            self._newest = batch, self._looked_up(batch)
        return self._newest[1]

    def _looked_up(self, batch: Batch) -> bytes:
        families, ports = batch.families(), batch.local_ports()
        first = families[:1]
        if families.count(first) == len(families):
            return bytes(map(self.roles[first[0]].__getitem__, ports))
        return bytes(map(getitem, map(self.roles.__getitem__, families), ports))

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
    if len(before) != len(rows):
        return False
    changed = compress(zip(before, rows, strict=True), map(is_not, before, rows))
    return all(_served(old) == _served(new) for old, new in changed)


def _served(row: Row) -> tuple[object, ...]:
    return row.family, row.source, row.source_port, row.v6_only


@lru_cache(maxsize=4)
def _roles_of_unused(ephemeral: bytes) -> bytes:
    """The roles of ports that nobody listens on."""
    return ephemeral.translate(bytes([OUTBOUND_FIXED, *[OUTBOUND_EPHEMERAL] * 255]))


def _families_served(listener: Row) -> tuple[Family, ...]:
    if listener.family is Family.INET:
        return (Family.INET,)
    address = listener.source
    dual_stack = address == _ANY6 and not listener.v6_only
    if dual_stack or address.startswith(_V4_MAPPED):
        return (Family.INET, Family.INET6)
    return (Family.INET6,)
