"""Batches of a dump: sorted, complete, nobody twice, whatever a datagram holds."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, permutations
from struct import pack, unpack

import pytest
from batched import columns_of, sockets_of
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import GENERATION, NAMED_STATES, STRANGE, rows
from naive import naive_counts
from recorded import load, names
from replies import (
    CGROUP_ID,
    GENERATIONS,
    SEQUENCE,
    attribute,
    done,
    dump_of,
    error,
    noop,
    packed,
    record,
    whole_dump,
)

from sockwatch.kernel.batches import batches, batches_of_rows
from sockwatch.kernel.columns import Table
from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.rows import read_dump
from sockwatch.tcp.batch import Batch, Chosen
from sockwatch.tcp.listening import Listening
from sockwatch.tcp.records import Counts, Row
from sockwatch.tcp.states import Family, State
from sockwatch.tcp.tally import Tally

UNHURRIED = settings(deadline=None)
ROW = Row(
    Family.INET, State.CLOSE_WAIT, b"\x0a\0\0\1", 80, b"\x0a\0\0\2", 40000, cookie=1, cgroup=5
)
ROW6 = ROW._replace(family=Family.INET6, source=bytes(15) + b"\1", destination=bytes(15) + b"\2")
MINI = ROW._replace(state=State.FIN_WAIT2, timer=3, cgroup=None)


def shortened(reply: bytes) -> bytes:
    """The same record with a length that does not count its padding."""
    return pack("=I", len(reply) - 2) + reply[4:]


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Any message that a dump may consist of."""
    generation, mark, more = draw(GENERATION), draw(st.booleans()), draw(st.sampled_from(STRANGE))
    row = draw(rows(generation=generation))
    number = draw(st.just(int(row.state)) | st.integers(0, 15))
    plain = record(row, generation, mark=mark)
    odd = record(row, generation, mark=mark, state=number, more=more)
    shorter = shortened(record(row, generation, mark=mark, more=attribute(99, b"\1\2")))
    return draw(st.sampled_from([plain, plain, odd, shorter, noop()]))


@st.composite
def dumps(draw: st.DrawFn) -> list[bytes]:
    """Datagrams of any messages in any order, with the end in the last or by itself."""
    datagram = st.lists(messages(), min_size=1, max_size=12).map(b"".join)
    datagrams, in_the_last = draw(st.lists(datagram)), draw(st.booleans())
    if datagrams and in_the_last:
        return [*datagrams[:-1], datagrams[-1] + done()]
    return [*datagrams, done()]


def sockets(batch: Batch) -> Iterator[tuple[object, ...]]:
    """Each socket as the columns have it: all but the record, which keeps the kernel's number."""
    columns = columns_of(batch)
    del columns["records"]
    for each in zip(*columns.values(), strict=True):
        yield (batch.state, *each)


def every_socket(some: Sequence[Batch]) -> Counter[tuple[object, ...]]:
    return Counter(chain.from_iterable(map(sockets, some)))


def kept(
    datagrams: Sequence[bytes], sequence: int = SEQUENCE
) -> Iterator[list[tuple[object, ...]]]:
    """The sockets of each batch, read while the batch is valid."""
    for batch in batches(dump_of(datagrams, sequence)):
        yield [*sockets(batch)]


# Whatever comes


@settings(UNHURRIED, max_examples=150)
@given(dumps())
def test_every_socket_of_a_dump_is_in_one_batch_once(datagrams: list[bytes]) -> None:
    expected = every_socket([*batches_of_rows(read_dump(dump_of(datagrams)))])
    assert Counter(chain.from_iterable(kept(datagrams))) == expected


def counted(some: Iterable[Batch], listening: Listening) -> Counts:
    tally = Tally(listening)
    for batch in some:
        tally.add(batch)
    return tally.finish()


@settings(UNHURRIED, max_examples=100)
@given(dumps(), st.booleans())
def test_batches_of_any_mixture_are_counted_as_its_rows(
    datagrams: list[bytes], listened: bool
) -> None:
    listening = Listening([ROW._replace(state=State.LISTEN)] if listened else [])
    described = read_dump(dump_of(datagrams))
    found = counted(batches(dump_of(datagrams)), listening)
    assert found == counted(batches_of_rows(described), listening)
    assert found.services == naive_counts(described, listening).services


@settings(UNHURRIED, max_examples=100)
@given(st.lists(st.lists(messages(), min_size=1, max_size=12)))
def test_no_batch_is_empty_and_sockets_keep_their_order(described: list[list[bytes]]) -> None:
    for datagram in described:
        order = [row.cookie for row in read_dump(dump_of([b"".join(datagram), done()]))]
        for batch in batches(dump_of([b"".join(datagram), done()])):
            found = [*batch.cookies()]
            assert found
            assert len(found) == len(batch)
            assert is_part_in_order(found, order)


def is_part_in_order(part: Sequence[object], whole: Sequence[object]) -> bool:
    rest = iter(whole)
    return all(each in rest for each in part)


@pytest.mark.parametrize("name", names())
def test_a_recorded_dump_is_sorted_without_losing_a_socket(name: str) -> None:
    recording = load(name)
    found = Counter(chain.from_iterable(kept(recording.datagrams, recording.sequence)))
    assert found == every_socket([*batches_of_rows(recording.rows)])
    assert found.total() == len(recording.rows) > 0


# How it is sorted


def test_kinds_that_alternate_come_out_as_tables() -> None:
    """Each of one state and length, both families together."""
    half_closed, waiting = MINI._replace(timer=0), MINI._replace(state=State.TIME_WAIT)
    mixture = [record(row) for row in (ROW, MINI, ROW6, waiting, half_closed) * 5]
    found = [*batches(dump_of([b"".join(mixture) + done()]))]
    assert all(isinstance(batch, Table) for batch in found)
    assert [(batch.state, len(batch)) for batch in found] == [
        (State.CLOSE_WAIT, 10),
        (State.FIN_WAIT2, 5),
        (State.TIME_WAIT, 5),
        (State.FIN_WAIT2, 5),
    ]


@pytest.mark.parametrize("order", [*permutations(range(4))], ids=str)
def test_the_order_of_messages_does_not_matter(order: tuple[int, ...]) -> None:
    replies = [record(ROW), record(ROW6, mark=True), record(MINI), noop()]
    datagram = b"".join(replies[at] for at in order) + done()
    found = sockets_of(batches(dump_of([datagram])))
    assert sorted(found) == sorted(reply[16:88] for reply in replies[:3])


def test_records_as_long_with_other_attributes_are_read_one_by_one() -> None:
    bare = GENERATIONS["4.18"]
    alike = [record(ROW, bare, more=attribute(number, pack("=Q", 5))) for number in (CGROUP_ID, 99)]
    (batch,) = batches(dump_of([b"".join(alike) + done()]))
    assert not isinstance(batch, Table)
    assert [*batch.cgroups()] == [5, 0]


@pytest.mark.parametrize("number", [1, 2, 7])
def test_records_without_their_padding_counted_are_not_lost(number: int) -> None:
    reply = shortened(record(ROW, more=attribute(99, b"\1\2")))
    datagrams = [reply * number + record(ROW6) + reply, (reply * number)[:-2], done()]
    found = [socket for batch in kept(datagrams) for socket in batch]
    assert len(found) == 2 * number + 2


def test_two_numbers_of_one_state_are_batches_of_it() -> None:
    """The kernel's name for a request, and what has no name."""
    replies = [record(ROW, state=number) for number in (3, 12, 3, 13, 14)]
    found = Counter[State]()
    for batch in batches(dump_of([b"".join(replies) + done()])):
        found[batch.state] += len(batch)
    assert found == {State.SYN_RECV: 3, State.UNKNOWN: 2}


# When


def test_each_batch_is_handed_on_before_the_next_datagram_is_received() -> None:
    """Memory does not grow with the dump."""
    received: list[str] = []

    def replies() -> Iterator[bytes]:
        for name in ("first", "second"):
            received.append(name)
            yield record(ROW) + record(MINI)
        yield done()

    seen = [[*received] for _ in batches(dump_of(replies()))]
    assert seen == [["first"]] * 2 + [["first", "second"]] * 2


@pytest.mark.parametrize("end", [[done()], [record(ROW) + done()], [record(ROW) + done() + noop()]])
def test_nothing_is_received_after_the_end(end: list[bytes]) -> None:
    """Else a pass would wait for replies that never come."""

    def replies() -> Iterator[bytes]:
        yield record(ROW)
        yield from end
        raise AssertionError("received beyond the end")

    assert len([*batches(dump_of(replies()))]) == 1 + (end != [done()])


def test_what_follows_the_end_is_no_part_of_the_dump() -> None:
    found = [*batches(dump_of([record(ROW) + done() + record(MINI)]))]
    assert [(batch.state, len(batch)) for batch in found] == [(State.CLOSE_WAIT, 1)]


def test_an_empty_dump_has_no_batches() -> None:
    assert [*batches(dump_of([done()]))] == []
    assert [*batches(dump_of([noop(), done()]))] == []


@pytest.mark.parametrize(
    ("datagrams", "cause"),
    [
        ([], Cause.TRUNCATED),
        ([record(ROW)], Cause.TRUNCATED),
        ([record(ROW) + record(MINI)], Cause.TRUNCATED),
        ([record(ROW) + record(MINI)[:-1]], Cause.TRUNCATED),
        ([record(ROW) + record(MINI) + record(ROW)[:-1]], Cause.TRUNCATED),
        ([record(ROW) + record(MINI) + record(ROW)[:3]], Cause.TRUNCATED),
        ([record(ROW) + record(MINI) + record(ROW, sequence=1) + done()], Cause.OUT_OF_SEQUENCE),
        ([record(ROW) + error(-16)], Cause.BUSY),
        ([record(ROW) + record(MINI) + done(errno=-2)], Cause.UNAVAILABLE),
        ([record(ROW), record(MINI, sequence=1) + done()], Cause.OUT_OF_SEQUENCE),
    ],
    ids=[
        "nothing",
        "table",
        "mixture",
        "cut",
        "cut, and like the first",
        "cut within its header",
        "foreign, and like the first",
        "refused",
        "end with an error",
        "foreign",
    ],
)
def test_a_dump_that_is_not_whole_is_a_failure(datagrams: list[bytes], cause: Cause) -> None:
    with pytest.raises(PassFailure) as caught:
        [*batches(dump_of(datagrams))]
    assert caught.value.cause is cause


BROKEN = {
    Cause.MALFORMED: record(ROW, more=bytes(4)),
    Cause.OUT_OF_SEQUENCE: record(ROW, sequence=1),
    Cause.BUSY: error(-16),
    Cause.UNAVAILABLE: done(errno=-2),
}


@pytest.mark.parametrize(("first", "second"), [*permutations(BROKEN, 2)], ids=str)
def test_the_first_of_two_faults_gives_a_failure_its_name(first: Cause, second: Cause) -> None:
    """As it does where rows are read."""
    datagram = record(ROW) + record(MINI) + BROKEN[first] + BROKEN[second]
    for read in (batches, read_dump):
        with pytest.raises(PassFailure) as caught:
            [*read(dump_of([datagram, done()]))]
        assert caught.value.cause is first


# Of rows


@given(st.lists(rows()))
def test_rows_are_sorted_by_state_and_keep_their_order(described: list[Row]) -> None:
    found = [*batches_of_rows(described)]
    assert len({batch.state for batch in found}) == len(found)
    for batch in found:
        alike = [row for row in described if row.state is batch.state]
        assert [*batch.cookies()] == [row.cookie for row in alike]
        assert [*batch.records()] == [record(row)[16:88] for row in alike]


def test_what_a_row_does_not_tell_is_zero() -> None:
    """As from psutil."""
    bare = Row(Family.INET, State.ESTABLISHED, b"\x0a\0\0\1", 80, b"\x0a\0\0\2", 40000)
    (batch,) = batches_of_rows([bare])
    columns = columns_of(batch)
    for name in ("cookies", "cgroups", "inodes", "timers", "expires", "receive queues"):
        assert columns[name] == [0]
    (reply,) = batch.records()
    family, state, timer, retransmits = unpack("=4B", reply[:4])
    assert (family, state, timer, retransmits, len(reply)) == (2, 1, 0, 0, 72)


# Those that are chosen


@pytest.mark.parametrize("state", NAMED_STATES)
@settings(UNHURRIED, max_examples=30)
@given(st.data())
def test_what_is_chosen_of_a_batch_is_what_rows_are_chosen(
    state: State, data: st.DataObject
) -> None:
    described = data.draw(st.lists(rows([state]), min_size=1, max_size=8))
    described = [row for row in described if len(record(row)) == len(record(described[0]))]
    mask = data.draw(st.lists(st.booleans(), min_size=len(described), max_size=len(described)))
    taken = [row for row, chosen in zip(described, mask, strict=True) if chosen]
    both = chain(batches(dump_of(whole_dump(described))), batches_of_rows(described))
    for batch in both:
        chosen = Chosen(batch, mask)
        again = Chosen(chosen, [True] * len(taken))
        assert (chosen.state, len(chosen), bool(chosen)) == (state, len(taken), bool(taken))
        assert columns_of(again) == columns_of(chosen)
        assert every_socket([chosen]) == every_socket([*batches_of_rows(taken)])
        assert sockets_of([chosen]) == [record(row)[16:88] for row in taken]


def test_runs_of_one_kind_are_handed_on_in_the_datagrams_they_came_in() -> None:
    """A dump of one state is never put together."""
    datagrams = packed((record(ROW._replace(cookie=at)) for at in range(1, 50)), 1000)
    found = [[*batch.cookies()] for batch in batches(dump_of([*datagrams, done()]))]
    assert [*chain.from_iterable(found)] == [*range(1, 50)]
    assert [len(some) for some in found] == [len(each) // len(record(ROW)) for each in datagrams]
