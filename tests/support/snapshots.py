"""Snapshots made by hand, for tests of everything that is downstream of one.

`snapshot(service(8080, "app.service", close_wait=3), listener(8080))` is one host with one
service: its totals are the sums of its services and listeners, so the parts agree as they do
when a pass has counted them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from sockwatch.observe.snapshot import (
    Listener,
    NamespaceView,
    PassKind,
    PassStatus,
    ServiceKey,
    Snapshot,
    SourceStatus,
)
from sockwatch.tcp.states import Direction, Family, State, Unowned

TAKEN: Final = 1_767_225_600.0
"""2026-01-01 00:00:00 UTC."""

NETLINK: Final = SourceStatus("netlink", "netlink is preferred and works", TAKEN)
PSUTIL: Final = SourceStatus(
    "psutil",
    "netlink does not work (socket: Operation not permitted)",
    TAKEN,
)
OWNED: Final[Mapping[Unowned, int]] = dict.fromkeys(Unowned, 0)


class Service(NamedTuple):
    """What `service` made."""

    key: ServiceKey
    states: Mapping[State, int]


def service(port: int | str, unit: str = "", **states: int) -> Service:
    """A service of this host, its connections by state label: `service(80, close_wait=3)`."""
    return _service(Direction.INBOUND, port, unit, states)


def outbound(port: int | str, unit: str = "", **states: int) -> Service:
    """A service elsewhere that this host is a client of."""
    return _service(Direction.OUTBOUND, port, unit, states)


def _service(
    direction: Direction, port: int | str, unit: str, counts: Mapping[str, int]
) -> Service:
    states = {State[label.upper()]: count for label, count in counts.items()}
    return Service(ServiceKey(direction, str(port), unit), states)


def listener(
    port: int,
    unit: str = "",
    *,
    address: str = "0.0.0.0",
    sockets: int = 1,
    queue: int | None = 0,
    limit: int | None = 128,
) -> Listener:
    """One listener; the family follows from the address."""
    family = Family.INET6 if ":" in address else Family.INET
    return Listener(family, address, port, unit, sockets, queue, limit)


def namespace(
    *parts: Service | Listener,
    ipv6: Mapping[State, int] | None = None,
    unowned: Mapping[Unowned, int] | None = OWNED,
    folded: int = 0,
    netns: str = "",
) -> NamespaceView:
    """A namespace of these parts.

    Args:
        parts: services and listeners.
        ipv6: those of the services' connections that are IPv6; the others are IPv4.
        unowned: kinds left out count zero; `None` where the source cannot know.
        folded: services folded into `other`.
        netns: name of the namespace.
    """
    services = [part for part in parts if isinstance(part, Service)]
    listeners = tuple(part for part in parts if isinstance(part, Listener))
    return NamespaceView(
        netns=netns,
        sockets=_totals(services, listeners, ipv6 or {}),
        unowned=None if unowned is None else {**OWNED, **unowned},
        services={part.key: part.states for part in services},
        folded=folded,
        listeners=listeners,
    )


def snapshot(
    *parts: Service | Listener,
    source: SourceStatus = NETLINK,
    ipv6: Mapping[State, int] | None = None,
    unowned: Mapping[Unowned, int] | None = OWNED,
    folded: int = 0,
) -> Snapshot:
    """A host with one namespace of these parts, looked at once at `TAKEN`."""
    view = namespace(*parts, ipv6=ipv6, unowned=unowned, folded=folded)
    return of_namespaces(view, source=source)


def of_namespaces(*views: NamespaceView, source: SourceStatus = NETLINK) -> Snapshot:
    """A host of these namespaces, looked at once at `TAKEN`."""
    return Snapshot(TAKEN, source, {PassKind.CENSUS: good_pass()}, views)


def good_pass(*, interval: float = 15.0, ended: float = TAKEN) -> PassStatus:
    """The first pass of its kind, and it succeeded."""
    return PassStatus(interval, interval, 1, {"busy": 0}, None, ended, 0.004, 0.003)


def with_failed_pass(taken: Snapshot, why: str, kind: PassKind = PassKind.CENSUS) -> Snapshot:
    """The same snapshot after one more pass of this kind, which failed."""
    status = replace(
        taken.passes[kind],
        passes=taken.passes[kind].passes + 1,
        failures={"busy": 1},
        last_failure=why,
    )
    return replace(taken, passes={**taken.passes, kind: status})


def _totals(
    services: list[Service],
    listeners: tuple[Listener, ...],
    ipv6: Mapping[State, int],
) -> dict[tuple[Family, State], int]:
    totals = Counter({(family, state): 0 for family in Family for state in State})
    for part in services:
        totals.update({(Family.INET, state): count for state, count in part.states.items()})
    for state, count in ipv6.items():
        totals[Family.INET6, state] += count
        totals[Family.INET, state] -= count
    for one in listeners:
        totals[one.family, State.LISTEN] += one.sockets
    return dict(totals)
