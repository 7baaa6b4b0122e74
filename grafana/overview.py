"""What the overview shows, as tables of panels; `build.py` makes the dashboard of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.models import units

if TYPE_CHECKING:
    from grafana.panels import Entry, Figure, Graph, Listing, pick, rate
    from grafana.queues import DESTINATIONS, LIMITS, LISTENERS, STUCK
else:  # a script has its own folder on the path
    from panels import Entry, Figure, Graph, Listing, pick, rate
    from queues import DESTINATIONS, LIMITS, LISTENERS, STUCK


def sockets(*matchers: str, by: str = "") -> str:
    """Sockets of all chosen targets together, or by a label."""
    return f"sum{by and f' by ({by}) '}({pick('sockwatch_tcp_sockets', *matchers)})"


def largest(count: int, labels: str, *matchers: str, split: str = "") -> str:
    """Services by labels, the largest on average over the range shown, the same all along it."""
    series = pick("sockwatch_tcp_connections", *matchers)
    mean = f"sum by ({labels}) (avg_over_time({series}[$__range] @ end()))"
    return f"sum by ({labels}{split}) ({series}) and on ({labels}) topk({count}, {mean})"


SERVICE: Final = "instance, direction, port, unit"
OPENING: Final = 'phase="opening"'
ESTABLISHED: Final = 'phase="established"'
CLOSING: Final = ('phase=~"closing_.+"', 'state!="time_wait"')
CLOSE_WAIT: Final = 'state="close_wait"'
TIME_WAIT: Final = 'state="time_wait"'
UNOWNED: Final = pick("sockwatch_tcp_unowned_sockets")
UNOWNED_ALIVE: Final = pick("sockwatch_tcp_unowned_sockets", 'kind!="mini"')
LAST_PASS: Final = pick("sockwatch_last_pass_timestamp_seconds")
AGE: Final = f"timestamp({LAST_PASS}) - {LAST_PASS}"
PASS_CPU: Final = pick("sockwatch_pass_cpu_seconds_total")
FAILURES: Final = pick("sockwatch_pass_failures_total")
BUILD: Final = pick("sockwatch_build_info")
SOURCE: Final = pick("sockwatch_source_info")

ROWS: Final[dict[str, tuple[Entry, ...]]] = {
    "Now": (
        Figure("Established", sockets(ESTABLISHED), "Connections open in both directions."),
        Figure("Opening", sockets(OPENING), "Connections that have not finished the handshake."),
        Figure("Closing", sockets(*CLOSING), "Closed by one side or both, without TIME_WAIT."),
        Figure(
            "CLOSE_WAIT",
            sockets(CLOSE_WAIT),
            "The peer has closed, the local application has not. No kernel timeout ends that.",
        ),
        Figure(
            "TIME_WAIT",
            sockets(TIME_WAIT),
            "Closed here first and remembered for 60 s. Harmless but for their source ports.",
        ),
        Figure(
            "Held by no process",
            f"sum({UNOWNED_ALIVE})",
            "Half-open, not accepted and orphaned connections. Unknown with the source psutil.",
        ),
        Figure(
            "Oldest pass",
            f"max({AGE})",
            "How long before the last scrape a pass last succeeded, where that is longest.",
            units.Seconds,
            (60.0, 300.0),
        ),
        Figure("Hosts", f"count({BUILD})", "Hosts chosen that answer."),
    ),
    "Handshake": (
        Graph(
            "Opening, by state",
            8,
            {"{{state}}": sockets(OPENING, by="state")},
            "SYN_SENT waits on the peer's answer, SYN_RECV on the client's third step or on room "
            "in the accept queue.",
        ),
        Graph(
            "Established, by host",
            8,
            {"{{instance}}": sockets(ESTABLISHED, by="instance")},
            "Connections open in both directions.",
        ),
        Graph(
            "Closing, by state",
            8,
            {"{{state}}": sockets(*CLOSING, by="state")},
            "CLOSE_WAIT waits on the local application, FIN_WAIT2 on the peer's, the others on "
            "the peer's acknowledgement.",
        ),
    ),
    "Services": (
        Graph(
            "CLOSE_WAIT, by service",
            24,
            {"{{instance}} {{direction}} {{port}} {{unit}}": largest(10, SERVICE, CLOSE_WAIT)},
            "The ten services with most. What grows, or stays when the traffic goes, is a leak in "
            "the application of that unit; what drains is load.",
        ),
        Listing(
            "Connections now, by service and state",
            24,
            largest(100, SERVICE, split=", state"),
            (
                *("instance", "direction", "port", "unit"),
                *("close_wait", "last_ack", "fin_wait1", "fin_wait2", "closing"),
                *("syn_sent", "syn_recv", "established", "time_wait"),
            ),
            "close_wait",
            "A service is the local port of inbound connections and the remote port of outbound "
            "ones. The kernel keeps no unit for TIME_WAIT and SYN_RECV.",
            pivot="state",
        ),
    ),
    "Stuck connections": STUCK,
    "Listeners": LISTENERS,
    "Destinations": DESTINATIONS,
    "Kernel": (
        *LIMITS,
        Graph(
            "Held by no process, by kind",
            12,
            {"{{kind}}": f"sum by (kind) ({UNOWNED})"},
            "half_open: handshake not finished. not_accepted: waiting for accept(). orphan: closed "
            "by the application, not by the peer. mini: what is left of a closed connection.",
        ),
        Graph(
            "TIME_WAIT, by service",
            12,
            {
                "{{instance}} {{direction}} {{port}}": largest(
                    10, "instance, direction, port", TIME_WAIT
                )
            },
            "The ten services with most. Each outbound one holds a source port toward its "
            "destination for 60 s.",
        ),
    ),
    "sockwatch itself": (
        Graph(
            "Duration of a pass",
            8,
            {"{{instance}} {{pass}}": pick("sockwatch_pass_duration_seconds")},
            "How long the last pass took.",
            units.Seconds,
        ),
        Graph(
            "Interval and age of a pass",
            8,
            {
                "{{instance}} {{pass}} interval": pick("sockwatch_pass_interval_seconds"),
                "{{instance}} {{pass}} age": AGE,
            },
            "The interval as the CPU budget has stretched it, and how long before the scrape the "
            "last pass succeeded. An age of several intervals means old figures.",
            units.Seconds,
        ),
        Graph(
            "CPU of passes",
            8,
            {
                "{{instance}} {{pass}}": f"rate({PASS_CPU}[$__rate_interval])",
                "{{instance}} budget": pick("sockwatch_cpu_budget_ratio"),
            },
            "Share of one core, and what both passes together may take (cpu.budget).",
            units.PercentUnit,
        ),
        Graph(
            "Failed passes, by cause",
            8,
            {
                "{{pass}} {{cause}}": f"sum by (pass, cause) (increase({FAILURES}"
                "[$__rate_interval]))"
            },
            "Passes discarded within the rate interval. The figures of the last good one stay.",
        ),
        Graph(
            'Label sets folded into "other"',
            8,
            {"{{instance}}": pick("sockwatch_folded_label_sets")},
            "Services beyond the series limit (labels.series_limit), and listeners beyond 1,000. "
            "They are counted under port and unit other.",
        ),
        Graph(
            "Ages followed",
            8,
            {
                "{{instance}}": pick("sockwatch_tracked_connections"),
                "{{instance}} limit": pick("sockwatch_tracked_connections_limit"),
            },
            "Connections whose age is remembered. At the limit ages are sampled.",
        ),
        Graph(
            "Memory",
            8,
            {"{{instance}}": pick("process_resident_memory_bytes")},
            "Resident memory of the daemon.",
            units.BytesIEC,
        ),
        Graph(
            "HTTP requests turned away, by reason",
            8,
            {"{{instance}} {{reason}}": rate("sockwatch_http_requests_rejected_total")},
            "Clients beyond the number of connections, too slow, or not speaking HTTP.",
            units.CountsPerSecond,
        ),
        Listing(
            "Version and source",
            8,
            f"sum by (instance, version, source) ({BUILD}"
            f" * ignoring (version, python_version, source) group_left (source) {SOURCE})",
            ("instance", "version", "source"),
            "instance",
            "With the source psutil there are no units, queues and kinds of unowned sockets.",
        ),
    ),
}
