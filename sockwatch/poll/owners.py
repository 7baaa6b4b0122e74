"""The processes that hold stuck connections and listeners, looked for a little with every pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Final

from sockwatch.kernel.cgroups import unit_of
from sockwatch.kernel.owners import OwnerFinder
from sockwatch.observe.listeners import NONE_ADOPTED, UnitOf
from sockwatch.observe.search import marked_inodes
from sockwatch.observe.snapshot import Marked, Stuck
from sockwatch.poll.adoption import Adoption, is_manager
from sockwatch.tcp.owners import Owners, Process
from sockwatch.tcp.records import Row

WANTED_LIMIT: Final = 10_000
"""Connections whose processes are looked for at a time: bounds memory and time."""
BUDGET: Final = 0.01
"""Seconds by which a pass may become longer."""

OFF: Final = "processes are not looked for: owners.processes is off"
SEARCHING: Final = "not all processes have been looked through yet"
TOO_MANY: Final = f"processes are looked for of {WANTED_LIMIT:,} connections only"


class OwnerWatch:
    """Names the processes of stuck connections as far as wished and permitted.

    Args:
        budget: seconds that each call may take.
        finder: makes what looks for them.
    """

    def __init__(
        self, budget: float = BUDGET, finder: Callable[[], OwnerFinder] = OwnerFinder
    ) -> None:
        self._budget = budget
        self._make = finder
        self._finder: OwnerFinder | None = None
        self._adoption = Adoption()

    def switch(self, *, on: bool) -> None:
        """Begin to look for processes, or leave off."""
        if on:
            self._finder = self._finder or self._make()
        elif self._finder is not None:
            self._finder.close()
            self._finder, self._adoption = None, Adoption()

    def adopted(
        self, rows: Sequence[Row], unit_of: UnitOf, marked: Iterable[Marked]
    ) -> Mapping[int, str]:
        """The units of listeners that another unit opened for them; see `Adoption`."""
        if self._finder is None:
            return NONE_ADOPTED
        return self._adoption.units(rows, unit_of, self._unit, marked)

    def _unit(self, inode: int) -> str:
        """The unit of a process that holds a socket and manages no others, empty if unknown."""
        owners = self._finder.owners(inode) if self._finder else None
        for process in owners.processes if owners else ():
            unit = self._unit_of_process(process)
            if not is_manager(unit):
                return unit
        return ""

    def _unit_of_process(self, process: Process) -> str:
        path = self._finder.cgroup(process) if self._finder else None
        return _unit_of_path(path) if path else ""

    def holders(self, inodes: Iterable[int]) -> Mapping[int, Owners]:
        """Who holds sockets, as far as that is known."""
        return {} if self._finder is None else _known(self._finder, inodes)

    def named(self, stuck: Stuck, now: float, beside: Iterable[int] = ()) -> Stuck:
        """The same with owners, as far as they are known.

        Args:
            stuck: what a pass has found.
            now: monotonic seconds.
            beside: further sockets, whose owners may hold stuck ones too.
        """
        finder = self._finder
        if finder is None:
            return replace(stuck, unnamed=OFF)
        wanted = frozenset(islice(marked_inodes(stuck), WANTED_LIMIT + 1))
        finder.advance(wanted.union(beside), self._budget, now)
        owners = _known(finder, wanted)
        return replace(stuck, owners=owners, unnamed=_unnamed(finder, len(wanted), len(owners)))


def _known(finder: OwnerFinder, inodes: Iterable[int]) -> Mapping[int, Owners]:
    found = {inode: finder.owners(inode) for inode in inodes}
    return {inode: owners for inode, owners in found.items() if owners is not None}


_unit_of_path: Final = lru_cache(maxsize=1024)(unit_of)


def _unnamed(finder: OwnerFinder, wanted: int, named: int) -> str | None:
    if wanted > WANTED_LIMIT:
        return TOO_MANY
    if named == wanted:
        return None
    return finder.missing or (None if finder.rounds else SEARCHING)
