"""Families about sockwatch itself that are not part of a Snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric


class Reloads(NamedTuple):
    """How the configuration was last loaded."""

    successful: bool
    success_time: float
    """Unix time in seconds of the last good load."""


class HttpCounts(NamedTuple):
    """What the HTTP server has to do."""

    in_flight: int
    rejected: Mapping[str, int]
    """By reason, every reason present."""


def own_families(reloads: Reloads, http: HttpCounts, budget: float) -> Iterator[Metric]:
    """Configuration, HTTP and process metrics; the budget is a share of one core, 0 = none."""
    if budget:
        yield GaugeMetricFamily(
            "sockwatch_cpu_budget_ratio",
            "Share of one core that the passes may use (cpu.budget); absent without a limit.",
            value=budget,
        )
    yield GaugeMetricFamily(
        "sockwatch_config_last_reload_successful",
        "Whether the last attempt to load the configuration succeeded.",
        value=reloads.successful,
    )
    yield GaugeMetricFamily(
        "sockwatch_config_last_reload_success_timestamp_seconds",
        "Unix time of the last successful load of the configuration.",
        value=reloads.success_time,
    )
    yield GaugeMetricFamily(
        "sockwatch_http_requests_in_flight",
        "HTTP requests being answered.",
        value=http.in_flight,
    )
    rejected = CounterMetricFamily(
        "sockwatch_http_requests_rejected",
        "HTTP requests and connections turned away, by reason.",
        labels=["reason"],
    )
    for reason, number in http.rejected.items():
        rejected.add_metric([reason], number)
    yield rejected
    yield from ProcessCollector(registry=None).collect()
