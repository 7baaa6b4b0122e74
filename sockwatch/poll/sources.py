"""Which source to read from: chosen at start, re-checked while running, in both directions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from sockwatch.kernel.failures import PassFailure
from sockwatch.kernel.netlink import NetlinkSource
from sockwatch.kernel.psutil_source import PsutilSource
from sockwatch.kernel.source import Source

log = logging.getLogger(__name__)


class NoSource(Exception):
    """Neither source can read the sockets; the message says why for each."""


class Probed(Source, Protocol):
    """A source that can be asked whether it would work."""

    def probe(self) -> None:
        """Raises PassFailure if it would not."""
        ...


Makers = Sequence[Callable[[], Probed]]
"""Makes each source, the preferred one first."""

_MAKERS: Final[dict[str, Callable[[], Probed]]] = {
    NetlinkSource.name: NetlinkSource,
    PsutilSource.name: PsutilSource,
}


def makers(prefer: str) -> Makers:
    """All sources, the named one first."""
    return sorted(_MAKERS.values(), key=lambda make: make is not _MAKERS[prefer])


class SourceChoice:
    """The source in use and the reason why it is that one."""

    def __init__(self, candidates: Makers) -> None:
        """Choose.

        Raises:
            NoSource: none works.
        """
        self._candidates = candidates
        self.current, self.reason = self._first_working()

    @property
    def preferred(self) -> bool:
        """Whether the preferred source is in use."""
        return self.current.name == self._candidates[0]().name

    def prefer(self, candidates: Makers) -> None:
        """Prefer another order from the next choice on."""
        self._candidates = candidates

    def choose_again(self) -> bool:
        """Take the first source that works; True if it is another than before.

        Raises:
            NoSource: none works; the current one stays.
        """
        found, reason = self._first_working()
        changed = found.name != self.current.name
        self.current.close()
        self.current, self.reason = found, reason
        if changed:
            log.warning("reading sockets through %s: %s", found.name, reason)
        return changed

    def _first_working(self) -> tuple[Probed, str]:
        refusals: list[str] = []
        for make in self._candidates:
            source = make()
            try:
                source.probe()
            except PassFailure as failure:
                source.close()
                refusals.append(f"{source.name} does not work ({failure})")
                continue
            return source, "; ".join(refusals) or f"{source.name} is preferred and works"
        raise NoSource("; ".join(refusals))
