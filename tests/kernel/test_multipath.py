"""MPTCP connections of a live kernel: told apart from their paths, and counted once."""

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from guards import need
from lab import Namespace, eventually

from sockwatch.kernel.multipath import families_in_use
from sockwatch.kernel.netlink import NetlinkSource
from sockwatch.tcp.batch import Batch
from sockwatch.tcp.causes import BY_UNREAD, Cause
from sockwatch.tcp.listening import Listening
from sockwatch.tcp.records import Reading
from sockwatch.tcp.states import Direction, Family, State, Unowned

pytestmark = pytest.mark.kernel

# include/uapi/linux/in.h
IPPROTO_MPTCP = 262
LOOPBACK = {Family.INET: "127.0.0.1", Family.INET6: "::1"}
NOBODY = 65534

Pair = tuple[socket.socket, socket.socket]


def has_multipath() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError:
        return False
    return families_in_use() is not None


class Server:
    """An MPTCP listener and the connections that came to it."""

    def __init__(self, namespace: Namespace, held: ExitStack) -> None:
        self.namespace = namespace
        self._held = held
        self._doors: dict[str, socket.socket] = {}

    def door(self, address: str) -> socket.socket:
        if address not in self._doors:
            made = self._socket(address)
            made.bind((address, 7000))
            made.listen()
            made.settimeout(5)
            self._doors[address] = made
        return self._doors[address]

    def _socket(self, address: str, protocol: int = IPPROTO_MPTCP) -> socket.socket:
        family = Family.INET6 if ":" in address else Family.INET
        made = self.namespace.socket(family, socket.SOCK_STREAM, protocol)
        return self._held.enter_context(made)

    def knock(self, address: str = "127.0.0.1", protocol: int = IPPROTO_MPTCP) -> socket.socket:
        client = self._socket(address, protocol)
        client.settimeout(5)
        client.connect(self.door(address).getsockname()[:2])
        return client

    def pair(self, address: str = "127.0.0.1", protocol: int = IPPROTO_MPTCP) -> Pair:
        """Both ends: client, server."""
        client = self.knock(address, protocol)
        server, _ = self.door(address).accept()
        server.settimeout(5)
        return client, self._held.enter_context(server)

    def census(self) -> Reading:
        with self.namespace.entered(), closing(NetlinkSource()) as source:
            return source.census()

    def until(self, what: str, holds: Callable[[Reading], bool]) -> Reading:
        def probe() -> Reading | None:
            found = self.census()
            return found if holds(found) else None

        found = eventually(probe, what)
        assert found is not None
        return found


@pytest.fixture
def server(namespace: Namespace) -> Iterator[Server]:
    need(has_multipath(), "needs a kernel with MPTCP that is switched on (net.mptcp.enabled)")
    with ExitStack() as held:
        yield Server(namespace, held)


def states(reading: Reading) -> Counter[State]:
    """MPTCP connections by state."""
    assert reading.bulk is not None
    found: Counter[State] = Counter()
    for (_, state), number in (
        (reading.watched.multipath or Counter()) + (reading.bulk.multipath or Counter())
    ).items():
        found[state] += number
    return found


def connections(reading: Reading) -> Counter[tuple[Direction, State]]:
    """As services have them."""
    assert reading.bulk is not None
    counted = reading.watched.services + reading.bulk.services
    found: Counter[tuple[Direction, State]] = Counter()
    for (direction, _, _, state), number in counted.items():
        found[direction, state] += number
    return found


@pytest.mark.parametrize("family", Family)
def test_a_connection_that_the_peer_has_closed_is_in_close_wait(
    family: Family, server: Server
) -> None:
    client, _ = server.pair(LOOPBACK[family])
    client.shutdown(socket.SHUT_WR)
    found = server.until("CLOSE_WAIT", lambda seen: states(seen)[State.CLOSE_WAIT] == 1)
    assert found.watched.multipath == {(family, State.CLOSE_WAIT): 1, (family, State.FIN_WAIT2): 1}
    assert connections(found) == {
        (Direction.INBOUND, State.CLOSE_WAIT): 1,
        (Direction.OUTBOUND, State.FIN_WAIT2): 1,
    }
    assert found.bulk is not None
    assert found.bulk.sockets == {(family, State.ESTABLISHED): 2}  # the paths, as TCP has them


def test_a_connection_of_ipv4_to_a_listener_of_both_counts_once_at_each_end(
    namespace: Namespace, server: Server
) -> None:
    with namespace.socket(Family.INET6, socket.SOCK_STREAM, IPPROTO_MPTCP) as door:
        door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        door.bind(("::", 7001))
        door.listen()
        client = namespace.socket(Family.INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
        client.connect(("127.0.0.1", 7001))
        accepted, _ = door.accept()
        with accepted:
            client.close()  # the ends of its TCP socket tell it, not the inode
            found = server.until("CLOSE_WAIT", lambda seen: states(seen)[State.CLOSE_WAIT] == 1)
    assert connections(found) == {
        (Direction.INBOUND, State.CLOSE_WAIT): 1,
        (Direction.OUTBOUND, State.FIN_WAIT2): 1,
    }


def test_open_connections_count_once_and_plain_ones_as_before(server: Server) -> None:
    held = [server.pair(), server.pair(), server.pair(protocol=socket.IPPROTO_TCP)]
    found = server.census()
    assert len(held) == 3
    assert states(found) == {State.ESTABLISHED: 4}
    assert connections(found) == {
        (Direction.INBOUND, State.ESTABLISHED): 3,
        (Direction.OUTBOUND, State.ESTABLISHED): 3,
    }


def test_what_the_process_has_closed_is_held_by_nobody(server: Server) -> None:
    _, accepted = server.pair()
    accepted.close()
    found = server.until("FIN_WAIT2", lambda seen: states(seen)[State.FIN_WAIT2] == 1)
    assert found.watched.unowned == {Unowned.ORPHAN: 1}
    assert found.bulk is not None
    assert found.bulk.unowned == {}


def test_what_nobody_has_accepted_is_told(server: Server) -> None:
    client = server.knock()
    found = server.census()
    assert found.bulk is not None
    assert found.bulk.unowned == {Unowned.NOT_ACCEPTED: 1}
    client.close()
    found = server.until("CLOSE_WAIT", lambda seen: states(seen)[State.CLOSE_WAIT] == 1)
    assert found.watched.unowned == {Unowned.NOT_ACCEPTED: 1, Unowned.ORPHAN: 1}


def test_each_listener_is_told_once(server: Server) -> None:
    for address in LOOPBACK.values():
        server.door(address)
    assert [row.source_port for row in server.census().listeners] == [7000, 7000]


def test_a_connection_that_is_opening_is_one_of_tcp(namespace: Namespace, server: Server) -> None:
    namespace.filter("tcp dport 7009 drop")
    with namespace.socket(Family.INET, socket.SOCK_STREAM, IPPROTO_MPTCP) as client:
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", 7009))
        found = server.census()
    assert states(found) == {}
    assert connections(found) == {(Direction.OUTBOUND, State.SYN_SENT): 1}


class Causes:
    """A Follower that remembers unread bytes of MPTCP connections in CLOSE_WAIT."""

    def __init__(self) -> None:
        self.found: list[Cause] = []

    def begin(self, _listening: Listening) -> None:
        self.found = []

    def add(self, batch: Batch) -> None:
        if batch.multipath and batch.state is State.CLOSE_WAIT:
            self.found += [BY_UNREAD[unread] for unread in batch.receive_queues()]


@pytest.mark.parametrize(("sent", "cause"), [(b"", Cause.NOT_CLOSED), (b"x", Cause.DATA_UNREAD)])
def test_unread_data_is_told(
    sent: bytes, cause: Cause, namespace: Namespace, server: Server
) -> None:
    client, _ = server.pair()
    client.send(sent)
    client.shutdown(socket.SHUT_WR)
    server.until("CLOSE_WAIT", lambda seen: states(seen)[State.CLOSE_WAIT] == 1)
    follower = Causes()
    with namespace.entered(), closing(NetlinkSource()) as source:
        source.watch(follower)
    assert follower.found == [cause]


def test_a_connection_over_two_paths_counts_once(namespace: Namespace, server: Server) -> None:
    for address in ("10.9.0.1", "10.9.0.2"):
        namespace.run("ip", "address", "add", f"{address}/24", "dev", "lo")
    namespace.run("ip", "mptcp", "limits", "set", "subflow", "2")
    namespace.run("ip", "mptcp", "endpoint", "add", "10.9.0.2", "dev", "lo", "subflow")
    client, accepted = server.pair(address="10.9.0.1")
    for sender, receiver in ((client, accepted), (accepted, client)):
        sender.send(b"x")  # only then another path is opened
        assert receiver.recv(1) == b"x"
    established = (Family.INET, State.ESTABLISHED)
    found = server.until(
        "two paths", lambda seen: seen.bulk is not None and seen.bulk.sockets[established] == 4
    )
    assert connections(found) == {
        (Direction.INBOUND, State.ESTABLISHED): 1,
        (Direction.OUTBOUND, State.ESTABLISHED): 1,
    }
    client.shutdown(socket.SHUT_WR)
    found = server.until("CLOSE_WAIT", lambda seen: states(seen)[State.CLOSE_WAIT] == 1)
    assert connections(found) == {
        (Direction.INBOUND, State.CLOSE_WAIT): 1,
        (Direction.OUTBOUND, State.FIN_WAIT2): 1,
    }


def test_anybody_may_count_them(namespace: Namespace, server: Server) -> None:
    client, _ = server.pair()
    client.shutdown(socket.SHUT_WR)
    server.until("CLOSE_WAIT", lambda seen: states(seen)[State.CLOSE_WAIT] == 1)
    assert namespace.call(_closing, uid=NOBODY) == 2


def _closing() -> int:
    with closing(NetlinkSource()) as source:
        return (source.watch().watched.multipath or Counter()).total()


def test_the_kernel_tells_whether_there_are_any(namespace: Namespace, server: Server) -> None:
    def in_use() -> set[Family]:
        with namespace.entered():
            return set(families_in_use() or ())

    assert in_use() == set()
    client, accepted = server.pair("::1")
    assert in_use() == {Family.INET6}
    for sock in (client, accepted, server.door("::1")):
        sock.close()
    eventually(lambda: not in_use(), "no MPTCP sockets")
    assert Path("/proc/thread-self/net/protocols").exists()
