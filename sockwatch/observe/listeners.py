"""Listening sockets as operators know them: an address, a port, a unit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from operator import attrgetter
from socket import inet_ntop
from types import MappingProxyType
from typing import Final

from sockwatch.observe.snapshot import Listener
from sockwatch.tcp.changes import changes
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Family

UnitOf = Callable[[int], str]
"""Names the unit of a cgroup id, empty if unknown."""

Grouping = Callable[[Sequence[Row], UnitOf], tuple[Listener, ...]]
"""Makes Listeners of rows."""

NONE_ADOPTED: Final[Mapping[int, str]] = MappingProxyType({})

_CGROUP: Final = attrgetter("cgroup")
_Endpoint = tuple[int, Family, bytes, str]
"""Port, family, address and unit."""


def listeners(
    rows: Sequence[Row], unit_of: UnitOf, adopted: Mapping[int, str] = NONE_ADOPTED
) -> tuple[Listener, ...]:
    """One Listener per address, port and unit, by port; SO_REUSEPORT groups are summed.

    Args:
        rows: the listening sockets.
        unit_of: names the units of their cgroups.
        adopted: by inode, the units of those that another unit opened for them.
    """
    return ListenerMemory()(rows, unit_of, adopted)


class ListenerMemory:
    """`listeners`, but only what has changed since the last call is made anew.

    A dump shows the same sockets in the same order, so mostly some queues have changed and
    nothing else.
    """

    def __init__(self) -> None:
        self._rows: Sequence[Row] = ()
        self._units: Mapping[int, str] = {}
        self._adopted = NONE_ADOPTED
        self._groups: Mapping[_Endpoint, list[int]] = {}
        """Which rows belong to each listener."""
        self._places: Mapping[_Endpoint, int] = {}
        self._found: tuple[Listener, ...] = ()

    def __call__(
        self, rows: Sequence[Row], unit_of: UnitOf, adopted: Mapping[int, str] = NONE_ADOPTED
    ) -> tuple[Listener, ...]:
        """See `listeners`."""
        units = {cgroup or 0: unit_of(cgroup or 0) for cgroup in {*map(_CGROUP, rows)}}
        same_names = units == self._units and adopted == self._adopted
        changed = _changed(self._rows, rows) if same_names else None
        self._rows, self._units, self._adopted = rows, units, adopted
        if changed is None:
            self._make()
        elif changed:
            self._renew(changed)
        return self._found

    def _make(self) -> None:
        groups: dict[_Endpoint, list[int]] = {}
        for at, row in enumerate(self._rows):
            groups.setdefault(self._endpoint(row), []).append(at)
        self._groups = {endpoint: groups[endpoint] for endpoint in sorted(groups)}
        self._places = {endpoint: place for place, endpoint in enumerate(self._groups)}
        self._found = tuple(map(self._listener, self._groups))

    def _renew(self, changed: Sequence[Row]) -> None:
        found = [*self._found]
        for endpoint in {*map(self._endpoint, changed)}:
            found[self._places[endpoint]] = self._listener(endpoint)
        self._found = tuple(found)

    def _endpoint(self, row: Row) -> _Endpoint:
        unit = self._adopted.get(row.inode or 0) or self._units[row.cgroup or 0]
        return row.source_port, row.family, row.source, unit

    def _listener(self, endpoint: _Endpoint) -> Listener:
        rows = [self._rows[at] for at in self._groups[endpoint]]
        lent = {row.cgroup or 0 for row in rows if row.inode in self._adopted}
        return _listener(endpoint, rows, tuple(sorted(lent)))


def _changed(before: Sequence[Row], rows: Sequence[Row]) -> Sequence[Row] | None:
    """The rows that have changed; `None` if there are others, or in another order."""
    pairs = changes(before, rows)
    if pairs is None or any(_identity(old) != _identity(new) for old, new in pairs):
        return None
    return [new for old, new in pairs if new != old]


def _identity(row: Row) -> tuple[object, ...]:
    return row.source_port, row.family, row.source, row.cgroup, row.inode


def _listener(endpoint: _Endpoint, rows: Sequence[Row], lent: tuple[int, ...]) -> Listener:
    port, family, address, unit = endpoint
    return Listener(
        family=family,
        address=inet_ntop(family, address),
        port=port,
        unit=unit,
        sockets=len(rows),
        queue=_total([row.receive_queue for row in rows]),
        limit=_total([row.send_queue for row in rows]),
        full=sum(map(_is_full, rows)),
        peak=None if any(row.receive_queue is None for row in rows) else 0,
        half_open=0,
        half_open_resent=None if any(row.receive_queue is None for row in rows) else 0,
        drops=None if any(row.drops is None for row in rows) else 0,
        dropped={row.cookie or 0: row.drops for row in rows if row.drops},
        inodes=tuple(row.inode for row in rows if row.inode),
        lent=lent,
    )


def _is_full(row: Row) -> bool:
    """There is room for one more than the limit (sk_acceptq_is_full of `include/net/sock.h`)."""
    return (row.receive_queue or 0) > (row.send_queue or 0)


def _total(values: list[int | None]) -> int | None:
    """The sum, `None` if any part is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def unit_by_lent_cgroup(found: Collection[Listener]) -> Mapping[tuple[int, int], str]:
    """The unit of connections by local port and cgroup, where that cgroup is lent to one unit."""
    lent = [
        ((listener.port, cgroup), listener.unit) for listener in found for cgroup in listener.lent
    ]
    units = dict(lent)
    shared = {key for key, unit in lent if units[key] != unit}
    return {key: unit for key, unit in units.items() if key not in shared}


def unit_by_port(found: Collection[Listener]) -> Mapping[int, str]:
    """The unit that listens on each port, for the ports on which only one unit does."""
    units = {listener.port: listener.unit for listener in found}
    shared = {listener.port for listener in found if units[listener.port] != listener.unit}
    return {port: unit for port, unit in units.items() if port not in shared}
