"""Figures: what the kernel has counted, what is in use, and the limits of it.

What was not read is absent, never 0. Counters are handed through as they are: where the kernel
counts in 32 bits they wrap, which looks like a restart to whoever takes a rate. CurrEstab is none
of them: it drifts below zero on kernels before mid-2024, and means something else since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from sockwatch.tcp.numbers import Groups, Limits

COUNTERS: Final[Mapping[str, tuple[str, str]]] = {
    "active_opens": ("Tcp", "ActiveOpens"),
    "passive_opens": ("Tcp", "PassiveOpens"),
    "attempt_fails": ("Tcp", "AttemptFails"),
    "established_resets": ("Tcp", "EstabResets"),
    "listen_overflows": ("TcpExt", "ListenOverflows"),
    "listen_drops": ("TcpExt", "ListenDrops"),
    "syn_queue_full_drops": ("TcpExt", "TCPReqQFullDrop"),
    "syn_queue_full_cookies": ("TcpExt", "TCPReqQFullDoCookies"),
    "syncookies_sent": ("TcpExt", "SyncookiesSent"),
    "syncookies_received": ("TcpExt", "SyncookiesRecv"),
    "syncookies_failed": ("TcpExt", "SyncookiesFailed"),
    "syn_retransmissions": ("TcpExt", "TCPSynRetrans"),
    "time_wait_overflows": ("TcpExt", "TCPTimeWaitOverflow"),
}
"""Group and name by the name in the metric catalogue."""
ABORTS: Final[Mapping[str, tuple[str, str]]] = {
    "close": ("TcpExt", "TCPAbortOnClose"),
    "data": ("TcpExt", "TCPAbortOnData"),
    "memory": ("TcpExt", "TCPAbortOnMemory"),
    "timeout": ("TcpExt", "TCPAbortOnTimeout"),
    "linger": ("TcpExt", "TCPAbortOnLinger"),
}
"""The same for connections ended with an RST, by reason."""
MEMORY_LEVELS: Final = ("low", "pressure", "high")
"""What the three numbers of tcp_mem are."""


class Lately(NamedTuple):
    """What has been counted in the last while."""

    seconds: float
    """How long that is, at most a minute or so."""
    counters: Mapping[str, int]
    """By the names of `COUNTERS`; without those that have gone back."""


@dataclass(frozen=True, slots=True)
class HostFigures:
    """What the kernel has once, whatever network namespace it is read in."""

    orphans: int | None
    """Full sockets that no process holds; TIME_WAIT is not among them."""
    orphan_limit: int | None
    """The kernel resets orphans from a quarter to a half of it, by how it feels about them."""
    memory: int | None
    """Bytes of all TCP buffers, up to a MiB per CPU off since 6.0."""
    memory_limits: Mapping[str, int]
    """Bytes by level, in the order of `MEMORY_LEVELS`; empty if not known."""
    hidden: int | None
    """See `hidden_sockets`."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Counters, usage and limits of one network namespace."""

    counters: Mapping[str, int]
    """Since the namespace began, by the names of `COUNTERS`."""
    aborts: Mapping[str, int]
    """Likewise, by the reasons of `ABORTS`."""
    time_wait: int | None
    """TIME_WAIT sockets and FIN_WAIT2 ones that the kernel holds; the limit is for both."""
    time_wait_limit: int | None
    ephemeral_ports: int | None
    """Ports that connect() chooses from."""
    somaxconn: int | None
    """The longest any accept queue may be."""
    max_syn_backlog: int | None
    """Half-open connections per listener; obeyed only without SYN cookies."""
    host: HostFigures | None = None
    """`None` in all namespaces but the one that sockwatch runs in: it is to be told once."""
    lately: Lately | None = None
    """`None` at the first look."""


def figures(groups: Groups, limits: Limits, host: HostFigures | None = None) -> Figures:
    """Make sense of what was read in one network namespace."""
    return Figures(
        counters=_counters(groups, COUNTERS),
        aborts=_counters(groups, ABORTS),
        time_wait=_usage(groups, "tw"),
        time_wait_limit=_limit(limits, "net.ipv4.tcp_max_tw_buckets"),
        ephemeral_ports=ephemeral_ports(
            limits.sysctls.get("net.ipv4.ip_local_port_range"), limits.reserved_ports
        ),
        somaxconn=_limit(limits, "net.core.somaxconn"),
        max_syn_backlog=_limit(limits, "net.ipv4.tcp_max_syn_backlog"),
        host=host,
    )


def host_figures(groups: Groups, limits: Limits, hidden: int | None) -> HostFigures:
    """Make sense of what was read of the whole host.

    Args:
        groups: read in any network namespace.
        limits: read in the initial one, or they lack those of the host.
        hidden: see `hidden_sockets`.
    """
    mem, unit = _usage(groups, "mem"), limits.memory_unit_bytes
    levels = limits.sysctls.get("net.ipv4.tcp_mem", ())
    return HostFigures(
        orphans=_usage(groups, "orphan"),
        orphan_limit=_limit(limits, "net.ipv4.tcp_max_orphans"),
        memory=None if mem is None or unit is None else mem * unit,
        memory_limits=_memory_limits(levels, limits.page_bytes),
        hidden=hidden,
    )


def ephemeral_ports(chosen: tuple[int, ...] | None, reserved: Iterable[range] | None) -> int | None:
    """How many ports connect() chooses from: a range with both ends in it, less reserved ones.

    In a range of an odd number connect() may fail with the last free port untried: it steps by
    two, over an even number of them.
    """
    match chosen:
        case (first, last) if reserved is not None:
            taken = (range(max(first, one.start), min(last + 1, one.stop)) for one in reserved)
            return len(range(first, last + 1)) - sum(map(len, taken))
    return None


def hidden_sockets(groups: Groups, hashed: int | None) -> int | None:
    """TCP sockets that exist but are in no table, so that no dump and no `ss` shows them.

    A connection that was reset, or timed out, leaves its table at once; the socket lives on until
    the process closes its descriptor. A leak of those shows nowhere else than here and in
    /proc/PID/fd.

    `alloc` of sockstat counts every TCP socket of the host until it is destroyed; `inuse` counts
    those in the tables of one network namespace. The difference is right only with `inuse` summed
    over all namespaces: those of containers hold most of a host's sockets. Measured on 6.18, kind
    by kind: listeners, connections in all states, those that wait for accept() and orphans are
    in both; SYN_RECV requests and the minis of TIME_WAIT and FIN_WAIT2 in neither; in `alloc`
    alone are dead sockets, and also those that have only been made or bound, one each. The latter
    are healthy and few: 0 on an idle host, and as many as a program keeps between socket() and
    connect() or listen(). So it is the growth that tells, not the number.

    Args:
        groups: read at the same time as `hashed`, or as nearly as can be.
        hashed: `inuse` of IPv4 and IPv6, over all network namespaces.

    Returns:
        At least 0, as nearly is not quite; `None` if either is not known.
    """
    allocated = _usage(groups, "alloc")
    return None if allocated is None or hashed is None else max(0, allocated - hashed)


def lately(seconds: float, before: Mapping[str, int], now: Mapping[str, int]) -> Lately:
    """What counters have gained in so many seconds; one that has gone back says nothing."""
    gained = {name: now[name] - before[name] for name in now if name in before}
    return Lately(seconds, {name: number for name, number in gained.items() if number >= 0})


def _counters(groups: Groups, wanted: Mapping[str, tuple[str, str]]) -> Mapping[str, int]:
    """What was read of the wanted ones; one that is negative is not what it is taken for."""
    found = ((name, groups.get(group, {}).get(item)) for name, (group, item) in wanted.items())
    return {name: value for name, value in found if value is not None and value >= 0}


def _usage(groups: Groups, item: str) -> int | None:
    """A gauge of sockstat, at least 0: summed over CPUs while they work, it may dip below."""
    value = groups.get("TCP", {}).get(item)
    return None if value is None else max(0, value)


def _limit(limits: Limits, name: str) -> int | None:
    values = limits.sysctls.get(name, ())
    return values[0] if len(values) == 1 else None


def _memory_limits(levels: tuple[int, ...], page_bytes: int) -> Mapping[str, int]:
    if len(levels) != len(MEMORY_LEVELS):
        return {}
    return {name: pages * page_bytes for name, pages in zip(MEMORY_LEVELS, levels, strict=True)}
