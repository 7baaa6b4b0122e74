"""The general path: any complete dump becomes its rows, and nothing else becomes any."""

from collections.abc import Iterator, Sequence
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import GENERATION, NAMED_STATES, rows
from recorded import load, names, row_by_pyroute2
from replies import (
    CGROUP_ID,
    GENERATIONS,
    SEQUENCE,
    SKV6ONLY,
    Generation,
    attribute,
    done,
    dump_of,
    error,
    noop,
    overrun,
    packed,
    record,
    whole_dump,
)

from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.rows import read_dump, read_rows
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Family, State

UNHURRIED = settings(deadline=None)

ROW = Row(
    family=Family.INET,
    state=State.CLOSE_WAIT,
    source=b"\x0a\0\0\1",
    source_port=8080,
    destination=b"\x0a\0\0\2",
    destination_port=40000,
    timer=2,
    retransmits=0,
    expires=7_000_000,
    receive_queue=1,
    send_queue=0,
    uid=1000,
    inode=4711,
    cookie=1 << 40,
    cgroup=1 << 33,
)
LISTENER6 = ROW._replace(
    family=Family.INET6,
    state=State.LISTEN,
    source=bytes(16),
    destination=bytes(16),
    destination_port=0,
    v6_only=True,
)


def rows_of(*replies: bytes) -> list[Row]:
    """The rows of a dump of these messages, in one datagram, with its end in another."""
    return read_dump(dump_of([b"".join(replies), done()]))


def cause_of(*datagrams: bytes) -> Cause:
    with pytest.raises(PassFailure) as caught:
        read_dump(dump_of(datagrams))
    return caught.value.cause


# What kernels have sent


@pytest.mark.parametrize("name", names())
def test_a_recorded_dump_becomes_the_rows_that_pyroute2_sees(name: str) -> None:
    recording = load(name)
    assert read_dump(dump_of(recording.datagrams, recording.sequence)) == [*recording.rows]


def test_the_recordings_show_every_state_and_family() -> None:
    """All but CLOSE, which is in no table."""
    shown = {(row.family, row.state) for name in names() for row in load(name).rows}
    everything = {(family, state) for family in Family for state in NAMED_STATES}
    assert everything - shown == {(family, State.CLOSE) for family in Family}


def test_the_recordings_are_of_readers_with_and_without_the_capability() -> None:
    recordings = [load(name) for name in names()]
    assert {recording.privileged for recording in recordings} == {True, False}
    assert any(len(recording.datagrams) > 2 for recording in recordings)


# What they may send


@UNHURRIED
@given(st.data(), GENERATION, st.booleans(), st.sampled_from([1, 300, 32_364]))
def test_any_sockets_come_back_as_the_rows_they_are(
    data: st.DataObject, generation: Generation, mark: bool, size: int
) -> None:
    described = data.draw(st.lists(rows(generation=generation), max_size=12))
    assert read_dump(dump_of(whole_dump(described, generation, mark=mark, size=size))) == described


@UNHURRIED
@given(st.data(), GENERATION, st.booleans())
def test_pyroute2_reads_the_same_from_a_record(
    data: st.DataObject, generation: Generation, mark: bool
) -> None:
    reply = record(data.draw(rows(generation=generation)), generation, mark=mark)
    assert rows_of(reply) == [row_by_pyroute2(reply)]


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("mark", [True, False], ids=["privileged", "unprivileged"])
def test_every_generation_of_kernels_is_read(generation: str, mark: bool) -> None:
    known = GENERATIONS[generation]
    request = ROW._replace(state=State.SYN_RECV, cgroup=None)
    mini = ROW._replace(state=State.FIN_WAIT2, timer=3, cgroup=None)
    full = [row if known.cgroup else row._replace(cgroup=None) for row in (ROW, LISTENER6)]
    described = [*full, request, mini]
    assert read_dump(dump_of(whole_dump(described, known, mark=mark))) == described


def test_an_empty_dump_is_no_rows() -> None:
    assert read_dump(dump_of([done()])) == []


def test_the_end_may_stand_behind_rows() -> None:
    assert read_dump(dump_of([record(ROW) + done()])) == [ROW]


def test_a_message_that_means_nothing_is_passed_over() -> None:
    assert rows_of(noop(), record(ROW), noop(), record(LISTENER6)) == [ROW, LISTENER6]


def test_nothing_is_received_after_the_end() -> None:
    """Else a pass would wait for replies that never come."""

    def replies() -> Iterator[bytes]:
        yield record(ROW)
        yield done()
        raise AssertionError("received beyond the end")

    assert read_dump(dump_of(replies())) == [ROW]


def test_whether_a_datagram_ends_the_dump_is_told() -> None:
    assert read_rows(memoryview(record(ROW)), SEQUENCE) == ([ROW], False)
    assert read_rows(memoryview(done()), SEQUENCE) == ([], True)


@pytest.mark.parametrize("number", [0, 13, 14, 255])
def test_an_unknown_state_is_a_row_all_the_same(number: int) -> None:
    assert rows_of(record(ROW, state=number)) == [ROW._replace(state=State.UNKNOWN)]


def test_the_kernels_own_name_of_a_request_is_syn_recv() -> None:
    assert rows_of(record(ROW, state=12)) == [ROW._replace(state=State.SYN_RECV)]


@pytest.mark.parametrize(
    ("number", "payload"),
    [(99, b""), (200, b"12345"), (0x7FFF, bytes(300)), (14, b"")],
    ids=["empty", "odd length", "long", "padding"],
)
def test_an_unknown_attribute_is_passed_over(number: int, payload: bytes) -> None:
    unknown = attribute(number, payload)
    assert rows_of(record(ROW, more=unknown), record(ROW)) == [ROW, ROW]
    cgroup = attribute(CGROUP_ID, pack("=Q", 1 << 33))
    assert rows_of(record(ROW, GENERATIONS["4.18"], more=unknown + cgroup)) == [ROW]


@pytest.mark.parametrize(
    ("number", "payload"), [(CGROUP_ID, bytes(4)), (CGROUP_ID, b""), (SKV6ONLY, b"")]
)
def test_a_value_of_another_size_is_no_value(number: int, payload: bytes) -> None:
    reply = record(ROW, GENERATIONS["4.18"], more=attribute(number, payload))
    assert rows_of(reply) == [ROW._replace(cgroup=None)]


@pytest.mark.parametrize("expires", [1 << 31, (1 << 32) - 4])
def test_a_timer_that_is_overdue_is_due_now(expires: int) -> None:
    """As it looks from RHEL 8."""
    assert rows_of(record(ROW._replace(expires=expires))) == [ROW._replace(expires=0)]


# What discards a dump


def test_a_dump_without_end_is_no_dump() -> None:
    assert cause_of(record(ROW)) is Cause.TRUNCATED
    assert cause_of() is Cause.TRUNCATED


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (done(errno=-2), Cause.UNAVAILABLE),
        (error(-16), Cause.BUSY),
        (overrun(), Cause.OVERRUN),
        (record(ROW, sequence=SEQUENCE + 1), Cause.OUT_OF_SEQUENCE),
        (record(ROW)[:-1], Cause.TRUNCATED),
    ],
    ids=["end with an error", "error", "overrun", "foreign row", "cut row"],
)
def test_a_failure_behind_good_rows_discards_them(reply: bytes, cause: Cause) -> None:
    assert cause_of(record(ROW) + reply, done()) is cause
    assert cause_of(record(ROW), reply, done()) is cause


@pytest.mark.parametrize("family", [0, 1, 3, 28, 255])
def test_a_socket_of_another_family_is_none_of_ours(family: int) -> None:
    reply = bytearray(record(ROW))
    reply[16] = family
    assert cause_of(bytes(reply), done()) is Cause.MALFORMED


def swallowing(rows: Sequence[bytes]) -> bytes:
    """The first record claims to be as long as all of them."""
    everything = b"".join(rows)
    return pack("=I", len(everything)) + everything[4:]


BROKEN_ATTRIBUTES = {
    "longer than its message": record(ROW, more=pack("=HHI", 12, 99, 0)),
    "length 0": record(ROW, more=bytes(4)),
    "shorter than its header": record(ROW, more=pack("=HH", 3, 99)),
}


@pytest.mark.parametrize("name", BROKEN_ATTRIBUTES)
def test_an_attribute_that_cannot_be_right_discards_the_dump(name: str) -> None:
    assert cause_of(BROKEN_ATTRIBUTES[name], done()) is Cause.MALFORMED


def test_a_record_cannot_swallow_the_next_one() -> None:
    """The header of a message looks like an attribute of type 0, which the kernel never sends."""
    swallowed = packed([swallowing([record(ROW), record(ROW)])])
    assert cause_of(*swallowed, done()) is Cause.MALFORMED
    assert cause_of(swallowing([record(ROW), done()])) is Cause.MALFORMED
