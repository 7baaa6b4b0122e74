"""The sock_diag wire format: layouts and numbers, and the checks that every message passes.

Sources: `include/uapi/linux/netlink.h`, `include/uapi/linux/inet_diag.h` and
`include/uapi/linux/sock_diag.h` of the Linux kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from struct import Struct
from typing import Final, NamedTuple

from pyroute2.netlink import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_NOOP,
    NLMSG_OVERRUN,
)

from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.tcp.states import State

TCPDIAG_GETSOCK: Final = 18
"""The legacy request (inet_diag.h): one walk of the tables answers for IPv4 and IPv6."""
SOCK_DIAG_BY_FAMILY: Final = 20
"""The request for one family (sock_diag.h), by which protocols other than TCP can be asked for."""
_RECORDS: Final = frozenset({TCPDIAG_GETSOCK, SOCK_DIAG_BY_FAMILY})
"""A reply has the type of its request."""

HEADER: Final = Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port id."""
MESSAGE: Final = Struct("=BBBB2s2s16s16sIQIIIII")
"""struct inet_diag_msg: family, state, timer, retrans, sport, dport, src, dst, interface,
cookie, expires (ms), rqueue, wqueue, uid, inode."""
ATTRIBUTE: Final = Struct("=HH")
"""struct nlattr: length with header, type."""
ERRNO: Final = Struct("=i")
"""Payload of NLMSG_ERROR and NLMSG_DONE: a negative errno, or 0."""

ATTRIBUTES_AT: Final = HEADER.size + MESSAGE.size
"""Where the attributes of a reply begin, in bytes from its start."""

INET_DIAG_NONE: Final = 0
INET_DIAG_SKMEMINFO: Final = 7
INET_DIAG_SKV6ONLY: Final = 11
INET_DIAG_CGROUP_ID: Final = 21

SK_MEMINFO_DROPS: Final = 8
"""Index of the drops among the 32-bit numbers of INET_DIAG_SKMEMINFO (sock_diag.h)."""

STATE_AT: Final = HEADER.size + 1
"""Where the state byte of a reply stands."""


DUMP_UNFINISHED: Final = "the replies ended before the dump did"


class Dump(NamedTuple):
    """A dump under way, or the recording of one."""

    sequence: int
    """What every reply must answer to."""
    datagrams: Iterable[memoryview]
    """Replies as received, one or more datagrams at a time, valid until the next are taken."""


class Kind(Enum):
    """What a checked message is to the reader of a dump."""

    ROW = auto()
    NOTHING = auto()
    END = auto()


def mask(*states: State) -> int:
    """`idiag_states`: the bit set of states to dump (bit = 1 << state)."""
    return sum(1 << state for state in states)


def aligned(length: int) -> int:
    """NLMSG_ALIGN and NLA_ALIGN: the next multiple of four."""
    return (length + 3) & ~3


def check_message(view: memoryview, at: int, sequence: int) -> tuple[int, Kind]:
    """Check the message at `at`; say where it ends and what it is.

    The payload of NLMSG_DONE is read because a missing protocol handler announces itself nowhere
    else (ENOENT).

    Raises:
        PassFailure: the message is broken, foreign, or carries an error.
    """
    if len(view) - at < HEADER.size:
        raise PassFailure(Cause.TRUNCATED, f"{len(view) - at} bytes where a message should begin")
    length, kind, flags, answers, _ = HEADER.unpack_from(view, at)
    if length < HEADER.size:
        raise PassFailure(Cause.MALFORMED, f"message announces a length of {length} bytes")
    if at + length > len(view):
        raise PassFailure(Cause.TRUNCATED, f"message of {length} bytes, {len(view) - at} received")
    if answers != sequence:
        raise PassFailure(Cause.OUT_OF_SEQUENCE, f"reply to {answers}, expected {sequence}")
    if flags & NLM_F_DUMP_INTR:
        raise PassFailure(Cause.INTERRUPTED, "the kernel marked the dump as inconsistent")
    if kind not in _RECORDS:
        return at + length, _control(view, at, length, kind)
    if length < ATTRIBUTES_AT:
        raise PassFailure(Cause.TRUNCATED, f"socket record of {length} bytes")
    return at + length, Kind.ROW


def _control(view: memoryview, at: int, length: int, kind: int) -> Kind:
    """Handle a message that is no row."""
    if kind == NLMSG_NOOP and length == HEADER.size:
        return Kind.NOTHING
    if kind == NLMSG_OVERRUN:
        raise PassFailure(Cause.OVERRUN, "the kernel reports lost messages")
    if kind not in (NLMSG_DONE, NLMSG_ERROR):
        raise PassFailure(Cause.MALFORMED, f"unexpected message of type {kind}")
    has_errno = length >= HEADER.size + ERRNO.size
    number = ERRNO.unpack_from(view, at + HEADER.size)[0] if has_errno else 0
    if number:
        raise PassFailure.of_errno(abs(number), "socket dump")
    if kind == NLMSG_ERROR:
        raise PassFailure(Cause.MALFORMED, "an acknowledgement where a dump was expected")
    return Kind.END
