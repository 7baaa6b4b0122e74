"""Answers the question which connections of a snapshot are stuck."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sockwatch.export.host import Host
from sockwatch.export.leaks.answer import Answer, Look
from sockwatch.observe.leaks import Filter
from sockwatch.observe.search import find_leaks
from sockwatch.observe.snapshot import PassKind, Snapshot

UNCOUNTED: Final = (
    "sockets that are dead and not closed, hence in no table, are not counted: that takes sight of "
    "every process of the host; see the drop-in 10-processes.conf"
)


def answer(snapshot: Snapshot, wanted: Filter, host: Host, look: Look | None = None) -> Answer:
    """Search a snapshot. Takes a microsecond per stuck connection."""
    figures = [view.figures.host for view in snapshot.namespaces if view.figures is not None]
    return Answer(
        host=host,
        taken=snapshot.taken,
        wanted=wanted,
        leaks=find_leaks(snapshot.namespaces, wanted),
        hidden=next((one.hidden for one in figures if one is not None), None),
        missing=tuple(dict.fromkeys(_missing(snapshot, wanted, look))),
        look=look,
    )


def _missing(snapshot: Snapshot, wanted: Filter, look: Look | None) -> Iterator[str]:
    if look is not None and wanted.older_than > look.seconds:
        yield "after so short a look only half-open connections are known to be that old"
    watch = snapshot.passes.get(PassKind.WATCH)
    if watch is not None and watch.last_failure is not None:
        yield f"the newest watch pass failed, so all is older ({watch.last_failure})"
    if not snapshot.namespaces:
        yield "no pass over the kernel's sockets has succeeded yet"
    for view in snapshot.namespaces:
        if view.stuck is None:
            yield f"ages are not known from {snapshot.source.name}: {snapshot.source.reason}"
        elif view.stuck.unnamed is not None:
            yield view.stuck.unnamed
        host = view.figures.host if view.figures is not None else None
        if host is not None and host.hidden is None:
            yield UNCOUNTED
