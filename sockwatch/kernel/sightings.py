"""What is noted while processes are looked through, and the order in which to visit them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sockwatch.tcp.owners import INIT, Owners, Process


class Sightings:
    """Who was seen to hold what: what a whole round saw goes before what is less complete."""

    def __init__(self) -> None:
        self._complete: dict[int, Owners] = {}
        self._round: dict[int, Owners] = {}
        self._search: dict[int, Owners] = {}

    def owners(self, inode: int) -> Owners | None:
        """Who holds a socket, `None` if nobody was seen to."""
        if owners := self._complete.get(inode):
            return owners
        owners = self._round.get(inode) or self._search.get(inode)
        return owners and owners.uncounted()

    def unseen(self, inodes: frozenset[int]) -> frozenset[int]:
        """Those of the sockets that nobody was seen to hold."""
        return inodes.difference(self._complete, self._round, self._search)

    def begin_round(self) -> None:
        """From now on a round sees everything again."""
        self._complete |= self._search
        self._search = {}

    def end_round(self) -> None:
        """Forget what the round has not seen, except what was searched out beside it."""
        for inode, owners in self._search.items():
            self._round.setdefault(inode, owners)
        self._complete, self._round, self._search = self._round, {}, {}

    def in_round(self, inode: int, process: Process) -> bool:
        """Note that the round has seen a process with a socket; True if none before it."""
        before = self._round.get(inode)
        self._round[inode] = before.joined_by(process) if before else Owners.alone(process)
        return before is None

    def in_search(self, inode: int, process: Process) -> None:
        """Note that a search has found a process for a socket; others may share it."""
        self._search[inode] = Owners.alone(process).uncounted()


@dataclass(slots=True)
class Holder:
    """A process that holds wanted sockets, and what helps to find more of them."""

    process: Process
    size: int
    """How many descriptors it has."""
    cgroup: str | None
    known: dict[str, int] = field(default_factory=dict)
    """Inode by descriptor, for sockets that no other process was seen with before: all holders
    together know not many more than there are wanted sockets."""


def likely_order(holders: Iterable[Holder]) -> tuple[list[int], list[str]]:
    """Ids of processes, then cgroups, in which to look first: the quickest come first."""
    ordered = sorted(holders, key=lambda holder: holder.size)
    cgroups = dict.fromkeys(holder.cgroup for holder in ordered if holder.cgroup)
    return [holder.process.pid for holder in ordered], list(cgroups)


def each_once(pids: Iterable[int]) -> Iterator[int]:
    """Each process once, and the first process last: it counts only where nobody else does."""
    seen = set()
    for pid in pids:
        if pid not in seen and pid != INIT:
            yield pid
        seen.add(pid)
    if INIT in seen:
        yield INIT
