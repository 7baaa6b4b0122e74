"""TCP states and address families as the kernel numbers them.

Numbers are those of the kernel's `include/net/tcp_states.h`; labels are the lower-case names
that metrics, JSON and pages share.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final


class State(IntEnum):
    """A state as sock_diag reports it; `UNKNOWN` stands for every number without a name."""

    UNKNOWN = 0
    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11

    @property
    def label(self) -> str:
        """The name used in labels and JSON, such as `close_wait`."""
        return self.name.lower()

    @classmethod
    def of(cls, number: int) -> State:
        """The state of a kernel number; total, never raises.

        NEW_SYN_RECV (12) is the kernel's name for the request socket behind SYN_RECV. A
        BOUND_INACTIVE (13) socket takes part in no connection, so it has no name here.
        """
        return _BY_NUMBER.get(number, cls.UNKNOWN)


_BY_NUMBER: Final = {state.value: state for state in State} | {12: State.SYN_RECV}


class Family(IntEnum):
    """Address families of TCP sockets, numbered as in the kernel's `include/linux/socket.h`."""

    INET = 2
    INET6 = 10

    @property
    def label(self) -> str:
        """The name used in labels and JSON: `ipv4` or `ipv6`."""
        return "ipv4" if self is Family.INET else "ipv6"


class Direction(StrEnum):
    """Which side opened the connection, told by whether its local port is listened on."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Unowned(StrEnum):
    """Why no process holds a socket (all of them have inode 0 in sock_diag)."""

    HALF_OPEN = "half_open"
    NOT_ACCEPTED = "not_accepted"
    ORPHAN = "orphan"
    MINI = "mini"
