"""The processes that hold stuck connections, looked for a little with every pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from typing import Final

from sockwatch.kernel.owners import OwnerFinder
from sockwatch.observe.search import marked_inodes
from sockwatch.observe.snapshot import Stuck

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

    def switch(self, *, on: bool) -> None:
        """Begin to look for processes, or leave off."""
        if on:
            self._finder = self._finder or self._make()
        elif self._finder is not None:
            self._finder.close()
            self._finder = None

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
        found = {inode: finder.owners(inode) for inode in wanted}
        owners = {inode: who for inode, who in found.items() if who is not None}
        return replace(stuck, owners=owners, unnamed=_unnamed(finder, len(wanted), len(owners)))


def _unnamed(finder: OwnerFinder, wanted: int, named: int) -> str | None:
    if wanted > WANTED_LIMIT:
        return TOO_MANY
    if named == wanted:
        return None
    return finder.missing or (None if finder.rounds else SEARCHING)
