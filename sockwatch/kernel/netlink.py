"""The netlink source: sock_diag dumps, one walk of the kernel's tables for both families."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import ClassVar, Final

from sockwatch.kernel.batches import batches
from sockwatch.kernel.diag import DiagSocket, Dumper, Query
from sockwatch.kernel.listeners import ListenerReader
from sockwatch.kernel.multipath import CLOSING, CONNECTED, MultipathReader, Subflows
from sockwatch.kernel.ports import ephemeral_flags
from sockwatch.kernel.wire import mask
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
WATCHED_AND_TIME_WAIT: Final = Query(WATCHED.states | mask(State.TIME_WAIT))
ESTABLISHED: Final = Query(mask(State.ESTABLISHED))
"""What a census asks for in turn. Established connections alone have one length throughout and need
no sorting; of the others there are few enough that to sort them costs less than a further walk of
the kernel's tables."""
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
            self._watch(dumper, look, WATCHED)
            return Reading(look.listeners, look.watched.finish())

    def census(self, follower: Follower | None = None) -> Reading:
        """Read every socket; see `Source.census`."""
        with self._dumping() as dumper:
            look = self._begin(dumper, follower)
            look.bulk = bulk = look.tally()
            self._watch(dumper, look, WATCHED_AND_TIME_WAIT)
            for connections in self._multipath.read(dumper, look.families or (), CONNECTED):
                look.subflows.of(connections)
                bulk.add_multipath(connections, connections.state)
            for batch in batches(dumper.dump(ESTABLISHED)):
                # Whatever it has become since it was selected: no other dump has it.
                look.count(batch, State.ESTABLISHED, bulk)
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
        return look

    def _watch(self, dumper: Dumper, look: _Look, query: Query) -> None:
        for connections in self._multipath.read(dumper, look.families or (), CLOSING):
            look.subflows.of(connections)
            look.watched.add_multipath(connections, connections.state)
            look.follow(connections)
        for batch in batches(dumper.dump(query)):
            look.take(batch)
        if look.follower is not None:
            self._show_waiting(dumper, look)

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
        for batch in batches(dumper.dump(ESTABLISHED._replace(local_ports=again))):
            if batch.state is State.ESTABLISHED:
                look.follow(look.subflows.split(batch)[0])

    @contextmanager
    def _dumping(self) -> Iterator[Dumper]:
        """The open socket; whatever goes wrong with it, the next pass gets a new one."""
        self._dumper = self._dumper or self._connect()
        try:
            yield self._dumper
        except BaseException:
            self.close()
            raise


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
        self.follower = follower
        self.watched = self.tally()
        self.bulk: Tally | None = None

    def tally(self) -> Tally:
        """A tally of this pass, still empty."""
        return Tally(self.listening, multipath=self.families is not None)

    def take(self, batch: Batch) -> None:
        """Count and follow what a dump of watched states shows."""
        if batch.state not in BULK:
            self.follow(self.count(batch, batch.state, self.watched))
        elif batch.state is State.TIME_WAIT and self.bulk is not None:
            self.count(batch, batch.state, self.bulk)
        # else it has moved on and belongs to another dump

    def count(self, batch: Batch, state: State, tally: Tally) -> Batch:
        """Count TCP sockets as being in `state`; those of them that are connections."""
        connections, subflows = self.subflows.split(batch)
        tally.add(connections, state)
        if subflows is not None:
            tally.add_subflows(subflows, state)
        return connections

    def follow(self, connections: Batch) -> None:
        """Show connections to whoever follows them."""
        if self.follower is not None:
            self.follower.add(connections)
