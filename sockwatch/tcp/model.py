"""The handshake model: for every state the kernel can report, what it means and who must act.

The vocabulary of metrics, pages and `sockwatch explain`. Terms are those of RFC 9293; bounds are
those of Linux (`net/ipv4/tcp_timer.c`, `tcp_minisocks.c`, `inet_connection_sock.c`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from sockwatch.tcp.states import State


class Phase(StrEnum):
    """Which part of a connection's life a state belongs to; the label `phase`."""

    LISTEN = "listen"
    OPENING = "opening"
    ESTABLISHED = "established"
    CLOSING_ACTIVE = "closing_active"
    CLOSING_PASSIVE = "closing_passive"
    CLOSED = "closed"


class Step(NamedTuple):
    """One step of a handshake, and where both sides stand once it is done."""

    label: str
    """Such as `open 2 of 3`."""
    text: str
    first: State
    """The client when opening, the side that closes first when closing."""
    second: State
    """The server when opening, the side that closes second when closing."""


OPENING: Final = (
    Step("open 1 of 3", "The client sends SYN.", State.SYN_SENT, State.LISTEN),
    Step("open 2 of 3", "The server answers SYN+ACK.", State.SYN_SENT, State.SYN_RECV),
    Step(
        "open 3 of 3",
        "The client answers ACK, possibly with data already.",
        State.ESTABLISHED,
        State.ESTABLISHED,
    ),
)

CLOSING: Final = (
    Step(
        "close 1 of 4",
        "The side that closes first sends FIN.",
        State.FIN_WAIT1,
        State.ESTABLISHED,
    ),
    Step(
        "close 2 of 4",
        "The other side acknowledges, and stays until its application calls close().",
        State.FIN_WAIT2,
        State.CLOSE_WAIT,
    ),
    Step("close 3 of 4", "The other side sends FIN.", State.FIN_WAIT2, State.LAST_ACK),
    Step(
        "close 4 of 4",
        "The first side acknowledges and waits, lest its last ACK be lost.",
        State.TIME_WAIT,
        State.CLOSE,
    ),
)

TIME_WAIT_SECONDS: Final = 60
"""TCP_TIMEWAIT_LEN of the kernel's `include/net/tcp.h`: compiled in, no sysctl changes it."""

_DATA_RETRIES: Final = ("net.ipv4.tcp_orphan_retries", "net.ipv4.tcp_retries2")


class Standing(NamedTuple):
    """One row of the model: where a connection stands that is in this state."""

    state: State
    phase: Phase
    step: str
    """The last step done, such as `open 2 of 3`; empty outside the handshakes."""
    side: str
    """Which role this host plays; empty if none."""
    waits_on: str
    """Who has to act next; empty if nobody."""
    bounded: bool
    """Whether the kernel ends the state by itself, whatever applications and peers do."""
    bounded_by: str
    """What ends it at the latest, in words; empty where the question does not arise."""
    sysctls: tuple[str, ...]
    """What of `/proc/sys` bounds its time or number, in the spelling of sysctl(8)."""
    meaning: str
    """What it tells the person who looks: who must act, and the common cause."""
    kernel_held: bool | None = None
    """Whether only the kernel holds the socket still; `None` where that makes no difference."""


MODEL: Final = (
    Standing(
        State.LISTEN,
        Phase.LISTEN,
        step="",
        side="server",
        waits_on="clients",
        bounded=False,
        bounded_by="nothing",
        sysctls=("net.core.somaxconn",),
        meaning="Takes new connections. Finished handshakes wait in its accept queue until the "
        "application calls accept(). When the queue is full the kernel drops SYNs and final ACKs: "
        "clients see timeouts, not refusals. A queue that stays long means a slow or stuck "
        "application.",
    ),
    Standing(
        State.SYN_SENT,
        Phase.OPENING,
        step="open 1 of 3",
        side="client",
        waits_on="the peer's SYN+ACK",
        bounded=True,
        bounded_by="tcp_syn_retries",
        sysctls=("net.ipv4.tcp_syn_retries", "net.ipv4.tcp_syn_linear_timeouts"),
        meaning="This host called connect() and has no answer. Many toward one address mean that "
        "it is down, unreachable, overloaded or behind a firewall that drops silently; a refusal "
        "would have ended the attempt at once.",
    ),
    Standing(
        State.SYN_RECV,
        Phase.OPENING,
        step="open 2 of 3",
        side="server",
        waits_on="the peer's ACK (or accept queue room)",
        bounded=True,
        bounded_by="tcp_synack_retries",
        sysctls=("net.ipv4.tcp_synack_retries",),
        meaning="A client's SYN was answered, but the ACK that completes the handshake has not "
        "come, or came while the accept queue was full. Many of them: an application slow to "
        "accept(), loss on the way back to the clients, or a SYN flood.",
    ),
    Standing(
        State.ESTABLISHED,
        Phase.ESTABLISHED,
        step="open 3 of 3",
        side="either",
        waits_on="the applications",
        bounded=False,
        bounded_by="keepalive, if set",
        sysctls=(
            "net.ipv4.tcp_keepalive_time",
            "net.ipv4.tcp_keepalive_intvl",
            "net.ipv4.tcp_keepalive_probes",
            "net.ipv4.tcp_retries2",
        ),
        meaning="Both sides may send. Idle, it lives for ever unless the application has set "
        "SO_KEEPALIVE; with data that nobody acknowledges it ends by tcp_retries2. One that no "
        "process holds (inode 0) is still in the accept queue: look at its listener.",
    ),
    Standing(
        State.FIN_WAIT1,
        Phase.CLOSING_ACTIVE,
        step="close 1 of 4",
        side="first closer",
        waits_on="the peer's ACK",
        bounded=True,
        bounded_by="tcp_orphan_retries / tcp_retries2",
        sysctls=_DATA_RETRIES,
        meaning="This side has closed and its FIN is not acknowledged, which should take one round "
        "trip. Long ones mean that the peer or the path is gone, or that the peer does not read "
        "what was sent before the FIN. After close() the orphan limit applies, after shutdown() "
        "with the descriptor still open that of data.",
    ),
    Standing(
        State.FIN_WAIT2,
        Phase.CLOSING_ACTIVE,
        step="close 2 of 4",
        side="first closer",
        waits_on="the peer's application",
        bounded=False,
        bounded_by="nothing",
        sysctls=(),
        meaning="A process here has shut down its sending side, still holds the descriptor, and "
        "waits for a peer that does not close. tcp_fin_timeout does not apply while a process "
        "holds it. The peer should close; the application here should have a read timeout, then "
        "close().",
        kernel_held=False,
    ),
    Standing(
        State.FIN_WAIT2,
        Phase.CLOSING_ACTIVE,
        step="close 2 of 4",
        side="first closer",
        waits_on="the peer's application",
        bounded=True,
        bounded_by="tcp_fin_timeout",
        sysctls=("net.ipv4.tcp_fin_timeout",),
        meaning="Closed here, acknowledged there, but the peer's application has not closed: the "
        "other end stands in CLOSE_WAIT. The kernel drops it by itself. Many of them point at a "
        "leak on the peer, not on this host.",
        kernel_held=True,
    ),
    Standing(
        State.CLOSE_WAIT,
        Phase.CLOSING_PASSIVE,
        step="close 2 of 4",
        side="second closer",
        waits_on="the local application",
        bounded=False,
        bounded_by="nothing",
        sysctls=(),
        meaning="The peer has closed and the application on this host has not called close(). "
        "There is no kernel timeout and no sysctl that fixes it: only the application can end "
        "it. Usually a leaked descriptor, or a worker stuck before its close(). Find the process; "
        "a restart frees the connections, a fix closes them. With SO_KEEPALIVE the socket may "
        "vanish from here while the descriptor stays leaked.",
    ),
    Standing(
        State.LAST_ACK,
        Phase.CLOSING_PASSIVE,
        step="close 3 of 4",
        side="second closer",
        waits_on="the peer's ACK",
        bounded=True,
        bounded_by="tcp_orphan_retries",
        sysctls=_DATA_RETRIES,
        meaning="The peer closed first, then this side; its FIN is not acknowledged, which should "
        "take one round trip. Many mean that peers vanish, or that a firewall has forgotten the "
        "connections and drops their last packets.",
    ),
    Standing(
        State.CLOSING,
        Phase.CLOSING_ACTIVE,
        step="close 3 of 4",
        side="both",
        waits_on="the peer's ACK",
        bounded=True,
        bounded_by="tcp_orphan_retries",
        sysctls=_DATA_RETRIES,
        meaning="Both sides closed at once: the FINs crossed, and ours is not acknowledged yet. "
        "Rare and short; long ones mean that the path to the peer is broken.",
    ),
    Standing(
        State.TIME_WAIT,
        Phase.CLOSING_ACTIVE,
        step="close 4 of 4",
        side="first closer",
        waits_on="the kernel's timer",
        bounded=True,
        bounded_by=f"{TIME_WAIT_SECONDS} s",
        sysctls=("net.ipv4.tcp_max_tw_buckets",),
        meaning="Done; nobody has to act. The side that closed first remembers the connection for "
        "60 s, on Linux whatever tcp_fin_timeout says (textbooks say 240 s), so that a lost last "
        "ACK can be repeated. Many only show that many connections are closed from this side. "
        "They matter when the source ports toward one destination run out.",
    ),
    Standing(
        State.CLOSE,
        Phase.CLOSED,
        step="",
        side="",
        waits_on="",
        bounded=False,
        bounded_by="",
        sysctls=(),
        meaning="No connection: not connected yet, or already over. A connection that was reset "
        "while its descriptor is still open is in this state too, but in no table of the kernel.",
    ),
    Standing(
        State.UNKNOWN,
        Phase.CLOSED,
        step="",
        side="",
        waits_on="",
        bounded=False,
        bounded_by="",
        sysctls=(),
        meaning="The kernel reports a state that this version of sockwatch has no name for (such "
        "as BOUND_INACTIVE: bound, but neither listening nor connected). It is counted, and taken "
        "as no connection.",
    ),
)

_PHASES: Final = {standing.state: standing.phase for standing in MODEL}


def phase_of(state: State) -> Phase:
    """The phase of a state; total."""
    return _PHASES[state]
