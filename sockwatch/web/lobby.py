"""Connections on which nothing has come yet: a socket and a clock each, and nothing else.

Most of a flood never says a word. What costs a hundred microseconds, and kilobytes, is made only
for who does.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Visitor:
    """Who has connected."""

    socket: socket.socket
    site: str
    """Where it comes from; see `site_of`."""
    since: float
    """When it was accepted, in loop time."""


class Lobby:
    """Those who have not spoken yet.

    Args:
        patience: seconds that each may stay.
        heard: called with who has spoken or gone, and is no longer here.
        expired: called with who has stayed too long, likewise.
    """

    def __init__(
        self,
        patience: float,
        heard: Callable[[Visitor], None],
        expired: Callable[[Visitor], None],
    ) -> None:
        self._patience = patience
        self._heard = heard
        self._expired = expired
        self._clocks: dict[Visitor, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._clocks)

    def __iter__(self) -> Iterator[Visitor]:
        return iter(self._clocks)

    def receive(self, visitor: Visitor) -> None:
        """Wait for a first word."""
        loop = asyncio.get_running_loop()
        until = visitor.since + self._patience
        self._clocks[visitor] = loop.call_at(until, self._see_off, visitor, self._expired)
        loop.add_reader(visitor.socket, self._see_off, visitor, self._heard)

    def leave(self, visitor: Visitor) -> None:
        """Wait no longer; the socket stays open."""
        self._clocks.pop(visitor).cancel()
        asyncio.get_running_loop().remove_reader(visitor.socket)

    def _see_off(self, visitor: Visitor, how: Callable[[Visitor], None]) -> None:
        self.leave(visitor)
        how(visitor)


def has_spoken(accepted: socket.socket) -> bool | None:
    """Whether there is anything to read; `None` if the client has gone, and no answer matters."""
    if accepted.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # reset
        return None
    try:
        return bool(accepted.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)) or None
    except BlockingIOError:
        return False
    except OSError:
        return None
