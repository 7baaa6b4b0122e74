"""Listening sockets as operators know them: an address, a port, a unit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from socket import inet_ntop

from sockwatch.observe.snapshot import Listener
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Family

UnitOf = Callable[[int], str]
"""Names the unit of a cgroup id, empty if unknown."""

Grouping = Callable[[Sequence[Row], UnitOf], tuple[Listener, ...]]
"""Makes Listeners of rows."""

_Endpoint = tuple[int, Family, bytes, str]
"""Port, family, address and unit."""


def listeners(rows: Sequence[Row], unit_of: UnitOf) -> tuple[Listener, ...]:
    """One Listener per address, port and unit, by port; SO_REUSEPORT groups are summed."""
    return _grouped(rows, _units(rows, unit_of))


class ListenerMemory:
    """`listeners`, but what is the same as at the last call is not made anew."""

    def __init__(self) -> None:
        self._rows: Sequence[Row] = ()
        self._units: Sequence[str] = ()
        self._found: tuple[Listener, ...] = ()

    def __call__(self, rows: Sequence[Row], unit_of: UnitOf) -> tuple[Listener, ...]:
        """See `listeners`."""
        units = _units(rows, unit_of)
        if units != self._units or rows != self._rows:
            self._rows, self._units, self._found = rows, units, _grouped(rows, units)
        return self._found


def _units(rows: Sequence[Row], unit_of: UnitOf) -> list[str]:
    return [unit_of(row.cgroup or 0) for row in rows]


def _grouped(rows: Sequence[Row], units: Sequence[str]) -> tuple[Listener, ...]:
    groups: dict[_Endpoint, list[Row]] = {}
    for row, unit in zip(rows, units, strict=True):
        endpoint = row.source_port, row.family, row.source, unit
        groups.setdefault(endpoint, []).append(row)
    return tuple(_listener(endpoint, groups[endpoint]) for endpoint in sorted(groups))


def _listener(endpoint: _Endpoint, rows: Sequence[Row]) -> Listener:
    port, family, address, unit = endpoint
    return Listener(
        family=family,
        address=inet_ntop(family, address),
        port=port,
        unit=unit,
        sockets=len(rows),
        queue=_total([row.receive_queue for row in rows]),
        limit=_total([row.send_queue for row in rows]),
        peak=None if any(row.receive_queue is None for row in rows) else 0,
        half_open=0,
        drops=None if any(row.drops is None for row in rows) else 0,
        dropped={row.cookie or 0: row.drops for row in rows if row.drops},
    )


def _total(values: list[int | None]) -> int | None:
    """The sum, `None` if any part is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def unit_by_port(found: Collection[Listener]) -> Mapping[int, str]:
    """The unit that listens on each port, for the ports on which only one unit does."""
    units = {listener.port: listener.unit for listener in found}
    shared = {listener.port for listener in found if units[listener.port] != listener.unit}
    return {port: unit for port, unit in units.items() if port not in shared}
