"""A token bucket: how much may be used at once, and how much per second."""

from __future__ import annotations


class Bucket:
    """Fills steadily and may be overdrawn: what something costs is often known only afterwards.

    Args:
        rate: what flows in per second.
        most: what it holds, and holds at first.
        now: time in seconds, of any clock that does not go back; likewise below.
    """

    __slots__ = ("_level", "_most", "_rate", "_since")

    def __init__(self, rate: float, most: float, now: float) -> None:
        self._rate = rate
        self._most = most
        self._level = most
        self._since = now

    def level(self, now: float) -> float:
        """What is in it; less than nothing while it is overdrawn."""
        return min(self._most, self._level + (now - self._since) * self._rate)

    def take(self, amount: float, now: float) -> None:
        """Take something out."""
        self._level, self._since = self.level(now) - amount, now
