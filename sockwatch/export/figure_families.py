"""The metric families of kernel counters and limits; see `sockwatch.export.families`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from sockwatch.observe.figures import Figures, HostFigures
from sockwatch.observe.snapshot import Snapshot

Samples = Iterable[tuple[tuple[str, ...], float | None]]
"""Label values and the value, `None` where it is not known: it gets no sample."""

_COUNTERS: Final[Mapping[str, str]] = {
    "active_opens": "Connections that connect() has begun (ActiveOpens)",
    "passive_opens": "Connections that a listener has got, at the last ACK (PassiveOpens)",
    "attempt_fails": "Connections that failed while opening: refused, timed out, or a half-open "
    "one reset (AttemptFails)",
    "established_resets": "Connections that went from established or close_wait to closed: reset "
    "by either side, or timed out (EstabResets)",
    "listen_overflows": "SYNs and last ACKs that found the accept queue full (ListenOverflows)",
    "listen_drops": "SYNs and last ACKs dropped at a listener for any reason, overflows included "
    "(ListenDrops)",
    "syn_queue_full_drops": "SYNs dropped because the listener's SYN queue was full and SYN "
    "cookies are off (TCPReqQFullDrop)",
    "syn_queue_full_cookies": "SYNs answered with a cookie because the listener's SYN queue was "
    "full, or because tcp_syncookies is 2 (TCPReqQFullDoCookies)",
    "syncookies_sent": "SYN cookies sent (SyncookiesSent)",
    "syncookies_received": "Valid SYN cookies that came back (SyncookiesRecv)",
    "syncookies_failed": "ACKs that were no valid SYN cookie, counted for a short time after one "
    "was sent (SyncookiesFailed)",
    "syn_retransmissions": "SYNs and SYN+ACKs sent again (TCPSynRetrans)",
    "time_wait_overflows": "Connections that got no TIME_WAIT, for too many there were or no "
    "memory (TCPTimeWaitOverflow)",
}
_SINCE: Final = ", since the network namespace began."


def _counter(name: str) -> Callable[[Snapshot], Metric]:
    def family(snapshot: Snapshot) -> Metric:
        metric = CounterMetricFamily(
            f"sockwatch_tcp_{name}", _COUNTERS[name] + _SINCE, labels=["netns"]
        )
        return _filled(metric, _each(snapshot, lambda figures: figures.counters.get(name)))

    return family


def _aborts(snapshot: Snapshot) -> Metric:
    metric = CounterMetricFamily(
        "sockwatch_tcp_aborts",
        "Connections that the kernel ended with an RST (TCPAbortOn...): close (closed with data "
        "unread), data (linger 0, or data came after close), memory (too many orphans, or no "
        "memory), timeout (no answer), linger (negative TCP_LINGER2)" + _SINCE,
        labels=["reason", "netns"],
    )
    counted = (
        ((reason, netns), number)
        for netns, figures in _figures(snapshot)
        for reason, number in figures.aborts.items()
    )
    return _filled(metric, counted)


def _of_namespace(
    name: str, meaning: str, value: Callable[[Figures], int | None]
) -> Callable[[Snapshot], Metric]:
    def family(snapshot: Snapshot) -> Metric:
        metric = GaugeMetricFamily(name, meaning, labels=["netns"])
        return _filled(metric, _each(snapshot, value))

    return family


def _of_host(
    name: str, meaning: str, value: Callable[[HostFigures], int | None]
) -> Callable[[Snapshot], Metric]:
    def family(snapshot: Snapshot) -> Metric:
        samples = (((), value(figures)) for figures in _host_figures(snapshot))
        return _filled(GaugeMetricFamily(name, meaning, labels=[]), samples)

    return family


def _memory_limits(snapshot: Snapshot) -> Metric:
    metric = GaugeMetricFamily(
        "sockwatch_tcp_memory_limit_bytes",
        "Memory of all TCP buffers from which on the kernel is sparing (pressure), until it is "
        "below low again, or refuses more (high); of the whole host (tcp_mem).",
        labels=["level"],
    )
    levels = (
        ((level,), limit)
        for figures in _host_figures(snapshot)
        for level, limit in figures.memory_limits.items()
    )
    return _filled(metric, levels)


def _filled(metric: GaugeMetricFamily | CounterMetricFamily, samples: Samples) -> Metric:
    for labels, value in samples:
        if value is not None:
            metric.add_metric(labels, value)
    return metric


def _each(snapshot: Snapshot, value: Callable[[Figures], int | None]) -> Samples:
    return (((netns,), value(figures)) for netns, figures in _figures(snapshot))


def _figures(snapshot: Snapshot) -> Iterator[tuple[str, Figures]]:
    return ((view.netns, view.figures) for view in snapshot.namespaces if view.figures)


def _host_figures(snapshot: Snapshot) -> Iterator[HostFigures]:
    """Those of the host, once, whoever has them: there is no label to tell two apart."""
    return islice((figures.host for _, figures in _figures(snapshot) if figures.host), 1)


FIGURE_FAMILIES: Final[tuple[Callable[[Snapshot], Metric], ...]] = (
    _of_namespace(
        "sockwatch_ephemeral_ports",
        "Ports that connect() chooses from: ip_local_port_range less ip_local_reserved_ports.",
        lambda figures: figures.ephemeral_ports,
    ),
    *map(_counter, _COUNTERS),
    _aborts,
    _of_namespace(
        "sockwatch_tcp_time_wait_sockets",
        "Sockets in TIME_WAIT, and in FIN_WAIT2 those that the kernel holds, as of the last pass.",
        lambda figures: figures.time_wait,
    ),
    _of_namespace(
        "sockwatch_tcp_time_wait_sockets_limit",
        "Number of these beyond which connections get no TIME_WAIT (tcp_max_tw_buckets).",
        lambda figures: figures.time_wait_limit,
    ),
    _of_host(
        "sockwatch_tcp_orphan_sockets",
        "Sockets that no process holds, but for TIME_WAIT, of the whole host, as of the last pass.",
        lambda host: host.orphans,
    ),
    _of_host(
        "sockwatch_tcp_orphan_sockets_limit",
        "Limit of orphans (tcp_max_orphans); the kernel resets them from a quarter to a half of "
        "it.",
        lambda host: host.orphan_limit,
    ),
    _of_host(
        "sockwatch_tcp_memory_bytes",
        "Memory of all TCP buffers of the whole host as of the last pass, to a MiB per CPU.",
        lambda host: host.memory,
    ),
    _memory_limits,
    _of_namespace(
        "sockwatch_somaxconn",
        "The longest that any accept queue may be (net.core.somaxconn).",
        lambda figures: figures.somaxconn,
    ),
    _of_namespace(
        "sockwatch_tcp_max_syn_backlog",
        "Half-open connections that a listener may have where SYN cookies are off.",
        lambda figures: figures.max_syn_backlog,
    ),
    _of_host(
        "sockwatch_tcp_hidden_sockets",
        "TCP sockets of the whole host that are in no table, looked at every 30 s: dead ones that "
        "a process has not closed, and the few only made or bound. Absent unless every process of "
        "the host may be seen.",
        lambda host: host.hidden,
    ),
)
"""In the order of the catalogue."""
