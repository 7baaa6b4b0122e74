"""Connections by service, within a bounded number of label sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Final

from sockwatch.observe.listeners import UnitOf, unit_by_lent_cgroup, unit_by_port
from sockwatch.observe.ranking import Ranking, Services
from sockwatch.observe.snapshot import Listener, ServiceKey
from sockwatch.tcp.changes import changes
from sockwatch.tcp.records import ServicePort
from sockwatch.tcp.states import Direction, State

Counted = Mapping[ServicePort, int]
"""Connections by what is known of their service."""

_NOTHING: Final[Mapping[State, int]] = MappingProxyType({})


@lru_cache(maxsize=1 << 14)
def _key(direction: Direction, port: int, unit: str) -> ServiceKey:
    return ServiceKey(direction, str(port), unit)


class Namer:
    """Names the service of a connection by its port and cgroup.

    Requests and TIME_WAIT minis carry no cgroup: inbound ones belong to the unit that listens on
    their port if there is just one, as accepted sockets carry their listener's cgroup too. Where
    that is the cgroup of who opened the listener for the unit, it is the unit that counts.
    """

    def __init__(self, found: Sequence[Listener], unit_of: UnitOf) -> None:
        self.unit_of = unit_of
        """May be replaced."""
        self._found = found

    def __call__(self, direction: Direction, port: int, cgroup: int) -> ServiceKey:
        """The service of connections with this port and cgroup (0 if they carry none)."""
        unit = self.unit_of(cgroup)
        if direction is Direction.INBOUND:
            if not cgroup:
                unit = self._heirs.get(port, "")
            elif self._borrowers:
                unit = self._borrowers.get((port, cgroup), unit)
        return _key(direction, port, unit)

    @cached_property
    def idle(self) -> Services:
        """The services of the listeners, as if nobody had connected."""
        keys = (ServiceKey(Direction.INBOUND, str(one.port), one.unit) for one in self._found)
        return dict.fromkeys(keys, _NOTHING)

    @cached_property
    def _borrowers(self) -> Mapping[tuple[int, int], str]:
        return unit_by_lent_cgroup(self._found)

    @cached_property
    def _heirs(self) -> Mapping[int, str]:
        return unit_by_port(self._found)


def _named_alike(before: Sequence[Listener], found: Sequence[Listener]) -> bool:
    """Whether listeners give connections the same names as those before."""
    changed = changes(before, found)
    return changed is not None and all(
        (old.port, old.unit, old.lent) == (new.port, new.unit, new.lent) for old, new in changed
    )


def _services(counted: Counted, names: Mapping[ServicePort, ServiceKey]) -> Services:
    """Add up what has the same name."""
    result: dict[ServiceKey, Mapping[State, int]] = {}
    for port, number in counted.items():
        key, new = names[port], _alone(port.state, number)
        result[key] = _sum(result[key], new) if key in result else new
    return result


@lru_cache(maxsize=1 << 12)
def _alone(state: State, number: int) -> Mapping[State, int]:
    """One for all services that have these connections and no others: there are many of those."""
    return {state: number}


Telling = Callable[
    [Counted, Counted, Sequence[Listener], UnitOf, int],
    tuple[Services, int],
]
"""Tells services apart, as `told_apart` does."""


def told_apart(
    watched: Counted, bulk: Counted, found: Sequence[Listener], unit_of: UnitOf, limit: int
) -> tuple[Services, int]:
    """Name what was counted; every listener is a service, used or not.

    Args:
        watched: what a watch counted.
        bulk: what the newest census counted beside that; must not change.
        found: who listens.
        unit_of: names cgroups.
        limit: label sets at most; the others are folded, see `Ranking.fold`.

    Returns:
        The services, and how many were folded.
    """
    return ServiceMemory()(watched, bulk, found, unit_of, limit)


class ServiceMemory:
    """`told_apart`, but what a census counted is named and ranked once.

    What was told is told again where there is a choice.
    """

    def __init__(self) -> None:
        self._found: Sequence[Listener] = ()
        self._name = Namer((), lambda _: "")
        self._units: Mapping[int, str] = {}
        self._names: Mapping[ServicePort, ServiceKey] = {}
        self._bulk: Counted | None = None
        self._named: Services = {}
        self._ranking = Ranking({})
        self._shown: Services = {}

    def __call__(
        self,
        watched: Counted,
        bulk: Counted,
        found: Sequence[Listener],
        unit_of: UnitOf,
        limit: int,
    ) -> tuple[Services, int]:
        """See `told_apart`."""
        if not self._names_hold(found, unit_of):
            self._name, self._names, self._bulk = Namer(found, unit_of), {}, None
        self._found, self._name.unit_of = found, unit_of
        if bulk is not self._bulk:
            self._begin(bulk)
        moving = _services(watched, {port: self._name(*port[:3]) for port in watched})
        changed = {key: _sum(states, self._named.get(key)) for key, states in moving.items()}
        kept, folded = self._ranking.fold(changed, limit, self._shown)
        self._shown = kept
        return kept, folded

    def _names_hold(self, found: Sequence[Listener], unit_of: UnitOf) -> bool:
        """Whether everything that was named would get the same name now."""
        return _named_alike(self._found, found) and all(
            unit_of(cgroup) == unit for cgroup, unit in self._units.items()
        )

    def _begin(self, bulk: Counted) -> None:
        names = self._names
        self._names = {port: names.get(port) or self._name(*port[:3]) for port in bulk}
        cgroups = {port.cgroup for port in bulk}
        self._units = {cgroup: self._name.unit_of(cgroup) for cgroup in cgroups}
        self._named = {**self._name.idle, **_services(bulk, self._names)}
        self._bulk, self._ranking = bulk, Ranking(self._named)


def _sum(some: Mapping[State, int], others: Mapping[State, int] | None) -> Mapping[State, int]:
    if not others:
        return some
    return {state: some.get(state, 0) + others.get(state, 0) for state in {**others, **some}}
