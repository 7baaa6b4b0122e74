"""Counters with every pass; what changes rarely, or is dear to find out, from time to time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sockwatch.kernel.counters import Counters, read_limits
from sockwatch.kernel.hashed import hashed_everywhere
from sockwatch.observe.figures import Figures, figures, hidden_sockets, host_figures
from sockwatch.tcp.numbers import Limits

REFRESH: Final = 30.0
"""Seconds for which limits and the number of hidden sockets are kept."""


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

    def take(self, now: float) -> Figures:
        """All that is known at monotonic time `now` (seconds); what cannot be read is absent."""
        groups = self._counters.read()
        if self._kept is None or now >= self._due:
            hidden = hidden_sockets(groups, self._read_hashed())
            self._kept, self._due = (self._read_limits(), hidden), now + REFRESH
        limits, hidden = self._kept
        return figures(groups, limits, host_figures(groups, limits, hidden))
