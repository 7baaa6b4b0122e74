"""MPTCP: connections whose state the tables of TCP sockets do not tell.

Theory of operation. An MPTCP connection is a socket of its own above one TCP socket for each path,
its subflows. A peer that closes such a connection says so within the stream: the MPTCP socket is
in CLOSE_WAIT while all its subflows are ESTABLISHED. So the connection is the MPTCP socket, in its
state, and where connections are counted its subflows are not. A subflow is known by the inode,
which it has in common with its MPTCP socket; after close() that one has none any more, but still
the two ends of its first subflow (others are then taken for connections, for a minute at most).
Until the connection is established its one subflow tells more, and counts alone; so does the TCP
socket of a listener.

The kernel says cheaply how many MPTCP sockets there are, and without any nobody is asked for them.
Listeners are never asked for: only that walks a large table.

Sources: `net/mptcp/mptcp_diag.c`, proto_seq_printf of `net/core/sock.c`; measured on Linux 6.18.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from operator import not_
from pathlib import Path
from typing import Final

from sockwatch.kernel.batches import batches
from sockwatch.kernel.counters import NET
from sockwatch.kernel.diag import Dumper, Query
from sockwatch.kernel.failures import UNUSABLE, Cause, PassFailure
from sockwatch.kernel.wire import mask
from sockwatch.tcp.batch import Batch, Chosen
from sockwatch.tcp.causes import BY_UNREAD
from sockwatch.tcp.causes import Cause as StuckCause
from sockwatch.tcp.states import Family, State

log = logging.getLogger(__name__)

CLOSING: Final = (
    State.FIN_WAIT1,
    State.FIN_WAIT2,
    State.CLOSE_WAIT,
    State.LAST_ACK,
    State.CLOSING,
)
"""States that every pass looks at."""
CONNECTED: Final = (State.ESTABLISHED,)
"""States that only a census looks at."""

_PROTOCOLS: Final = {"MPTCP": Family.INET, "MPTCPv6": Family.INET6}
_SOCKETS: Final = 2
"""Column of /proc/net/protocols."""
_ENDS: Final = slice(4, 40)
"""Ports and addresses of struct inet_diag_msg (`include/uapi/linux/inet_diag.h`)."""
_REFUSALS: Final = UNUSABLE | {Cause.KERNEL_ERROR}
_DATA_UNREAD: Final = BY_UNREAD.index(StuckCause.DATA_UNREAD)


def families_in_use(protocols: Path = NET / "protocols") -> Collection[Family] | None:
    """Families with MPTCP sockets in the calling thread's network namespace.

    `None` if the kernel has no MPTCP, or does not tell. Takes 40 us.
    """
    try:
        lines = [line.split() for line in protocols.read_text("utf-8").splitlines()]
        rows = [row for row in lines if row and row[0] in _PROTOCOLS]
        in_use = [_PROTOCOLS[row[0]] for row in rows if int(row[_SOCKETS])]
    except (OSError, ValueError, LookupError):
        return None
    return in_use if rows else None


class Connections(Chosen):
    """MPTCP sockets as a Batch that is read as one of TCP is."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch, bytes([True]) * len(batch))

    @property
    def multipath(self) -> bool:
        """See `Batch`; likewise below."""
        return True

    def receive_queues(self) -> Sequence[int]:
        """The record has the memory in use; an end of stream that is not read takes none."""
        return [_DATA_UNREAD if memory else 0 for memory in super().receive_queues()]


class Subflows:
    """Tells the subflows of the MPTCP sockets that were seen."""

    def __init__(self) -> None:
        self._inodes: set[int] = set()
        self._ends: set[bytes] = set()
        self._ports: set[tuple[int, int]] = set()

    def of(self, connections: Batch) -> None:
        """Know the subflows of these from now on."""
        inodes = connections.inodes()
        self._inodes.update(inodes)
        if 0 in self._inodes:
            self._inodes.remove(0)
            closed = Chosen(connections, [not inode for inode in inodes])
            self._ends.update(record[_ENDS] for record in closed.records())
            self._ports.update(_ports(closed))

    def split(self, batch: Batch) -> tuple[Batch, Batch | None]:
        """TCP sockets apart: connections, and subflows if there are any."""
        known = self._flags_by_inode(batch), self._flags_by_ends(batch)
        flags = [*map(any, zip(*filter(None, known), strict=True))]
        if not any(flags):
            return batch, None
        return Chosen(batch, [*map(not_, flags)]), Chosen(batch, flags)

    def _flags_by_inode(self, batch: Batch) -> Sequence[bool] | None:
        if not self._inodes or self._inodes.isdisjoint(inodes := batch.inodes()):
            return None
        return [*map(self._inodes.__contains__, inodes)]

    def _flags_by_ends(self, batch: Batch) -> Sequence[bool] | None:
        """Records are made only if ports match: that is quick and nearly always all."""
        if not self._ports or self._ports.isdisjoint(_ports(batch)):
            return None
        return [record[_ENDS] in self._ends for record in batch.records()]


def _ports(batch: Batch) -> Iterator[tuple[int, int]]:
    return zip(batch.local_ports(), batch.remote_ports(), strict=True)


class MultipathReader:
    """Reads MPTCP sockets where the kernel has them and there are any.

    Args:
        in_use: see `families_in_use`.
    """

    def __init__(self, in_use: Callable[[], Collection[Family] | None] = families_in_use) -> None:
        self._in_use = in_use
        self._is_answered: bool | None = None

    def families(self, connect: Callable[[], Dumper]) -> Collection[Family] | None:
        """Families to read, `None` if what there is cannot be known.

        Args:
            connect: opens a socket to try it once, as one that was refused is of no more use.

        Raises:
            PassFailure: the trial came to no end.
        """
        found = self._in_use()
        if found and self._is_answered is None:
            self._is_answered = _is_answered(connect)
        return None if self._is_answered is False else found

    def read(
        self, dumper: Dumper, families: Collection[Family], states: Collection[State]
    ) -> Iterator[Connections]:
        """All in these states; each batch is valid until the next is taken.

        Raises:
            PassFailure: what was taken must be discarded.
        """
        for family in families:
            for batch in batches(dumper.dump(Query(mask(*states), multipath=family))):
                if batch.state in states:
                    yield Connections(batch)


def _is_answered(connect: Callable[[], Dumper]) -> bool:
    with closing(connect()) as dumper:
        try:
            for _ in batches(dumper.dump(Query(mask(), multipath=Family.INET))):
                pass
        except PassFailure as failure:
            if failure.cause not in _REFUSALS:
                raise
            log.warning("MPTCP connections are not counted: %s", failure)
            return False
    return True
