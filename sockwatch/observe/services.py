"""Connections by service, within a bounded number of label sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from sockwatch.observe.listeners import UnitOf, unit_by_port
from sockwatch.observe.snapshot import OTHER, Listener, ServiceKey
from sockwatch.tcp.records import ServicePort
from sockwatch.tcp.states import Direction, State

Services = Mapping[ServiceKey, Counter[State]]

_HEALTHY: Final = frozenset({State.ESTABLISHED, State.TIME_WAIT})


def services(
    counted: Iterable[tuple[ServicePort, int]], found: Collection[Listener], unit_of: UnitOf
) -> Services:
    """Name and add up what was counted by port and cgroup.

    Every listener is a service, with or without connections. Requests and TIME_WAIT minis carry
    no cgroup: inbound ones belong to the unit that listens on their port if there is just one,
    as accepted sockets carry their listener's cgroup too.
    """
    result: dict[ServiceKey, Counter[State]] = {
        ServiceKey(Direction.INBOUND, str(listener.port), listener.unit): Counter()
        for listener in found
    }
    heirs = unit_by_port(found)
    for (direction, port, cgroup, state), number in counted:
        unit = unit_of(cgroup)
        if not cgroup and direction is Direction.INBOUND:
            unit = heirs.get(port, "")
        result.setdefault(ServiceKey(direction, str(port), unit), Counter())[state] += number
    return result


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
        unhealthy = sum(number for state, number in states.items() if state not in _HEALTHY)
        return unhealthy, key in shown, states.total()

    ranked = sorted(found, key=interest, reverse=True)
    kept = {key: found[key] for key in ranked[:limit]}
    for key in ranked[limit:]:
        other = ServiceKey(key.direction, OTHER, OTHER)
        kept[other] = kept.get(other, Counter()) + found[key]
    return kept, len(ranked) - limit
