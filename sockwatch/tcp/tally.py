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
from sockwatch.tcp.records import Counts, Destination, Endpoint, RawDestination, ServicePort
from sockwatch.tcp.states import Direction, Family, State, Unowned

TIMER_TIME_WAIT: Final = 3
"""`idiag_timer` of a mini socket (tcp_diag_fill: TIME_WAIT, or FIN_WAIT2 without an owner)."""

PENDING_LIMIT: Final = 16_384
"""Distinct outbound keys collected before they are folded: bounds memory when every connection
goes to a destination of its own."""
DESTINATIONS_LIMIT: Final = 16_384
"""Destinations followed at most in each state (see `thin`)."""

_INET_WORDS: Final = 2
"""Address words of an IPv4 connection: one for each end."""
_INET_DESTINATION: Final = 1 + _INET_WORDS
"""Length of the key of an IPv4 destination."""
_WORD: Final = Struct("=I")
_ADDRESS: Final = Struct("=IIII")
_MAPPED: Final = bytes(10) + b"\xff\xff"
_MAPPED_WORDS: Final = Struct("=III").unpack(_MAPPED)

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
        self._inbound: _ByState[tuple[int, ...]] = {}
        self._outbound: _ByState[tuple[int, ...]] = {}
        self._pending: _ByState[tuple[int, ...]] = {}
        """Outbound ones with what they use up ports against, not yet counted by both."""

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
        thin(_add(self._counts.destinations, state, keys, outbound), DESTINATIONS_LIMIT)

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
            _add(self._outbound, state, sides, roles.translate(ONLY[OUTBOUND_FIXED]))
        if OUTBOUND_EPHEMERAL in roles:
            columns = (cgroups, batch.remote_ports(), *_address_columns(batch))
            mask = roles.translate(ONLY[OUTBOUND_EPHEMERAL])
            pending = _add(self._pending, state, zip(*columns, strict=True), mask)
            if len(pending) > PENDING_LIMIT:
                self._settle(state, pending)

    def _add_half_open(self, batch: Batch) -> None:
        ends = [*_local_ends(batch)]
        self._counts.half_open.update(ends)
        if self._counts.resent is not None:
            self._counts.resent.update(compress(ends, batch.retransmits()))

    def finish(self) -> Counts:
        """All that was counted."""
        for state, pending in self._pending.items():
            self._settle(state, pending)
        for counted in self._counts.destinations.values():
            _normalise(counted)
        self._name(Direction.INBOUND, self._inbound)
        self._name(Direction.OUTBOUND, self._outbound)
        return self._counts

    def _settle(self, state: State, pending: Counter[tuple[int, ...]]) -> None:
        outbound = self._outbound.setdefault(state, Counter())
        destinations = self._counts.destinations.setdefault(state, Counter())
        for key, number in pending.items():
            outbound[key[:2]] = outbound.get(key[:2], 0) + number
            destinations[key[1:]] = destinations.get(key[1:], 0) + number
        pending.clear()
        thin(destinations, DESTINATIONS_LIMIT)

    def _name(self, direction: Direction, counted: _ByState[tuple[int, ...]]) -> None:
        services = self._counts.services
        for state, keys in counted.items():
            for (cgroup, raw_port), number in keys.items():
                services[ServicePort(direction, ntohs(raw_port), cgroup, state)] = number


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


def _normalise(counted: Counter[RawDestination]) -> None:
    """Give each destination one key, whatever else was in the batches it came in."""
    for key in [key for key in counted if len(key) != _INET_DESTINATION]:
        number = counted.pop(key)
        counted[_normal(*key)] += number


def _normal(raw_port: int, family: int, *words: int) -> RawDestination:
    source, target = words[:4], words[4:]
    if family == Family.INET:
        return raw_port, source[0], target[0]
    if source[:3] == target[:3] == _MAPPED_WORDS:
        return raw_port, source[3], target[3]
    return raw_port, *words


def destination(raw: RawDestination) -> Destination:
    """What a key of `Counts.destinations` stands for."""
    raw_port, *words = raw
    if len(words) == _INET_WORDS:
        source, target = map(_WORD.pack, words)
    else:
        source, target = _ADDRESS.pack(*words[:4]), _ADDRESS.pack(*words[4:])
    return Destination(plain_address(source), plain_address(target), ntohs(raw_port))
