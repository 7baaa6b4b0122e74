"""Panels about what is stuck, queues, ports and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.models import units

if TYPE_CHECKING:
    from grafana.panels import Entry, Graph, Listing, pick, rate, share
else:  # a script has its own folder on the path
    from panels import Entry, Graph, Listing, pick, rate, share

SERVICE: Final = "instance, direction, port, unit, state"
LISTENER: Final = "instance, address, port, unit"
_LISTENED: Final = "{{instance}} {{address}}:{{port}} {{unit}}"

STUCK_CONNECTIONS: Final = pick("sockwatch_tcp_stuck_connections")
OLDEST: Final = pick("sockwatch_tcp_oldest_connection_age_seconds")
AGES: Final = pick("sockwatch_tcp_state_age_seconds_bucket")
LENGTH: Final = pick("sockwatch_listener_accept_queue_length")
LIMIT: Final = pick("sockwatch_listener_accept_queue_limit")
PEAK: Final = pick("sockwatch_listener_accept_queue_peak")
HALF_OPEN: Final = pick("sockwatch_listener_half_open_connections")
MEMORY_LIMIT: Final = pick("sockwatch_tcp_memory_limit_bytes", 'level="high"')


def largest(count: int, labels: str, series: str) -> str:
    """The largest on average over the range shown, the same all along it."""
    mean = f"sum by ({labels}) (avg_over_time({series}[$__range] @ end()))"
    return f"sum by ({labels}) ({series}) and on ({labels}) topk({count}, {mean})"


def fullest(queue: str) -> str:
    """Share of the limit, of the listeners whose queue is longest over the range shown."""
    longest = f"topk(10, max by ({LISTENER}) (max_over_time({queue}[$__range] @ end())))"
    return f"max by ({LISTENER}) ({share(queue, LIMIT)}) and on ({LISTENER}) {longest}"


STUCK: Final[tuple[Entry, ...]] = (
    Graph(
        "Stuck connections, by service and state",
        12,
        {
            "{{instance}} {{direction}} {{port}} {{unit}} {{state}}": largest(
                10, SERVICE, STUCK_CONNECTIONS
            )
        },
        "Connections that have been in a state for longer than its age limit. In CLOSE_WAIT the "
        "application of that unit has not closed; sockwatch leaks shows them one by one.",
    ),
    Graph(
        "Oldest connection, by service and state",
        12,
        {"{{instance}} {{direction}} {{port}} {{unit}} {{state}}": largest(10, SERVICE, OLDEST)},
        "How long the oldest connection of a service has been in its state.",
        units.Seconds,
    ),
    Graph(
        "Age that nine in ten are below, by state",
        12,
        {
            "{{state}}": f"histogram_quantile(0.9, sum by (state, le) ({AGES}))",
            "{{state}} limit": f"max by (state) ({pick('sockwatch_tcp_state_age_limit_seconds')})",
        },
        "How long connections have been in the state that they are in now, beside the age limit "
        "of the state.",
        units.Seconds,
    ),
    Graph(
        "Highest count of a minute, by state",
        12,
        {"{{instance}} {{state}}": pick("sockwatch_tcp_connections_peak", 'state!="time_wait"')},
        "The most that any pass has seen: bursts that end before the next scrape.",
    ),
)

LISTENERS: Final[tuple[Entry, ...]] = (
    Graph(
        "Accept queue, share of its limit",
        8,
        {_LISTENED: fullest(PEAK)},
        "The longest queue of each minute, of the ten longest. From 100 % on the kernel drops who "
        "wants to connect: the application does not accept fast enough.",
        units.PercentUnit,
    ),
    Graph(
        "SYN queue, share of its limit",
        8,
        {_LISTENED: fullest(HALF_OPEN)},
        "Half-open connections, of the ten listeners with most. From 100 % on the kernel sends SYN "
        "cookies or drops SYNs: a flood, lost packets, or a backlog that is too small.",
        units.PercentUnit,
    ),
    Graph(
        "Drops, by listener",
        8,
        {_LISTENED: f"topk(10, sum by ({LISTENER}) ({rate('sockwatch_listener_drops_total')}))"},
        "SYNs and last ACKs that a listener has dropped, however short the burst was.",
        units.PacketsPerSecond,
    ),
    Graph(
        "Queues that overflow, by what the kernel counts",
        12,
        {
            "{{instance}} accept queue full": rate("sockwatch_tcp_listen_overflows_total"),
            "{{instance}} all drops": rate("sockwatch_tcp_listen_drops_total"),
            "{{instance}} SYN dropped": rate("sockwatch_tcp_syn_queue_full_drops_total"),
            "{{instance}} SYN cookie": rate("sockwatch_tcp_syn_queue_full_cookies_total"),
        },
        "Which of the two queues it is that overflows.",
        units.PacketsPerSecond,
    ),
    Graph(
        "SYN cookies",
        12,
        {
            "{{instance}} sent": rate("sockwatch_tcp_syncookies_sent_total"),
            "{{instance}} came back": rate("sockwatch_tcp_syncookies_received_total"),
            "{{instance}} forged or late": rate("sockwatch_tcp_syncookies_failed_total"),
        },
        "Most come back: clients are there, and the backlog is too small. Few do: a flood.",
        units.PacketsPerSecond,
    ),
    Listing(
        "Accept queues now",
        24,
        largest(50, LISTENER, LENGTH),
        ("instance", "address", "port", "unit", "Value"),
        "waiting",
        "Connections that wait for accept(). Workers that share a port are one listener.",
        value="waiting",
    ),
)

DESTINATIONS: Final[tuple[Entry, ...]] = (
    Graph(
        "Ephemeral ports in use, share of all",
        8,
        {
            "{{instance}}": share(
                pick("sockwatch_ephemeral_ports_in_use_max"), pick("sockwatch_ephemeral_ports")
            )
        },
        "Toward the destination that takes most. At 100 % connect() fails toward that one; from "
        "50 % on it searches.",
        units.PercentUnit,
    ),
    Graph(
        "Ephemeral ports in use, by destination",
        8,
        {
            "{{instance}} {{destination}}": pick(
                "sockwatch_destination_ephemeral_ports_in_use",
            )
        },
        "Destinations that take more than a tenth of all. TIME_WAIT counts: connections that are "
        "kept and used again take fewer.",
    ),
    Graph(
        "Unanswered connections, by destination",
        8,
        {"{{instance}} {{destination}}": pick("sockwatch_destination_unanswered_connections")},
        "Who has not answered a SYN for longer than the age limit: down, overloaded or behind a "
        "filter.",
    ),
)

LIMITS: Final[tuple[Entry, ...]] = (
    Graph(
        "Limits, share in use",
        8,
        {
            "{{instance}} TIME_WAIT": share(
                pick("sockwatch_tcp_time_wait_sockets"),
                pick("sockwatch_tcp_time_wait_sockets_limit"),
            ),
            "{{instance}} orphans": share(
                pick("sockwatch_tcp_orphan_sockets"), pick("sockwatch_tcp_orphan_sockets_limit")
            ),
            "{{instance}} memory": f"{pick('sockwatch_tcp_memory_bytes')} / ignoring (level)"
            f" ({MEMORY_LIMIT} > 0)",
        },
        "Of orphans the kernel makes itself rid from 25 % on, of memory it is sparing from about "
        "two thirds on.",
        units.PercentUnit,
    ),
    Graph(
        "Connections opened",
        8,
        {
            "{{instance}} by connect()": rate("sockwatch_tcp_active_opens_total"),
            "{{instance}} by a listener": rate("sockwatch_tcp_passive_opens_total"),
        },
        "Connections begun here, and connections that a listener has got.",
        units.CountsPerSecond,
    ),
    Graph(
        "Connections that fail to open",
        8,
        {
            "{{instance}} failed": rate("sockwatch_tcp_attempt_fails_total"),
            "{{instance}} SYN sent again": rate("sockwatch_tcp_syn_retransmissions_total"),
        },
        "Refused, reset or timed out while opening; and SYNs and SYN+ACKs that had to be repeated.",
        units.CountsPerSecond,
    ),
    Graph(
        "Connections ended without the closing handshake",
        12,
        {
            "{{instance}} reset or timed out": rate("sockwatch_tcp_established_resets_total"),
            "{{instance}} aborted: {{reason}}": rate("sockwatch_tcp_aborts_total"),
            "{{instance}} no TIME_WAIT": rate("sockwatch_tcp_time_wait_overflows_total"),
        },
        "Resets by either side, those that the kernel sent by reason, and connections for which "
        "tcp_max_tw_buckets left no TIME_WAIT.",
        units.CountsPerSecond,
    ),
    Graph(
        "Sockets in no table",
        12,
        {"{{instance}}": pick("sockwatch_tcp_hidden_sockets")},
        "Dead sockets whose descriptor nobody has closed, and a few that are only made or bound. "
        "What grows is a leak that no other tool shows.",
    ),
)
