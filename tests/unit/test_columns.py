"""The bulk path's tables: taken where they may be, and read right where they are taken."""

import socket
from ipaddress import ip_address
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import GENERATION, uniform_datagrams
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

from sockwatch.kernel.columns import ADDRESSES, ADDRESSES_INET, INODE, Table
from sockwatch.kernel.failures import Cause, PassFailure
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


def table_of(*replies: bytes, state: State = State.ESTABLISHED) -> Table | None:
    return Table.of(memoryview(b"".join(replies)), SEQUENCE, state)


def taken(*replies: bytes, state: State = State.ESTABLISHED) -> Table:
    table = table_of(*replies, state=state)
    assert table is not None
    return table


# When


@pytest.mark.parametrize("state", BULK)
@UNHURRIED
@given(st.data())
def test_records_of_one_layout_are_a_table(state: State, data: st.DataObject) -> None:
    datagram = data.draw(uniform_datagrams(state))
    length = int.from_bytes(datagram[:2], "little" if socket.htons(1) != 1 else "big")
    assert len(taken(datagram, state=state)) == len(datagram) // length


@pytest.mark.parametrize("mark", [True, False], ids=["privileged", "unprivileged"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_table_holds_both_families(generation: str, mark: bool) -> None:
    for rows in ([ROW, ROW6, OTHER], [MINI, ROW6._replace(state=State.TIME_WAIT, timer=3)]):
        replies = [record(row, GENERATIONS[generation], mark=mark) for row in rows]
        assert len(taken(*replies, state=rows[0].state)) == len(rows)


@pytest.mark.parametrize("reader", ["root", "nobody"])
@pytest.mark.parametrize("state", BULK)
def test_what_a_kernel_has_sent_of_one_state_is_a_table(state: State, reader: str) -> None:
    recording = load(f"linux-6.18-{reader}-{state.label}")
    tables = [
        Table.of(memoryview(datagram), recording.sequence, state)
        for datagram in recording.datagrams[:-1]
    ]
    assert sum(len(table) for table in tables if table) == len(recording.rows) > 0


UNEVEN = {
    "another length": [record(ROW), record(ROW, mark=True)],
    "another length, and no shorter in sum": [record(MINI)] * 3 + [record(MINI, mark=True)] * 11,
    "another state": [record(ROW), record(ROW, state=State.CLOSE_WAIT), record(ROW)],
    "another state at an end": [record(ROW, state=State.CLOSE_WAIT), record(ROW)],
    "all in another state": [record(MINI), record(MINI)],
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
    state = State.TIME_WAIT if "no shorter" in name else State.ESTABLISHED
    assert table_of(*UNEVEN[name], state=state) is None


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
    assert table.words(INODE) == [4711, 0, 0]
    assert [*table.cgroups()] == [5, (7 << 32) + 6, 0]


def test_columns_hold_the_addresses() -> None:
    table = taken(record(ROW), record(ROW6))
    words = zip(*map(table.words, ADDRESSES), strict=True)
    assert [pack("=8I", *row) for row in words] == [
        ROW.source.ljust(16, b"\0") + ROW.destination.ljust(16, b"\0"),
        ROW6.source + ROW6.destination,
    ]
    source, destination = (table.words(at)[0] for at in ADDRESSES_INET)
    assert (pack("=I", source), pack("=I", destination)) == (ROW.source, ROW.destination)


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


@pytest.mark.parametrize("payload", [b"", b"\1\2", b"\1\2\3\4", bytes(range(16))], ids=len)
def test_a_cgroup_of_another_size_is_no_cgroup(payload: bytes) -> None:
    """Nor are the words behind it, which may be those of the next record."""
    reply = record(ROW, GENERATIONS["4.18"], more=attribute(CGROUP_ID, payload))
    assert [*taken(reply, reply, reply).cgroups()] == [0, 0, 0]
