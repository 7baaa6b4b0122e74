"""What is answered to the question which connections are stuck."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sockwatch import __version__
from sockwatch.export.host import Host
from sockwatch.observe.leaks import Filter, Leaks


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
