"""Families about listeners and destinations: accept queues, drops, ephemeral ports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import nlargest
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from sockwatch.observe.snapshot import OTHER, Destinations, Listener, Snapshot

MOST_LISTENERS: Final = 1_000
"""Listeners told apart; those with the least to tell are added up beyond that."""

Value = Callable[[Listener], int | None]
Labels = tuple[str, str, str, str]
_LABELS: Final = ["address", "port", "unit", "netns"]
_OTHERS: Final = (OTHER, OTHER, OTHER)


def _interest(listener: Listener) -> tuple[int, int, int, int]:
    return (
        listener.peak or 0,
        listener.drops or 0,
        listener.half_open or 0,
        -listener.port,
    )


def _by_labels(snapshot: Snapshot, value: Value) -> Iterator[tuple[Labels, int]]:
    """Sums by label set; families that share an address, and what is folded, are added up."""
    sums: dict[Labels, int] = {}
    for view in snapshot.namespaces:
        told = view.listeners
        if len(told) > MOST_LISTENERS:
            told = tuple(nlargest(MOST_LISTENERS, told, key=_interest))
        apart = set(map(id, told))
        for listener in view.listeners:
            number = value(listener)
            if number is not None:
                named = (listener.address, str(listener.port), listener.unit)
                labels = (*(named if id(listener) in apart else _OTHERS), view.netns)
                sums[labels] = sums.get(labels, 0) + number
    return iter(sums.items())


def _listener_gauge(name: str, meaning: str, value: Value) -> Callable[[Snapshot], Metric]:
    def family(snapshot: Snapshot) -> Metric:
        metric = GaugeMetricFamily(name, meaning, labels=_LABELS)
        for labels, number in _by_labels(snapshot, value):
            metric.add_metric(labels, number)
        return metric

    return family


def listener_drops(snapshot: Snapshot) -> Metric:
    """Drops by listener."""
    metric = CounterMetricFamily(
        "sockwatch_listener_drops",
        "SYNs and final ACKs dropped at a listener (sk_drops), for any reason.",
        labels=_LABELS,
    )
    for labels, number in _by_labels(snapshot, lambda listener: listener.drops):
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
        "Ephemeral ports in use from one source address toward a destination, for destinations "
        "above a tenth of all ports, at most 20, as of the last census.",
        labels=["destination", "netns"],
    )
    for netns, found in _destinations(snapshot):
        # Of several source addresses the fullest counts: each has all ports to itself.
        fullest: dict[str, int] = {}
        for one in found.crowded:
            fullest[one.destination] = max(one.in_use, fullest.get(one.destination, 0))
        for destination, number in fullest.items():
            metric.add_metric((destination, netns), number)
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
        for destination, number in found.unanswered.items():
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
