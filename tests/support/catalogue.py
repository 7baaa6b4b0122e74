"""Names, types and labels of the metrics: as the design fixes them, and as they are exported.

Rules, dashboards and runbooks may use these and no other.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Final, NamedTuple

from everything import EVERYTHING

from sockwatch.export.families import families
from sockwatch.export.own import HttpCounts, Reloads, own_families


class Shape(NamedTuple):
    """What anybody may rely on."""

    kind: str
    labels: frozenset[str] = frozenset()


def gauge(labels: str = "") -> Shape:
    return Shape("gauge", frozenset(labels.split()))


def counter(labels: str = "") -> Shape:
    return Shape("counter", frozenset(labels.split()))


DESIGN: Final = {
    "sockwatch_tcp_sockets": gauge("family state phase netns"),
    "sockwatch_tcp_unowned_sockets": gauge("kind netns"),
    "sockwatch_tcp_connections": gauge("direction port unit state phase netns"),
    "sockwatch_folded_label_sets": gauge(),
    "sockwatch_tcp_connections_peak": gauge("state"),
    "sockwatch_tcp_stuck_connections": gauge("direction port unit state cause netns"),
    "sockwatch_tcp_oldest_connection_age_seconds": gauge("direction port unit state netns"),
    "sockwatch_tcp_state_age_seconds_bucket": Shape("gaugehistogram", frozenset({"state", "le"})),
    "sockwatch_tcp_state_age_seconds_gcount": Shape("gaugehistogram", frozenset({"state"})),
    "sockwatch_tcp_state_age_seconds_gsum": Shape("gaugehistogram", frozenset({"state"})),
    "sockwatch_tcp_state_age_limit_seconds": gauge("state"),
    "sockwatch_tracked_connections": gauge(),
    "sockwatch_tracked_connections_limit": gauge(),
    "sockwatch_listener_accept_queue_length": gauge("address port unit netns"),
    "sockwatch_listener_accept_queue_limit": gauge("address port unit netns"),
    "sockwatch_listener_accept_queue_peak": gauge("address port unit netns"),
    "sockwatch_listener_half_open_connections": gauge("address port unit netns"),
    "sockwatch_listener_drops_total": counter("address port unit netns"),
    "sockwatch_ephemeral_ports": gauge("netns"),
    "sockwatch_ephemeral_ports_in_use_max": gauge("netns"),
    "sockwatch_destination_ephemeral_ports_in_use": gauge("destination netns"),
    "sockwatch_destination_unanswered_connections": gauge("destination netns"),
    "sockwatch_tcp_active_opens_total": counter("netns"),
    "sockwatch_tcp_passive_opens_total": counter("netns"),
    "sockwatch_tcp_attempt_fails_total": counter("netns"),
    "sockwatch_tcp_established_resets_total": counter("netns"),
    "sockwatch_tcp_listen_overflows_total": counter("netns"),
    "sockwatch_tcp_listen_drops_total": counter("netns"),
    "sockwatch_tcp_syn_queue_full_drops_total": counter("netns"),
    "sockwatch_tcp_syn_queue_full_cookies_total": counter("netns"),
    "sockwatch_tcp_syncookies_sent_total": counter("netns"),
    "sockwatch_tcp_syncookies_received_total": counter("netns"),
    "sockwatch_tcp_syncookies_failed_total": counter("netns"),
    "sockwatch_tcp_syn_retransmissions_total": counter("netns"),
    "sockwatch_tcp_time_wait_overflows_total": counter("netns"),
    "sockwatch_tcp_aborts_total": counter("reason netns"),
    "sockwatch_tcp_time_wait_sockets": gauge("netns"),
    "sockwatch_tcp_time_wait_sockets_limit": gauge("netns"),
    "sockwatch_tcp_orphan_sockets": gauge(),
    "sockwatch_tcp_orphan_sockets_limit": gauge(),
    "sockwatch_tcp_memory_bytes": gauge(),
    "sockwatch_tcp_memory_limit_bytes": gauge("level"),
    "sockwatch_somaxconn": gauge("netns"),
    "sockwatch_tcp_max_syn_backlog": gauge("netns"),
    "sockwatch_tcp_hidden_sockets": gauge(),
    "sockwatch_build_info": gauge("version python_version"),
    "sockwatch_source_info": gauge("source"),
    "sockwatch_pass_duration_seconds": gauge("pass"),
    "sockwatch_pass_cpu_seconds_total": counter("pass"),
    "sockwatch_pass_interval_seconds": gauge("pass"),
    "sockwatch_last_pass_timestamp_seconds": gauge("pass"),
    "sockwatch_passes_total": counter("pass"),
    "sockwatch_pass_failures_total": counter("pass cause"),
    "sockwatch_collector_success": gauge("collector"),
    "sockwatch_config_last_reload_successful": gauge(),
    "sockwatch_config_last_reload_success_timestamp_seconds": gauge(),
    "sockwatch_http_requests_in_flight": gauge(),
    "sockwatch_http_requests_rejected_total": counter("reason"),
    "process_virtual_memory_bytes": gauge(),
    "process_resident_memory_bytes": gauge(),
    "process_start_time_seconds": gauge(),
    "process_cpu_seconds_total": counter(),
    "process_open_fds": gauge(),
    "process_max_fds": gauge(),
}
"""As the design fixes it: a change here is a change of dashboards and alerts out there."""

ADDED: Final = {
    "sockwatch_cpu_budget_ratio": gauge(),
    "sockwatch_mptcp_connections": gauge("family state phase netns"),
    "sockwatch_tcp_kernel_held_oldest_age_seconds": gauge("state netns"),
    "sockwatch_tracking_sampling_ratio": gauge(),
}
"""Beyond the design, under its rules."""

CATALOGUE: Final = DESIGN | ADDED


def _exported() -> Iterator[tuple[str, frozenset[str]]]:
    own = own_families(Reloads(successful=True, success_time=0), HttpCounts(0, {"limit": 0}), 0.02)
    for family in chain(families(EVERYTHING), own):
        for sample in family.samples:
            yield sample.name, frozenset(sample.labels)


METRICS: Final = {**dict(_exported()), "up": frozenset[str]()}
"""Labels by metric, read from what exports them; `up` is Prometheus' own."""

TARGET_LABELS: Final = frozenset({"job", "instance"})
"""Prometheus adds these to every series."""
