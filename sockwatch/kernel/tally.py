"""Counting a dump: rows or whole columns in, sockets by key out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import compress
from operator import getitem, not_
from socket import ntohs
from struct import Struct
from typing import Final

from sockwatch.kernel.columns import ADDRESSES, ADDRESSES_INET, INODE, Table
from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.rows import read_rows
from sockwatch.kernel.wire import DUMP_UNFINISHED, Dump
from sockwatch.tcp.listening import Listening
from sockwatch.tcp.records import Counts, Destination, Row, ServicePort
from sockwatch.tcp.states import Direction, Family, State, Unowned

TIMER_TIME_WAIT: Final = 3
"""`idiag_timer` of a mini socket (inet_diag_fill: TIME_WAIT, or FIN_WAIT2 without an owner)."""

PENDING_LIMIT: Final = 16_384
"""Distinct outbound keys collected before they are folded: bounds memory when every connection
goes to a destination of its own."""
DESTINATIONS_LIMIT: Final = 16_384
"""Destinations followed at most (see `thin`)."""

_WORD: Final = Struct("=I")
_ADDRESS: Final = Struct("=IIII")
_MAPPED: Final = bytes(10) + b"\xff\xff"

_OPEN: Final = frozenset({State.ESTABLISHED, State.CLOSE_WAIT})
_ORPHANABLE: Final = frozenset(
    {State.FIN_WAIT1, State.FIN_WAIT2, State.CLOSING, State.LAST_ACK, State.SYN_SENT}
)


def unowned_kind(state: State, timer: int | None, inode: int | None) -> Unowned | None:
    """Why no process holds a socket, `None` if one does (kernel record, see `Unowned`)."""
    if inode != 0:
        return None
    if state is State.SYN_RECV:
        return Unowned.HALF_OPEN
    if timer == TIMER_TIME_WAIT:
        return Unowned.MINI
    if state in _OPEN:
        return Unowned.NOT_ACCEPTED
    return Unowned.ORPHAN if state in _ORPHANABLE else None


def plain_address(address: bytes) -> bytes:
    """An address with the v4-mapped form (RFC 4291 section 2.5.5.2) reduced to IPv4."""
    return (
        address[12:] if address.startswith(_MAPPED) and len(address) == _ADDRESS.size else address
    )


def count_rows(rows: Iterable[Row], listening: Listening, counts: Counts) -> None:
    """Add rows, one by one, to `counts`."""
    for row in rows:
        counts.sockets[row.family, row.state] += 1
        direction = listening.direction(row.family, row.source_port)
        port = row.source_port if direction is Direction.INBOUND else row.destination_port
        counts.services[ServicePort(direction, port, row.cgroup or 0, row.state)] += 1
        if direction is Direction.OUTBOUND:
            target = plain_address(row.source), plain_address(row.destination)
            counts.destinations[Destination(*target, row.destination_port)] += 1
        kind = unowned_kind(row.state, row.timer, row.inode)
        if kind is not None and counts.unowned is not None:
            counts.unowned[kind] += 1
    thin(counts.destinations, DESTINATIONS_LIMIT)


def tally_dump(dump: Dump, state: State, listening: Listening, counts: Counts) -> None:
    """Count the dump of one state, mostly without looking at a row.

    Raises:
        PassFailure: the dump is not complete; `counts` must be discarded.
    """
    tally = _Tally(state, listening, counts)
    for datagram in dump.datagrams:
        if tally.add(datagram, dump.sequence):
            return tally.finish()
    raise PassFailure(Cause.TRUNCATED, DUMP_UNFINISHED)


class _Tally:
    """Counts by raw key, to be folded into `counts` rarely."""

    def __init__(self, state: State, listening: Listening, counts: Counts) -> None:
        self._state = state
        self._listening = listening
        self._counts = counts
        self._inbound: Counter[tuple[int, int]] = Counter()
        self._outbound: Counter[tuple[int, ...]] = Counter()

    def add(self, datagram: memoryview, sequence: int) -> bool:
        """Take one datagram; True when the dump is complete."""
        table = Table.of(datagram, sequence, self._state)
        if table is not None and self._count(table):
            return False
        rows, done = read_rows(datagram, sequence)
        # A row may have moved on between its selection and its description. It was in the state
        # asked for when it was selected, and no other dump of this pass has it.
        settled = (row._replace(state=self._state) for row in rows)
        count_rows(settled, self._listening, self._counts)
        return done

    def _count(self, table: Table) -> bool:
        """Count a table; False, with nothing counted, if it holds another family."""
        rows, families = len(table), table.families()
        inet, inet6 = families.count(Family.INET), families.count(Family.INET6)
        if inet + inet6 != rows:
            return False
        self._count_totals(table, inet, inet6)
        ports, cgroups = table.local_ports(), table.cgroups()
        listened = self._listening.raw
        if inet in (0, rows):
            inbound = [*map(listened[families[0]].__getitem__, ports)]
        else:
            inbound = [*map(getitem, map(listened.__getitem__, families), ports)]
        self._inbound.update(compress(zip(cgroups, ports, strict=True), inbound))
        addresses = ADDRESSES_INET if inet == rows else ADDRESSES
        columns = (cgroups, table.remote_ports(), families, *map(table.words, addresses))
        self._outbound.update(compress(zip(*columns, strict=True), map(not_, inbound)))
        if len(self._outbound) > PENDING_LIMIT:
            self._fold_outbound()
        return True

    def _count_totals(self, table: Table, inet: int, inet6: int) -> None:
        sockets, unowned = self._counts.sockets, self._counts.unowned
        sockets[Family.INET, self._state] += inet
        sockets[Family.INET6, self._state] += inet6
        if unowned is None:
            return
        if self._state is State.TIME_WAIT:
            unowned[Unowned.MINI] += len(table)
        elif self._state in _OPEN:
            unowned[Unowned.NOT_ACCEPTED] += table.words(INODE).count(0)

    def finish(self) -> None:
        """Bring what was counted by raw key into `counts`."""
        services = self._counts.services
        for (cgroup, port), number in self._inbound.items():
            services[ServicePort(Direction.INBOUND, ntohs(port), cgroup, self._state)] += number
        self._inbound.clear()
        self._fold_outbound()

    def _fold_outbound(self) -> None:
        services, destinations = self._counts.services, self._counts.destinations
        for (cgroup, raw_port, family, *words), number in self._outbound.items():
            port = ntohs(raw_port)
            services[ServicePort(Direction.OUTBOUND, port, cgroup, self._state)] += number
            destinations[Destination(*_addresses(family, words), port)] += number
        self._outbound.clear()
        thin(destinations, DESTINATIONS_LIMIT)


def _addresses(family: int, words: list[int]) -> tuple[bytes, bytes]:
    """Source and destination from their words: two if the whole table was IPv4, else eight."""
    half = len(words) // 2
    if family == Family.INET:
        return _WORD.pack(words[0]), _WORD.pack(words[half])
    return plain_address(_ADDRESS.pack(*words[:half])), plain_address(_ADDRESS.pack(*words[half:]))


def thin(counter: Counter[Destination], limit: int) -> None:
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
