"""The Snapshot: all that sockwatch knows at one moment, immutable and shared by reference.

The poll thread replaces it after every pass. Whoever answers a request holds one reference and
so sees one consistent moment, without a lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from sockwatch.tcp.states import Direction, Family, State, Unowned

OTHER: Final = "other"
"""Port and unit of the services folded together beyond the series limit."""


class PassKind(StrEnum):
    """The two passes over the kernel; the value is the label `pass`."""

    WATCH = "watch"
    CENSUS = "census"


class ServiceKey(NamedTuple):
    """A service: the local port of inbound connections, the remote port of outbound ones."""

    direction: Direction
    port: str
    unit: str
    """systemd unit or container, empty if unknown."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening address and port; an SO_REUSEPORT group is one listener."""

    family: Family
    address: str
    port: int
    unit: str
    sockets: int
    """Sockets that share the address and port."""
    queue: int | None
    """Connections waiting for accept(); may exceed the limit by one per socket."""
    limit: int | None
    """min(backlog, somaxconn), summed over the sockets."""


@dataclass(frozen=True, slots=True)
class NamespaceView:
    """The sockets of one network namespace."""

    netns: str
    """Empty for the namespace sockwatch runs in."""
    sockets: Mapping[tuple[Family, State], int]
    """Complete over families and over every state that was measured; absent = never measured."""
    unowned: Mapping[Unowned, int] | None
    """`None` where the source cannot know."""
    services: Mapping[ServiceKey, Mapping[State, int]]
    folded: int
    """Services folded into `other`."""
    listeners: tuple[Listener, ...]


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """Where the figures come from, and why from there."""

    name: str
    """`netlink` or `psutil`."""
    reason: str
    """One sentence for people."""
    since: float
    """Unix time in seconds since when this source is in use."""


@dataclass(frozen=True, slots=True)
class PassStatus:
    """How the passes of one kind have gone."""

    configured_interval: float
    """Seconds."""
    interval: float
    """Seconds, as stretched by the CPU budget."""
    passes: int
    failures: Mapping[str, int]
    """By cause, every cause present."""
    last_failure: str | None
    """What went wrong in the newest pass, `None` if it succeeded."""
    last_success: float | None
    """Unix time in seconds when the last good pass ended."""
    duration: float | None
    """Seconds of wall time of the last good pass."""
    cpu_seconds: float
    """CPU time of all passes together."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment, complete."""

    taken: float
    """Unix time in seconds when the newest pass in it ended."""
    source: SourceStatus
    passes: Mapping[PassKind, PassStatus]
    namespaces: tuple[NamespaceView, ...]
    """Empty until a pass has succeeded."""
