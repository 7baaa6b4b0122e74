"""What is answered to the question which connections are stuck."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sockwatch import __version__
from sockwatch.export.document import Host
from sockwatch.observe.leaks import Filter, Leaks
from sockwatch.observe.search import find_leaks
from sockwatch.observe.snapshot import PassKind, Snapshot


class Look(NamedTuple):
    """A look by somebody without memory: what is older than the look has an unknown age."""

    seconds: float
    """How long it took."""
    why: str
    """Why nobody with a memory was asked, as a clause for people."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Stuck connections, and what has to be known about how they were found."""

    host: Host
    taken: float
    """Unix time in seconds as of which it is."""
    wanted: Filter
    leaks: Leaks | None
    """`None` if ages are not known."""
    hidden: int | None = None
    """Sockets of the host that are in no table, `None` if that is not known."""
    missing: tuple[str, ...] = ()
    """What is not known and why, in clauses for people; names in them are unescaped."""
    look: Look | None = None
    """`None` if a daemon answers, which remembers since when connections are in their state."""
    version: str = __version__
    """Of who answers."""


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
