"""Counting batches: sockets by key, without a step of Python per socket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import compress
from operator import not_
from socket import ntohs
from struct import Struct
from typing import Final, TypeVar

from sockwatch.tcp.batch import Batch
from sockwatch.tcp.listening import Listening
from sockwatch.tcp.records import Counts, Destination, Endpoint, ServicePort
from sockwatch.tcp.states import Direction, Family, State, Unowned

TIMER_TIME_WAIT: Final = 3
"""`idiag_timer` of a mini socket (tcp_diag_fill: TIME_WAIT, or FIN_WAIT2 without an owner)."""

PENDING_LIMIT: Final = 16_384
"""Distinct outbound keys collected before they are folded: bounds memory when every connection
goes to a destination of its own."""
DESTINATIONS_LIMIT: Final = 16_384
"""Destinations followed at most (see `thin`)."""

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


class Tally:
    """Counts batches by raw key, which is folded rarely.

    Args:
        listening: tells directions.
        unowned: whether the records tell which sockets no process holds.
    """

    def __init__(self, listening: Listening, *, unowned: bool = True) -> None:
        self._listening = listening
        self._counts = Counts(unowned=Counter() if unowned else None)
        self._inbound: dict[State, Counter[tuple[int, int]]] = {}
        self._outbound: dict[State, Counter[tuple[int, ...]]] = {}

    def add(self, batch: Batch, state: State) -> None:
        """Count a batch as being in `state`."""
        families = batch.families()
        for family in Family:
            _count(self._counts.sockets, (family, state), families.count(family))
        if self._counts.unowned is not None:
            _count_unowned(batch, state, self._counts.unowned)
        inbound, cgroups = self._listening.inbound(batch), batch.cgroups()
        local_ports = batch.local_ports()
        sides = zip(cgroups, local_ports, strict=True)
        self._inbound.setdefault(state, Counter()).update(compress(sides, inbound))
        ephemeral = map(self._listening.ephemeral.__getitem__, local_ports)
        columns = (cgroups, batch.remote_ports(), families, ephemeral, *batch.address_words())
        outbound = self._outbound.setdefault(state, Counter())
        outbound.update(compress(zip(*columns, strict=True), map(not_, inbound)))
        if state is State.SYN_RECV:
            self._counts.half_open.update(_local_ends(batch))
        if len(outbound) > PENDING_LIMIT:
            self._fold_outbound(state, outbound)

    def finish(self) -> Counts:
        """All that was counted."""
        services = self._counts.services
        for state, inbound in self._inbound.items():
            for (cgroup, port), number in inbound.items():
                services[ServicePort(Direction.INBOUND, ntohs(port), cgroup, state)] += number
        for state, outbound in self._outbound.items():
            self._fold_outbound(state, outbound)
        return self._counts

    def _fold_outbound(self, state: State, outbound: Counter[tuple[int, ...]]) -> None:
        services, destinations = self._counts.services, self._counts.destinations
        for (cgroup, raw_port, family, ephemeral, *words), number in outbound.items():
            port = ntohs(raw_port)
            services[ServicePort(Direction.OUTBOUND, port, cgroup, state)] += number
            if ephemeral:
                target = Destination(*_addresses(family, words), port)
                destinations[target, state] += number
        outbound.clear()
        thin(destinations, DESTINATIONS_LIMIT)


def _local_ends(batch: Batch) -> Iterator[Endpoint]:
    """One by one: half-open connections are few, or a flood that the kernel bounds."""
    columns = zip(*batch.address_words(), strict=True)
    for family, port, words in zip(batch.families(), batch.local_ports(), columns, strict=True):
        yield Endpoint(_addresses(family, words)[0], ntohs(port))


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


def _addresses(family: int, words: Sequence[int]) -> tuple[bytes, bytes]:
    """Source and destination from their words: two if the whole batch was IPv4, else eight."""
    half = len(words) // 2
    if family == Family.INET:
        return _WORD.pack(words[0]), _WORD.pack(words[half])
    return plain_address(_ADDRESS.pack(*words[:half])), plain_address(_ADDRESS.pack(*words[half:]))


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
