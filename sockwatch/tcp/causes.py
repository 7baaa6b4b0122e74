"""Why a connection stays where it is, read from its own record.

What the numbers of a record mean is said at `struct inet_diag_msg` and measured: a FIN that the
application has not read counts as one byte of the receive queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from sockwatch.tcp.states import State


class Cause(StrEnum):
    """The label `cause` of stuck connections."""

    NOT_CLOSED = "not_closed"
    """CLOSE_WAIT: the application has read the end of the stream and keeps the socket open."""
    EOF_UNREAD = "eof_unread"
    """CLOSE_WAIT: the application has not read the end of the stream."""
    DATA_UNREAD = "data_unread"
    """CLOSE_WAIT: the application has not even read the data before it."""
    NOT_ACCEPTED = "not_accepted"
    """The application has not called accept() for it."""
    HALF_CLOSED = "half_closed"
    """FIN_WAIT2: the application has closed its direction only, and the peer does not close."""
    UNANSWERED = "unanswered"
    """The peer does not answer a SYN, a SYN+ACK or a FIN."""


BY_UNREAD: Final = (Cause.NOT_CLOSED, Cause.EOF_UNREAD, Cause.DATA_UNREAD)
"""The causes of a CLOSE_WAIT that a process holds, by its receive queue; the last one for all
longer queues."""

ALL: Final = (*BY_UNREAD, Cause.NOT_ACCEPTED, Cause.HALF_CLOSED, Cause.UNANSWERED)
"""Causes by the small number that stands for them in columns; unread bytes index the first."""

BY_STATE: Final[Mapping[State, Cause]] = {
    State.ESTABLISHED: Cause.NOT_ACCEPTED,
    State.SYN_SENT: Cause.UNANSWERED,
    State.SYN_RECV: Cause.UNANSWERED,
    State.FIN_WAIT1: Cause.UNANSWERED,
    State.FIN_WAIT2: Cause.HALF_CLOSED,
    State.LAST_ACK: Cause.UNANSWERED,
    State.CLOSING: Cause.UNANSWERED,
}
"""The cause in every watched state but CLOSE_WAIT; ESTABLISHED is watched only unaccepted."""
