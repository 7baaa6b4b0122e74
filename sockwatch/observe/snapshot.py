"""The Snapshot: all that sockwatch knows at one moment, immutable and shared by reference.

The poll thread replaces it after every pass. Whoever answers a request holds one reference and
so sees one consistent moment, without a lock.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from sockwatch.observe.figures import Figures
from sockwatch.observe.packed import Packed
from sockwatch.tcp.causes import Cause
from sockwatch.tcp.owners import Owners
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
    full: int = 0
    """Sockets whose own queue is above its limit; room in that of another helps no client."""
    peak: int | None = 0
    """The highest `queue` of the last minute."""
    half_open: int | None = 0
    """SYN_RECV connections that came to it."""
    half_open_resent: int | None = 0
    """Those of them whose SYN+ACK was sent again: nobody has answered it for a second, or there
    was no room in `queue`."""
    drops: int | None = 0
    """SYNs and ACKs dropped since it was first seen, earlier sockets of the same name included."""
    dropped: Mapping[int, int] = field(default_factory=dict, hash=False)
    """What its sockets say they have dropped, by cookie; without those that have dropped none."""
    inodes: tuple[int, ...] = ()
    """Of its sockets, as far as the source tells."""
    lent: tuple[int, ...] = ()
    """Cgroups that its sockets and connections have from whoever opened it for the unit."""


class StuckKey(NamedTuple):
    """Stuck connections that have a service, a state and a cause in common."""

    service: ServiceKey
    state: State
    cause: Cause


class Marked(NamedTuple):
    """Stuck connections themselves, packed: position i of every column is the same one."""

    state: State
    records: Packed
    moments: array[float]
    """Since when they are in their state; monotonic seconds."""
    cgroups: array[int]
    inbound: bytes
    """1 for inbound, 0 for outbound."""
    causes: bytes
    """Positions in `causes.ALL`."""
    multipath: bool = False
    """Whether they are MPTCP connections."""
    stride: int = 1
    """One of how many was followed when they were read."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """Connections by how long they have been in a watched state, as of the last watch."""

    connections: Mapping[StuckKey, int]
    """Those over the limit of their state."""
    oldest: Mapping[tuple[ServiceKey, State], float]
    """Seconds that the oldest connection has been in the state."""
    ages: Mapping[State, Mapping[float, int]]
    """How many connections have each age in seconds; every watched state is present."""
    limits: Mapping[State, float]
    """Seconds that are normal in each state; ESTABLISHED is watched before it is accepted, and its
    limit goes for what nobody has accepted in CLOSE_WAIT, too."""
    marked: tuple[Marked, ...]
    """Those over the limit; in a sample if `stride` is not 1."""
    units: Mapping[int, str]
    """Names of their cgroups."""
    taken: float
    """The monotonic moment that ages are as of."""
    lower_bounds: frozenset[float]
    """Moments from which an age is a lower bound: the entry was not seen."""
    followed: int
    """Connections whose age is known."""
    most_followed: int
    """The bound of that."""
    stride: int
    """One of how many connections is followed; counts are scaled by it."""
    owners: Mapping[int, Owners] = field(default_factory=dict)
    """Who holds marked connections, by inode, as far as that has been found out."""
    kernel_held: float | None = None
    """Seconds that the oldest FIN_WAIT2 has been held by the kernel alone, which ends it by
    itself; `None` if there is none."""
    unnamed: str | None = None
    """Why processes are missing in `owners` and what to do, as a clause for people."""


@dataclass(frozen=True, slots=True)
class DestinationUse:
    """Ephemeral ports in use toward one destination."""

    source: str
    """The source address that uses the most: each has all ports to itself."""
    destination: str
    """Address and port."""
    in_use: int
    time_wait: int
    """How many of them are only waiting out TIME_WAIT."""


@dataclass(frozen=True, slots=True)
class Destinations:
    """Outbound connections by destination, as of the last census."""

    ports: int | None
    """Ephemeral ports there are, `None` if unknown."""
    in_use_max: int
    """The most that are in use toward any one destination from one source address."""
    crowded: tuple[DestinationUse, ...]
    """Those over a tenth of all ports, the fullest first, at most 20."""
    unanswered: Mapping[str, int] | None = None
    """Connections in SYN_SENT beyond its age limit as of the last watch, by destination, from 3
    on, at most 20; `None` where the source cannot know."""


@dataclass(frozen=True, slots=True)
class NamespaceView:
    """The sockets of one network namespace."""

    netns: str
    """Empty for the namespace sockwatch runs in."""
    sockets: Mapping[tuple[Family, State], int]
    """TCP sockets, complete over families and over every state that was measured; absent = never
    measured."""
    unowned: Mapping[Unowned, int] | None
    """`None` where the source cannot know."""
    services: Mapping[ServiceKey, Mapping[State, int]]
    folded: int
    """Services folded into `other`."""
    listeners: tuple[Listener, ...]
    figures: Figures | None = None
    """What the kernel counts and limits there; `None` where nobody looked."""
    stuck: Stuck | None = None
    """`None` where the source cannot know, or has not looked yet."""
    destinations: Destinations | None = None
    """`None` before the first census."""
    multipath: Mapping[tuple[Family, State], int] | None = None
    """MPTCP connections, complete over families and over every state that was measured; `None`
    where the kernel has no MPTCP. In `services` each stands in place of its subflows."""
    owners: Mapping[int, Owners] = field(default_factory=dict)
    """Who holds listeners, by inode, as far as that has been found out."""
    peaks: Mapping[State, int] = field(default_factory=dict)
    """The highest total that any pass of the last minute saw, for every state counted."""


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
