"""The netlink source on a kernel of the test's making: what it asks, counts and survives."""

import gc
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from struct import pack
from typing import Final

import pytest
from fake_kernel import Answer, FakeKernel, Sockets, failing_at, listing
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import GENERATION, LISTENED, NAMED_STATES, listener, rows
from replies import Generation, done, error, message, overrun, record

from sockwatch.kernel.diag import Dumper
from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.multipath import MultipathReader
from sockwatch.kernel.netlink import BULK, WAITING_PORTS_LIMIT, NetlinkSource
from sockwatch.tcp.batch import Batch
from sockwatch.tcp.listening import Listening
from sockwatch.tcp.records import Reading, Row
from sockwatch.tcp.states import Direction, Family, State, Unowned

UNHURRIED = settings(deadline=None)
BOUND_INACTIVE: Final = 13

LISTENER = listener(LISTENED)._replace(receive_queue=3, send_queue=128, inode=5, cookie=9)


def socket_in(state: State, timer: int = 0, inode: int = 1, family: Family = Family.INET) -> Row:
    source = bytes(3 if family is Family.INET else 15) + b"\1"
    return Row(family, state, source, LISTENED, source, 40000, timer=timer, inode=inode)


HOST: Final = [
    LISTENER,
    socket_in(State.ESTABLISHED),
    socket_in(State.ESTABLISHED, inode=0),
    socket_in(State.ESTABLISHED, family=Family.INET6),
    socket_in(State.SYN_RECV, 1, 0),
    socket_in(State.SYN_SENT, 1),
    socket_in(State.FIN_WAIT1, 1, 0),
    socket_in(State.FIN_WAIT2, 3, 0),
    socket_in(State.FIN_WAIT2),
    socket_in(State.CLOSE_WAIT),
    socket_in(State.CLOSE_WAIT),
    socket_in(State.LAST_ACK, 1, 0),
    socket_in(State.CLOSING, 1, 0),
    socket_in(State.TIME_WAIT, 3, 0),
    socket_in(State.TIME_WAIT, 3, 0, Family.INET6),
]

READS: Final[dict[str, Callable[[NetlinkSource], object]]] = {
    "probe": NetlinkSource.probe,
    "watch": NetlinkSource.watch,
    "census": NetlinkSource.census,
}
DUMPS: Final = {"probe": 1, "watch": 2, "census": 2}
EACH_DUMP: Final = [(read, nth) for read, number in DUMPS.items() for nth in range(number)]


def source_on(connect: Callable[[], Dumper]) -> NetlinkSource:
    """The source on a host without MPTCP."""
    return NetlinkSource(connect, MultipathReader(lambda: None))


def census_of(answer: Answer) -> Reading:
    return source_on(lambda: FakeKernel(answer)).census()


def totals(reading: Reading) -> Counter[tuple[Family, State]]:
    listeners = Counter((row.family, row.state) for row in reading.listeners)
    bulk = reading.bulk.sockets if reading.bulk else Counter()
    return listeners + reading.watched.sockets + bulk


# What it asks


def masks(read: str) -> list[int]:
    sockets = Sockets(listing(HOST))
    READS[read](source_on(sockets))
    return sockets.made[0].masks


@pytest.mark.parametrize("read", READS)
def test_it_never_asks_for_bound_sockets(read: str) -> None:
    """Since 6.8 that walks every owner of every port with interrupts held off."""
    assert not any(mask >> BOUND_INACTIVE for mask in masks(read))


def test_a_watch_leaves_the_healthy_states_out() -> None:
    asked = sum(masks("watch"))
    assert [state for state in NAMED_STATES if not asked >> state & 1] == [*BULK]


def test_a_census_asks_for_every_state_once() -> None:
    asked = Counter(state for mask in masks("census") for state in range(32) if mask >> state & 1)
    assert asked == Counter(NAMED_STATES)


def test_a_probe_asks_for_listeners_alone() -> None:
    assert masks("probe") == [1 << State.LISTEN]


def test_one_socket_serves_all_passes() -> None:
    sockets = Sockets(listing(HOST))
    source = source_on(sockets)
    for read in READS.values():
        read(source)
    assert len(sockets.made) == 1
    source.close()
    assert not sockets.made[0].open
    source.close()
    source.watch()
    assert [kernel.open for kernel in sockets.made] == [False, True]


class Onlooker:
    """A Follower that remembers the states of what it is shown."""

    def __init__(self) -> None:
        self.shown: list[Counter[State]] = []
        self.listening: Listening | None = None

    def begin(self, listening: Listening) -> None:
        self.listening = listening
        self.shown.append(Counter())

    def add(self, batch: Batch) -> None:
        self.shown[-1][batch.state] += len(batch)


def waiting(port: int, queue: int, address: str = "0.0.0.0") -> Row:
    return listener(port, address)._replace(receive_queue=queue)


def looked_into(*looks: list[Row]) -> list[tuple[int, ...]]:
    """The ports whose established connections are asked for in each of several watches."""
    now: list[Row] = []
    kernel = FakeKernel(listing(now))
    source = source_on(lambda: kernel)
    asked: list[tuple[int, ...]] = []
    for look in looks:
        now[:] = look
        before = len(kernel.queries)
        source.watch(Onlooker())
        new = kernel.queries[before:]
        asked.append(tuple(sorted(port for query in new for port in query.local_ports)))
    return asked


def test_queues_that_are_found_waiting_twice_are_looked_into() -> None:
    empty, full = [waiting(80, 0), waiting(81, 0)], [waiting(80, 3), waiting(81, 0)]
    assert looked_into(empty, full, full, empty, full) == [(), (), (80,), (), ()]


def test_a_queue_counts_whichever_listener_of_the_port_has_it() -> None:
    """There may be one for each family, address and process."""
    for queues in ((3, 0), (0, 3)):
        both = [waiting(80, queues[0]), waiting(80, queues[1], "::1")]
        assert looked_into(both, both) == [(), (80,)]


def test_no_more_ports_are_looked_into_than_one_request_takes() -> None:
    crowd = [waiting(1000 + number, 1 + number) for number in range(100)]
    _, ports = looked_into(crowd, crowd)
    assert ports == tuple(range(1100 - WAITING_PORTS_LIMIT, 1100))


def test_who_follows_is_shown_the_watched_and_those_who_wait() -> None:
    onlooker = Onlooker()
    source = source_on(lambda: FakeKernel(listing(HOST)))
    source.watch(onlooker)
    source.watch(onlooker)
    assert onlooker.listening is not None
    assert onlooker.listening.direction(Family.INET, LISTENED, 0) is Direction.INBOUND
    first, second = onlooker.shown
    assert first == Counter(row.state for row in HOST if row.state not in {*BULK, State.LISTEN})
    assert second - first == {State.ESTABLISHED: 3}


# What it counts


def test_a_census_counts_every_socket_once() -> None:
    assert totals(census_of(listing(HOST))) == Counter((row.family, row.state) for row in HOST)


@pytest.mark.parametrize("state", BULK)
@UNHURRIED
@given(st.data(), GENERATION, st.booleans(), st.sampled_from([1, 300, 32_364]))
def test_any_host_is_counted_right(
    state: State, data: st.DataObject, generation: Generation, mark: bool, size: int
) -> None:
    host = data.draw(st.lists(rows(generation=generation) | rows([state], generation), max_size=20))
    reading = census_of(listing(host, generation, mark=mark, size=size))
    assert totals(reading) == Counter((row.family, row.state) for row in host)
    assert [*reading.listeners] == [row for row in host if row.state is State.LISTEN]
    others = sum(row.state is not State.LISTEN for row in host)
    assert reading.bulk is not None
    assert reading.watched.services.total() + reading.bulk.services.total() == others


def test_a_watch_says_nothing_of_the_healthy_states() -> None:
    reading = source_on(lambda: FakeKernel(listing(HOST))).watch()
    assert reading.bulk is None
    assert {state for _, state in reading.watched.sockets}.isdisjoint({*BULK, State.LISTEN})
    assert reading.watched.sockets[Family.INET, State.CLOSE_WAIT] == 2


def test_listeners_are_told_in_full() -> None:
    (seen,) = census_of(listing(HOST)).listeners
    assert (seen.source_port, seen.receive_queue, seen.send_queue, seen.cookie) == (80, 3, 128, 9)


def test_sockets_that_nobody_holds_are_told_by_kind() -> None:
    reading = census_of(listing(HOST))
    assert reading.watched.unowned == {Unowned.HALF_OPEN: 1, Unowned.ORPHAN: 3, Unowned.MINI: 1}
    assert reading.bulk is not None
    assert reading.bulk.unowned == {Unowned.NOT_ACCEPTED: 1, Unowned.MINI: 2}


def test_a_socket_that_moves_on_during_a_pass_is_counted_once() -> None:
    """Selected in one state and described in the next, as the kernel may do."""
    opened, closed = socket_in(State.SYN_RECV), socket_in(State.ESTABLISHED)

    def answer(states: int, sequence: int) -> Iterable[bytes]:
        if states >> State.SYN_RECV & 1:
            yield record(opened, sequence=sequence, state=State.ESTABLISHED)
        if states >> State.ESTABLISHED & 1:
            yield record(closed, sequence=sequence, state=State.CLOSE_WAIT)
        yield done(sequence)

    states = State.ESTABLISHED, State.CLOSE_WAIT
    assert totals(census_of(answer)) == Counter({(Family.INET, state): 1 for state in states})


def test_a_watch_leaves_out_what_has_moved_on_to_a_healthy_state() -> None:
    """A census has counted it, or will."""

    def answer(states: int, sequence: int) -> Iterable[bytes]:
        if states >> State.FIN_WAIT2 & 1:
            yield record(socket_in(State.FIN_WAIT2), sequence=sequence, state=State.TIME_WAIT)
        yield done(sequence)

    onlooker = Onlooker()
    assert not totals(source_on(lambda: FakeKernel(answer)).watch(onlooker))
    assert onlooker.shown == [Counter()]


def test_a_state_without_a_name_is_counted_as_unknown() -> None:
    def answer(states: int, sequence: int) -> Iterable[bytes]:
        if states >> State.CLOSE_WAIT & 1:
            yield record(socket_in(State.CLOSE_WAIT), sequence=sequence, state=14)
        yield done(sequence)

    assert totals(census_of(answer)) == Counter({(Family.INET, State.UNKNOWN): 1})


def test_records_that_do_not_fill_their_last_word_are_counted() -> None:
    """No kernel has sent any, but netlink allows them: what follows is aligned."""

    def answer(states: int, sequence: int) -> Iterable[bytes]:
        whole = record(socket_in(State.CLOSE_WAIT), sequence=sequence)
        shorter = pack("=I", len(whole) - 2) + whole[4:]
        if states >> State.CLOSE_WAIT & 1:
            yield shorter + whole + shorter
        yield done(sequence)

    assert totals(census_of(answer)) == Counter({(Family.INET, State.CLOSE_WAIT): 3})


# What it survives


def replying(*replies: Callable[[int], bytes]) -> Callable[[int], list[bytes]]:
    """From a sequence number to datagrams."""
    return lambda sequence: [make(sequence) for make in replies]


def good(sequence: int) -> bytes:
    return record(socket_in(State.ESTABLISHED), sequence=sequence)


def interrupted(sequence: int) -> bytes:
    return message(18, bytes(72), sequence, flags=0x12)


FAILURES: Final[dict[str, tuple[Callable[[int], list[bytes]], Cause]]] = {
    "no handler": (replying(lambda seq: done(seq, -2)), Cause.UNAVAILABLE),
    "EPERM": (replying(lambda seq: error(-1, seq)), Cause.REFUSED),
    "ENOENT": (replying(lambda seq: error(-2, seq)), Cause.UNAVAILABLE),
    "EBUSY": (replying(good, lambda seq: error(-16, seq), done), Cause.BUSY),
    "EINVAL": (replying(lambda seq: error(-22, seq)), Cause.KERNEL_ERROR),
    "ENOBUFS": (replying(good, lambda seq: error(-105, seq)), Cause.OVERRUN),
    "overrun": (replying(good, overrun, done), Cause.OVERRUN),
    "inconsistent": (replying(good, interrupted, done), Cause.INTERRUPTED),
    "reply to an earlier request": (
        replying(lambda seq: good(seq - 1), done),
        Cause.OUT_OF_SEQUENCE,
    ),
    "cut": (replying(lambda seq: good(seq)[:-1], done), Cause.TRUNCATED),
    "no end": (replying(good), Cause.TRUNCATED),
    "rubbish": (replying(lambda _: bytes(64)), Cause.MALFORMED),
}


@pytest.mark.parametrize(("read", "nth"), EACH_DUMP)
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_in_any_dump_discards_the_pass_and_the_socket(
    name: str, read: str, nth: int
) -> None:
    failure, cause = FAILURES[name]
    sockets = Sockets(failing_at(nth, failure, listing(HOST)), listing(HOST))
    source = source_on(sockets)
    with pytest.raises(PassFailure) as caught:
        READS[read](source)
    assert caught.value.cause is cause
    assert [kernel.open for kernel in sockets.made] == [False]
    assert len(sockets.made[0].masks) == nth + 1
    assert totals(source.census()) == totals(census_of(listing(HOST)))
    assert [kernel.open for kernel in sockets.made] == [False, True]


@pytest.mark.parametrize("read", READS)
def test_a_socket_that_cannot_be_opened_is_tried_again_next_time(read: str) -> None:
    refusals = [PassFailure(Cause.REFUSED, "EPERM"), PassFailure(Cause.REFUSED, "EPERM")]

    def connect() -> Dumper:
        if refusals:
            raise refusals.pop()
        return FakeKernel(listing(HOST))

    source = source_on(connect)
    for _ in range(2):
        with pytest.raises(PassFailure):
            READS[read](source)
    READS[read](source)
    source.close()


class Signal(BaseException):
    """What may come from outside at any time, such as a KeyboardInterrupt."""


def test_a_pass_that_is_broken_off_leaves_no_dump_behind() -> None:

    def answer(states: int, sequence: int) -> Iterable[bytes]:
        yield good(sequence)
        raise Signal

    sockets = Sockets(answer, listing(HOST))
    source = source_on(sockets)
    with pytest.raises(Signal):
        source.census()
    source.census()
    assert [kernel.open for kernel in sockets.made] == [False, True]


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("last", [done, overrun], ids=["good", "failed"])
def test_garbage_is_collected_between_passes_and_not_during_them(
    last: Callable[[int], bytes], enabled: bool
) -> None:
    seen: list[bool] = []

    def answer(_: int, sequence: int) -> Iterable[bytes]:
        seen.append(gc.isenabled())
        yield last(sequence)

    (gc.enable if enabled else gc.disable)()
    try:
        with suppress(PassFailure):
            source_on(lambda: FakeKernel(answer)).census()
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
    assert not any(seen)
    assert seen


def test_nothing_is_opened_before_the_first_pass() -> None:
    """The socket sees the network namespace of the thread that reads."""
    sockets = Sockets(listing(HOST))
    source_on(sockets).close()
    assert sockets.made == []
