"""What a source of readings is, whatever it reads from."""

from __future__ import annotations

from typing import ClassVar, Protocol

from sockwatch.tcp.follow import Follower
from sockwatch.tcp.records import Reading


class Source(Protocol):
    """Reads the sockets of the network namespace it was made in."""

    name: ClassVar[str]

    def watch(self, follower: Follower | None = None) -> Reading:
        """Read listeners, half-open and closing connections.

        `follower` is shown what this source can tell apart from pass to pass, if anything.

        Raises:
            PassFailure: nothing of this pass may be used.
        """
        ...

    def census(self, follower: Follower | None = None) -> Reading:
        """Read every socket; `follower` as for `watch`.

        Raises:
            PassFailure: nothing of this pass may be used.
        """
        ...

    def close(self) -> None:
        """Let go of whatever is open."""
        ...
