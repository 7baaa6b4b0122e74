"""The processes that hold a socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

INIT: Final = 1
"""Process id of systemd, or of whatever else is the first process."""
PROCESSES_LIMIT: Final = 16
"""Processes named for one socket; the others are only counted."""


class Process(NamedTuple):
    """A process, told by `started` from an earlier or later one with the same id."""

    pid: int
    name: str
    """What ps and ss call it: up to 15 bytes that the process chose, so any characters at all."""
    started: float
    """Seconds after boot, as CLOCK_BOOTTIME counts them."""


@dataclass(frozen=True, slots=True)
class Owners:
    """All processes that share one socket."""

    processes: tuple[Process, ...]
    """The oldest first (of forked workers that is their parent), at most `PROCESSES_LIMIT`."""
    count: int | None
    """How many there are, those not in `processes` included; `None` if not all were looked at."""

    @classmethod
    def alone(cls, process: Process) -> Owners:
        """A socket that one process holds."""
        return cls((process,), 1)

    def uncounted(self) -> Owners:
        """The same while there may be more of them."""
        return Owners(self.processes, None)

    def joined_by(self, process: Process) -> Owners:
        """With one more process, which must be new.

        systemd keeps the listeners that it activates services with, so the first process
        counts only where nobody else holds the socket.
        """
        if process.pid == INIT:
            return self
        if self.processes[0].pid == INIT:
            return Owners.alone(process)
        ordered = sorted((*self.processes, process), key=_age)
        count = None if self.count is None else self.count + 1
        return Owners(tuple(ordered[:PROCESSES_LIMIT]), count)


def _age(process: Process) -> tuple[float, int]:
    return process.started, process.pid
