"""Wakes the poll thread while it waits for the next pass."""

from __future__ import annotations

from threading import Event


class Bell:
    """Rung by any thread, waited for by one."""

    def __init__(self) -> None:
        self.stopped = False
        """Whether that was all."""
        self._rung = Event()

    def ring(self) -> None:
        """There is something new; who does not wait now will not wait the next time."""
        self._rung.set()

    def stop(self) -> None:
        """Ring for the last time."""
        self.stopped = True
        self._rung.set()

    def wait(self, seconds: float) -> None:
        """Wait for the bell, but not longer than that."""
        self._rung.wait(seconds)
        self._rung.clear()
