"""What batches say, column by column and socket by socket."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from sockwatch.tcp.batch import Batch

Columns = dict[str, list[object]]


def columns_of(batch: Batch) -> Columns:
    """Every column."""
    columns: dict[str, Iterable[object]] = {
        "families": batch.families(),
        "local ports": batch.local_ports(),
        "remote ports": batch.remote_ports(),
        "remotes": batch.remotes(),
        "cookies": batch.cookies(),
        "cgroups": batch.cgroups(),
        "inodes": batch.inodes(),
        "timers": batch.timers(),
        "retransmits": batch.retransmits(),
        "expires": batch.expires(),
        "receive queues": batch.receive_queues(),
        "records": batch.records(),
    }
    named = {name: list[object](column) for name, column in columns.items()}
    assert {len(column) for column in named.values()} == {len(batch)}
    return named


def sockets_of(batches: Iterable[Batch]) -> list[bytes]:
    """The kernel's record of each socket, as `records` has it."""
    return [*chain.from_iterable(batch.records() for batch in batches)]
