"""Ages that the kernel's own timers tell, right from the first look.

Sources: `net/ipv4/inet_connection_sock.c` (reqsk_timer_handler), `net/ipv4/tcp_timer.c`,
`net/ipv4/inet_timewait_sock.c`; intervals measured on Linux 6.18.
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

from sockwatch.tcp.model import TIME_WAIT_SECONDS

INITIAL_TIMEOUT: Final = 1.0
"""TCP_TIMEOUT_INIT of `include/net/tcp.h`: seconds until the first SYN is sent again."""
LONGEST_TIMEOUT: Final = 120.0
"""TCP_RTO_MAX of `include/net/tcp.h`, in seconds."""


class TimerLaws(NamedTuple):
    """What this host's kernel does, as far as its sysctls change it."""

    linear_syn_timeouts: int = 0
    """`tcp_syn_linear_timeouts` (Linux 6.5 and newer): how many timeouts come before doubling."""
    fin_timeout: float = 60.0
    """`tcp_fin_timeout` in seconds."""
    longest_timeout: float = LONGEST_TIMEOUT
    """`tcp_rto_max_ms` (Linux 6.15 and newer) in seconds."""


def backoff_age(
    retransmits: int, expires: int, linear: int = 0, longest: float = LONGEST_TIMEOUT
) -> float:
    """Seconds since the first transmission of something that is sent again with backoff.

    Args:
        retransmits: how often it has been sent again.
        expires: milliseconds until it is sent again.
        linear: how many intervals beyond the first are as short as the first.
        longest: seconds that no interval exceeds.
    """
    return max(0.0, _until_sent_again(retransmits, linear, longest) - expires / 1000)


@cache
def _until_sent_again(retransmits: int, linear: int, longest: float) -> float:
    """Seconds from the first transmission to the one after so many retransmissions."""
    doublings = (max(0, number - linear) for number in range(retransmits + 1))
    return sum(min(INITIAL_TIMEOUT * 2.0**doubled, longest) for doubled in doublings)


def fin_wait2_age(expires: int, laws: TimerLaws) -> float:
    """Seconds that the kernel alone has held a FIN_WAIT2 mini socket.

    Of a longer `tcp_fin_timeout` than TIME_WAIT lasts, the socket is a full one for what it is
    longer, and then a mini for as long again (tcp_close, tcp_keepalive_timer). With TCP_LINGER2 an
    application shortens that, which nobody can see; the socket then seems older.
    """
    longer = max(0.0, laws.fin_timeout - TIME_WAIT_SECONDS)
    return max(0.0, (2 * longer or laws.fin_timeout) - expires / 1000)
