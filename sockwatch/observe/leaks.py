"""The stuck connections of a snapshot: what is asked for, and what is found (see `search`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from sockwatch.observe.snapshot import ServiceKey
from sockwatch.tcp.causes import Cause
from sockwatch.tcp.owners import Process
from sockwatch.tcp.states import Direction, State

SHOWN: Final = 1000
"""Connections that are told one by one unless asked otherwise."""
MANY: Final = 20
"""Connections from which a group is more than what an idle pool keeps; alerts and findings ask for
as many."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which stuck connections are wanted; `None` for any."""

    state: State | None = None
    port: str | None = None
    """Of the service: local for inbound connections, remote for outbound ones; `other` for the
    services that metrics fold together."""
    unit: str | None = None
    """Empty for those whose unit is not known; `other` as above."""
    older_than: float = 0.0
    """Seconds in the state, at least."""
    limit: int = SHOWN
    """Connections that are decoded at most; all are counted."""

    def admits(self, service: ServiceKey, grouped: ServiceKey) -> bool:
        """Whether connections of a service are wanted.

        Args:
            service: what it is.
            grouped: what it is counted as; another one if metrics fold it.
        """
        return self.port in {None, service.port, grouped.port} and self.unit in {
            None,
            service.unit,
            grouped.unit,
        }


class Leak(NamedTuple):
    """One stuck connection."""

    netns: str
    state: State
    cause: Cause
    age: float
    """Seconds in the state."""
    at_least: bool
    """Whether it may have been there for longer: its entry was not seen."""
    direction: Direction
    local: str
    """IP address; an IPv4 one mapped into IPv6 is written as IPv4."""
    local_port: int
    remote: str
    remote_port: int
    unit: str
    """systemd unit or container, empty if unknown."""
    uid: int | None
    """Its owner's; `None` where the record cannot tell."""
    inode: int
    """0 if no process holds it."""
    processes: tuple[Process, ...] = ()
    """Those that hold it, as far as they are known; the oldest first."""
    holders: int | None = None
    """How many processes hold it, unnamed ones included; `None` if that is not known."""
    multipath: bool = False
    """Whether it is an MPTCP connection, which no list of TCP sockets shows in its state."""


class Share(NamedTuple):
    """How many connections of a group a process holds; shared ones count for each holder."""

    process: Process
    connections: int


class Group(NamedTuple):
    """Stuck connections that have a service, a state and a cause in common."""

    netns: str
    service: ServiceKey
    state: State
    cause: Cause
    connections: int
    oldest: float
    """Seconds that the oldest has been in the state."""
    at_least: bool
    """Whether that one may have been there for longer."""
    shares: tuple[Share, ...] = ()
    """By process, as far as they are known, the largest first."""

    @property
    def leaking(self) -> bool:
        """Whether an application lets them pile up, and they are more than an idle pool keeps."""
        return self.connections >= MANY and self.cause is not Cause.UNANSWERED


@dataclass(frozen=True, slots=True)
class Leaks:
    """What a search finds."""

    groups: tuple[Group, ...]
    """All, what leaks first, then by size."""
    sockets: tuple[Leak, ...]
    """The oldest first, at most as many as the filter's limit."""
    stride: int = 1
    """One of how many connections is followed; the numbers in groups are scaled by it."""

    @property
    def connections(self) -> int:
        """All that are stuck."""
        return sum(group.connections for group in self.groups)
