"""Counting as anybody would write it: socket by socket. What the bulk path is held against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from sockwatch.tcp.listening import OUTBOUND_FIXED, Listening
from sockwatch.tcp.records import Counts, Endpoint, RawDestination, Row, ServicePort
from sockwatch.tcp.states import Direction, State, Unowned

TIME_WAIT_TIMER: Final = 3
"""net/ipv4/tcp_diag.c: idiag_timer of TIME_WAIT and FIN_WAIT2 minis."""

INET_SIZE: Final = 4
MAPPED: Final = "00" * 10 + "ffff"

NOT_ACCEPTED_STATES: Final = (State.ESTABLISHED, State.CLOSE_WAIT)
ORPHAN_STATES: Final = (
    State.SYN_SENT,
    State.FIN_WAIT1,
    State.FIN_WAIT2,
    State.CLOSING,
    State.LAST_ACK,
)


def unowned_kind(row: Row) -> Unowned | None:
    """Why no process holds a socket; `None` if one does."""
    if row.inode != 0:
        return None
    if row.timer == TIME_WAIT_TIMER:
        return Unowned.MINI
    if row.state is State.SYN_RECV:
        return Unowned.HALF_OPEN
    if row.state in NOT_ACCEPTED_STATES:
        return Unowned.NOT_ACCEPTED
    return Unowned.ORPHAN if row.state in ORPHAN_STATES else None


def service_of(row: Row, listening: Listening) -> ServicePort:
    direction = listening.direction(row.family, row.source_port, row.destination_port)
    port = row.source_port if direction is Direction.INBOUND else row.destination_port
    return ServicePort(direction, port, row.cgroup or 0, row.state)


def naive_counts(rows: Iterable[Row], listening: Listening) -> Counts:
    """Everything in `Counts`; destinations without a limit."""
    counts = Counts()
    for row in rows:
        service = service_of(row, listening)
        counts.sockets[row.family, row.state] += 1
        counts.services[service] += 1
        if (
            service.direction is Direction.OUTBOUND
            and listening.role(row.family, row.source_port, row.destination_port) != OUTBOUND_FIXED
        ):
            reached = counts.destinations.setdefault(row.state, Counter())
            reached[raw_destination(row.source, row.destination, row.destination_port)] += 1
        if row.state is State.SYN_RECV:
            end = Endpoint(_plain(row.source), row.source_port)
            counts.half_open[end] += 1
            if row.retransmits and counts.resent is not None:
                counts.resent[end] += 1
        kind = unowned_kind(row)
        if kind is not None and counts.unowned is not None:
            counts.unowned[kind] += 1
    return counts


def raw_destination(source: bytes, destination: bytes, port: int) -> RawDestination:
    """The key that a destination is counted by, from addresses of 4 or 16 bytes."""
    plain = _plain(source), _plain(destination)
    both = plain if max(map(len, plain)) == INET_SIZE else (source, destination)
    return port.to_bytes(2, "big") + b"".join(both)


def _plain(address: bytes) -> bytes:
    return bytes.fromhex(address.hex().removeprefix(MAPPED))
