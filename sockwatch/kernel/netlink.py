"""The netlink source: sock_diag dumps, one walk of the kernel's tables for both families."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar, Final, Protocol

from sockwatch.kernel.batches import batches
from sockwatch.kernel.diag import DiagSocket, Query
from sockwatch.kernel.listeners import ListenerReader
from sockwatch.kernel.ports import ephemeral_flags
from sockwatch.kernel.wire import Dump, mask
from sockwatch.tcp.follow import Follower
from sockwatch.tcp.listening import Listening
from sockwatch.tcp.records import Reading, Row
from sockwatch.tcp.states import State
from sockwatch.tcp.tally import Tally

RECEIVE_TIMEOUT: Final = 5.0
"""Seconds to wait for one datagram; the kernel answers in well under a millisecond."""

LISTENERS: Final = Query(mask(State.LISTEN), memory=True)
WATCHED: Final = Query(
    mask(
        State.SYN_SENT,
        State.SYN_RECV,
        State.FIN_WAIT1,
        State.FIN_WAIT2,
        State.CLOSE,
        State.CLOSE_WAIT,
        State.LAST_ACK,
        State.CLOSING,
    )
)
BULK: Final = (State.ESTABLISHED, State.TIME_WAIT)
"""The states of healthy connections, whose number follows the load: dumped apart, each alone,
because messages of one state have one length, and left out of the watch pass altogether."""
WAITING_PORTS_LIMIT: Final = 64
"""Ports whose unaccepted connections are looked at in one watch: one dump serves all."""


class Dumper(Protocol):
    """What answers dump requests: the kernel, a recording, a test's script."""

    def dump(self, query: Query) -> Dump:
        """Begin a dump; see `DiagSocket.dump`."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def _kernel() -> Dumper:
    return DiagSocket(RECEIVE_TIMEOUT)


class NetlinkSource:
    """Reads through one sock_diag socket, replaced after any failure.

    Not thread safe; the socket sees the network namespace of the thread that first reads.
    """

    name: ClassVar[str] = "netlink"

    def __init__(self, connect: Callable[[], Dumper] = _kernel) -> None:
        self._connect = connect
        self._dumper: Dumper | None = None
        self._listeners = ListenerReader()
        self._waiting: frozenset[int] = frozenset()

    def probe(self) -> None:
        """Ask for the listeners, the cheapest complete dump there is.

        Raises:
            PassFailure: netlink cannot be used, and why.
        """
        with self._dumping() as dumper:
            self._listeners.read(dumper.dump(LISTENERS))

    def watch(self, follower: Follower | None = None) -> Reading:
        """Read listeners, half-open and closing connections; see `Source.watch`."""
        with self._dumping() as dumper:
            return self._watch(dumper, follower)[1]

    def census(self, follower: Follower | None = None) -> Reading:
        """Read every socket; see `Source.census`."""
        with self._dumping() as dumper:
            listening, reading = self._watch(dumper, follower)
            bulk = Tally(listening)
            for state in BULK:
                for batch in batches(dumper.dump(Query(mask(state)))):
                    # Whatever it has become since it was selected: no other dump has it.
                    bulk.add(batch, state)
            return replace(reading, bulk=bulk.finish())

    def close(self) -> None:
        """Close the socket."""
        if self._dumper is not None:
            self._dumper.close()
            self._dumper = None

    def _watch(self, dumper: Dumper, follower: Follower | None) -> tuple[Listening, Reading]:
        listeners = self._listeners.read(dumper.dump(LISTENERS))
        listening = Listening(listeners, ephemeral_flags())
        tally = Tally(listening)
        if follower is not None:
            follower.begin(listening)
        for batch in batches(dumper.dump(WATCHED)):
            if batch.state in BULK:
                continue  # it has moved on since it was selected and belongs to the other dump
            tally.add(batch, batch.state)
            if follower is not None:
                follower.add(batch)
        if follower is not None:
            self._show_waiting(dumper, listeners, follower)
        return listening, Reading(listeners, tally.finish())

    def _show_waiting(self, dumper: Dumper, listeners: Sequence[Row], follower: Follower) -> None:
        """Show the established connections of ports on which some have waited for accept().

        A queue that is not empty at one look is normal; at two looks in a row somebody in it may
        have been there all the time. Only then is the extra walk of the kernel's tables made.
        """
        queues: Counter[int] = Counter()
        for row in listeners:
            queues[row.source_port] += row.receive_queue or 0
        waiting = [port for port, length in queues.most_common(WAITING_PORTS_LIMIT) if length]
        again = [port for port in waiting if port in self._waiting]
        self._waiting = frozenset(waiting)
        if not again:
            return
        for batch in batches(dumper.dump(Query(mask(State.ESTABLISHED), local_ports=again))):
            if batch.state is State.ESTABLISHED:
                follower.add(batch)

    @contextmanager
    def _dumping(self) -> Iterator[Dumper]:
        """The open socket; whatever goes wrong with it, the next pass gets a new one."""
        self._dumper = self._dumper or self._connect()
        try:
            yield self._dumper
        except BaseException:
            self.close()
            raise
