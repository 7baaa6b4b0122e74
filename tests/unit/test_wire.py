"""The checks that every message passes, and the replies that tests make by hand."""

import sys
from collections.abc import Callable
from struct import pack

import pytest
from mixtures import NAMED_STATES
from recorded import TCPDIAG_GETSOCK, kind_of, load, messages, names
from replies import (
    GENERATIONS,
    NLM_F_DUMP_INTR,
    SEQUENCE,
    done,
    error,
    message,
    noop,
    overrun,
    record,
    whole_dump,
)

from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.wire import Kind, aligned, check_message, mask
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Family, State

ROW = Row(Family.INET, State.ESTABLISHED, bytes(4), 80, bytes(4), 40000)
MINI = ROW._replace(state=State.TIME_WAIT, timer=3)
REQUEST = ROW._replace(state=State.SYN_RECV)
LISTENER6 = Row(Family.INET6, State.LISTEN, bytes(16), 80, bytes(16), 0)
FULL6 = LISTENER6._replace(state=State.CLOSE_WAIT)

# nlmsg_len, with and without CAP_NET_ADMIN; measured on 6.18, else computed from the sources
OLD = {ROW: (104, 96), FULL6: (104, 96), LISTENER6: (112, 104), REQUEST: (96, 88)}
NEW = {ROW: (124, 116), FULL6: (124, 116), LISTENER6: (132, 124), REQUEST: (96, 88)}
LENGTHS = {
    "4.18": OLD | {MINI: (88, 88)},
    "el8.5": OLD | {MINI: (96, 88)},
    "5.4": OLD | {MINI: (88, 88)},
    "5.8": {ROW: (116, 108), MINI: (88, 88)},
    "5.15": NEW | {MINI: (96, 88)},
    "6.18": NEW | {MINI: (96, 88)},
}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_replies_made_by_hand_have_the_lengths_of_the_kernel(generation: str) -> None:
    for row, lengths in LENGTHS[generation].items():
        made = [record(row, GENERATIONS[generation], mark=mark) for mark in (True, False)]
        assert tuple(map(len, made)) == lengths, row


def layout(reply: bytes) -> list[bytes]:
    """Length and type of a record and of each of its attributes."""
    found, rest = [reply[:8]], reply[88:]
    while rest:
        found.append(rest[:4])
        rest = rest[aligned(int.from_bytes(rest[:2], sys.byteorder)) :]
    return found


@pytest.mark.parametrize("name", names())
def test_replies_made_by_hand_are_laid_out_as_a_kernel_has_sent_them(name: str) -> None:
    recording = load(name)
    replies = [each for datagram in recording.datagrams for each in messages(datagram)]
    sent = [each for each in replies if kind_of(each) == TCPDIAG_GETSOCK]
    made = [record(row, mark=recording.privileged) for row in recording.rows]
    assert len(sent) == len(made) > 0
    assert [*map(layout, made)] == [*map(layout, sent)]
    assert [each[16:88] for each in made] == [each[16:88] for each in sent]


def checked(reply: bytes) -> tuple[int, Kind]:
    return check_message(memoryview(reply), 0, SEQUENCE)


def cause_of(reply: bytes) -> Cause:
    with pytest.raises(PassFailure) as caught:
        checked(reply)
    assert str(caught.value)
    return caught.value.cause


@pytest.mark.parametrize(
    ("reply", "kind"),
    [(record(ROW), Kind.ROW), (record(MINI), Kind.ROW), (noop(), Kind.NOTHING), (done(), Kind.END)],
)
def test_a_good_message_is_what_it_is(reply: bytes, kind: Kind) -> None:
    assert checked(reply) == (len(reply), kind)


def test_an_end_without_an_errno_is_an_end() -> None:
    assert checked(message(3, b"")) == (16, Kind.END)


@pytest.mark.parametrize("make", [done, error], ids=["end", "error"])
@pytest.mark.parametrize(
    ("errno", "cause"),
    [
        (-1, Cause.REFUSED),  # EPERM
        (-2, Cause.UNAVAILABLE),  # ENOENT
        (-13, Cause.REFUSED),  # EACCES
        (-16, Cause.BUSY),  # EBUSY
        (-22, Cause.KERNEL_ERROR),  # EINVAL
        (-95, Cause.UNAVAILABLE),  # EOPNOTSUPP, an old gVisor
        (-105, Cause.OVERRUN),  # ENOBUFS
        (-4095, Cause.KERNEL_ERROR),  # no such errno
        (-(1 << 31), Cause.KERNEL_ERROR),
    ],
)
def test_an_errno_is_a_named_failure(errno: int, cause: Cause, make: Callable[..., bytes]) -> None:
    reply = done(errno=errno) if make is done else error(errno)
    assert cause_of(reply) is cause


BROKEN = {
    "no room for a header": (record(ROW)[:15], Cause.TRUNCATED),
    "cut": (record(ROW)[:-1], Cause.TRUNCATED),
    "longer than its datagram": (pack("=I", 125) + record(ROW)[4:], Cause.TRUNCATED),
    "endless": (pack("=I", 0xFFFF_FFFF) + record(ROW)[4:], Cause.TRUNCATED),
    "length 0": (pack("=I", 0) + record(ROW)[4:], Cause.MALFORMED),
    "shorter than its header": (pack("=I", 15) + record(ROW)[4:], Cause.MALFORMED),
    "record without a socket": (message(18, b""), Cause.TRUNCATED),
    "half a record": (message(18, bytes(71)), Cause.TRUNCATED),
    "reply to another request": (record(ROW, sequence=SEQUENCE + 1), Cause.OUT_OF_SEQUENCE),
    "end of another request": (done(SEQUENCE - 1), Cause.OUT_OF_SEQUENCE),
    "refusal of another request": (error(-16, SEQUENCE + 1), Cause.OUT_OF_SEQUENCE),
    "lost replies": (overrun(), Cause.OVERRUN),
    "inconsistent dump": (message(18, bytes(72), flags=2 | NLM_F_DUMP_INTR), Cause.INTERRUPTED),
    "inconsistent end": (message(3, bytes(4), flags=2 | NLM_F_DUMP_INTR), Cause.INTERRUPTED),
    "acknowledgement": (error(0), Cause.MALFORMED),
    "error without an errno": (message(2, b""), Cause.MALFORMED),
    "reply of type 21": (message(21, bytes(72)), Cause.MALFORMED),
    "no-operation with a socket in it": (message(1, bytes(72)), Cause.MALFORMED),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_message_that_cannot_be_right_is_a_named_failure(name: str) -> None:
    reply, cause = BROKEN[name]
    assert cause_of(reply) is cause


def test_a_message_is_checked_where_it_stands() -> None:
    first, second = whole_dump([ROW])
    buffer = memoryview(first + second)
    assert check_message(buffer, len(first), SEQUENCE) == (len(buffer), Kind.END)


def test_a_mask_has_the_bit_of_each_state() -> None:
    assert mask() == 0
    assert [mask(state) for state in NAMED_STATES] == [1 << number for number in range(1, 12)]
    assert mask(State.LISTEN, State.ESTABLISHED) == 0x402
