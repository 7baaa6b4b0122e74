"""Listeners from pass to pass: most have not changed since the last one."""

from __future__ import annotations

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
                for message in batch.each():
                    body = bytes(message[HEADER.size :])
                    known[body] = self._known.get(body) or _row(message, dump.sequence)
                    rows.append(known[body])
            elif isinstance(batch, RowBatch):
                rows += batch.rows
        self._known = known
        return tuple(rows)


def _row(message: memoryview, sequence: int) -> Row:
    rows, _ = read_rows(message, sequence)
    return rows[0]
