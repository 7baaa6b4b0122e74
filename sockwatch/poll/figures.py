"""Counters with every pass; what changes rarely, or is dear to find out, from time to time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from sockwatch.kernel.counters import Counters, read_limits
from sockwatch.kernel.hashed import hashed_everywhere
from sockwatch.observe.figures import (
    Figures,
    Lately,
    figures,
    hidden_sockets,
    host_figures,
    lately,
)
from sockwatch.tcp.numbers import Limits

REFRESH: Final = 30.0
"""Seconds for which limits and the number of hidden sockets are kept."""
LATELY: Final = 60.0
"""Seconds from which on what has been counted is not lately any more."""
_APART: Final = 1.0
"""Seconds between looks that are remembered, at least: there may be a thousand a second."""


class FigureReader:
    """Reads the figures of the calling thread's network namespace and of the host.

    Args:
        counters: reads what is counted.
        limits: reads what is set.
        hashed: counts the sockets in the tables of all network namespaces.
    """

    def __init__(
        self,
        counters: Counters | None = None,
        limits: Callable[[], Limits] = read_limits,
        hashed: Callable[[], int | None] = hashed_everywhere,
    ) -> None:
        self._counters = counters or Counters()
        self._read_limits = limits
        self._read_hashed = hashed
        self._kept: tuple[Limits, int | None] | None = None
        self._due = 0.0
        self._before: deque[tuple[float, Mapping[str, int]]] = deque()

    def take(self, now: float, *, census: bool = False) -> Figures:
        """All that is known at monotonic time `now` (seconds); what cannot be read is absent.

        A census counts ports by the range of its moment, so its limits are of that moment, too.
        """
        groups = self._counters.read()
        if self._kept is None or now >= self._due:
            hidden = hidden_sockets(groups, self._read_hashed())
            self._kept, self._due = (self._read_limits(), hidden), now + REFRESH
        elif census:
            self._kept = (self._read_limits(), self._kept[1])
        limits, hidden = self._kept
        known = figures(groups, limits, host_figures(groups, limits, hidden))
        return replace(known, lately=self._lately(now, known.counters))

    def _lately(self, now: float, counters: Mapping[str, int]) -> Lately | None:
        """Since the oldest look remembered that is no older than `LATELY`, or else the last one."""
        before = self._before
        while len(before) > 1 and before[0][0] < now - LATELY:
            before.popleft()
        found = lately(now - before[0][0], before[0][1], counters) if before else None
        if not before or now - before[-1][0] >= _APART:
            before.append((now, counters))
        return found
