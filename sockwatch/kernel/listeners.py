"""Listeners from pass to pass: most have not changed since the last one.

Theory of operation. A dump shows the same listeners in the same order, a table of them in each
datagram. Without the sequence numbers, which differ from dump to dump, a table is compared as one
block of memory with the one that was in its place; only where that differs are its messages looked
up one by one, and of these only new ones are decoded.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sockwatch.kernel.batches import RowBatch, batches
from sockwatch.kernel.columns import Table
from sockwatch.kernel.rows import read_rows
from sockwatch.kernel.wire import Dump
from sockwatch.tcp.records import Row

_WORD: Final = 4
_SEQUENCE: Final = 2
"""Word of struct nlmsghdr (`include/uapi/linux/netlink.h`)."""
_SPARE: Final = 64
"""Messages remembered beyond twice as many as there are listeners."""


class _Known(NamedTuple):
    """A table that has been read."""

    messages: bytes
    """Without sequence numbers."""
    length: int
    """Bytes per message."""
    rows: list[Row]


class ListenerReader:
    """Reads dumps of listeners; a record that is the same as in the last dump is the same Row."""

    def __init__(self) -> None:
        self._tables: list[_Known] = []
        self._rows: dict[bytes, Row] = {}
        """By message, also such as are no more: what a message says never changes."""

    def read(self, dump: Dump) -> tuple[Row, ...]:
        """All listeners.

        Raises:
            PassFailure: the dump is not complete and must be discarded.
        """
        tables: list[_Known] = []
        rows: list[Row] = []
        for batch in batches(dump):
            if isinstance(batch, Table):
                tables.append(self._known(batch, len(tables), dump.sequence))
                rows += tables[-1].rows
            elif isinstance(batch, RowBatch):
                rows += batch.rows
        self._tables = tables
        self._forget(len(rows))
        return tuple(rows)

    def _known(self, table: Table, place: int, sequence: int) -> _Known:
        messages = _without_sequence(table)
        before = self._tables[place] if place < len(self._tables) else None
        if before is not None and before.messages == messages:
            return before
        each = _split(messages, table.length)
        for number, message in enumerate(each):
            if message not in self._rows:
                self._rows[message] = _row(table, number, sequence)
        return _Known(messages, table.length, [self._rows[message] for message in each])

    def _forget(self, listeners: int) -> None:
        """Forget messages that are no more, once they are many."""
        if len(self._rows) > 2 * listeners + _SPARE:
            self._rows = {
                message: row
                for known in self._tables
                for message, row in zip(
                    _split(known.messages, known.length), known.rows, strict=True
                )
            }


def _without_sequence(table: Table) -> bytes:
    messages = bytearray(table.messages)
    words = memoryview(messages).cast("I")
    words[_SEQUENCE :: table.length // _WORD] = memoryview(bytes(_WORD * len(table))).cast("I")
    return bytes(messages)


def _split(messages: bytes, length: int) -> list[bytes]:
    return [messages[start : start + length] for start in range(0, len(messages), length)]


def _row(table: Table, number: int, sequence: int) -> Row:
    start = number * table.length
    rows, _ = read_rows(table.messages[start : start + table.length], sequence)
    return rows[0]
