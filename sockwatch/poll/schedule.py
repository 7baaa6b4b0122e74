"""When the next pass is due, and how far the CPU budget stretches the intervals.

Theory of operation. What a pass costs is known only after it ran, so its CPU time is averaged.
The averages divided by the configured intervals give the share of a core that the passes would
take; if that is over the budget, both intervals are stretched by the same factor. The factor
rises at once and falls only when it could fall clearly, so that it does not flutter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sockwatch.observe.snapshot import PassKind

_WEIGHT: Final = 0.3
"""Of the newest cost in the moving average."""
_SLACK: Final = 0.8
"""The factor falls only if it can fall below this share of itself."""


class Schedule:
    """Due times of both passes on a monotonic clock, in seconds."""

    def __init__(self, intervals: Mapping[PassKind, float], budget: float) -> None:
        self._intervals = intervals
        self._budget = budget
        self._ended: dict[PassKind, float] = {}
        self._costs: dict[PassKind, float] = {}
        self._stretch = 1.0

    @property
    def stretch(self) -> float:
        """By what factor the intervals are stretched."""
        return self._stretch

    def reconfigure(self, intervals: Mapping[PassKind, float], budget: float) -> None:
        """Take other intervals or another budget; all passes become due."""
        self._intervals, self._budget = intervals, budget
        self._ended.clear()
        self._adapt()

    def interval(self, kind: PassKind) -> float:
        """Effective seconds from one pass of a kind to the next."""
        return self._intervals[kind] * self._stretch

    def next(self, now: float) -> tuple[PassKind, float]:
        """The next pass and the seconds until it is due; a census goes before a watch."""
        delays = {kind: max(0.0, self._due(kind, now) - now) for kind in reversed(PassKind)}
        kind = min(delays, key=delays.__getitem__)
        return kind, delays[kind]

    def _due(self, kind: PassKind, now: float) -> float:
        """By the factor of today, whatever it was when the last pass ended."""
        ended = self._ended.get(kind)
        return now if ended is None else ended + self.interval(kind)

    def finished(self, kind: PassKind, now: float, cost: float) -> None:
        """Note that a pass ended at `now` and took `cost` seconds of CPU.

        The next is counted from now: time that was slept through is not made up for. A census
        includes a watch.
        """
        old = self._costs.get(kind, cost)
        self._costs[kind] = old + _WEIGHT * (cost - old)
        self._adapt()
        for done in PassKind if kind is PassKind.CENSUS else (kind,):
            self._ended[done] = now

    def _adapt(self) -> None:
        share = sum(cost / self._intervals[kind] for kind, cost in self._costs.items())
        needed = share / self._budget if self._budget else 0.0
        if needed > self._stretch or needed < self._stretch * _SLACK:
            self._stretch = max(1.0, needed)
