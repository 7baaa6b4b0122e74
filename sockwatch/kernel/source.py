"""What a source of readings is, whatever it reads from."""

from __future__ import annotations

from typing import ClassVar, Protocol

from sockwatch.tcp.records import Reading


class Source(Protocol):
    """Reads the sockets of the network namespace it was made in."""

    name: ClassVar[str]

    def watch(self) -> Reading:
        """Read listeners, half-open and closing connections.

        Raises:
            PassFailure: nothing of this pass may be used.
        """
        ...

    def census(self) -> Reading:
        """Read every socket.

        Raises:
            PassFailure: nothing of this pass may be used.
        """
        ...

    def close(self) -> None:
        """Let go of whatever is open."""
        ...
