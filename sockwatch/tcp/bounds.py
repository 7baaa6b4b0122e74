"""What the sysctls that bound TCP states mean, in seconds where they are about time.

The arithmetic is the kernel's (`tcp_model_timeout`, `tcp_write_timeout` and
`tcp_retransmit_timer` in `net/ipv4/tcp_timer.c`, `reqsk_timer_handler` in
`inet_connection_sock.c`), as are the first intervals (`include/net/tcp.h`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

Sysctls = Mapping[str, int | None]
"""Values by name as sysctl(8) spells it; `None` where this host has none."""

_SYN_RTO: Final = 1.0  # TCP_TIMEOUT_INIT, seconds
_DATA_RTO: Final = 0.2  # TCP_RTO_MIN, seconds
_RTO_MAX_MS: Final = 120_000  # TCP_RTO_MAX
_ORPHAN_RETRIES: Final = 8  # what tcp_orphan_retries() takes 0 for

RTO_MAX: Final = "net.ipv4.tcp_rto_max_ms"
_LINEAR: Final = "net.ipv4.tcp_syn_linear_timeouts"
_INTERVAL: Final = "net.ipv4.tcp_keepalive_intvl"
_PROBES: Final = "net.ipv4.tcp_keepalive_probes"


def _doubling(first: float, count: int, values: Sysctls) -> float:
    """Sum of intervals in seconds, each twice the one before it up to the kernel's maximum."""
    longest = (values.get(RTO_MAX) or _RTO_MAX_MS) / 1000
    total, interval = 0.0, first
    for _ in range(count):
        total += min(interval, longest)
        interval = min(interval * 2, longest)
    return total


def _syn(retries: int, values: Sysctls) -> float:
    """When connect() gives up: at the first timer that is late, or the last one there is.

    Since 6.5 the first repetitions are a second apart before the intervals double, but the
    time limit does not count them: 2 retries end after 7 s, 6 after 131 s.
    """
    linear = values.get(_LINEAR) or 0
    limit = _doubling(_SYN_RTO, retries + 1, values)
    doubled = (linear + _doubling(_SYN_RTO, n + 1, values) for n in range(retries + 1))
    early = (_SYN_RTO * n for n in range(1, linear + 1))
    return next((at for at in (*early, *doubled) if at >= limit), limit)


def _synack(retries: int, values: Sysctls) -> float:
    return _doubling(_SYN_RTO, retries + 1, values)


def _data(retries: int, values: Sysctls) -> float:
    return _doubling(_DATA_RTO, retries + 1, values)


def _orphan(retries: int, values: Sysctls) -> float:
    return _data(retries or _ORPHAN_RETRIES, values)


def _fin(timeout: int, _values: Sysctls) -> float:
    return float(timeout)


def _keepalive(idle: int, values: Sysctls) -> float | None:
    interval, probes = values.get(_INTERVAL), values.get(_PROBES)
    return None if interval is None or probes is None else float(idle + interval * probes)


class Bound(NamedTuple):
    """What one sysctl limits."""

    says: str
    """A clause for people, with `{}` for the time where there is one."""
    seconds: Callable[[int, Sysctls], float | None] | None = None
    """From its value and the others to seconds; `None` where it does not set a time."""


BOUNDS: Final[Mapping[str, Bound]] = {
    "net.core.somaxconn": Bound("the longest any accept queue may be"),
    "net.ipv4.tcp_syn_retries": Bound("connect() gives up after {}", _syn),
    _LINEAR: Bound("first repetitions, one second apart"),
    "net.ipv4.tcp_synack_retries": Bound("half-open ones last {} at most", _synack),
    "net.ipv4.tcp_keepalive_time": Bound(
        "with SO_KEEPALIVE a dead peer is noticed after {}", _keepalive
    ),
    _INTERVAL: Bound("seconds between keepalive probes"),
    _PROBES: Bound("unanswered probes before the end"),
    "net.ipv4.tcp_retries2": Bound(
        "no ACK and a process holds it: given up after at least {}",
        _data,
    ),
    "net.ipv4.tcp_orphan_retries": Bound(
        "no ACK and no process: given up after at least {} (0 means 8; 107 s measured)",
        _orphan,
    ),
    "net.ipv4.tcp_fin_timeout": Bound("kernel-held FIN_WAIT2 end after {}", _fin),
    "net.ipv4.tcp_max_tw_buckets": Bound("beyond so many, TIME_WAIT is skipped"),
}


def seconds(name: str, values: Sysctls) -> float | None:
    """How long the sysctl of that name lets a state last, in seconds.

    `None` if it sets no time, or if this host has no value for it.
    """
    value, bound = values.get(name), BOUNDS.get(name)
    if value is None or bound is None or bound.seconds is None:
        return None
    return bound.seconds(value, values)
