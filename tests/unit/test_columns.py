"""The bulk path's tables: taken where they may be, and read right where they are taken."""

import socket
from collections.abc import Callable
from ipaddress import ip_address
from struct import pack

import pytest
from batched import columns_of
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import GENERATION, NAMED_STATES, rows, uniform_datagrams
from recorded import load
from replies import (
    CGROUP_ID,
    GENERATIONS,
    NLM_F_DUMP_INTR,
    SEQUENCE,
    Generation,
    attribute,
    done,
    error,
    message,
    noop,
    overrun,
    record,
)

from sockwatch.kernel.batches import batches_of_rows
from sockwatch.kernel.columns import Table
from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.rows import read_rows
from sockwatch.tcp.batch import Batch
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Family, State

UNHURRIED = settings(deadline=None)
BULK = [State.ESTABLISHED, State.TIME_WAIT]

ROW = Row(
    family=Family.INET,
    state=State.ESTABLISHED,
    source=b"\x0a\0\0\1",
    source_port=8080,
    destination=b"\x0a\0\0\2",
    destination_port=40000,
    inode=4711,
    cgroup=5,
)
OTHER = ROW._replace(source_port=80, destination_port=443, inode=0, cgroup=(7 << 32) + 6)
ROW6 = Row(
    Family.INET6,
    State.ESTABLISHED,
    ip_address("::1").packed,
    1,
    ip_address("2001:db8::9").packed,
    2,
)
MINI = ROW._replace(state=State.TIME_WAIT, timer=3)


def table_of(*replies: bytes) -> Table | None:
    return Table.of(memoryview(b"".join(replies)), SEQUENCE)


def taken(*replies: bytes) -> Table:
    table = table_of(*replies)
    assert table is not None
    return table


def by_rows(*replies: bytes) -> Batch:
    """The same messages as a batch of rows."""
    (batch,) = batches_of_rows(read_rows(memoryview(b"".join(replies)), SEQUENCE)[0])
    return batch


# When


@pytest.mark.parametrize("state", [*BULK, State.SYN_RECV])
@UNHURRIED
@given(st.data())
def test_records_of_one_layout_are_a_table(state: State, data: st.DataObject) -> None:
    """These have the same kind of socket behind them throughout."""
    datagram = data.draw(uniform_datagrams(state))
    length = int.from_bytes(datagram[:2], "little" if socket.htons(1) != 1 else "big")
    table = taken(datagram)
    assert (table.state, len(table)) == (state, len(datagram) // length)


@pytest.mark.parametrize("mark", [True, False], ids=["privileged", "unprivileged"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_table_holds_both_families(generation: str, mark: bool) -> None:
    for some in ([ROW, ROW6, OTHER], [MINI, ROW6._replace(state=State.TIME_WAIT, timer=3)]):
        replies = [record(row, GENERATIONS[generation], mark=mark) for row in some]
        table = taken(*replies)
        assert (table.state, len(table)) == (some[0].state, len(some))


@pytest.mark.parametrize("reader", ["root", "nobody"])
@pytest.mark.parametrize("state", BULK)
def test_what_a_kernel_has_sent_of_one_state_is_a_table(state: State, reader: str) -> None:
    recording = load(f"linux-6.18-{reader}-{state.label}")
    tables = [
        Table.of(memoryview(datagram), recording.sequence) for datagram in recording.datagrams[:-1]
    ]
    assert sum(len(table) for table in tables if table) == len(recording.rows) > 0
    assert {table.state for table in tables if table} == {state}


@pytest.mark.parametrize("number", range(256))
def test_a_table_is_of_any_one_state(number: int) -> None:
    """Also of one without a name, and of the second name of SYN_RECV."""
    table = taken(*[record(row, state=number) for row in (ROW, OTHER, ROW)])
    assert (table.state, len(table)) == (State.of(number), 3)


FOREIGN = record(ROW)[:16] + b"\x01" + record(ROW)[17:]
"""A record of a socket that is not of ours: of AF_UNIX."""

UNEVEN = {
    "another length": [record(ROW), record(ROW, mark=True)],
    "another length, and no shorter in sum": [record(MINI)] * 3 + [record(MINI, mark=True)] * 11,
    "another state": [record(ROW), record(ROW, state=State.CLOSE_WAIT), record(ROW)],
    "another state at an end": [record(ROW, state=State.CLOSE_WAIT), record(ROW)],
    "another number for the same state": [record(ROW, state=3), record(ROW, state=12)],
    "two numbers without a name": [record(ROW, state=13), record(ROW, state=14)],
    "another family": [record(ROW), FOREIGN, record(ROW)],
    "another family at an end": [record(ROW), FOREIGN],
    "another family alone": [FOREIGN],
    "attributes of other types": [
        record(ROW, GENERATIONS["4.18"], more=attribute(number, bytes(8))) for number in (21, 22)
    ],
    "attributes of other lengths": [
        record(ROW, GENERATIONS["4.18"], more=attribute(99, payload))
        for payload in (b"12345", b"6")
    ],
    "one length, other attributes": [
        record(ROW, GENERATIONS["4.18"], more=attribute(99, bytes(4)) + attribute(98, b"")),
        record(ROW, GENERATIONS["4.18"], more=attribute(98, b"") + attribute(99, bytes(4))),
    ],
    "foreign record": [record(ROW), record(ROW, sequence=SEQUENCE + 1)],
    "inconsistent record": [
        message(18, bytes(72)),
        message(18, bytes(72), flags=2 | NLM_F_DUMP_INTR),
    ],
    "no-operation among them": [record(ROW), noop()],
    "no-operation first": [noop(), record(ROW)],
    "end among them": [record(ROW), done()],
    "end alone": [done()],
    "records, then an error as long": [record(ROW), error(-16) + bytes(124)],
    "rest of a record": [record(ROW), record(ROW)[:-4]],
    "length that is no multiple of a word": [message(18, bytes(73))[:89]],
}


@pytest.mark.parametrize("name", UNEVEN)
def test_anything_else_is_no_table(name: str) -> None:
    assert table_of(*UNEVEN[name]) is None


@pytest.mark.parametrize(
    ("first", "cause"),
    [
        (record(ROW)[:-1], Cause.TRUNCATED),
        (b"", Cause.TRUNCATED),
        (record(ROW, sequence=1), Cause.OUT_OF_SEQUENCE),
        (error(-16), Cause.BUSY),
        (overrun(), Cause.OVERRUN),
        (record(ROW, more=bytes(4)), Cause.MALFORMED),
    ],
    ids=["cut", "nothing", "foreign", "refused", "overrun", "broken attribute"],
)
def test_a_broken_first_message_is_a_named_failure(first: bytes, cause: Cause) -> None:
    with pytest.raises(PassFailure) as caught:
        table_of(first)
    assert caught.value.cause is cause


# What


def test_columns_hold_what_the_rows_hold() -> None:
    table = taken(record(ROW), record(OTHER), record(ROW6))
    assert len(table) == 3
    assert [*table.families()] == [Family.INET, Family.INET, Family.INET6]
    assert [*map(socket.ntohs, table.local_ports())] == [8080, 80, 1]
    assert [*map(socket.ntohs, table.remote_ports())] == [40000, 443, 2]
    assert [*table.inodes()] == [4711, 0, 0]
    assert [*table.cgroups()] == [5, (7 << 32) + 6, 0]


@pytest.mark.parametrize("make", [taken, by_rows])
@pytest.mark.parametrize("cgroup", [5, None], ids=["with its cgroup", "without"])
def test_remotes_hold_the_far_end_and_who_it_belongs_to(
    cgroup: int | None, make: Callable[..., Batch]
) -> None:
    generation = GENERATIONS["6.18"]._replace(cgroup=cgroup is not None)
    rows = [row._replace(cgroup=cgroup) for row in (ROW, ROW6)]
    assert [*make(*(record(row, generation) for row in rows)).remotes()] == [
        (2, pack(">H4s12x4s12x", 40000, ROW.source, ROW.destination), cgroup or 0),
        (10, pack(">H16s16s", 2, ROW6.source, ROW6.destination), cgroup or 0),
    ]


def test_columns_hold_timers_queues_and_cookies() -> None:
    row = ROW._replace(timer=1, retransmits=200, expires=7, receive_queue=9, cookie=(1 << 64) - 1)
    table = taken(record(row), record(ROW))
    assert (table.timers(), table.retransmits()) == (b"\1\0", b"\xc8\0")
    assert ([*table.expires()], [*table.receive_queues()]) == ([7, 0], [9, 0])
    assert [*table.cookies()] == [(1 << 64) - 1, 0]


@pytest.mark.parametrize("expires", [1 << 31, (1 << 32) - 4, (1 << 32) - 1])
def test_a_timer_that_is_overdue_is_due_now(expires: int) -> None:
    """As it looks from RHEL 8; the timers beside it stay."""
    latest = (1 << 31) - 1
    replies = [record(ROW._replace(expires=number)) for number in (5, expires, latest)]
    assert [*taken(*replies).expires()] == [*by_rows(*replies).expires()] == [5, 0, latest]


@pytest.mark.parametrize("state", NAMED_STATES)
@settings(UNHURRIED, max_examples=30)
@given(st.data(), GENERATION, st.booleans())
def test_every_column_of_a_table_is_that_of_its_rows(
    state: State, data: st.DataObject, generation: Generation, mark: bool
) -> None:
    replies = [
        record(row, generation, mark=mark)
        for row in data.draw(st.lists(rows([state], generation), min_size=1, max_size=8))
    ]
    alike = [reply for reply in replies if len(reply) == len(replies[0])]
    table, expected = taken(*alike), by_rows(*alike)
    assert (table.state, len(table)) == (expected.state, len(expected)) == (state, len(alike))
    assert columns_of(table) == columns_of(expected)


@pytest.mark.parametrize("number", [12, 13, 14, 255])
def test_a_state_by_another_number_changes_no_column_but_the_records(number: int) -> None:
    replies = [record(row, state=number) for row in (ROW, OTHER)]
    table, expected = columns_of(taken(*replies)), columns_of(by_rows(*replies))
    assert table.pop("records") == [reply[16:88] for reply in replies]
    del expected["records"]
    assert table == expected


def test_records_are_what_the_kernel_has_sent() -> None:
    replies = [record(row, mark=True) for row in (ROW, OTHER, ROW6)]
    assert [*taken(*replies).records()] == [reply[16:88] for reply in replies]


@pytest.mark.parametrize("generation", ["4.18", "5.4"])
def test_kernels_without_cgroup_ids_have_columns_of_zeros(generation: str) -> None:
    replies = [record(row, GENERATIONS[generation]) for row in (ROW, OTHER)]
    assert [*taken(*replies).cgroups()] == [0, 0]


@given(GENERATION, st.booleans())
def test_the_cgroup_is_found_wherever_it_stands(generation: Generation, mark: bool) -> None:
    before = attribute(99, b"12345678")
    bare = generation._replace(cgroup=False)
    replies = [
        record(ROW, bare, mark=mark, more=before + attribute(CGROUP_ID, pack("=Q", number)))
        for number in (5, 1 << 33)
    ]
    assert [*taken(*replies).cgroups()] == [5, 1 << 33]


def test_of_two_cgroups_the_last_counts_for_rows_and_tables() -> None:
    """No kernel sends two."""
    replies = [record(row, more=attribute(CGROUP_ID, pack("=Q", 77))) for row in (ROW, OTHER)]
    assert [*taken(*replies).cgroups()] == [*by_rows(*replies).cgroups()] == [77, 77]


@pytest.mark.parametrize("payload", [b"", b"\1\2", b"\1\2\3\4", bytes(range(16))], ids=len)
def test_a_cgroup_of_another_size_is_no_cgroup(payload: bytes) -> None:
    """Nor are the words behind it, which may be those of the next record."""
    reply = record(ROW, GENERATIONS["4.18"], more=attribute(CGROUP_ID, payload))
    assert [*taken(reply, reply, reply).cgroups()] == [0, 0, 0]
