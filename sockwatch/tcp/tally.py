"""Counting batches: sockets by key, without a step of Python per socket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import compress, repeat
from socket import ntohs
from struct import Struct
from typing import Final, TypeVar

from sockwatch.tcp.batch import Batch, Remote
from sockwatch.tcp.listening import (
    INBOUND,
    NO_PORTS,
    ONLY,
    OUTBOUND_EPHEMERAL,
    OUTBOUND_FIXED,
    Listening,
)
from sockwatch.tcp.records import Counts, Destination, Endpoint, RawDestination, ServicePort
from sockwatch.tcp.states import Direction, Family, State, Unowned

TIMER_TIME_WAIT: Final = 3
"""`idiag_timer` of a mini socket (tcp_diag_fill: TIME_WAIT, or FIN_WAIT2 without an owner)."""

PENDING_LIMIT: Final = 16_384
"""Distinct outbound keys collected before they are folded: bounds memory when every connection
goes to a destination of its own."""
DESTINATIONS_LIMIT: Final = 16_384
"""Destinations followed at most in each state (see `thin`)."""

_INET: Final = Family.INET.value
_PORT_BYTES: Final = 2
_ADDRESS_BYTES: Final = {Family.INET.value: 4, Family.INET6.value: 16}
_MAPPED: Final = bytes(10) + b"\xff\xff"
_RAW_PORT: Final = Struct("=H")
_LOCAL_END: Final = Struct("=B 3x H 2x 16s")
"""Of struct inet_diag_msg (`include/uapi/linux/inet_diag.h`): family, local port as read natively,
local address."""

_WITHOUT_FILE: Final = {
    State.SYN_RECV: Unowned.HALF_OPEN,
    State.ESTABLISHED: Unowned.NOT_ACCEPTED,
    State.CLOSE_WAIT: Unowned.NOT_ACCEPTED,
    State.SYN_SENT: Unowned.ORPHAN,
    State.FIN_WAIT1: Unowned.ORPHAN,
    State.FIN_WAIT2: Unowned.ORPHAN,
    State.CLOSING: Unowned.ORPHAN,
    State.LAST_ACK: Unowned.ORPHAN,
}
"""What a full socket with inode 0 is."""


Key = TypeVar("Key")
_ByState = dict[State, Counter[Key]]
_Side = tuple[int, int]
"""Cgroup and port of a service, the port as read natively."""


class Tally:
    """Counts batches by raw key, which is folded rarely.

    Args:
        listening: tells directions.
        unowned: whether the records tell which sockets no process holds, and what was sent again.
        multipath: whether MPTCP sockets are told of, too.
    """

    def __init__(
        self, listening: Listening, *, unowned: bool = True, multipath: bool = False
    ) -> None:
        self._listening = listening
        self._counts = Counts(
            unowned=Counter() if unowned else None,
            resent=Counter() if unowned else None,
            multipath=Counter() if multipath else None,
        )
        self._inbound: _ByState[_Side] = {}
        self._outbound: _ByState[_Side] = {}
        self._pending: _ByState[Remote] = {}
        """Outbound ones with what they use up ports against, not yet counted by both."""

    def add(self, batch: Batch) -> None:
        """Count connections."""
        _count_families(batch, self._counts.sockets)
        self._add_connections(batch, self._listening.roles_in(batch))
        if batch.state is State.SYN_RECV:
            self._add_half_open(batch)

    def add_subflows(self, batch: Batch) -> None:
        """Count sockets that are each a path of an MPTCP connection, and no connection."""
        _count_families(batch, self._counts.sockets)
        outbound = self._listening.roles_in(batch).translate(ONLY[OUTBOUND_EPHEMERAL])
        self._reach(batch.state, Counter(compress(batch.remotes(), outbound)))

    def add_multipath(self, batch: Batch) -> None:
        """Count MPTCP connections; it is their subflows that take ports."""
        if self._counts.multipath is not None:
            _count_families(batch, self._counts.multipath)
        self._add_connections(batch, self._listening.roles_in(batch).translate(NO_PORTS))

    def _add_connections(self, batch: Batch, roles: bytes) -> None:
        if self._counts.unowned is not None:
            _count_unowned(batch, self._counts.unowned)
        state, cgroups = batch.state, batch.cgroups()
        if INBOUND in roles:
            sides = zip(cgroups, batch.local_ports(), strict=True)
            _add(self._inbound, state, sides, roles.translate(ONLY[INBOUND]))
        if OUTBOUND_FIXED in roles:
            sides = zip(cgroups, batch.remote_ports(), strict=True)
            _add(self._outbound, state, sides, roles.translate(ONLY[OUTBOUND_FIXED]))
        if OUTBOUND_EPHEMERAL in roles:
            mask = roles.translate(ONLY[OUTBOUND_EPHEMERAL])
            pending = _add(self._pending, state, batch.remotes(), mask)
            if len(pending) > PENDING_LIMIT:
                self._settle(state, pending)

    def _add_half_open(self, batch: Batch) -> None:
        """Many of these go to one port where they are many at all."""
        ends = [*map(_LOCAL_END.unpack_from, batch.records())]
        _count_ends(ends, self._counts.half_open)
        if self._counts.resent is not None:
            _count_ends(compress(ends, batch.retransmits()), self._counts.resent)

    def finish(self) -> Counts:
        """All that was counted."""
        for state, pending in self._pending.items():
            self._settle(state, pending)
        self._name(Direction.INBOUND, self._inbound)
        self._name(Direction.OUTBOUND, self._outbound)
        return self._counts

    def _settle(self, state: State, pending: Counter[Remote]) -> None:
        outbound = self._outbound.setdefault(state, Counter())
        known = outbound.get  # here and below: there may be many thousands
        for (_, remote, cgroup), number in pending.items():
            side = cgroup, *_RAW_PORT.unpack_from(remote)
            outbound[side] = known(side, 0) + number
        self._reach(state, pending)
        pending.clear()

    def _reach(self, state: State, connections: Counter[Remote]) -> None:
        destinations = self._counts.destinations.setdefault(state, Counter())
        known = destinations.get
        for (family, remote, _), number in connections.items():
            key = remote[:6] + remote[18:22] if family == _INET else _raw_destination(remote)
            destinations[key] = known(key, 0) + number
        thin(destinations, DESTINATIONS_LIMIT)

    def _name(self, direction: Direction, counted: _ByState[_Side]) -> None:
        for state, sides in counted.items():
            cgroups, raw_ports = zip(*sides, strict=True)
            ports = map(ntohs, raw_ports)
            rows = zip(repeat(direction), ports, cgroups, repeat(state))
            names = map(ServicePort._make, rows)
            dict.update(self._counts.services, zip(names, sides.values(), strict=True))


def _add(counted: _ByState[Key], state: State, keys: Iterable[Key], mask: bytes) -> Counter[Key]:
    """Count the keys for which the mask is 1; the counter of the state."""
    counter = counted.setdefault(state, Counter())
    counter.update(compress(keys, mask))
    return counter


def _count_ends(ends: Iterable[tuple[int, int, bytes]], into: Counter[Endpoint]) -> None:
    for (family, raw_port, address), number in Counter(ends).items():
        plain = plain_address(address[: _ADDRESS_BYTES[family]])
        into[Endpoint(plain, ntohs(raw_port))] += number


def _count_families(batch: Batch, into: Counter[tuple[Family, State]]) -> None:
    families = batch.families()
    for family in Family:
        _count(into, (family, batch.state), families.count(family))


def _count_unowned(batch: Batch, unowned: Counter[Unowned]) -> None:
    """Sockets that no process holds: minis, and full ones without a file."""
    minis = batch.timers().count(TIMER_TIME_WAIT)
    _count(unowned, Unowned.MINI, minis)
    if batch.state in _WITHOUT_FILE:
        _count(unowned, _WITHOUT_FILE[batch.state], batch.inodes().count(0) - minis)


def _count(counter: Counter[Key], key: Key, number: int) -> None:
    """Add to a counter without leaving zeros in it."""
    if number:
        counter[key] += number


def plain_address(address: bytes) -> bytes:
    """An address with the v4-mapped form (RFC 4291 section 2.5.5.2) reduced to IPv4."""
    return address.removeprefix(_MAPPED)


def thin(counter: Counter[Key], limit: int) -> None:
    """Once there are more than twice as many, keep the heaviest `limit` keys.

    This is the summary of Misra and Gries: the count of the heaviest key that goes is taken from
    all, so whatever is left is too low by at most (all that was counted) / `limit`.
    """
    if len(counter) <= 2 * limit:
        return
    heaviest = counter.most_common(limit + 1)
    spent = heaviest.pop()[1]
    counter.clear()
    counter.update({key: number - spent for key, number in heaviest if number > spent})


def _raw_destination(remote: bytes) -> RawDestination:
    """The key of an IPv6 destination; that of an IPv4 one if that is what it is in truth."""
    if remote.startswith(_MAPPED, 2) and remote.startswith(_MAPPED, 18):
        return remote[:2] + remote[14:18] + remote[30:]
    return remote


def destination(raw: RawDestination) -> Destination:
    """What a key of `Counts.destinations` stands for."""
    port, ends = raw[:_PORT_BYTES], raw[_PORT_BYTES:]
    source, target = ends[: len(ends) // 2], ends[len(ends) // 2 :]
    return Destination(plain_address(source), plain_address(target), int.from_bytes(port, "big"))
