"""Readings made of sockets that are listed by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Final

from sockwatch.tcp.listening import Listening
from sockwatch.tcp.records import Counts, Reading, Row, ServicePort
from sockwatch.tcp.states import Direction, Family, State, Unowned

BULK: Final = frozenset({State.ESTABLISHED, State.TIME_WAIT})
NOBODY: Final[Mapping[Unowned, int]] = {}


def packed(address: str) -> tuple[Family, bytes]:
    """Family and bytes of an address."""
    ip = ip_address(address)
    return (Family.INET if ip.version == 4 else Family.INET6), ip.packed


def listening(
    port: int,
    address: str = "0.0.0.0",
    *,
    cgroup: int | None = None,
    v6_only: bool | None = None,
    queue: int | None = 0,
    limit: int | None = 128,
    inode: int | None = None,
) -> Row:
    """A listening socket."""
    family, source = packed(address)
    return Row(
        family,
        State.LISTEN,
        source,
        port,
        bytes(len(source)),
        0,
        receive_queue=queue,
        send_queue=limit,
        inode=inode,
        cgroup=cgroup,
        v6_only=v6_only,
    )


def connected(
    state: State, local: int, remote: int, *, address: str = "127.0.0.1", cgroup: int | None = None
) -> Row:
    """One end of a connection of an address with itself."""
    family, ip = packed(address)
    return Row(family, state, ip, local, ip, remote, cgroup=cgroup)


def reading(
    *rows: Row,
    census: bool = True,
    unowned: Mapping[Unowned, int] | None = NOBODY,
    unowned_bulk: Mapping[Unowned, int] | None = NOBODY,
) -> Reading:
    """What a pass makes of these sockets.

    Args:
        rows: all sockets there are.
        census: whether it counts ESTABLISHED and TIME_WAIT too.
        unowned: those that no process holds, of the states that a watch counts.
        unowned_bulk: and those of the others.
    """
    listeners = tuple(row for row in rows if row.state is State.LISTEN)
    ports = Listening(listeners)
    watched = [row for row in rows if row.state not in {*BULK, State.LISTEN}]
    bulk = [row for row in rows if row.state in BULK] if census else None
    return Reading(
        listeners,
        _counts(watched, ports, unowned),
        None if bulk is None else _counts(bulk, ports, unowned_bulk),
    )


def _counts(rows: Iterable[Row], ports: Listening, unowned: Mapping[Unowned, int] | None) -> Counts:
    counts = Counts(unowned=None if unowned is None else Counter(unowned))
    for row in rows:
        direction = ports.direction(row.family, row.source_port, row.destination_port)
        port = row.source_port if direction is Direction.INBOUND else row.destination_port
        counts.sockets[row.family, row.state] += 1
        counts.services[ServicePort(direction, port, row.cgroup or 0, row.state)] += 1
    return counts
