"""The netlink source: sock_diag dumps, one walk of the kernel's tables for both families."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import ClassVar, Final

from sockwatch.kernel.batches import batches
from sockwatch.kernel.diag import DiagSocket, Dumper, Query
from sockwatch.kernel.listeners import ListenerReader
from sockwatch.kernel.multipath import CLOSING, CONNECTED, MultipathReader, Subflows
from sockwatch.kernel.ports import ephemeral_flags
from sockwatch.kernel.wire import Dump, mask
from sockwatch.tcp.batch import Batch
from sockwatch.tcp.follow import Follower
from sockwatch.tcp.listening import Listening, ListeningMemory
from sockwatch.tcp.records import Reading, Row
from sockwatch.tcp.states import Family, State
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
"""The states of healthy connections, whose number follows the load: left out of the watch pass."""
CONNECTIONS: Final = Query(WATCHED.states | mask(*BULK))
"""All that a census asks for besides listeners. Of one state alone, replies would need no sorting;
but to sort them costs about as much as a further walk of the kernel's tables, and less where there
is little to sort or little in the tables."""
WAITING_PORTS_LIMIT: Final = 64
"""Ports whose unaccepted connections are looked at in one watch: one dump serves all."""


def _kernel() -> Dumper:
    return DiagSocket(RECEIVE_TIMEOUT)


class NetlinkSource:
    """Reads through one sock_diag socket, replaced after any failure.

    Not thread safe; the socket sees the network namespace of the thread that first reads.
    """

    name: ClassVar[str] = "netlink"

    def __init__(
        self,
        connect: Callable[[], Dumper] = _kernel,
        multipath: MultipathReader | None = None,
    ) -> None:
        self._connect = connect
        self._multipath = multipath or MultipathReader()
        self._dumper: Dumper | None = None
        self._listeners = ListenerReader()
        self._listening = ListeningMemory()
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
            look = self._begin(dumper, follower)
            look.take(dumper.dump(WATCHED))
            return Reading(look.listeners, look.watched.finish())

    def census(self, follower: Follower | None = None) -> Reading:
        """Read every socket; see `Source.census`."""
        with self._dumping() as dumper:
            look = self._begin(dumper, follower)
            look.bulk = bulk = look.tally()
            for connections in self._multipath.read(dumper, look.families or (), CONNECTED):
                look.subflows.of(connections)
                bulk.add_multipath(connections)
            look.take(dumper.dump(CONNECTIONS))
            return Reading(look.listeners, look.watched.finish(), bulk.finish())

    def close(self) -> None:
        """Close the socket."""
        if self._dumper is not None:
            self._dumper.close()
            self._dumper = None

    def _begin(self, dumper: Dumper, follower: Follower | None) -> _Look:
        listeners = self._listeners.read(dumper.dump(LISTENERS))
        listening = self._listening(listeners, ephemeral_flags())
        families = self._multipath.families(self._connect)
        look = _Look(listeners, listening, families, follower)
        if follower is not None:
            follower.begin(look.listening)
        for connections in self._multipath.read(dumper, families or (), CLOSING):
            look.subflows.of(connections)
            look.watched.add_multipath(connections)
            look.follow(connections)
        if follower is not None:
            self._show_waiting(dumper, look)
        return look

    def _show_waiting(self, dumper: Dumper, look: _Look) -> None:
        """Show the established connections of ports on which some have waited for accept().

        A queue that is not empty at one look is normal; at two looks in a row somebody in it may
        have been there all the time. Only then is the extra walk of the kernel's tables made.
        """
        queues: Counter[int] = Counter()
        for row in look.listeners:
            if row.receive_queue:
                queues[row.source_port] += row.receive_queue
        waiting = [port for port, _ in queues.most_common(WAITING_PORTS_LIMIT)]
        again = [port for port in waiting if port in self._waiting]
        self._waiting = frozenset(waiting)
        if not again:
            return
        for batch in batches(dumper.dump(Query(mask(State.ESTABLISHED), local_ports=again))):
            if batch.state is State.ESTABLISHED:
                look.follow(look.subflows.split(batch)[0])

    @contextmanager
    def _dumping(self) -> Iterator[Dumper]:
        """The open socket; whatever goes wrong with it, the next pass gets a new one."""
        self._dumper = self._dumper or self._connect()
        try:
            with _no_collection():
                yield self._dumper
        except BaseException:
            self.close()
            raise


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from looking at keys that are made by ten thousands.

    They are in no cycles, but their number makes it look at all that there is, again and again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Look:
    """A pass under way."""

    def __init__(
        self,
        listeners: tuple[Row, ...],
        listening: Listening,
        families: Collection[Family] | None,
        follower: Follower | None,
    ) -> None:
        self.listeners = listeners
        self.listening = listening
        self.families = families
        self.subflows = Subflows()
        self._follower = follower
        self.watched = self.tally()
        self.bulk: Tally | None = None

    def tally(self) -> Tally:
        """A tally of this pass, still empty."""
        return Tally(self.listening, multipath=self.families is not None)

    def take(self, dump: Dump) -> None:
        """Count what a dump shows, and show on what is watched."""
        for batch in batches(dump):
            if batch.state not in BULK:
                self.follow(self._count(batch, self.watched))
            elif self.bulk is not None:  # else it was in another state when it was selected
                self._count(batch, self.bulk)

    def _count(self, batch: Batch, tally: Tally) -> Batch:
        """Count TCP sockets; those of them that are connections."""
        connections, subflows = self.subflows.split(batch)
        tally.add(connections)
        if subflows is not None:
            tally.add_subflows(subflows)
        return connections

    def follow(self, connections: Batch) -> None:
        """Show connections to whoever follows them."""
        if self._follower is not None:
            self._follower.add(connections)
