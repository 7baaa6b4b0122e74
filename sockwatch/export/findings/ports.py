"""Findings about destinations: where source ports run out, and who does not answer."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from sockwatch.export.findings.finding import Finding, Kind
from sockwatch.export.names import with_unit
from sockwatch.observe.snapshot import DestinationUse, NamespaceView, ServiceKey
from sockwatch.tcp.states import State

PORTS_SLOW: Final = 0.5
"""Share of the ephemeral ports beyond which connect() has to search: it tries every other one
first. A busy client stays at just this share where ports in TIME_WAIT may be taken over."""
PORTS_SCARCE: Final = 0.85
"""Share from which on they may be used up before anybody has looked."""

_SLOW: Final = "Beyond half of them connect() searches ever longer for a free one."
_SCARCE: Final = (
    "With none left connect() fails (EADDRNOTAVAIL); other destinations are not affected."
)
_CHURN: Final = (
    " {waiting:,} of them are in time_wait: connections that are kept and used again need none."
)


def about_destinations(view: NamespaceView) -> Iterator[Finding]:
    """Destinations that are nearly out of ports, and those that do not answer."""
    if view.destinations is None:
        return
    ports = view.destinations.ports
    for use in view.destinations.crowded:
        if ports and use.in_use > PORTS_SLOW * ports:
            yield _crowded(use, ports)
    for destination, number in (view.destinations.unanswered or {}).items():
        yield _unanswered(view, destination, number)


def _crowded(use: DestinationUse, ports: int) -> Finding:
    meaning = _SCARCE if use.in_use >= PORTS_SCARCE * ports else _SLOW
    if use.time_wait >= use.in_use / 2:
        meaning += _CHURN.format(waiting=use.time_wait)
    return Finding(
        Kind.EPHEMERAL_PORTS,
        f"{use.in_use / ports:.0%} of the ephemeral ports in use, {use.in_use:,} of {ports:,}: from"
        f" {use.source} to {use.destination}",
        meaning,
        use.in_use,
        ports,
        destination=use.destination,
    )


def _unanswered(view: NamespaceView, destination: str, number: int) -> Finding:
    services = [key for key in services_without_answer(view) if key.port == _port(destination)]
    only = services[0] if len(services) == 1 else None
    return Finding(
        Kind.UNANSWERED,
        f"{number:,} connections unanswered: {with_unit(destination, only.unit if only else '')}",
        f"No answer to a SYN for over {_limit(view):g} s: it is down, overloaded or behind a"
        " filter.",
        number,
        service=only,
        destination=destination,
    )


def services_without_answer(view: NamespaceView) -> Collection[ServiceKey]:
    """Outbound services of which it is known who does not answer."""
    if view.stuck is None or view.destinations is None:
        return ()
    ports = {*map(_port, view.destinations.unanswered or ())}
    stuck = (key.service for key in view.stuck.connections if key.state is State.SYN_SENT)
    return {service for service in stuck if service.port in ports}


def _port(destination: str) -> str:
    return destination.rpartition(":")[2]


def _limit(view: NamespaceView) -> float:
    return view.stuck.limits[State.SYN_SENT] if view.stuck else 0.0
