"""Listening sockets as operators know them: an address, a port, a unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from socket import inet_ntop
from typing import NamedTuple

from sockwatch.observe.snapshot import Listener
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Family

UnitOf = Callable[[int], str]
"""Names the unit of a cgroup id, empty if unknown."""


class _Endpoint(NamedTuple):
    family: Family
    address: bytes
    port: int
    unit: str


def listeners(rows: Iterable[Row], unit_of: UnitOf) -> tuple[Listener, ...]:
    """One Listener per address, port and unit, by port; SO_REUSEPORT groups are summed."""
    groups: dict[_Endpoint, list[Row]] = {}
    for row in rows:
        endpoint = _Endpoint(row.family, row.source, row.source_port, unit_of(row.cgroup or 0))
        groups.setdefault(endpoint, []).append(row)
    ordered = sorted(groups, key=lambda endpoint: (endpoint.port, endpoint))
    return tuple(_listener(endpoint, groups[endpoint]) for endpoint in ordered)


def _listener(endpoint: _Endpoint, rows: list[Row]) -> Listener:
    return Listener(
        family=endpoint.family,
        address=inet_ntop(endpoint.family, endpoint.address),
        port=endpoint.port,
        unit=endpoint.unit,
        sockets=len(rows),
        queue=_total(row.receive_queue for row in rows),
        limit=_total(row.send_queue for row in rows),
    )


def _total(values: Iterable[int | None]) -> int | None:
    """The sum, `None` if any part is unknown."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def unit_by_port(found: Iterable[Listener]) -> Mapping[int, str]:
    """The unit that listens on each port, for the ports on which only one unit does."""
    units: dict[int, set[str]] = {}
    for listener in found:
        units.setdefault(listener.port, set()).add(listener.unit)
    return {port: next(iter(names)) for port, names in units.items() if len(names) == 1}
