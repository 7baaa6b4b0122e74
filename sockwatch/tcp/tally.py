"""Counting batches: sockets by key, without a step of Python per socket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from socket import ntohs
from struct import Struct
from typing import Final, TypeVar

from sockwatch.tcp.batch import Batch
from sockwatch.tcp.listening import (
    INBOUND,
    NO_PORTS,
    ONLY,
    OUTBOUND_EPHEMERAL,
    OUTBOUND_FIXED,
    Listening,
)
from sockwatch.tcp.records import Counts, Destination, Endpoint, ServicePort
from sockwatch.tcp.states import Direction, Family, State, Unowned

TIMER_TIME_WAIT: Final = 3
"""`idiag_timer` of a mini socket (tcp_diag_fill: TIME_WAIT, or FIN_WAIT2 without an owner)."""

PENDING_LIMIT: Final = 16_384
"""Distinct outbound keys collected before they are folded: bounds memory when every connection
goes to a destination of its own."""
DESTINATIONS_LIMIT: Final = 16_384
"""Destinations followed at most (see `thin`)."""

_INET_WORDS: Final = 2
"""Address words of an IPv4 connection: one for each end."""
_WORD: Final = Struct("=I")
_ADDRESS: Final = Struct("=IIII")
_MAPPED: Final = bytes(10) + b"\xff\xff"

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
        self._inbound: _ByState[tuple[int, int]] = {}
        self._fixed: _ByState[tuple[int, int]] = {}
        self._outbound: _ByState[tuple[int, ...]] = {}

    def add(self, batch: Batch, state: State) -> None:
        """Count a batch as being in `state`."""
        _count_families(batch, state, self._counts.sockets)
        self._add_connections(batch, state, self._listening.roles_in(batch))
        if state is State.SYN_RECV:
            self._add_half_open(batch)

    def add_subflows(self, batch: Batch, state: State) -> None:
        """Count sockets that are each a path of an MPTCP connection, and no connection."""
        _count_families(batch, state, self._counts.sockets)
        keys = zip(batch.remote_ports(), *_address_columns(batch), strict=True)
        outbound = self._listening.roles_in(batch).translate(ONLY[OUTBOUND_EPHEMERAL])
        destinations = self._counts.destinations
        for (raw_port, *words), number in Counter(compress(keys, outbound)).items():
            destinations[Destination(*_addresses(words), ntohs(raw_port)), state] += number
        thin(destinations, DESTINATIONS_LIMIT)

    def add_multipath(self, batch: Batch, state: State) -> None:
        """Count MPTCP connections; it is their subflows that take ports."""
        if self._counts.multipath is not None:
            _count_families(batch, state, self._counts.multipath)
        self._add_connections(batch, state, self._listening.roles_in(batch).translate(NO_PORTS))

    def _add_connections(self, batch: Batch, state: State, roles: bytes) -> None:
        if self._counts.unowned is not None:
            _count_unowned(batch, state, self._counts.unowned)
        cgroups = batch.cgroups()
        if INBOUND in roles:
            sides = zip(cgroups, batch.local_ports(), strict=True)
            _add(self._inbound, state, sides, roles.translate(ONLY[INBOUND]))
        if OUTBOUND_FIXED in roles:
            sides = zip(cgroups, batch.remote_ports(), strict=True)
            _add(self._fixed, state, sides, roles.translate(ONLY[OUTBOUND_FIXED]))
        if OUTBOUND_EPHEMERAL in roles:
            columns = (cgroups, batch.remote_ports(), *_address_columns(batch))
            mask = roles.translate(ONLY[OUTBOUND_EPHEMERAL])
            outbound = _add(self._outbound, state, zip(*columns, strict=True), mask)
            if len(outbound) > PENDING_LIMIT:
                self._fold_outbound(state, outbound)

    def _add_half_open(self, batch: Batch) -> None:
        ends = [*_local_ends(batch)]
        self._counts.half_open.update(ends)
        if self._counts.resent is not None:
            self._counts.resent.update(compress(ends, batch.retransmits()))

    def finish(self) -> Counts:
        """All that was counted."""
        self._fold_ports(Direction.INBOUND, self._inbound)
        self._fold_ports(Direction.OUTBOUND, self._fixed)
        for state, outbound in self._outbound.items():
            self._fold_outbound(state, outbound)
        return self._counts

    def _fold_ports(self, direction: Direction, counted: _ByState[tuple[int, int]]) -> None:
        services = self._counts.services
        for state, keys in counted.items():
            for (cgroup, raw_port), number in keys.items():
                services[ServicePort(direction, ntohs(raw_port), cgroup, state)] += number

    def _fold_outbound(self, state: State, outbound: Counter[tuple[int, ...]]) -> None:
        services, destinations = self._counts.services, self._counts.destinations
        for (cgroup, raw_port, *words), number in outbound.items():
            port = ntohs(raw_port)
            services[ServicePort(Direction.OUTBOUND, port, cgroup, state)] += number
            destinations[Destination(*_addresses(words), port), state] += number
        outbound.clear()
        thin(destinations, DESTINATIONS_LIMIT)


def _add(counted: _ByState[Key], state: State, keys: Iterable[Key], mask: bytes) -> Counter[Key]:
    """Count the keys for which the mask is 1; the counter of the state."""
    counter = counted.setdefault(state, Counter())
    counter.update(compress(keys, mask))
    return counter


def _local_ends(batch: Batch) -> Iterator[Endpoint]:
    """One by one: half-open connections are few, or a flood that the kernel bounds."""
    columns = zip(*_address_columns(batch), strict=True)
    for port, words in zip(batch.local_ports(), columns, strict=True):
        yield Endpoint(_addresses(words)[0], ntohs(port))


def _count_families(batch: Batch, state: State, into: Counter[tuple[Family, State]]) -> None:
    families = batch.families()
    for family in Family:
        _count(into, (family, state), families.count(family))


def _count_unowned(batch: Batch, state: State, unowned: Counter[Unowned]) -> None:
    """Sockets that no process holds: minis, and full ones without a file."""
    minis = len(batch) if state is State.TIME_WAIT else batch.timers().count(TIMER_TIME_WAIT)
    _count(unowned, Unowned.MINI, minis)
    if state in _WITHOUT_FILE:
        _count(unowned, _WITHOUT_FILE[state], batch.inodes().count(0) - minis)


def _count(counter: Counter[Key], key: Key, number: int) -> None:
    """Add to a counter without leaving zeros in it."""
    if number:
        counter[key] += number


def _address_columns(batch: Batch) -> Sequence[Sequence[int]]:
    """Two words if all of a batch is IPv4; else the family and eight words."""
    columns = batch.address_words()
    return columns if len(columns) == _INET_WORDS else [batch.families(), *columns]


def _addresses(words: Sequence[int]) -> tuple[bytes, bytes]:
    """Source and destination from a row of `_address_columns`."""
    if len(words) == _INET_WORDS:
        return _WORD.pack(words[0]), _WORD.pack(words[1])
    family, source, destination = words[0], words[1:5], words[5:]
    if family == Family.INET:
        return _WORD.pack(source[0]), _WORD.pack(destination[0])
    return plain_address(_ADDRESS.pack(*source)), plain_address(_ADDRESS.pack(*destination))


def plain_address(address: bytes) -> bytes:
    """An address with the v4-mapped form (RFC 4291 section 2.5.5.2) reduced to IPv4."""
    is_mapped = len(address) == _ADDRESS.size and address.startswith(_MAPPED)
    return address[len(_MAPPED) :] if is_mapped else address


def thin(counter: Counter[tuple[Destination, State]], limit: int) -> None:
    """Keep the heaviest `limit` keys (the summary of Misra and Gries).

    The count of the heaviest key that goes is taken from all, so whatever is left is too low by
    at most (all that was counted) / `limit`, and exact as long as `limit` was never exceeded.
    """
    if len(counter) <= 2 * limit:
        return
    heaviest = counter.most_common(limit + 1)
    spent = heaviest.pop()[1]
    counter.clear()
    counter.update({key: number - spent for key, number in heaviest if number > spent})
