"""What a watch says of stuck connections, held against a look at each one by itself."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import inf, nextafter, sqrt
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import LISTENED, NAMED_STATES, listener, rows
from naive import service_of
from replies import dump_of, whole_dump

from sockwatch.kernel.batches import batches, batches_of_rows
from sockwatch.observe.ages import AgePass, Generation
from sockwatch.observe.snapshot import Marked
from sockwatch.observe.stuck import Ages, StuckPort, StuckTally
from sockwatch.tcp.batch import Batch
from sockwatch.tcp.causes import ALL, Cause
from sockwatch.tcp.listening import Listening
from sockwatch.tcp.records import Row, ServicePort
from sockwatch.tcp.states import Direction, Family, State
from sockwatch.tcp.timers import TimerLaws

UNHURRIED = settings(deadline=None)
INBOUND, OUTBOUND = Direction.INBOUND, Direction.OUTBOUND
PLENTY: Final = 1_000_000
HIGHEST: Final = (1 << 64) - 1

LIMITS: Final[Mapping[State, float]] = {
    State.SYN_SENT: 10.0,
    State.SYN_RECV: 10.0,
    State.ESTABLISHED: 10.0,
    State.FIN_WAIT1: 30.0,
    State.FIN_WAIT2: 120.0,
    State.CLOSE_WAIT: 60.0,
    State.LAST_ACK: 30.0,
    State.CLOSING: 30.0,
}
LAWS: Final = TimerLaws()
NOTHING_KNOWN: Final = Generation()
LISTENING: Final = Listening([listener(LISTENED), listener(443, "::", v6_only=True)])

# As a dump tells them, and as rows do
Read = Callable[[Sequence[Row]], Iterable[Batch]]
READERS: Final[Mapping[str, Read]] = {
    "columns": lambda described: batches(dump_of(whole_dump(described, size=1000))),
    "rows": batches_of_rows,
    "one by one": lambda described: chain.from_iterable(batches_of_rows([r]) for r in described),
}


def watch(
    batches_seen: Iterable[Batch],
    now: float = 0.0,
    previous: Generation = NOTHING_KNOWN,
    *,
    limits: Mapping[State, float] = LIMITS,
    laws: TimerLaws = LAWS,
    limit: int = PLENTY,
) -> Ages:
    """One pass."""
    ages = AgePass(previous, now, limit, resumed=False)
    tally = StuckTally(ages, limits, laws)
    tally.begin(LISTENING)
    for batch in batches_seen:
        tally.add(batch)
    found = tally.finish()
    assert found is not None
    return found


def later(described: Sequence[Row], seconds: float) -> Ages:
    """What a pass says of sockets that one has seen so many seconds before it."""
    first = watch(batches_of_rows(described))
    return watch(batches_of_rows(described), seconds, first.generation)


def socket_in(state: State, cookie: int = 1, inode: int = 7, **more: Any) -> Row:  # noqa: ANN401
    """An inbound connection."""
    row = Row(Family.INET, state, b"\x0a\0\0\1", LISTENED, b"\x0a\0\0\2", 40000, cgroup=5)
    known = row._replace(timer=0, retransmits=0, expires=0, receive_queue=0, send_queue=0, uid=0)
    return known._replace(cookie=cookie, uid=cookie & ID, inode=inode, **more)


def stuck_in(ages: Ages) -> dict[tuple[State, Cause], int]:
    """How many are stuck, by state and cause; without those that none is stuck of."""
    found: Counter[tuple[State, Cause]] = Counter()
    for (service, cause), number in ages.stuck.items():
        found[service.state, cause] += number
    return dict(+found)


# The marked, unpacked by hand

ID: Final = (1 << 32) - 1
"""What a user's id may be: rows have one by which the marked are told apart, as their cookies."""


class Found(NamedTuple):
    """A marked connection."""

    state: int
    ports: tuple[int, int]
    addresses: tuple[bytes, bytes]
    cookie: int
    inode: int
    moment: float
    cgroup: int
    direction: Direction
    cause: Cause


def unpacked(marked: Iterable[Marked]) -> Iterator[Found]:
    for some in marked:
        sides = zip(some.moments, some.cgroups, some.inbound, some.causes, strict=True)
        for index, (moment, cgroup, inbound, cause) in enumerate(sides):
            ends = some.records.ends(index)
            yield Found(
                some.state,
                (ends.local_port, ends.remote_port),
                (ends.local, ends.remote),
                ends.uid,
                ends.inode,
                moment,
                cgroup,
                INBOUND if inbound else OUTBOUND,
                ALL[cause],
            )


# One by one


def is_watched(row: Row) -> bool:
    match row.state:
        case State.ESTABLISHED:
            return row.inode == 0
        case State.FIN_WAIT2:
            return row.inode != 0
        case state:
            return state in LIMITS


def cause_of(row: Row) -> Cause:
    match row.state:
        case State.CLOSE_WAIT if row.inode:
            unread = row.receive_queue or 0
            return (Cause.NOT_CLOSED, Cause.EOF_UNREAD)[unread] if unread < 2 else Cause.DATA_UNREAD
        case State.CLOSE_WAIT | State.ESTABLISHED:
            return Cause.NOT_ACCEPTED
        case State.FIN_WAIT2:
            return Cause.HALF_CLOSED
        case _:
            return Cause.UNANSWERED


def timer_age(row: Row, linear: int) -> float:
    """The rule of doubling, one second at first."""
    total, interval = 0.0, 1.0
    for number in range((row.retransmits or 0) + 1):
        if number > linear:
            interval = min(interval * 2, 120.0)
        total += interval
    return max(0.0, total - (row.expires or 0) / 1000)


@dataclass
class OneByOne:
    """Ages by looking at each connection, with a memory that forgets after two absences."""

    laws: TimerLaws
    known: dict[tuple[State, int], float] = field(default_factory=dict)
    missed: dict[tuple[State, int], float] = field(default_factory=dict)
    shown: set[int] = field(default_factory=set)

    def moment(self, row: Row, now: float) -> float:
        if row.state is State.SYN_SENT:
            return now - timer_age(row, self.laws.linear_syn_timeouts)
        if row.state is State.SYN_RECV:
            return now - timer_age(row, 0)
        key = row.state, row.cookie or 0
        unseen = row.state is State.ESTABLISHED and row.source_port not in self.shown
        new = nextafter(now, -inf) if unseen else now
        return self.known.get(key, self.missed.get(key, new))

    def look(self, described: Sequence[Row], now: float) -> list[tuple[Row, float]]:
        seen = [(row, self.moment(row, now)) for row in described if is_watched(row)]
        kept = {(row.state, row.cookie or 0): moment for row, moment in seen}
        gone = {key: moment for key, moment in self.known.items() if key not in kept}
        self.known, self.missed = kept, gone
        self.shown = {row.source_port for row in described if row.state is State.ESTABLISHED}
        return seen


def assert_said(ages: Ages, seen: Sequence[tuple[Row, float]], now: float) -> None:
    """That the pass says of these connections what there is to say, and of no other."""
    stuck: dict[StuckPort, int] = {}
    oldest: dict[ServicePort, float] = {}
    histogram: dict[State, Counter[float]] = {state: Counter() for state in LIMITS}
    marked = []
    for row, moment in seen:
        service, cause, age = service_of(row, LISTENING), cause_of(row), now - moment
        over = age >= LIMITS[State.ESTABLISHED if cause is Cause.NOT_ACCEPTED else row.state]
        stuck[StuckPort(service, cause)] = stuck.get(StuckPort(service, cause), 0) + over
        oldest[service] = max(oldest.get(service, age), age)
        histogram[row.state][age] += 1
        if over:
            marked.append(found_as(row, moment, service, cause))
    assert dict(ages.stuck) == stuck
    assert ages.oldest == oldest
    assert ages.ages == histogram
    assert sorted(unpacked(ages.marked)) == sorted(marked)
    assert ages.taken == now


def found_as(row: Row, moment: float, service: ServicePort, cause: Cause) -> Found:
    return Found(
        row.state,
        (row.source_port, row.destination_port),
        (row.source, row.destination),
        row.uid or 0,
        row.inode or 0,
        moment,
        row.cgroup or 0,
        service.direction,
        cause,
    )


COOKIES: Final = st.sampled_from([1, 2, 3, 1 << 32, HIGHEST - 1, HIGHEST])
QUEUES: Final = st.integers(0, 3)
STEPS: Final = st.sampled_from([0.25, 10.0, 29.75, 30.0, 60.0, 120.0]) | st.floats(0.01, 70)


@st.composite
def watched_rows(draw: st.DrawFn) -> Row:
    """Any socket, of those that matter here more often."""
    row = draw(rows() | rows([*LIMITS]))
    if row.state is not State.SYN_RECV and row.timer != 3:
        row = row._replace(receive_queue=draw(QUEUES), inode=draw(st.sampled_from([0, 0, 9])))
    if row.state in (State.SYN_SENT, State.SYN_RECV):
        row = row._replace(retransmits=draw(st.integers(0, 9)), expires=draw(st.integers(0, 9000)))
    return row._replace(cookie=draw(COOKIES))


@pytest.mark.parametrize("reader", READERS)
@settings(UNHURRIED, max_examples=150)
@given(st.data(), st.lists(watched_rows(), max_size=14), st.sampled_from([0, 4]))
def test_passes_say_what_a_look_at_each_connection_says(
    reader: str, data: st.DataObject, pool: list[Row], linear: int
) -> None:
    laws, now = TimerLaws(linear_syn_timeouts=linear), data.draw(st.floats(0, 1e7))
    model, generation = OneByOne(laws), Generation()
    for _ in range(data.draw(st.integers(1, 5))):
        seen = [row for row in pool if data.draw(st.booleans())]
        ages = watch(READERS[reader](seen), now, generation, laws=laws)
        assert_said(ages, model.look(seen, now), now)
        generation, now = ages.generation, now + data.draw(STEPS)


@settings(UNHURRIED, max_examples=300)
@given(st.floats(0, 1e9), st.sampled_from([0.1, 9.9, 10.0, 60.0]) | st.floats(0.01, 1e5))
def test_as_many_are_marked_as_are_stuck(begin: float, limit: float) -> None:
    """Also at the very limit, where sums and differences are rounded differently."""
    described = [socket_in(State.CLOSE_WAIT)]
    first = watch(batches_of_rows(described), begin)
    limits = {State.CLOSE_WAIT: limit}
    for now in (begin + limit, begin + limit * 1.5):
        ages = watch(batches_of_rows(described), now, first.generation, limits=limits)
        assert sum(ages.stuck.values()) == len([*unpacked(ages.marked)])


# Which


def test_a_pass_that_nothing_was_shown_to_says_nothing() -> None:
    """psutil follows nobody, which is not the same as that nobody is stuck."""
    tally = StuckTally(AgePass(Generation(), 0, PLENTY, resumed=True), LIMITS, TimerLaws())
    assert tally.finish() is None


def test_a_pass_without_connections_says_that_there_are_none() -> None:
    ages = watch([])
    assert (ages.stuck, ages.oldest, ages.marked) == ({}, {}, ())
    assert ages.ages == {state: Counter() for state in LIMITS}


@pytest.mark.parametrize("state", [state for state in State if state not in LIMITS])
def test_other_states_are_not_watched(state: State) -> None:
    ages = later([socket_in(state), socket_in(state, 2, inode=0)], 1e6)
    assert (ages.stuck, ages.oldest, len(ages.generation)) == ({}, {}, 0)


@pytest.mark.parametrize("state", [*LIMITS])
def test_a_state_without_a_limit_is_not_watched(state: State) -> None:
    described = [socket_in(state), socket_in(state, 2, inode=0)]
    limits = {other: limit for other, limit in LIMITS.items() if other is not state}
    ages = watch(batches_of_rows(described), 1e6, limits=limits)
    assert (ages.stuck, ages.marked, len(ages.generation)) == ({}, (), 0)


def test_established_connections_are_watched_until_they_are_accepted() -> None:
    described = [socket_in(State.ESTABLISHED, cookie, inode) for cookie, inode in ((1, 0), (2, 9))]
    ages = later(described, 10.0)
    assert stuck_in(ages) == {(State.ESTABLISHED, Cause.NOT_ACCEPTED): 1}
    assert [found.cookie for found in unpacked(ages.marked)] == [1]
    assert len(ages.generation) == 1


@pytest.mark.parametrize("reader", READERS)
def test_fin_wait2_is_watched_as_long_as_somebody_could_close_it(reader: str) -> None:
    """The kernel ends minis, and with a longer tcp_fin_timeout the full orphans before them."""
    mini = socket_in(State.FIN_WAIT2, 1, inode=0, timer=3, expires=55_000)
    orphan = socket_in(State.FIN_WAIT2, 2, inode=0, timer=2, expires=200_000)
    half_closed = socket_in(State.FIN_WAIT2, 3)
    described = [mini, orphan, half_closed, mini._replace(cookie=4)]
    first = watch(READERS[reader](described))
    ages = watch(READERS[reader](described), 120.0, first.generation)
    assert stuck_in(ages) == {(State.FIN_WAIT2, Cause.HALF_CLOSED): 1}
    assert [found.cookie for found in unpacked(ages.marked)] == [3]


@pytest.mark.parametrize("reader", READERS)
def test_what_the_kernel_alone_holds_in_fin_wait2_is_told_apart_by_its_timer(reader: str) -> None:
    """From the first look on; one that has another timer is not yet with the kernel's own."""
    minis = [
        socket_in(State.FIN_WAIT2, cookie, inode=0, timer=3, expires=expires)
        for cookie, expires in ((1, 55_000), (2, 21_500), (3, 40_000))
    ]
    others = [socket_in(State.FIN_WAIT2, 4, timer=2, expires=7)]
    assert watch(READERS[reader]([*others, *minis])).kernel_held == 38.5
    shorter = TimerLaws(fin_timeout=30.0)
    assert watch(READERS[reader](minis), laws=shorter).kernel_held == 8.5
    assert watch(READERS[reader](others)).kernel_held is None


@pytest.mark.parametrize("state", [State.FIN_WAIT1, State.LAST_ACK, State.CLOSING])
def test_orphans_that_wait_for_an_answer_are_watched(state: State) -> None:
    """These the kernel ends too, but only after long silence of the peer's."""
    described = [socket_in(state, cookie, inode, timer=1) for cookie, inode in ((1, 0), (2, 9))]
    assert stuck_in(later(described, 30.0)) == {(state, Cause.UNANSWERED): 2}


# Why


@pytest.mark.parametrize(
    ("unread", "inode", "cause"),
    [
        (0, 9, Cause.NOT_CLOSED),
        (1, 9, Cause.EOF_UNREAD),
        (2, 9, Cause.DATA_UNREAD),
        (0xFFFF_FFFF, 9, Cause.DATA_UNREAD),
        (0, 0, Cause.NOT_ACCEPTED),
        (1, 0, Cause.NOT_ACCEPTED),
        (5000, 0, Cause.NOT_ACCEPTED),
    ],
)
@pytest.mark.parametrize("company", [[], [socket_in(State.CLOSE_WAIT, 2, inode=0)]])
def test_why_a_connection_is_not_closed(
    unread: int, inode: int, cause: Cause, company: list[Row]
) -> None:
    row = socket_in(State.CLOSE_WAIT, 1, inode, receive_queue=unread)
    ages = later([*company, row], 60.0)
    assert [found.cause for found in unpacked(ages.marked) if found.cookie == 1] == [cause]


def test_a_connection_may_be_stuck_for_another_cause_than_before() -> None:
    """The application has read meanwhile; it stays in its state since when it was."""
    row = socket_in(State.CLOSE_WAIT, receive_queue=100)
    first = watch(batches_of_rows([row]))
    ages = watch(batches_of_rows([row._replace(receive_queue=0)]), 60.0, first.generation)
    assert stuck_in(ages) == {(State.CLOSE_WAIT, Cause.NOT_CLOSED): 1}
    assert {service.port for service in ages.oldest} == {LISTENED}


# How long


@pytest.mark.parametrize("state", [state for state in LIMITS if state not in (2, 3)])
def test_a_connection_is_stuck_from_its_limit_on(state: State) -> None:
    row = socket_in(state, inode=0 if state is State.ESTABLISHED else 9)
    limit = LIMITS[state]
    assert stuck_in(later([row], limit - 0.001)) == {}
    assert sum(stuck_in(later([row], limit)).values()) == 1


@pytest.mark.parametrize("company", [[], [socket_in(State.CLOSE_WAIT, 2)]])
def test_who_waits_to_be_accepted_is_stuck_as_soon_when_the_peer_has_closed(
    company: list[Row],
) -> None:
    """Whoever waits for an answer gives up sooner than the application is late to close."""
    row = socket_in(State.CLOSE_WAIT, inode=0, receive_queue=1)
    assert stuck_in(later([*company, row], 9.999)) == {}
    ages = later([*company, row], 10.0)
    assert stuck_in(ages) == {(State.CLOSE_WAIT, Cause.NOT_ACCEPTED): 1}
    assert [found.cookie for found in unpacked(ages.marked)] == [1]
    accepted = watch(batches_of_rows([row._replace(inode=9)]), 11.0, ages.generation)
    assert stuck_in(accepted) == {}
    assert [*accepted.oldest.values()] == [11.0]


def test_what_is_not_yet_stuck_is_there_at_zero() -> None:
    """So that a series is there before the first one is."""
    ages = later([socket_in(State.CLOSE_WAIT)], 59.0)
    service = ServicePort(INBOUND, LISTENED, 5, State.CLOSE_WAIT)
    assert dict(ages.stuck) == {StuckPort(service, Cause.NOT_CLOSED): 0}
    assert ages.oldest == {service: 59.0}
    assert ages.marked == ()


@pytest.mark.parametrize("state", [State.SYN_SENT, State.SYN_RECV])
@pytest.mark.parametrize(
    ("retransmits", "expires", "age"),
    [(0, 400, 0.6), (1, 2000, 1.0), (2, 4000, 3.0), (3, 900, 14.1)],
)
def test_the_first_look_tells_how_long_an_answer_is_missing(
    state: State, retransmits: int, expires: int, age: float
) -> None:
    """As measured, with nothing remembered."""
    row = socket_in(state, inode=0, timer=1, retransmits=retransmits, expires=expires)
    ages = watch(batches_of_rows([row]), 1000.0)
    assert [*ages.oldest.values()] == [pytest.approx(age)]
    assert sum(stuck_in(ages).values()) == (age >= 10.0)
    assert (ages.generation.since, len(ages.generation)) == ({}, 1)


def test_only_the_first_timeouts_of_a_client_are_linear() -> None:
    laws = TimerLaws(linear_syn_timeouts=4)
    rows_of_both = [
        socket_in(state, cookie, timer=1, retransmits=5, expires=1900)
        for cookie, state in ((1, State.SYN_SENT), (2, State.SYN_RECV))
    ]
    ages = watch(batches_of_rows(rows_of_both), 1000.0, laws=laws)
    by_state = {service.state: age for service, age in ages.oldest.items()}
    assert by_state == {
        State.SYN_SENT: pytest.approx(5.1),
        State.SYN_RECV: pytest.approx(63 - 1.9),
    }


def test_a_lowered_maximum_timeout_makes_nobody_older() -> None:
    row = socket_in(State.SYN_RECV, inode=0, timer=1, retransmits=6, expires=1000)
    ages = watch(batches_of_rows([row]), 1000.0, laws=TimerLaws(longest_timeout=1.0))
    assert [*ages.oldest.values()] == [pytest.approx(6.0)]


def test_the_oldest_of_each_service_counts() -> None:
    def client(cookie: int, port: int) -> Row:
        return socket_in(State.CLOSE_WAIT, cookie)._replace(source_port=port, destination_port=443)

    old = [socket_in(State.CLOSE_WAIT, 1), client(2, 50_000)]
    first = watch(batches_of_rows(old))
    new = [*old, socket_in(State.CLOSE_WAIT, 3), client(4, 50_001), socket_in(State.LAST_ACK, 5)]
    second = watch(batches_of_rows(new), 20.0, first.generation)
    third = watch(batches_of_rows(new[1:]), 50.0, second.generation)
    assert third.oldest == {
        ServicePort(INBOUND, LISTENED, 5, State.CLOSE_WAIT): 30.0,
        ServicePort(OUTBOUND, 443, 5, State.CLOSE_WAIT): 50.0,
        ServicePort(INBOUND, LISTENED, 5, State.LAST_ACK): 30.0,
    }


@pytest.mark.parametrize("reader", READERS)
def test_each_of_the_marked_is_told_with_what_is_its_own(reader: str) -> None:
    """Among others that are not stuck, and are none of them like the next."""
    described = [
        socket_in(State.CLOSE_WAIT, cookie, 100 + cookie % 5, receive_queue=cookie % 3)._replace(
            cgroup=1000 + cookie, source_port=LISTENED if cookie % 2 else cookie
        )
        for cookie in range(1, 41)
    ]
    old = [row for row in described if row.cookie in (4, 7, 8, 21, 33, 40)]
    first = watch(READERS[reader](old))
    ages = watch(READERS[reader](described), 60.0, first.generation)
    assert [*unpacked(ages.marked)] == [
        found_as(row, 0.0, service_of(row, LISTENING), cause_of(row)) for row in old
    ]


# Who waits to be accepted where nobody has looked before


def waiting(cookie: int, port: int = LISTENED, inode: int = 0) -> Row:
    return socket_in(State.ESTABLISHED, cookie, inode)._replace(source_port=port)


def bounds(ages: Ages) -> set[int]:
    """The cookies of the marked whose age is a lower bound."""
    starts = ages.generation.starts
    return {found.cookie for found in unpacked(ages.marked) if found.moment in starts}


@pytest.mark.parametrize("reader", READERS)
def test_where_nobody_has_looked_before_a_wait_may_have_been_longer(reader: str) -> None:
    read = READERS[reader]
    first = watch(read([waiting(1), socket_in(State.CLOSE_WAIT, 2)]))
    second = watch(
        read([waiting(1), waiting(3), waiting(4, 443), socket_in(State.CLOSE_WAIT, 2)]),
        1.0,
        first.generation,
    )
    described = [waiting(1), waiting(3), waiting(4, 443), waiting(5, 443)]
    third = watch(read([*described, socket_in(State.CLOSE_WAIT, 2)]), 2.0, second.generation)
    last = watch(read([*described, socket_in(State.CLOSE_WAIT, 2)]), 62.0, third.generation)
    assert sorted(found.cookie for found in unpacked(last.marked)) == [1, 2, 3, 4, 5]
    assert bounds(last) == {1, 4}


def test_a_port_that_one_pass_leaves_out_has_not_been_looked_at() -> None:
    """But who waited there before has waited since."""
    first = watch(batches_of_rows([waiting(1, inode=9)]))
    second = watch(batches_of_rows([waiting(2)]), 1.0, first.generation)
    third = watch([], 2.0, second.generation)
    described = [waiting(2), waiting(3)]
    fourth = watch(batches_of_rows(described), 3.0, third.generation)
    last = watch(batches_of_rows(described), 60.0, fourth.generation)
    assert bounds(last) == {3}
    assert max(last.oldest.values()) == 59.0


# Samples


def crowd(number: int) -> list[Row]:
    """As many connections of two services, one after the other of each in turn."""
    return [
        socket_in(State.CLOSE_WAIT, 1000 + at)._replace(source_port=LISTENED if at % 2 else 50_000)
        for at in range(number)
    ]


@pytest.mark.parametrize("reader", READERS)
def test_counts_of_a_sample_stand_for_all(reader: str) -> None:
    described = crowd(400)
    mask = AgePass(Generation(stride=4), 0, PLENTY, resumed=False).followed(
        [row.cookie or 0 for row in described]
    )
    assert mask is not None
    taken = [row for row, chosen in zip(described, mask, strict=True) if chosen]
    first = watch(READERS[reader](described), 0.0, Generation(stride=4))
    generation = Generation(since=first.generation.since, stride=4)
    ages = watch(READERS[reader](described), 60.0, generation)
    services = Counter(service_of(row, LISTENING) for row in taken)
    assert len(services) == 2
    assert dict(ages.stuck) == {
        StuckPort(service, Cause.NOT_CLOSED): 4 * number for service, number in services.items()
    }
    assert ages.ages[State.CLOSE_WAIT] == {60.0: 4 * len(taken)}
    assert sorted(found.cookie for found in unpacked(ages.marked)) == [row.cookie for row in taken]


def test_what_the_timer_tells_is_sampled_too_and_stands_for_all() -> None:
    described = [
        socket_in(State.SYN_RECV, cookie, inode=0, timer=1, retransmits=5, expires=9)
        for cookie in range(1, 801)
    ]
    (number,) = stuck_in(watch(batches_of_rows(described), 9.0, Generation(stride=8))).values()
    assert number % 8 == 0
    assert abs(number - 800) < 3 * sqrt(8 * 800)


@pytest.mark.parametrize("number", [1_000, 4_000, 16_000])
def test_a_flood_of_handshakes_takes_no_more_room_than_other_connections(number: int) -> None:
    """Their ages need no memory, but those that are stuck are told one by one."""
    described = [
        socket_in(State.SYN_RECV, cookie, inode=0, timer=1, retransmits=4, expires=cookie % 9000)
        for cookie in range(1, number + 1)
    ]
    read = [batches_of_rows(described[at : at + 100]) for at in range(0, number, 100)]
    first = watch(chain.from_iterable(read), limit=500)
    settled = watch(batches_of_rows(described), 1.0, first.generation, limit=500)
    for ages in (first, settled):
        (stuck,) = stuck_in(ages).values()
        assert len(ages.generation) <= 500
        assert abs(stuck - number) < 3 * sqrt(ages.stride * number)
    assert len([*unpacked(settled.marked)]) <= 500
    assert settled.stride >= number / 500


def test_handshakes_and_leaks_share_the_room() -> None:
    flood = [socket_in(State.SYN_SENT, cookie, retransmits=6) for cookie in range(1, 401)]
    ages = watch(batches_of_rows([*crowd(400), *flood]), limit=500)
    assert ages.stride == 2
    assert 500 / 2 < len(ages.generation) <= 500
    assert ages.generation.timed > 100


@pytest.mark.parametrize("number", [1_000, 4_000, 16_000])
def test_a_crowd_that_comes_at_once_is_counted_about_right(number: int) -> None:
    """Though the sample has narrowed while it was being read."""
    described, limit = crowd(number), 500
    datagrams = (batches_of_rows(described[at : at + 100]) for at in range(0, number, 100))
    ages = watch(chain.from_iterable(datagrams), limit=limit)
    bound = 3 * sqrt(ages.stride * number)
    assert ages.stride >= number / limit
    assert len(ages.generation) <= limit
    assert abs(ages.ages[State.CLOSE_WAIT].total() - number) < bound
    again = watch(batches_of_rows(described), 60.0, ages.generation, limit=limit)
    for stuck in again.stuck.values():
        assert abs(stuck - number / 2) < bound
    assert len(again.stuck) == 2


def test_what_goes_beyond_the_limit_counts_as_it_was_read() -> None:
    """Only what comes after it is sampled."""
    ages = watch(batches_of_rows(crowd(150)), limit=100)
    assert ages.ages[State.CLOSE_WAIT] == {0.0: 150}
    assert ages.stride == 2
    assert abs(len(ages.generation) - 75) < 3 * sqrt(75 / 2)


def test_every_connection_is_said_to_be_followed_or_one_of_so_many() -> None:
    ages = watch(batches_of_rows(crowd(100)), limit=100)
    assert (ages.stride, ages.most_followed, len(ages.generation)) == (1, 100, 100)


def test_the_strategies_show_what_is_watched() -> None:
    assert {*LIMITS} < {*NAMED_STATES}
