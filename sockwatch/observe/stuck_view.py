"""What a pass says of ages, by services that have a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from sockwatch.observe.listeners import UnitOf
from sockwatch.observe.services import Namer
from sockwatch.observe.snapshot import OTHER, NamespaceView, ServiceKey, Stuck, StuckKey
from sockwatch.observe.stuck import Ages
from sockwatch.tcp.records import ServicePort
from sockwatch.tcp.states import State


def stuck_view(ages: Ages, view: NamespaceView, unit_of: UnitOf) -> Stuck:
    """The ages of a pass in the terms of the view of the same pass."""
    name = Namer(view.listeners, unit_of)

    def service(port: ServicePort) -> ServiceKey:
        return _folded(name(port.direction, port.port, port.cgroup), view.services)

    connections: Counter[StuckKey] = Counter()
    for (port, cause), number in ages.stuck.items():
        if number:
            connections[StuckKey(service(port), port.state, cause)] += number
    oldest: dict[tuple[ServiceKey, State], float] = {}
    for port, age in ages.oldest.items():
        key = service(port), port.state
        oldest[key] = max(age, oldest.get(key, age))
    generation = ages.generation
    return Stuck(
        connections=connections,
        oldest=oldest,
        ages=ages.ages,
        limits=ages.limits,
        marked=ages.marked,
        units={cgroup: unit_of(cgroup) for cgroup in {port.cgroup for port, _ in ages.stuck}},
        taken=ages.taken,
        lower_bounds=generation.starts,
        followed=len(generation),
        most_followed=ages.most_followed,
        stride=ages.stride,
        kernel_held=ages.kernel_held,
    )


def _folded(key: ServiceKey, shown: Collection[ServiceKey]) -> ServiceKey:
    return key if key in shown else ServiceKey(key.direction, OTHER, OTHER)
