"""Who follows single sockets from pass to pass."""

from __future__ import annotations

from typing import Protocol

from sockwatch.tcp.batch import Batch
from sockwatch.tcp.listening import Listening


class Follower(Protocol):
    """Somebody who looks at the watched sockets of a pass while it reads them."""

    def begin(self, listening: Listening) -> None:
        """A pass begins, in which these ports are listened on."""
        ...

    def add(self, batch: Batch) -> None:
        """Some watched sockets, of one state; valid during the call."""
        ...
