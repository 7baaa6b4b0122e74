"""MPTCP connections are counted and followed in place of the TCP sockets that carry them."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from struct import Struct

import pytest
from fake_kernel import Answer, FakeKernel, Sockets, listing, multipath_listing, nobody
from mixtures import listener
from replies import error

from sockwatch.kernel.batches import batches_of_rows
from sockwatch.kernel.diag import Query, dump_request
from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.multipath import (
    CLOSING,
    CONNECTED,
    Connections,
    MultipathReader,
    Subflows,
    families_in_use,
)
from sockwatch.kernel.netlink import NetlinkSource
from sockwatch.kernel.wire import mask
from sockwatch.tcp.batch import Batch
from sockwatch.tcp.listening import Listening
from sockwatch.tcp.records import Reading, Row
from sockwatch.tcp.states import Direction, Family, State, Unowned

HERE, THERE, ELSEWHERE = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), bytes([10, 0, 0, 3])
BOTH = (Family.INET, Family.INET6)


def row(state: State, inode: int, remote_port: int, cookie: int) -> Row:
    """A server's end of a connection."""
    return Row(
        Family.INET,
        state,
        HERE,
        80,
        THERE,
        remote_port,
        timer=0,
        receive_queue=0,
        inode=inode,
        cookie=cookie,
        cgroup=7,
    )


LISTENER = listener(80)
LEAK = row(State.CLOSE_WAIT, 5, 41005, 105)
"""An MPTCP connection that the peer has closed, over two subflows."""
LEAK_PATHS = [row(State.ESTABLISHED, 5, 41005, 205), row(State.ESTABLISHED, 5, 42005, 305)]
CLOSED = row(State.FIN_WAIT2, 0, 41006, 106)._replace(timer=2)
"""One that the process has closed; the TCP socket still has its inode."""
CLOSED_PATH = row(State.ESTABLISHED, 6, 41006, 206)
OPEN = row(State.ESTABLISHED, 7, 41007, 107)
OPEN_PATHS = [row(State.ESTABLISHED, 7, 41007, 207), row(State.ESTABLISHED, 7, 42007, 307)]
PLAIN = [row(State.ESTABLISHED, 8, 41008, 208), row(State.CLOSE_WAIT, 9, 41009, 209)]
TCP = [LISTENER, *LEAK_PATHS, CLOSED_PATH, *OPEN_PATHS, *PLAIN]
MPTCP = [LEAK, CLOSED, OPEN, LISTENER]


class Onlooker:
    """A Follower that remembers what it is shown."""

    def __init__(self) -> None:
        self.cookies: dict[State, list[int]] = {}
        self.multipath: set[int] = set()

    def begin(self, _listening: Listening) -> None:
        self.cookies = {}

    def add(self, batch: Batch) -> None:
        self.cookies.setdefault(batch.state, []).extend(batch.cookies())
        if batch.multipath:
            self.multipath.update(batch.cookies())


def source_on(
    tcp: Sequence[Row],
    multipath: Answer,
    in_use: Collection[Family] | None = (Family.INET,),
) -> NetlinkSource:
    connect = partial(FakeKernel, listing(tcp), multipath)
    return NetlinkSource(connect, MultipathReader(lambda: in_use))


@pytest.fixture
def census() -> Reading:
    return source_on(TCP, multipath_listing(MPTCP)).census()


def services(reading: Reading) -> Counter[tuple[Direction, int, State]]:
    assert reading.bulk is not None
    found: Counter[tuple[Direction, int, State]] = Counter()
    for (direction, port, _, state), number in (
        reading.watched.services + reading.bulk.services
    ).items():
        found[direction, port, state] += number
    return found


# What is counted


def test_a_connection_counts_once_in_the_state_it_has(census: Reading) -> None:
    inbound = partial(tuple[Direction, int, State])
    assert services(census) == {
        inbound((Direction.INBOUND, 80, State.CLOSE_WAIT)): 2,
        inbound((Direction.INBOUND, 80, State.FIN_WAIT2)): 1,
        inbound((Direction.INBOUND, 80, State.ESTABLISHED)): 2,
    }


def test_every_tcp_socket_counts_as_a_socket(census: Reading) -> None:
    assert census.bulk is not None
    assert census.watched.sockets == {(Family.INET, State.CLOSE_WAIT): 1}
    assert census.bulk.sockets == {(Family.INET, State.ESTABLISHED): 6}


def test_mptcp_connections_are_counted_apart(census: Reading) -> None:
    assert census.watched.multipath == {
        (Family.INET, State.CLOSE_WAIT): 1,
        (Family.INET, State.FIN_WAIT2): 1,
    }
    assert census.bulk is not None
    assert census.bulk.multipath == {(Family.INET, State.ESTABLISHED): 1}


def test_a_watch_leaves_out_what_is_established() -> None:
    reading = source_on(TCP, multipath_listing(MPTCP)).watch()
    assert reading.watched.multipath is not None
    assert State.ESTABLISHED not in {state for _, state in reading.watched.multipath}
    assert reading.watched.services.total() == 3


def test_nobody_holds_what_the_process_has_closed(census: Reading) -> None:
    assert census.watched.unowned == {Unowned.ORPHAN: 1}
    assert census.bulk is not None
    assert census.bulk.unowned == {}


def test_it_is_subflows_that_take_ephemeral_ports() -> None:
    client = [each._replace(source_port=each.destination_port, destination_port=80) for each in TCP]
    above = [
        each._replace(source_port=each.destination_port, destination_port=80) for each in MPTCP
    ]
    reading = source_on(client, multipath_listing(above)).census()
    without = source_on(client, nobody, None).census()
    for counts, expected in ((reading.watched, without.watched), (reading.bulk, without.bulk)):
        assert counts is not None
        assert expected is not None
        assert counts.destinations == expected.destinations
        assert any(counts.destinations.values())


# Who is followed


def test_who_follows_is_shown_connections_and_no_subflow() -> None:
    onlooker = Onlooker()
    waiting = LISTENER._replace(receive_queue=1)
    source = source_on([waiting, *TCP[1:]], multipath_listing(MPTCP))
    for _ in range(2):
        source.watch(onlooker)
    assert onlooker.cookies == {
        State.CLOSE_WAIT: [105, 209],
        State.FIN_WAIT2: [106],
        # Those of a port with a queue: an open one may be one that nobody has accepted.
        State.ESTABLISHED: [207, 307, 208],
    }
    assert onlooker.multipath == {105, 106}


def test_a_census_shows_the_same_as_a_watch() -> None:
    waiting = LISTENER._replace(receive_queue=1)
    source = source_on([waiting, *TCP[1:]], multipath_listing(MPTCP))
    shown = []
    for read in (source.watch, source.watch, source.census):
        onlooker = Onlooker()
        read(onlooker)
        shown.append(onlooker.cookies)
    assert shown[1] == shown[2]


def test_memory_in_use_is_data_unread() -> None:
    rows = [row(State.CLOSE_WAIT, 1, 1, 1)._replace(receive_queue=used) for used in (0, 1, 936)]
    (batch,) = batches_of_rows(rows)
    assert [*Connections(batch).receive_queues()] == [0, 2, 2]


# Telling subflows


def split(known: Sequence[Row], asked: Sequence[Row]) -> tuple[list[int], list[int]]:
    """Cookies of connections and of subflows."""
    subflows = Subflows()
    for batch in batches_of_rows(known):
        subflows.of(batch)
    (batch,) = batches_of_rows(asked)
    connections, found = subflows.split(batch)
    return [*connections.cookies()], [*found.cookies()] if found is not None else []


def test_a_subflow_is_told_by_its_inode_or_by_both_of_its_ends() -> None:
    established = [*LEAK_PATHS, CLOSED_PATH, *OPEN_PATHS, PLAIN[0]]
    assert split([LEAK, CLOSED], established) == ([207, 307, 208], [205, 305, 206])
    assert split([CLOSED], established) == ([205, 305, 207, 307, 208], [206])
    assert split([LEAK], [PLAIN[0]]) == ([208], [])
    assert split([], established) == ([205, 305, 206, 207, 307, 208], [])


def test_equal_ports_do_not_make_a_subflow() -> None:
    other = CLOSED_PATH._replace(destination=ELSEWHERE)
    assert split([CLOSED], [other]) == ([206], [])


def test_sockets_without_inode_are_not_all_subflows_of_one_without() -> None:
    nobodys = row(State.ESTABLISHED, 0, 4711, 999)
    assert split([CLOSED], [nobodys]) == ([999], [])


# When it asks


@pytest.mark.parametrize("in_use", [None, ()])
def test_without_mptcp_sockets_nothing_is_asked(in_use: Collection[Family] | None) -> None:
    sockets = Sockets(listing(TCP))
    source = NetlinkSource(sockets, MultipathReader(lambda: in_use))
    reading = source.census()
    assert len(sockets.made) == 1
    assert {query.multipath for query in sockets.made[0].queries} == {None}
    assert reading.watched.multipath == (None if in_use is None else {})
    assert services(reading).total() == len(TCP) - 1


def test_only_families_in_use_are_asked_for_and_no_listeners() -> None:
    made: list[FakeKernel] = []

    def connect() -> FakeKernel:
        made.append(FakeKernel(listing(TCP), multipath_listing(MPTCP)))
        return made[-1]

    NetlinkSource(connect, MultipathReader(lambda: (Family.INET6,))).census()
    main, trial = ([query for query in kernel.queries if query.multipath] for kernel in made)
    assert [(query.multipath, query.states) for query in trial] == [(Family.INET, 0)]
    assert [(query.multipath, query.states) for query in main] == [
        (Family.INET6, mask(*CLOSING)),
        (Family.INET6, mask(*CONNECTED)),
    ]


def test_a_kernel_that_does_not_tell_is_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    made: list[FakeKernel] = []

    def connect() -> FakeKernel:
        made.append(FakeKernel(listing(TCP), nobody))
        return made[-1]

    source = NetlinkSource(connect, MultipathReader(lambda: BOTH))
    for _ in range(3):
        assert source.census().watched.multipath is None
    asked = [query for kernel in made for query in kernel.queries if query.multipath]
    assert len(asked) == 1
    assert [kernel.open for kernel in made] == [True, False]
    assert len(caplog.messages) == 1
    assert "MPTCP connections are not counted" in caplog.text


def test_a_trial_that_fails_by_chance_is_repeated() -> None:
    failures = [lambda sequence: [error(-16, sequence)]]

    def multipath(states: int, sequence: int) -> Iterable[bytes]:
        found = multipath_listing(MPTCP)(states, sequence)
        return failures.pop()(sequence) if failures else found

    source = source_on(TCP, multipath)
    with pytest.raises(PassFailure) as caught:
        source.watch()
    assert caught.value.cause is Cause.BUSY
    assert source.watch().watched.multipath


def test_a_dump_that_fails_discards_the_pass() -> None:
    def multipath(states: int, sequence: int) -> list[bytes]:
        found = list(multipath_listing(MPTCP)(states, sequence))
        return found if states == 0 else found[:-1]

    with pytest.raises(PassFailure) as caught:
        source_on(TCP, multipath).watch()
    assert caught.value.cause is Cause.TRUNCATED


# include/uapi/linux/inet_diag.h: struct nlmsghdr, inet_diag_req_v2 and one attribute
REQUEST = Struct("=IHHII BBBBI 48s HHI")


@pytest.mark.parametrize("family", Family)
def test_the_request_names_the_protocol_in_an_attribute(family: Family) -> None:
    """With 0 for the protocol in the header, which all older kernels look at."""
    expected = REQUEST.pack(80, 20, 0x301, 7, 0, family, 0, 0, 0, 0x930, bytes(48), 8, 3, 262)
    assert dump_request(Query(0x930, multipath=family), 7) == expected


HEAD = "protocol  size sockets  memory press maxhdr  slab module     cl co di\n"


@pytest.mark.parametrize(
    ("text", "families"),
    [
        ("", None),
        (HEAD + "TCP       2304      7     169   no     192   yes  kernel      y  y\n", None),
        (HEAD + "MPTCP     1936      0       0   no       0   yes  kernel      y\n", []),
        (HEAD + "MPTCP     1936      5     169   no       0   yes  kernel\n", [Family.INET]),
        (HEAD + "MPTCPv6   2064      1  0 no 0\nMPTCP 1936 3\n", [Family.INET6, Family.INET]),
        (HEAD + "MPTCPv6   2064\n", None),
        (HEAD + "MPTCP   2064  many\n", None),
        (HEAD + "\n\nMPTCP   2064  0\n", []),
    ],
    ids=str,
)
def test_protocols_say_whether_there_are_mptcp_sockets(
    text: str, families: list[Family] | None, tmp_path: Path
) -> None:
    path = tmp_path / "protocols"
    path.write_text(text)
    assert families_in_use(path) == families


def test_without_the_file_it_is_not_known(tmp_path: Path) -> None:
    assert families_in_use(tmp_path / "protocols") is None
