"""What is remembered of the host between passes, so that each pass yields a complete view."""

from __future__ import annotations

from sockwatch.kernel.cgroups import UnitResolver
from sockwatch.observe.listeners import ListenerMemory
from sockwatch.observe.snapshot import NamespaceView, ServiceKey
from sockwatch.observe.view import view
from sockwatch.tcp.records import Counts, Reading


class Host:
    """sockwatch's own network namespace across passes."""

    def __init__(self) -> None:
        self._units = UnitResolver()
        self._listeners = ListenerMemory()
        self._bulk: Counts | None = None
        self._shown: frozenset[ServiceKey] = frozenset()

    def take(self, reading: Reading, now: float, series_limit: int) -> NamespaceView:
        """The view after a pass at monotonic time `now` (seconds)."""
        if reading.bulk is not None:
            self._bulk = reading.bulk
        result = view(
            reading,
            self._bulk,
            lambda cgroup: self._units.unit(cgroup, now),
            series_limit,
            self._shown,
            group=self._listeners,
        )
        self._shown = frozenset(result.services)
        return result
