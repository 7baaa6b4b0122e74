"""Listeners from pass to pass: most have not changed since the last one."""

from __future__ import annotations

from collections.abc import Iterable

from sockwatch.kernel.batches import RowBatch, batches
from sockwatch.kernel.columns import Table
from sockwatch.kernel.rows import read_rows
from sockwatch.kernel.wire import HEADER, Dump
from sockwatch.tcp.records import Row


class ListenerReader:
    """Reads dumps of listeners; a record that is the same as in the last dump is the same Row."""

    def __init__(self) -> None:
        self._known: dict[bytes, Row] = {}

    def read(self, dump: Dump) -> tuple[Row, ...]:
        """All listeners.

        Raises:
            PassFailure: the dump is not complete and must be discarded.
        """
        known: dict[bytes, Row] = {}
        rows: list[Row] = []
        for batch in batches(dump):
            if isinstance(batch, Table):
                bodies = _bodies(batch)
                some = self._rows(batch, bodies, dump.sequence)
                known.update(zip(bodies, some, strict=True))
                rows += some
            elif isinstance(batch, RowBatch):
                rows += batch.rows
        self._known = known
        return tuple(rows)

    def _rows(self, table: Table, bodies: Iterable[bytes], sequence: int) -> list[Row]:
        known = map(self._known.get, bodies)
        return [row or _row(table, number, sequence) for number, row in enumerate(known)]


def _bodies(table: Table) -> list[bytes]:
    """The messages without their headers, which differ from dump to dump."""
    messages = bytes(table.messages)
    starts = range(0, len(messages), table.length)
    return [messages[start + HEADER.size : start + table.length] for start in starts]


def _row(table: Table, number: int, sequence: int) -> Row:
    start = number * table.length
    rows, _ = read_rows(table.messages[start : start + table.length], sequence)
    return rows[0]
