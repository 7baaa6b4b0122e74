"""Damaged replies: a named failure or the right number of sockets, on both paths alike.

Nothing else ever: no other exception, no hang, no other number.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import LISTENED, listener, mixed_dumps
from recorded import load, names
from replies import (
    DONE,
    ERROR,
    GENERATIONS,
    NOOP,
    OVERRUN,
    SEQUENCE,
    TCPDIAG_GETSOCK,
    done,
    dump_of,
    message,
    whole_dump,
)

from sockwatch.kernel.batches import batches, batches_of_rows
from sockwatch.kernel.failures import PassFailure
from sockwatch.kernel.rows import read_dump
from sockwatch.kernel.wire import Dump
from sockwatch.tcp.batch import Batch
from sockwatch.tcp.listening import Listening
from sockwatch.tcp.records import Counts, Row
from sockwatch.tcp.states import Family, State
from sockwatch.tcp.tally import Tally

UNHURRIED = settings(deadline=None)
BULK = [State.ESTABLISHED, State.TIME_WAIT]
LISTENING = Listening([listener(LISTENED)])

ROW = Row(Family.INET, State.ESTABLISHED, b"\x0a\0\0\1", 80, b"\x0a\0\0\2", 40000, cgroup=300)
ROW6 = ROW._replace(family=Family.INET6, source=bytes(16), destination=bytes(16))


@dataclass(frozen=True)
class Verdict:
    """What came of a dump: all that was counted or the cause of the failure."""

    counts: Counts | None
    cause: str = ""

    @property
    def sockets(self) -> int | None:
        return None if self.counts is None else self.counts.sockets.total()

    @property
    def failed(self) -> bool:
        return self.counts is None


def counted(some: Iterable[Batch]) -> Counts:
    tally = Tally(LISTENING)
    for batch in some:
        tally.add(batch)
    return tally.finish()


def by_rows(dump: Dump) -> Verdict:
    try:
        return Verdict(counted(batches_of_rows(read_dump(dump))))
    except PassFailure as failure:
        return Verdict(None, failure.cause)


def in_bulk(dump: Dump) -> Verdict:
    try:
        counts = counted(batches(dump))
    except PassFailure as failure:
        return Verdict(None, failure.cause)
    assert counts.services.total() == counts.sockets.total()
    return Verdict(counts)


def verdict(datagrams: Sequence[bytes], sequence: int = SEQUENCE) -> Verdict:
    """What both paths say, which must be the same."""
    said = by_rows(dump_of(datagrams, sequence))
    assert in_bulk(dump_of(datagrams, sequence)) == said
    return said


def damaged(content: bytes, at: int, value: int) -> bytes:
    return content[:at] + bytes([value]) + content[at + 1 :]


DUMPS = {
    "uniform": whole_dump([ROW, ROW, ROW]),
    "privileged": whole_dump([ROW, ROW6], mark=True),
    "without cgroups": whole_dump([ROW, ROW6], GENERATIONS["4.18"]),
    "minis": whole_dump([row._replace(timer=3, cgroup=None) for row in (ROW, ROW6)], mark=True),
    "mixed": [b"".join(whole_dump([ROW])[:1] + whole_dump([ROW6], mark=True))],
}
SOCKETS = {"uniform": 3, "privileged": 2, "without cgroups": 2, "minis": 2, "mixed": 2}


@pytest.mark.parametrize("name", DUMPS)
def test_undamaged_they_have_the_right_number(name: str) -> None:
    assert verdict(DUMPS[name]).sockets == SOCKETS[name]


@pytest.mark.parametrize("name", DUMPS)
def test_no_single_wrong_byte_gives_another_number(name: str) -> None:
    """Every byte of every datagram, with the values of one flipped bit and some others."""
    datagrams = DUMPS[name]
    for which, datagram in enumerate(datagrams):
        for at, byte in enumerate(datagram):
            for value in {byte ^ 1 << bit for bit in range(8)} | {0, 0xFF, byte + 1 & 0xFF}:
                changed = [*datagrams]
                changed[which] = damaged(datagram, at, value)
                said = verdict(changed)
                assert said.failed or said.sockets == SOCKETS[name], (which, at, value)


def headers(datagram: bytes, length: int) -> Iterator[int]:
    """Where the bytes of the message headers stand."""
    return (at for begin in range(0, len(datagram), length) for at in range(begin, begin + 16))


def test_no_wrong_byte_of_a_header_gives_another_number() -> None:
    """All values; such as a length that takes in the next record, which then looks like its end."""
    rows, end = whole_dump([ROW] * 3)
    for at in headers(rows, len(rows) // 3):
        for value in range(256):
            said = verdict([damaged(rows, at, value), end])
            assert said.failed or said.sockets == 3, (at, value)


@pytest.mark.parametrize("name", DUMPS)
def test_a_dump_cut_anywhere_is_no_dump(name: str) -> None:
    datagrams = DUMPS[name]
    for which, datagram in enumerate(datagrams):
        for at in range(len(datagram)):
            assert verdict([*datagrams[:which], datagram[:at]]).failed, (which, at)


@pytest.mark.parametrize("name", DUMPS)
def test_a_dump_with_a_hole_is_no_dump(name: str) -> None:
    datagrams = DUMPS[name]
    for which, datagram in enumerate(datagrams):
        for begin in range(0, len(datagram), 3):
            for size in (1, 4, 16, 88):
                changed = [*datagrams]
                changed[which] = datagram[:begin] + datagram[begin + size :]
                assert verdict(changed).failed, (which, begin, size)


@pytest.mark.parametrize("state", BULK)
@UNHURRIED
@given(st.data())
def test_any_damage_has_one_verdict(state: State, data: st.DataObject) -> None:
    datagrams = [bytearray(datagram) for datagram in data.draw(mixed_dumps(state))]
    for _ in range(data.draw(st.integers(1, 4))):
        datagram = data.draw(st.sampled_from(datagrams))
        datagram[data.draw(st.integers(0, len(datagram) - 1))] = data.draw(st.integers(0, 255))
    verdict([bytes(datagram) for datagram in datagrams])


@pytest.mark.parametrize("state", BULK)
@UNHURRIED
@given(st.data())
def test_rubbish_in_good_messages_has_one_verdict(state: State, data: st.DataObject) -> None:
    kinds = st.sampled_from([NOOP, ERROR, DONE, OVERRUN, TCPDIAG_GETSOCK, 20])
    rubbish = st.builds(message, kinds, st.binary(max_size=120))
    datagrams = data.draw(st.lists(st.lists(rubbish, min_size=1, max_size=4).map(b"".join)))
    verdict([*datagrams, done()])


@pytest.mark.parametrize("name", names())
@UNHURRIED
@given(st.data())
def test_a_recorded_dump_that_is_damaged_has_one_verdict(name: str, data: st.DataObject) -> None:
    recording = load(name)
    datagrams = [bytearray(datagram) for datagram in recording.datagrams]
    datagram = data.draw(st.sampled_from(datagrams))
    datagram[data.draw(st.integers(0, len(datagram) - 1))] ^= data.draw(st.integers(1, 255))
    whole = [bytes(datagram) for datagram in datagrams]
    said = verdict(whole, recording.sequence)
    assert said.failed or said.sockets == len(recording.rows)
