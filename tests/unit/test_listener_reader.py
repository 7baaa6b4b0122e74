"""Reading listeners pass by pass: all of them each time, and the same ones as the same rows."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import GENERATION, rows
from recorded import load
from replies import Generation, attribute, done, dump_of, error, noop, record, whole_dump

from sockwatch.kernel import listeners
from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.listeners import ListenerReader
from sockwatch.kernel.rows import read_rows
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Family, State

UNHURRIED = settings(deadline=None)

ROW = Row(Family.INET, State.LISTEN, bytes(4), 80, bytes(4), 0, 0, 0, 0, 3, 128, 0, 7, 11, 5)
ROW6 = ROW._replace(
    family=Family.INET6, source=bytes(16), destination=bytes(16), cookie=12, v6_only=True
)


def read(reader: ListenerReader, listeners: Sequence[Row], mark: bool = False) -> tuple[Row, ...]:
    return reader.read(dump_of(whole_dump(listeners, mark=mark)))


def identities(rows: Sequence[Row]) -> list[int]:
    return [*map(id, rows)]


@UNHURRIED
@given(st.data(), GENERATION, st.booleans())
def test_every_pass_has_all_listeners_of_its_own_dump(
    data: st.DataObject, generation: Generation, mark: bool
) -> None:
    reader = ListenerReader()
    some = data.draw(st.lists(rows([State.LISTEN], generation), max_size=10, unique=True))
    for _ in range(3):
        present = data.draw(st.lists(st.sampled_from(some), unique=True)) if some else []
        found = reader.read(dump_of(whole_dump(present, generation, mark=mark, size=400)))
        assert sorted(found, key=repr) == sorted(present, key=repr)


@pytest.mark.parametrize("reader", ["root", "nobody"])
def test_recorded_listeners_are_read_alike_again_and_again(reader: str) -> None:
    recording, listener_reader = load(f"linux-6.18-{reader}-listeners"), ListenerReader()
    for _ in range(2):
        found = listener_reader.read(dump_of(recording.datagrams, recording.sequence))
        assert sorted(found, key=repr) == sorted(recording.rows, key=repr)


def test_an_unchanged_listener_is_the_same_row() -> None:
    """Also in the reply to another request, which has another sequence number."""
    reader = ListenerReader()
    before = read(reader, [ROW, ROW6])
    replies = [record(row, sequence=78) for row in (ROW, ROW6)]
    after = reader.read(dump_of([*replies, done(78)], sequence=78))
    assert identities(after) == identities(before)


@pytest.mark.parametrize(
    "now",
    [
        ROW._replace(receive_queue=4),
        ROW._replace(send_queue=5),
        ROW._replace(cookie=99),
        ROW._replace(cgroup=6),
        ROW._replace(inode=8),
    ],
    ids=["queue", "limit", "cookie", "cgroup", "inode"],
)
def test_a_changed_listener_is_told_as_it_is_now(now: Row) -> None:
    reader = ListenerReader()
    read(reader, [ROW, ROW6])
    assert {*read(reader, [now, ROW6])} == {now, ROW6}
    assert {*read(reader, [ROW6])} == {ROW6}


def test_listeners_of_odd_layouts_are_read_as_well() -> None:
    odd = [
        record(ROW),
        record(ROW6, more=attribute(99, b"new!")),
        noop(),
        record(ROW._replace(cookie=13), more=attribute(99, b"12345678")),
        record(ROW._replace(cookie=14), more=attribute(98, b"12345678")),
    ]
    found = ListenerReader().read(dump_of([b"".join(odd), done()]))
    assert {row.cookie for row in found} == {11, 12, 13, 14}
    assert len(found) == 4


def test_a_dump_that_fails_changes_nothing() -> None:
    reader = ListenerReader()
    before = read(reader, [ROW, ROW6])
    with pytest.raises(PassFailure) as caught:
        reader.read(dump_of([record(ROW._replace(cookie=99)), error(-16)]))
    assert caught.value.cause is Cause.BUSY
    assert identities(read(reader, [ROW, ROW6])) == identities(before)


MANY = [ROW._replace(source_port=port, cookie=port) for port in range(1, 101)]


@pytest.mark.parametrize("size", [400, 1_000, 30_000])
def test_listeners_are_the_same_rows_however_the_dump_is_cut(size: int) -> None:
    """Without memory for large datagrams the kernel sends small ones."""
    reader = ListenerReader()
    before = read(reader, MANY)
    after = reader.read(dump_of(whole_dump(MANY, size=size)))
    assert identities(after) == identities(before)


def test_only_new_messages_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, decoded = ListenerReader(), list[Row]()

    def noted(datagram: memoryview, sequence: int) -> tuple[list[Row], bool]:
        rows, done = read_rows(datagram, sequence)
        decoded.extend(rows)
        return rows, done

    monkeypatch.setattr(listeners, "read_rows", noted)
    read(reader, MANY)
    assert len(decoded) == len(MANY)
    busy = [*MANY[:50], MANY[50]._replace(receive_queue=7), *MANY[51:]]
    for present in (MANY, busy, MANY, busy, MANY[1:], MANY):
        read(reader, present)
    assert decoded[len(MANY) :] == [busy[50]]


def test_memory_of_messages_is_bounded() -> None:
    """A queue that is never the same leaves a message behind with every pass."""
    reader = ListenerReader()
    for length in range(1_000):
        found = read(reader, [ROW._replace(receive_queue=length), ROW6])
        assert [row.receive_queue for row in found] == [length, ROW6.receive_queue]
    assert len(reader._rows) <= 2 * 2 + 64
