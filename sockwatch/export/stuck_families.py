"""Families about ages: stuck connections, the oldest ones, how long connections stay."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client.metrics_core import (
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    Metric,
)

from sockwatch.observe.snapshot import NamespaceView, Snapshot, Stuck, StuckKey
from sockwatch.tcp.causes import Cause
from sockwatch.tcp.states import State

BUCKETS: Final = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
"""Upper bounds of the age histogram in seconds: around the default limits, then hours and a day."""


def _known(snapshot: Snapshot) -> Iterator[tuple[NamespaceView, Stuck]]:
    for view in snapshot.namespaces:
        if view.stuck is not None:
            yield view, view.stuck


def stuck_connections(snapshot: Snapshot) -> Metric:
    """Connections over the age limit; every service shows its CLOSE_WAIT even at zero."""
    family = GaugeMetricFamily(
        "sockwatch_tcp_stuck_connections",
        "TCP connections that have been in a state for longer than its age limit, as of the last "
        "watch pass. cause: not_closed (end of stream read, not closed), eof_unread, data_unread, "
        "not_accepted, half_closed, unanswered.",
        labels=["direction", "port", "unit", "state", "cause", "netns"],
    )
    for view, stuck in _known(snapshot):
        zeros = (StuckKey(key, State.CLOSE_WAIT, Cause.NOT_CLOSED) for key in view.services)
        for key, number in (dict.fromkeys(zeros, 0) | dict(stuck.connections)).items():
            labels = (*key.service, key.state.label, key.cause, view.netns)
            family.add_metric(labels, number)
    return family


def oldest_ages(snapshot: Snapshot) -> Metric:
    """Age of the oldest connection; absent where there is none."""
    family = GaugeMetricFamily(
        "sockwatch_tcp_oldest_connection_age_seconds",
        "How long the oldest connection of a service has been in a watched state, as of the last "
        "watch pass; at least, for what was there before sockwatch looked.",
        labels=["direction", "port", "unit", "state", "netns"],
    )
    for view, stuck in _known(snapshot):
        for (service, state), age in stuck.oldest.items():
            family.add_metric((*service, state.label, view.netns), age)
    return family


def kernel_held(snapshot: Snapshot) -> Metric:
    """Age of the oldest FIN_WAIT2 without a process; absent where there is none."""
    family = GaugeMetricFamily(
        "sockwatch_tcp_kernel_held_oldest_age_seconds",
        "How long the kernel alone has held the oldest socket in a state, by its own timer, which "
        "ends it at tcp_fin_timeout. No process can leak these; those that one holds count among "
        "the connections.",
        labels=["state", "netns"],
    )
    for view, stuck in _known(snapshot):
        if stuck.kernel_held is not None:
            family.add_metric((State.FIN_WAIT2.label, view.netns), stuck.kernel_held)
    return family


def state_ages(snapshot: Snapshot) -> Metric:
    """Histogram of ages by state, of all namespaces together."""
    family = GaugeHistogramMetricFamily(
        "sockwatch_tcp_state_age_seconds",
        "How long the connections that are in a watched state now have been in it, as of the last "
        "watch pass. ESTABLISHED: those that nobody has accepted.",
        labels=["state"],
    )
    for state, ages in _by_state(stuck.ages for _, stuck in _known(snapshot)).items():
        total = sum(age * number for age, number in ages.items())
        family.add_metric((state.label,), _buckets(ages), total)
    return family


def _by_state(
    everywhere: Iterable[Mapping[State, Mapping[float, int]]],
) -> Mapping[State, Mapping[float, int]]:
    result: dict[State, dict[float, int]] = {}
    for by_state in everywhere:
        for state, ages in by_state.items():
            into = result.setdefault(state, {})
            for age, number in ages.items():
                into[age] = into.get(age, 0) + number
    return result


def _buckets(ages: Mapping[float, int]) -> list[tuple[str, float]]:
    counts = [0] * (len(BUCKETS) + 1)
    for age, number in ages.items():
        counts[bisect_left(BUCKETS, age)] += number
    # Bounds are spelled as Prometheus 3 would normalise them, so that rules fit 2 and 3.
    return [*zip([*map(str, BUCKETS), "+Inf"], accumulate(counts), strict=True)]


def age_limits(snapshot: Snapshot) -> Metric:
    """The configured limits."""
    family = GaugeMetricFamily(
        "sockwatch_tcp_state_age_limit_seconds",
        "How long is normal in a watched state; beyond it a connection counts as stuck. "
        "ESTABLISHED: before it is accepted; that goes for the cause not_accepted in CLOSE_WAIT, "
        "too.",
        labels=["state"],
    )
    for _, stuck in list(_known(snapshot))[:1]:
        for state, limit in stuck.limits.items():
            family.add_metric((state.label,), limit)
    return family


def tracked(snapshot: Snapshot) -> Metric:
    """How many ages are known."""
    family = GaugeMetricFamily(
        "sockwatch_tracked_connections", "Connections in watched states whose age is followed."
    )
    known = [stuck.followed for _, stuck in _known(snapshot)]
    if known:
        family.add_metric((), sum(known))
    return family


def tracked_limit(snapshot: Snapshot) -> Metric:
    """The bound of that."""
    family = GaugeMetricFamily(
        "sockwatch_tracked_connections_limit",
        "Connections whose age is followed at most; beyond it ages are sampled.",
    )
    for _, stuck in list(_known(snapshot))[:1]:
        family.add_metric((), stuck.most_followed)
    return family


def sampling(snapshot: Snapshot) -> Metric:
    """Whether ages are sampled."""
    family = GaugeMetricFamily(
        "sockwatch_tracking_sampling_ratio",
        "Share of connections in watched states whose age is followed; 1 unless there are more "
        "than the limit. Counts of stuck connections are scaled by it.",
    )
    strides = [stuck.stride for _, stuck in _known(snapshot)]
    if strides:
        family.add_metric((), 1 / max(strides))
    return family


STUCK_FAMILIES: Final = (
    stuck_connections,
    oldest_ages,
    kernel_held,
    state_ages,
    age_limits,
    tracked,
    tracked_limit,
    sampling,
)
