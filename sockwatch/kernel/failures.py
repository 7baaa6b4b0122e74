"""Why a pass over the kernel failed: a closed set of causes, each of which discards the pass."""

from __future__ import annotations

import errno
from enum import StrEnum
from typing import Final


class Cause(StrEnum):
    """The label `cause` of `sockwatch_pass_failures_total`."""

    REFUSED = "refused"
    """The system does not let this process ask: EPERM, EACCES, seccomp, no such family."""
    UNAVAILABLE = "unavailable"
    """The kernel has nobody to answer: inet_diag or tcp_diag missing."""
    KERNEL_ERROR = "kernel_error"
    """The kernel answered with any other error number."""
    BUSY = "busy"
    """EBUSY: a dump was still under way on the socket."""
    OVERRUN = "overrun"
    """ENOBUFS or NLMSG_OVERRUN: replies were dropped."""
    INTERRUPTED = "interrupted"
    """NLM_F_DUMP_INTR: the kernel says that the dump is not consistent."""
    TRUNCATED = "truncated"
    """A datagram or a message ends before its announced length."""
    MALFORMED = "malformed"
    """A message that cannot be what was asked for."""
    OUT_OF_SEQUENCE = "out_of_sequence"
    """A reply to another request."""
    TIMEOUT = "timeout"
    """No reply in time."""
    UNREADABLE = "unreadable"
    """psutil could not read the socket tables."""


UNUSABLE: Final = frozenset({Cause.REFUSED, Cause.UNAVAILABLE, Cause.UNREADABLE})
"""Causes that a second try on a new socket will not mend: time for another source."""

_BY_ERRNO: Final = {
    errno.EPERM: Cause.REFUSED,
    errno.EACCES: Cause.REFUSED,
    errno.EAFNOSUPPORT: Cause.REFUSED,
    errno.EPROTONOSUPPORT: Cause.UNAVAILABLE,
    errno.ENOENT: Cause.UNAVAILABLE,
    errno.EOPNOTSUPP: Cause.UNAVAILABLE,
    errno.ENOSYS: Cause.REFUSED,
    errno.EBUSY: Cause.BUSY,
    errno.ENOBUFS: Cause.OVERRUN,
    errno.EAGAIN: Cause.TIMEOUT,
}


class PassFailure(Exception):
    """A pass that must be discarded.

    Attributes:
        cause: what kind of failure, for the metric and for what to do next.
    """

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause

    @classmethod
    def of_errno(cls, number: int, doing: str) -> PassFailure:
        """The failure that an errno stands for; `doing` says what was tried."""
        name = errno.errorcode.get(number, str(number))
        return cls(_BY_ERRNO.get(number, Cause.KERNEL_ERROR), f"{doing}: {name}")
