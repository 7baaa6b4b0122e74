"""Which local ports are listened on: what tells inbound connections from outbound ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import getitem
from socket import htons
from typing import Final

from sockwatch.tcp.batch import Batch
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Direction, Family

PORTS: Final = 1 << 16
EVERY_PORT: Final = b"\1" * PORTS
"""Flags that are set for all ports."""
_ANY6: Final = bytes(16)
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


class Listening:
    """The listened-on ports of one network namespace, by address family.

    A listener on `::` serves IPv4 too unless it is IPv6-only, and so does one on a v4-mapped
    address (RFC 3493 section 5.3).
    """

    __slots__ = ("ephemeral", "raw")

    def __init__(self, listeners: Iterable[Row], ephemeral: bytes = EVERY_PORT) -> None:
        flags = {family.value: bytearray(PORTS) for family in Family}
        for row in listeners:
            for family in _families_served(row):
                flags[family][htons(row.source_port)] = 1
        self.raw: Mapping[int, bytearray] = flags
        """By family number: 65,536 flags, indexed by a port as the record's two bytes read
        natively, so that a bulk decoder looks ports up without converting them."""
        self.ephemeral = ephemeral
        """Flags of the ports that connect() takes by itself, indexed likewise."""

    def direction(self, family: Family, port: int) -> Direction:
        """The direction of a connection of `family` whose local port is `port`."""
        return Direction.INBOUND if self.raw[family][htons(port)] else Direction.OUTBOUND

    def inbound(self, batch: Batch) -> Sequence[int]:
        """1 for each inbound connection of a batch, 0 for each outbound one."""
        families, ports = batch.families(), batch.local_ports()
        first = families[:1]
        if families.count(first) == len(families):
            return [*map(self.raw[first[0]].__getitem__, ports)]
        return [*map(getitem, map(self.raw.__getitem__, families), ports)]


def _families_served(listener: Row) -> tuple[Family, ...]:
    if listener.family is Family.INET:
        return (Family.INET,)
    address = listener.source
    dual_stack = address == _ANY6 and not listener.v6_only
    if dual_stack or address.startswith(_V4_MAPPED):
        return (Family.INET, Family.INET6)
    return (Family.INET6,)
