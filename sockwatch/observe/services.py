"""Connections by service, within a bounded number of label sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Final

from sockwatch.observe.listeners import UnitOf, unit_by_port
from sockwatch.observe.snapshot import OTHER, Listener, ServiceKey
from sockwatch.tcp.records import ServicePort
from sockwatch.tcp.states import Direction, State

Services = Mapping[ServiceKey, Mapping[State, int]]

_HEALTHY: Final = frozenset({State.ESTABLISHED, State.TIME_WAIT})
_NO_CONNECTIONS: Final[Mapping[State, int]] = MappingProxyType({})


class Namer:
    """Names the service of a connection by its port and cgroup.

    Requests and TIME_WAIT minis carry no cgroup: inbound ones belong to the unit that listens on
    their port if there is just one, as accepted sockets carry their listener's cgroup too.
    """

    def __init__(self, found: Collection[Listener], unit_of: UnitOf) -> None:
        self._found = found
        self._unit_of = unit_of

    def __call__(self, direction: Direction, port: int, cgroup: int) -> ServiceKey:
        """The service of connections with this port and cgroup (0 if they carry none)."""
        unit = self._unit_of(cgroup)
        if not cgroup and direction is Direction.INBOUND:
            unit = self._heirs.get(port, "")
        return ServiceKey(direction, str(port), unit)

    @cached_property
    def _heirs(self) -> Mapping[int, str]:
        return unit_by_port(self._found)


def services(
    counted: Iterable[tuple[ServicePort, int]], found: Collection[Listener], unit_of: UnitOf
) -> Services:
    """Name what was counted and add it up; every listener is a service, used or not."""
    result: dict[ServiceKey, Counter[State]] = {}
    name = Namer(found, unit_of)
    for (direction, port, cgroup, state), number in counted:
        result.setdefault(name(direction, port, cgroup), Counter())[state] += number
    idle = (ServiceKey(Direction.INBOUND, str(listener.port), listener.unit) for listener in found)
    return dict.fromkeys(idle, _NO_CONNECTIONS) | result


def fold(
    found: Services, limit: int, shown: Collection[ServiceKey] = frozenset()
) -> tuple[Services, int]:
    """Keep the `limit` most interesting services and fold the others into `other`.

    Interesting is what has connections in opening or closing states, then what was shown before
    (so that label sets do not come and go), then what is large.

    Returns:
        The services with at most one `other` per direction added, and how many were folded.
    """
    if len(found) <= limit:
        return found, 0

    def interest(key: ServiceKey) -> tuple[int, bool, int]:
        states = found[key]
        total = sum(states.values())
        healthy = sum(states.get(state, 0) for state in _HEALTHY)
        return total - healthy, key in shown, total

    # Most services of a host with that many have no connections: those need no ranking.
    busy = sorted((key for key in found if found[key]), key=interest, reverse=True)
    idle = sorted((key for key in found if not found[key]), key=shown.__contains__, reverse=True)
    ranked = busy + idle
    others: dict[Direction, Counter[State]] = {}
    for key in ranked[limit:]:
        other = others.setdefault(key.direction, Counter())
        if found[key]:
            other.update(found[key])
    kept = {key: found[key] for key in ranked[:limit]}
    folded = {ServiceKey(direction, OTHER, OTHER): states for direction, states in others.items()}
    return kept | folded, len(ranked) - limit
