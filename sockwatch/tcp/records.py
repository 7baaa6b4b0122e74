"""Records that carry what was read from the kernel to those who make sense of it.

They hold plain values in host byte order. `None` means that the source cannot know the value:
it is never replaced by a guess.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from sockwatch.tcp.states import Direction, Family, State, Unowned


class Row(NamedTuple):
    """One socket as its kernel record describes it (`struct inet_diag_msg` and attributes)."""

    family: Family
    state: State
    source: bytes
    """Local address, 4 or 16 bytes in network order."""
    source_port: int
    destination: bytes
    """Remote address, 4 or 16 bytes in network order; all zero for listeners."""
    destination_port: int
    timer: int | None = None
    """Pending timer: 0 none, 1 retransmit, 2 keepalive, 3 TIME_WAIT, 4 zero-window probe."""
    retransmits: int | None = None
    expires: int | None = None
    """Milliseconds until the pending timer fires."""
    receive_queue: int | None = None
    """Unread bytes; for a listener the connections that wait for accept()."""
    send_queue: int | None = None
    """Unacknowledged bytes; for a listener the limit of its accept queue."""
    uid: int | None = None
    inode: int | None = None
    """0 when no file refers to the socket."""
    cookie: int | None = None
    """The kernel's identity of the socket, never reused until reboot."""
    cgroup: int | None = None
    """cgroup v2 id; absent on SYN_RECV requests, TIME_WAIT and FIN_WAIT2 minis, old kernels."""
    v6_only: bool | None = None
    drops: int | None = None
    """SYNs and ACKs dropped at a listener since it was made; 32 bits, may wrap."""


class ServicePort(NamedTuple):
    """Connections that belong together before their cgroup has a name."""

    direction: Direction
    port: int
    cgroup: int
    """cgroup v2 id, 0 where the record carries none."""
    state: State


class Endpoint(NamedTuple):
    """The local end of a connection, or what listens for it."""

    address: bytes
    """4 or 16 bytes in network order, v4-mapped ones reduced to 4."""
    port: int


class Destination(NamedTuple):
    """What an ephemeral port is used up against."""

    source: bytes
    destination: bytes
    port: int


RawDestination = bytes
"""A destination as counted, for there may be many and few are looked at: remote port, local and
remote address in network order, 10 or 34 bytes; `tally.destination` tells what it stands for."""


@dataclass(slots=True)
class Counts:
    """Sockets counted by key while a dump is read; bounded by keys, not by sockets."""

    sockets: Counter[tuple[Family, State]] = field(default_factory=Counter)
    """TCP sockets."""
    services: Counter[ServicePort] = field(default_factory=Counter)
    destinations: dict[State, Counter[RawDestination]] = field(default_factory=dict)
    """Ephemeral ports in use toward each destination, by state."""
    half_open: Counter[Endpoint] = field(default_factory=Counter)
    """SYN_RECV by the local end."""
    resent: Counter[Endpoint] | None = field(default_factory=Counter)
    """Those of them whose SYN+ACK was sent again; `None` where the source does not know."""
    unowned: Counter[Unowned] | None = field(default_factory=Counter)
    """`None` when the source cannot tell owned sockets from unowned ones."""
    multipath: Counter[tuple[Family, State]] | None = None
    """MPTCP connections; `None` where the kernel has no MPTCP or does not tell. They count as
    connections in place of their subflows, which count as sockets only."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one pass read."""

    listeners: tuple[Row, ...]
    watched: Counts
    """Every state but LISTEN, ESTABLISHED and TIME_WAIT."""
    bulk: Counts | None = None
    """ESTABLISHED and TIME_WAIT, read by a census only."""
