"""The sock_diag socket on the live kernel: what it sends, what it gets, and how it fails."""

import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from ipaddress import ip_address
from itertools import chain
from pathlib import Path
from struct import unpack_from

import pytest
from lab import Namespace
from pyroute2 import netns
from recorded import all_of, kind_of, messages, row_by_pyroute2
from replies import TCPDIAG_GETSOCK, done, message, record

from sockwatch.kernel import diag
from sockwatch.kernel.batches import batches
from sockwatch.kernel.columns import Table
from sockwatch.kernel.diag import BUFFER_BYTES, DATAGRAM_BYTES, DiagSocket, Query
from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.netlink import (
    CONNECTIONS,
    LISTENERS,
    WATCHED,
    NetlinkSource,
)
from sockwatch.kernel.rows import read_dump, read_rows
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Family, State

pytestmark = pytest.mark.kernel

# include/uapi/linux/netlink.h
NETLINK_SOCK_DIAG = 4
UNUSED_PROTOCOL = 30

SKMEMINFO = 1 << 6
"""The bit of INET_DIAG_SKMEMINFO, which takes no lock."""

NOBODY = 65534
CROWD = 100
"""Listeners enough for a dump of several datagrams."""
FIRST_PORT = 20_000
TIMEOUT = 5.0
SHORT = 0.2


@pytest.fixture
def opened(namespace: Namespace) -> Iterator[DiagSocket]:
    """A sock_diag socket in a namespace of its own."""
    with namespace.entered(), DiagSocket(TIMEOUT) as made:
        yield made


@pytest.fixture
def crowd(namespace: Namespace) -> Iterator[Sequence[int]]:
    """The ports of many listeners."""
    with ExitStack() as held, namespace.entered():
        ports = range(FIRST_PORT, FIRST_PORT + CROWD)
        for port in ports:
            held.enter_context(socket.create_server(("127.0.0.1", port)))
        yield ports


@pytest.fixture
def source(namespace: Namespace) -> Iterator[NetlinkSource]:
    """A source that reads the namespace, which the calling thread is in."""
    with namespace.entered(), closing(NetlinkSource()) as made:
        yield made


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def ports_of(rows: Sequence[Row]) -> list[int]:
    return sorted(row.source_port for row in rows)


def cause_of(action: Callable[[], object]) -> Cause:
    with pytest.raises(PassFailure) as caught:
        action()
    return caught.value.cause


# What it gets


def test_a_dump_shows_the_sockets_that_are_there(namespace: Namespace, opened: DiagSocket) -> None:
    with ExitStack() as held, namespace.entered():
        server = held.enter_context(socket.create_server(("127.0.0.1", 7000), backlog=7))
        client = held.enter_context(socket.create_connection(("127.0.0.1", 7000), timeout=5))
        held.enter_context(server.accept()[0])
        (listener,) = read_dump(opened.dump(LISTENERS))
        connected = read_dump(opened.dump(CONNECTIONS))
        local, inode = client.getsockname()[1], os.fstat(server.fileno()).st_ino
    loopback = ip_address("127.0.0.1").packed
    assert listener[:6] == (Family.INET, State.LISTEN, loopback, 7000, bytes(4), 0)
    assert (listener.receive_queue, listener.send_queue) == (0, 7)
    assert listener.inode == inode
    assert {(row.source_port, row.destination_port) for row in connected} == {
        (7000, local),
        (local, 7000),
    }
    assert {row.family for row in connected} == {Family.INET}
    assert len({row.cookie for row in (listener, *connected)}) == 3


def test_one_dump_shows_both_families(namespace: Namespace, opened: DiagSocket) -> None:
    with ExitStack() as held, namespace.entered():
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            held.enter_context(socket.create_server((address, 7000), family=family))
        rows = read_dump(opened.dump(LISTENERS))
    assert {(row.family, row.source) for row in rows} == {
        (Family.INET, ip_address("127.0.0.1").packed),
        (Family.INET6, ip_address("::1").packed),
    }


def test_an_empty_namespace_shows_nothing(opened: DiagSocket) -> None:
    assert read_dump(opened.dump(Query(LISTENERS.states | WATCHED.states))) == []


@pytest.mark.parametrize(("room", "several"), [(DATAGRAM_BYTES, True), (BUFFER_BYTES, False)])
def test_a_dump_of_many_datagrams_is_whole(
    room: int, several: bool, crowd: Sequence[int], opened: DiagSocket
) -> None:
    """As many as there is room for are handed on at once."""
    opened._buffer = memoryview(bytearray(room))
    found = all_of(opened.dump(LISTENERS))
    assert (len(found) > 2) is several
    rows = read_dump(opened.dump(LISTENERS))
    assert ports_of(rows) == [*crowd]
    seen = [row_by_pyroute2(each) for whole in found[:-1] for each in messages(whole)]
    assert sorted(seen) == sorted(rows)


def test_dumps_follow_one_another_on_one_socket(crowd: Sequence[int], opened: DiagSocket) -> None:
    for _ in range(3):
        assert ports_of(read_dump(opened.dump(LISTENERS))) == [*crowd]
        assert read_dump(opened.dump(WATCHED)) == []


@pytest.mark.parametrize("uid", [None, NOBODY], ids=["root", "nobody"])
def test_kinds_of_sockets_are_tables(uid: int | None, namespace: Namespace) -> None:
    """Of which the bulk path reads columns; with and without the mark that root is shown."""
    with ExitStack() as held, namespace.entered():
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            server = held.enter_context(socket.create_server((address, 7000), family=family))
            for _ in range(10):
                client = held.enter_context(socket.create_connection((address, 7000), timeout=5))
                accepted, _ = server.accept()
                accepted.close()  # first, and so this end will be in TIME_WAIT
                client.recv(1)
                client.close()
                held.enter_context(socket.create_connection((address, 7000), timeout=5))
                held.enter_context(server.accept()[0])
        lengths = namespace.call(lengths_of_tables, uid=uid)
    assert lengths == {State.ESTABLISHED: 40, State.TIME_WAIT: 20}


def lengths_of_tables() -> dict[State, int]:
    found: Counter[State] = Counter()
    with DiagSocket(TIMEOUT) as reader:
        for batch in batches(reader.dump(CONNECTIONS)):
            assert isinstance(batch, Table)
            found[batch.state] += len(batch)
    return found


def test_nobody_is_shown_what_root_is_shown(crowd: Sequence[int], namespace: Namespace) -> None:
    as_root, as_nobody = (namespace.call(listeners, uid=uid) for uid in (None, NOBODY))
    assert as_root == as_nobody
    assert ports_of(as_nobody) == [*crowd]


def listeners() -> list[Row]:
    with DiagSocket(TIMEOUT) as reader:
        return read_dump(reader.dump(LISTENERS))


def test_it_shows_the_namespace_it_was_opened_in(crowd: Sequence[int], opened: DiagSocket) -> None:
    with Namespace() as other, other.entered():
        assert ports_of(read_dump(opened.dump(LISTENERS))) == [*crowd]
        assert listeners() == []


@pytest.mark.parametrize("number", [1, 2, 3, 64])
def test_the_kernel_leaves_other_ports_out(
    number: int, crowd: Sequence[int], opened: DiagSocket
) -> None:
    """It runs the filter that a query with ports sends along; 64 of them is what we ask at most."""
    for ports in (crowd[:number], crowd[-number:], crowd[:: CROWD // number][:number]):
        query = LISTENERS._replace(local_ports=ports)
        assert ports_of(read_dump(opened.dump(query))) == sorted(ports)
    nowhere = LISTENERS._replace(local_ports=range(1, number + 1))
    assert read_dump(opened.dump(nowhere)) == []


def test_the_drops_of_listeners_are_told(namespace: Namespace, opened: DiagSocket) -> None:
    with namespace.entered(), socket.create_server(("127.0.0.1", 7000), backlog=0) as server:
        (before,) = read_dump(opened.dump(LISTENERS))
        clients = [namespace.socket(socket.AF_INET) for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        (after,) = read_dump(opened.dump(LISTENERS))
        for client in clients:
            client.close()
    assert before.drops == 0
    assert after.drops is not None
    assert after.drops > 0
    assert after.receive_queue == 1


# What it sends


class Recorder(socket.socket):
    """Keeps what is sent."""

    requests: list[bytes]

    def send(self, data: bytes, flags: int = 0, /) -> int:  # type: ignore[override]
        self.requests.append(bytes(data))
        return super().send(data, flags)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What sock_diag sockets send to the kernel."""
    sent: list[bytes] = []

    def create(_: None, family: int, kind: int, protocol: int) -> socket.socket:
        made = Recorder(family, kind, protocol)
        made.requests = sent
        return made

    monkeypatch.setattr(netns, "create_socket", create)
    return sent


def test_nothing_is_sent_that_locks_sockets_or_is_dear(
    requests: list[bytes], source: NetlinkSource
) -> None:
    """INET_DIAG_INFO can block for ever; bit 13 makes the kernel walk the owners of all ports."""
    source.probe()
    source.watch()
    source.census()
    assert len(requests) == 1 + 2 + 2
    for request in requests:
        extensions, (states,) = request[16 + 3], unpack_from("=I", request, 16 + 52)
        assert extensions in {0, SKMEMINFO}
        assert 0 < states < 1 << 12
        assert unpack_from("=IHH", request) == (76, TCPDIAG_GETSOCK, 0x301)


def test_every_request_has_a_sequence_number_of_its_own(
    requests: list[bytes], source: NetlinkSource
) -> None:
    source.census()
    source.census()
    assert len({request[8:12] for request in requests}) == len(requests) == 4


# How it fails


def test_silence_is_a_named_failure(namespace: Namespace) -> None:
    """After its end nothing follows in a dump."""
    with namespace.entered(), DiagSocket(SHORT) as quiet:
        dump = quiet.dump(LISTENERS)
        all_of(dump)
        began = time.monotonic()
        assert cause_of(lambda: next(iter(dump.datagrams))) is Cause.TIMEOUT
        assert SHORT * 0.9 < time.monotonic() - began < SHORT + 2


@pytest.mark.parametrize("rows", [7.5, 8], ids=["within a record", "between two"])
def test_a_datagram_that_does_not_fit_is_a_named_failure(
    rows: float, crowd: Sequence[int], opened: DiagSocket
) -> None:
    """The kernel throws away what does not fit, and ends the dump as if nothing was amiss."""
    length = len(next(messages(all_of(opened.dump(LISTENERS))[0])))
    opened._buffer = memoryview(bytearray(int(rows * length)))
    assert cause_of(lambda: read_dump(opened.dump(LISTENERS))) is Cause.TRUNCATED


def test_a_second_request_during_a_dump_is_refused_as_busy(
    crowd: Sequence[int], opened: DiagSocket
) -> None:
    first, second = opened.dump(LISTENERS), opened.dump(LISTENERS)
    every = chain.from_iterable(messages(bytes(reply)) for reply in first.datagrams)
    refusal = next(each for each in every if kind_of(each) != TCPDIAG_GETSOCK)
    assert cause_of(lambda: read_rows(memoryview(refusal), second.sequence)) is Cause.BUSY


@pytest.mark.parametrize("which", [0, 1], ids=["first", "second"])
def test_neither_of_two_dumps_at_a_time_is_taken_for_whole(
    which: int, crowd: Sequence[int], opened: DiagSocket
) -> None:
    dumps = opened.dump(LISTENERS), opened.dump(LISTENERS)
    assert cause_of(lambda: read_dump(dumps[which])) is Cause.OUT_OF_SEQUENCE


def test_what_is_left_of_a_dump_is_not_taken_for_the_next(
    crowd: Sequence[int], opened: DiagSocket
) -> None:
    opened._buffer = opened._buffer[:DATAGRAM_BYTES]
    next(iter(opened.dump(LISTENERS).datagrams))
    assert cause_of(lambda: read_dump(opened.dump(LISTENERS))) is Cause.OUT_OF_SEQUENCE


def test_a_dump_can_be_abandoned_by_closing(crowd: Sequence[int], namespace: Namespace) -> None:
    before = descriptors()
    for _ in range(20):
        with DiagSocket(TIMEOUT) as abandoned:
            next(iter(abandoned.dump(LISTENERS).datagrams))
    assert ports_of(listeners()) == [*crowd]
    assert descriptors() == before


def test_a_closed_socket_is_a_named_failure(opened: DiagSocket) -> None:
    dump = opened.dump(LISTENERS)
    opened.close()
    assert cause_of(lambda: read_dump(dump)) is Cause.KERNEL_ERROR
    assert cause_of(lambda: opened.dump(LISTENERS)) is Cause.KERNEL_ERROR


def test_a_kernel_without_sock_diag_is_a_named_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diag, "NETLINK_SOCK_DIAG", UNUSED_PROTOCOL)
    assert cause_of(lambda: DiagSocket(TIMEOUT)) is Cause.UNAVAILABLE


def open_without_descriptors() -> tuple[Cause, str]:
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    try:
        DiagSocket(TIMEOUT)
    except PassFailure as failure:
        return failure.cause, str(failure)
    raise AssertionError("a socket was opened beyond the limit")


def test_too_many_open_files_is_a_named_failure(namespace: Namespace) -> None:
    assert namespace.call(open_without_descriptors) == (
        Cause.KERNEL_ERROR,
        "opening a sock_diag socket: EMFILE",
    )


def test_the_receive_buffer_is_large_enough_for_every_kernel(opened: DiagSocket) -> None:
    assert opened._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 128 * 1024


def test_datagrams_that_are_not_the_kernels_are_ignored(
    crowd: Sequence[int], opened: DiagSocket, namespace: Namespace
) -> None:
    """Whoever has CAP_NET_ADMIN can send them: rows, an end, and what does not fit."""
    port_id = opened._socket.getsockname()[0]
    forged = Row(Family.INET, State.LISTEN, bytes(4), 666, bytes(4), 0)
    sequence = 1
    lies = [
        record(forged, sequence=sequence),
        record(forged, sequence=sequence) + done(sequence),
        message(TCPDIAG_GETSOCK, bytes(DATAGRAM_BYTES), sequence),
    ]
    liar = namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
    with closing(liar):
        liar.bind((0, 0))
        assert port_id == 0, "bound before the first request"
        opened._socket.bind((0, 0))
        for lie in lies:
            liar.sendto(lie, (opened._socket.getsockname()[0], 0))
        dump = opened.dump(LISTENERS)
        assert dump.sequence == sequence
        assert ports_of(read_dump(dump)) == [*crowd]


# How the source goes on


def break_buffer(opened: DiagSocket) -> None:
    opened._buffer = memoryview(bytearray(1000))


def begin_a_dump(opened: DiagSocket) -> None:
    opened.dump(LISTENERS)


DAMAGES: dict[str, Callable[[DiagSocket], None]] = {
    "buffer too small": break_buffer,
    "a dump is under way": begin_a_dump,
    "closed": DiagSocket.close,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_after_a_failure_the_next_pass_has_a_new_socket(
    name: str, crowd: Sequence[int], source: NetlinkSource
) -> None:
    whole = source.census()
    assert ports_of(whole.listeners) == [*crowd]
    damaged = source._dumper
    assert isinstance(damaged, DiagSocket)
    DAMAGES[name](damaged)
    with pytest.raises(PassFailure):
        source.census()
    assert source.census() == whole
    assert source._dumper is not damaged
    assert damaged._socket.fileno() == -1


def test_passes_that_fail_leave_no_descriptors_behind(
    crowd: Sequence[int], source: NetlinkSource
) -> None:
    source.watch()
    before = len(descriptors())
    for _ in range(20):
        break_buffer(source._dumper)  # type: ignore[arg-type]
        with pytest.raises(PassFailure):
            source.watch()
        source.watch()
    assert len(descriptors()) == before


def test_a_source_that_is_closed_holds_nothing(namespace: Namespace) -> None:
    """A socket would keep its namespace alive, and what is plugged into it."""
    before = descriptors()
    source = NetlinkSource()
    with namespace.entered():
        source.watch()
    assert len(descriptors()) == len(before) + 1
    source.close()
    assert descriptors() == before
