"""Families about listeners and destinations: accept queues, drops, ephemeral ports."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from heapq import nlargest
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from sockwatch.observe.snapshot import OTHER, Destinations, Listener, NamespaceView, Snapshot

MOST_LISTENERS: Final = 1_000
"""Listeners told apart; those with the least to tell are added up beyond that."""

Value = Callable[[Listener], int | None]
Labels = tuple[str, str, str, str]
_LABELS: Final = ["address", "port", "unit", "netns"]
_OTHERS: Final = (OTHER, OTHER, OTHER)


def _interest(listener: Listener) -> tuple[int, int, int, int]:
    """Drops first: what has dropped once stays apart, so that no counter changes its labels."""
    return (
        listener.drops or 0,
        listener.peak or 0,
        listener.half_open or 0,
        -listener.port,
    )


def untold(view: NamespaceView) -> int:
    """How many listeners have no labels of their own."""
    return max(0, len(view.listeners) - MOST_LISTENERS)


def _told_apart(view: NamespaceView) -> Collection[Listener]:
    if not untold(view):
        return view.listeners
    return nlargest(MOST_LISTENERS, view.listeners, key=_interest)


def _by_labels(snapshot: Snapshot, value: Value) -> Mapping[Labels, int]:
    """Sums by label set: families may share an address, and some are folded."""
    sums: dict[Labels, int] = {}
    for view in snapshot.namespaces:
        apart = {*map(id, _told_apart(view))}
        for listener in view.listeners:
            number = value(listener)
            if number is not None:
                named = (listener.address, str(listener.port), listener.unit)
                labels = (*(named if id(listener) in apart else _OTHERS), view.netns)
                sums[labels] = sums.get(labels, 0) + number
    return sums


def _listener_gauge(name: str, meaning: str, value: Value) -> Callable[[Snapshot], Metric]:
    def family(snapshot: Snapshot) -> Metric:
        metric = GaugeMetricFamily(name, meaning, labels=_LABELS)
        for labels, number in _by_labels(snapshot, value).items():
            metric.add_metric(labels, number)
        return metric

    return family


def _drops(listener: Listener) -> int | None:
    return listener.drops


def listener_drops(snapshot: Snapshot) -> Metric:
    """Drops by listener."""
    metric = CounterMetricFamily(
        "sockwatch_listener_drops",
        "SYNs and final ACKs dropped at a listener (sk_drops), for any reason.",
        labels=_LABELS,
    )
    for labels, number in _by_labels(snapshot, _drops).items():
        metric.add_metric(labels, number)
    return metric


def _destinations(snapshot: Snapshot) -> Iterable[tuple[str, Destinations]]:
    for view in snapshot.namespaces:
        if view.destinations is not None:
            yield view.netns, view.destinations


def in_use_max(snapshot: Snapshot) -> Metric:
    """The fullest destination."""
    metric = GaugeMetricFamily(
        "sockwatch_ephemeral_ports_in_use_max",
        "Most ephemeral ports in use from one source address toward any one destination address "
        "and port, TIME_WAIT included, as of the last census.",
        labels=["netns"],
    )
    for netns, found in _destinations(snapshot):
        metric.add_metric((netns,), found.in_use_max)
    return metric


def in_use(snapshot: Snapshot) -> Metric:
    """The full destinations."""
    metric = GaugeMetricFamily(
        "sockwatch_destination_ephemeral_ports_in_use",
        "Ephemeral ports in use toward a destination from the source address that uses the most, "
        "for destinations above a tenth of all ports, at most 20, as of the last census.",
        labels=["destination", "netns"],
    )
    for netns, found in _destinations(snapshot):
        for one in found.crowded:
            metric.add_metric((one.destination, netns), one.in_use)
    return metric


def unanswered(snapshot: Snapshot) -> Metric:
    """Destinations that do not answer."""
    metric = GaugeMetricFamily(
        "sockwatch_destination_unanswered_connections",
        "Connections in SYN_SENT beyond its age limit, for destinations with at least 3, at most "
        "20, as of the last watch pass.",
        labels=["destination", "netns"],
    )
    for netns, found in _destinations(snapshot):
        for destination, number in (found.unanswered or {}).items():
            metric.add_metric((destination, netns), number)
    return metric


PORT_FAMILIES: Final[tuple[Callable[[Snapshot], Metric], ...]] = (
    _listener_gauge(
        "sockwatch_listener_accept_queue_length",
        "Connections that wait for accept(), as of the last watch pass; summed over a group with "
        "SO_REUSEPORT. May exceed the limit by one per socket.",
        lambda listener: listener.queue,
    ),
    _listener_gauge(
        "sockwatch_listener_accept_queue_limit",
        "Limit of the accept queue: min(backlog, somaxconn), summed likewise.",
        lambda listener: listener.limit,
    ),
    _listener_gauge(
        "sockwatch_listener_accept_queue_peak",
        "Longest accept queue that any watch pass of the last minute saw.",
        lambda listener: listener.peak,
    ),
    _listener_gauge(
        "sockwatch_listener_half_open_connections",
        "SYN_RECV connections that came to this listener, as of the last watch pass.",
        lambda listener: listener.half_open,
    ),
    listener_drops,
    in_use_max,
    in_use,
    unanswered,
)
