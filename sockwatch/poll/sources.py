"""Which source to read from: chosen at start, re-checked while running, in both directions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
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
        self.current, self.reason = _first_working([make() for make in candidates])

    def prefer(self, candidates: Makers) -> bool:
        """Choose anew among sources in another order.

        Returns:
            Whether the source is another now; if none works the current one stays.
        """
        self._candidates = candidates
        try:
            return self._take(*_first_working([make() for make in candidates]))
        except NoSource as error:
            self.reason = str(error)
            return False

    def improve(self) -> bool:
        """Go back to a source that is preferred over the current one, if it works again.

        Returns:
            Whether the source is another now.
        """
        found = [make() for make in self._candidates]
        better = list(takewhile(lambda source: source.name != self.current.name, found))
        if not better:
            return False
        try:
            return self._take(*_first_working(better))
        except NoSource as error:
            self.reason = str(error)
            return False

    def replace(self, why: str) -> bool:
        """Leave the current source for another, whatever its probe would say.

        Args:
            why: what its passes fail with.

        Returns:
            Whether the source is another now; if no other works the current one stays.
        """
        refusal = f"{self.current.name} does not work ({why})"
        others = [make() for make in self._candidates]
        try:
            source, _ = _first_working([one for one in others if one.name != self.current.name])
        except NoSource as error:
            self.reason = "; ".join(filter(None, (refusal, str(error))))
            return False
        return self._take(source, refusal)

    def _take(self, source: Probed, reason: str) -> bool:
        changed = source.name != self.current.name
        self.current.close()
        self.current, self.reason = source, reason
        if changed:
            log.warning("reading sockets through %s: %s", source.name, reason)
        return changed


def _first_working(candidates: Iterable[Probed]) -> tuple[Probed, str]:
    refusals: list[str] = []
    for source in candidates:
        try:
            source.probe()
        except PassFailure as failure:
            source.close()
            refusals.append(f"{source.name} does not work ({failure})")
            continue
        return source, "; ".join(refusals) or f"{source.name} is preferred and works"
    raise NoSource("; ".join(refusals))
