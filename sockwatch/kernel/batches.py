"""Datagrams of a dump as batches: sorted into tables, and row by row only where that fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from socket import htons
from struct import Struct
from typing import ClassVar, Final

from sockwatch.kernel.columns import Table
from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.rows import read_rows
from sockwatch.kernel.wire import (
    DUMP_UNFINISHED,
    MESSAGE,
    Dump,
    Kind,
    aligned,
    check_message,
)
from sockwatch.tcp.batch import Batch, Remote
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import State

_ADDRESS_BYTES: Final = 16
_LIKENESS: Final = Struct("=IH11xB")
_Likeness = tuple[int, ...]
"""Of a message: its length, its type, and the state of the socket."""


def batches(dump: Dump) -> Iterator[Batch]:
    """All sockets of a dump; each batch is valid until the next is taken.

    Raises:
        PassFailure: the dump is not complete and what was taken from it must be discarded.
    """
    for datagram in dump.datagrams:
        table = Table.of(datagram, dump.sequence)
        if table is not None:
            yield table
            continue
        some, done = _batches_of_mixture(datagram, dump.sequence)
        yield from some
        if done:
            return
    raise PassFailure(Cause.TRUNCATED, DUMP_UNFINISHED)


def _batches_of_mixture(datagram: memoryview, sequence: int) -> tuple[list[Batch], bool]:
    """The batches of a datagram of any messages, and whether it ends the dump."""
    try:
        kinds, done = _sorted(datagram, sequence)
        return [batch for kind in kinds for batch in _batches_of_kind(kind, sequence)], done
    except PassFailure:
        # Sorting may stumble over another fault than the first, which gives a failure its name.
        read_rows(datagram, sequence)
        raise


def _sorted(datagram: memoryview, sequence: int) -> tuple[Iterable[bytes], bool]:
    """The messages of a datagram by length and state, and whether it ends the dump.

    Only the first of those that are alike is checked; `Table.of` compares the others with it.
    """
    kinds: dict[_Likeness, list[memoryview]] = {}
    likeness_at, last = _LIKENESS.unpack_from, len(datagram) - _LIKENESS.size
    at, kind = 0, Kind.NOTHING
    while at < len(datagram) and kind is not Kind.END:
        start, likeness = at, likeness_at(datagram, at) if at <= last else ()
        if likeness not in kinds:
            end, kind = check_message(datagram, at, sequence)
            at = aligned(end)
            if kind is not Kind.ROW:
                continue
            kinds[likeness] = []
        step = aligned(likeness[0])
        while at <= last and likeness_at(datagram, at) == likeness:
            at += step
        if at > len(datagram):
            check_message(datagram, at - step, sequence)
        kinds[likeness].append(datagram[start:at])
    return map(b"".join, kinds.values()), kind is Kind.END


def _batches_of_kind(messages: bytes, sequence: int) -> Iterator[Batch]:
    view = memoryview(messages)
    table = Table.of(view, sequence)
    return iter([table]) if table is not None else batches_of_rows(read_rows(view, sequence)[0])


def batches_of_rows(rows: Iterable[Row]) -> Iterator[RowBatch]:
    """Rows by state."""
    by_state: dict[State, list[Row]] = {}
    for row in rows:
        by_state.setdefault(row.state, []).append(row)
    for state, some in by_state.items():
        yield RowBatch(state, some)


class RowBatch:
    """A batch of rows of one state: slow, but right whatever they are; see `Batch`."""

    multipath: ClassVar[bool] = False

    def __init__(self, state: State, rows: Sequence[Row]) -> None:
        self.state = state
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def families(self) -> bytes:
        """See `Batch`; likewise below."""
        return bytes(row.family for row in self.rows)

    def local_ports(self) -> Sequence[int]:
        return [htons(row.source_port) for row in self.rows]

    def remote_ports(self) -> Sequence[int]:
        return [htons(row.destination_port) for row in self.rows]

    def remotes(self) -> Iterator[Remote]:
        for row in self.rows:
            port = row.destination_port.to_bytes(2, "big")
            addresses = _padded(row.source) + _padded(row.destination)
            yield row.family, port + addresses, row.cgroup or 0

    def cookies(self) -> Sequence[int]:
        return [row.cookie or 0 for row in self.rows]

    def cgroups(self) -> Sequence[int]:
        return [row.cgroup or 0 for row in self.rows]

    def inodes(self) -> Sequence[int]:
        return [row.inode or 0 for row in self.rows]

    def timers(self) -> bytes:
        return bytes(row.timer or 0 for row in self.rows)

    def retransmits(self) -> bytes:
        return bytes(row.retransmits or 0 for row in self.rows)

    def expires(self) -> Sequence[int]:
        return [row.expires or 0 for row in self.rows]

    def receive_queues(self) -> Sequence[int]:
        return [row.receive_queue or 0 for row in self.rows]

    def records(self) -> Sequence[bytes]:
        return [_record(row) for row in self.rows]


def _padded(address: bytes) -> bytes:
    return address.ljust(_ADDRESS_BYTES, b"\0")


def _record(row: Row) -> bytes:
    return MESSAGE.pack(
        row.family,
        row.state,
        row.timer or 0,
        row.retransmits or 0,
        row.source_port.to_bytes(2, "big"),
        row.destination_port.to_bytes(2, "big"),
        _padded(row.source),
        _padded(row.destination),
        0,
        row.cookie or 0,
        row.expires or 0,
        row.receive_queue or 0,
        row.send_queue or 0,
        row.uid or 0,
        row.inode or 0,
    )
