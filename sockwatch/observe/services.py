"""Connections by service, within a bounded number of label sets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Final

from sockwatch.observe.listeners import UnitOf, unit_by_lent_cgroup, unit_by_port
from sockwatch.observe.snapshot import OTHER, Listener, ServiceKey
from sockwatch.tcp.records import ServicePort
from sockwatch.tcp.states import Direction, State

Services = Mapping[ServiceKey, Mapping[State, int]]

_NO_CONNECTIONS: Final[Mapping[State, int]] = MappingProxyType({})


@lru_cache(maxsize=1 << 14)
def _key(direction: Direction, port: int, unit: str) -> ServiceKey:
    return ServiceKey(direction, str(port), unit)


class Namer:
    """Names the service of a connection by its port and cgroup.

    Requests and TIME_WAIT minis carry no cgroup: inbound ones belong to the unit that listens on
    their port if there is just one, as accepted sockets carry their listener's cgroup too. Where
    that is the cgroup of who opened the listener for the unit, it is the unit that counts.
    """

    def __init__(self, found: Collection[Listener], unit_of: UnitOf) -> None:
        self._found = found
        self._unit_of = unit_of

    def __call__(self, direction: Direction, port: int, cgroup: int) -> ServiceKey:
        """The service of connections with this port and cgroup (0 if they carry none)."""
        unit = self._unit_of(cgroup)
        if direction is Direction.INBOUND:
            if not cgroup:
                unit = self._heirs.get(port, "")
            elif self._borrowers:
                unit = self._borrowers.get((port, cgroup), unit)
        return _key(direction, port, unit)

    @cached_property
    def _borrowers(self) -> Mapping[tuple[int, int], str]:
        return unit_by_lent_cgroup(self._found)

    @cached_property
    def _heirs(self) -> Mapping[int, str]:
        return unit_by_port(self._found)


def services(
    counted: Iterable[tuple[ServicePort, int]], found: Collection[Listener], unit_of: UnitOf
) -> Services:
    """Name what was counted and add it up; every listener is a service, used or not."""
    result: dict[ServiceKey, dict[State, int]] = {}
    name = Namer(found, unit_of)
    for (direction, port, cgroup, state), number in counted:
        key = name(direction, port, cgroup)
        states = result.get(key)
        if states is None:
            result[key] = {state: number}
        else:
            states[state] = states.get(state, 0) + number
    idle = (_key(Direction.INBOUND, listener.port, listener.unit) for listener in found)
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
        healthy = states.get(State.ESTABLISHED, 0) + states.get(State.TIME_WAIT, 0)
        return total - healthy, key in shown, total

    # Most services of a host with that many have no connections: those need no ranking.
    busy = sorted((key for key, some in found.items() if some), key=interest, reverse=True)
    idle = (key for key, some in found.items() if not some)
    ranked = busy + sorted(idle, key=shown.__contains__, reverse=True)
    ranked.sort(key=lambda key: _is_residue(key, found[key]))  # stable: the others stay in order
    kept = {key: found[key] for key in ranked[:limit]}
    return kept | _others(found, ranked[limit:]), len(ranked) - limit


def _is_residue(key: ServiceKey, states: Mapping[State, int]) -> bool:
    """Whether there is only TIME_WAIT, and nobody listens: what a listener that is gone leaves.

    Each connection looks like a service of its own then, and would crowd out idle listeners.
    """
    return key.direction is Direction.OUTBOUND and states.keys() == {State.TIME_WAIT}


def _others(found: Services, folded: Iterable[ServiceKey]) -> dict[ServiceKey, Mapping[State, int]]:
    """What is folded, added up by direction."""
    others: dict[Direction, dict[State, int]] = {}
    for key in folded:
        other = others.setdefault(key.direction, {})
        for state, number in found[key].items():
            other[state] = other.get(state, 0) + number
    return {ServiceKey(direction, OTHER, OTHER): states for direction, states in others.items()}
