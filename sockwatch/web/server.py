"""The HTTP server: accepts within a bound, serves, stops.

uvicorn's own server wakes ten times a second and accepts without bound, so only its protocol is
used. When all connections are taken, the one that has kept us waiting longest makes room: silent
and slow clients cannot lock out a scrape. Only when we wait for no client at all is the newcomer
turned away. Who has most connections makes room first: a flood from one address costs no other;
then who has not said a word: a flood from many addresses costs nobody who comes to ask.

Most of a flood goes again, or never says a word: nothing is made for either, see `lobby`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.server import ServerState

from sockwatch.web.access import site_of
from sockwatch.web.guard import Limits, Refusal, Rejected
from sockwatch.web.lobby import Lobby, Visitor, has_spoken
from sockwatch.web.protocol import (
    BUSY,
    TOO_SLOW,
    Accepted,
    ClientLog,
    GuardedProtocol,
    refusal_response,
)
from sockwatch.web.responses import raw
from sockwatch.web.tls import Tls, TlsProtocol

Application = Callable[[Any, Any, Any], Awaitable[None]]

Lost = Callable[[socket.socket], object]
"""Told of a listener that was lost."""

ACCEPTS_AT_ONCE: Final = 16
"""Connections accepted before others on the event loop have their turn, such as closing those that
made room for them."""
LOOKS_AT_ONCE: Final = 128
"""The same, with those that had gone again: these cost a tenth."""
RETRY_ACCEPT: Final = 1.0
"""Seconds to wait when a connection cannot be accepted."""

_LOG: Final = logging.getLogger(__name__)


class Server:
    """Serves an ASGI application on listening sockets, on the event loop it is started on.

    Args:
        app: what answers.
        limits: what clients may take.
        tls: says what to serve TLS with, anew for each connection; `None` for plain HTTP.
    """

    def __init__(
        self,
        app: Application,
        *,
        limits: Limits | None = None,
        tls: Callable[[], Tls] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.log = ClientLog()
        self.rejected: dict[Rejected, int] = dict.fromkeys(Rejected, 0)
        """Clients turned away since the start; every reason present."""
        self._tls = tls
        self._config = _uvicorn_config(app)
        self._state = ServerState()
        self._listeners: list[socket.socket] = []
        self._lost: Lost
        self._lobby = Lobby(
            self.limits.handshake if tls else self.limits.request, self._heard, self._too_silent
        )
        self._connections: set[GuardedProtocol] = set()
        self._openings: set[asyncio.Task[None]] = set()
        self._none_left = asyncio.Event()
        self._none_left.set()

    @property
    def requests_in_flight(self) -> int:
        """Requests that are being answered now; may be read from any thread."""
        return len(self._state.tasks)

    @property
    def connections_open(self) -> int:
        """Connections open now; may be read from any thread."""
        return len(self._lobby) + len(self._connections)

    async def start(self, listeners: Sequence[socket.socket], lost: Lost) -> None:
        """Accept connections.

        Args:
            listeners: sockets that listen; the server's from now on.
            lost: told of one that listens no longer and never will again.
        """
        self._listeners, self._lost = list(listeners), lost
        for listener in self._listeners:
            listener.settimeout(0)
            if listener.family != socket.AF_UNIX:
                # Connections inherit it. asyncio sets it only on sockets made with a protocol
                # number; without it a response waits for the client's delayed ACK, 40 ms.
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._listen(listener)

    async def stop(self, grace: float = 0.4) -> None:
        """Close everything; what is being answered has `grace` seconds to finish."""
        self._stop_listening()
        for visitor in list(self._lobby):
            self._lobby.leave(visitor)
            visitor.socket.close()
        for connection in list(self._connections):
            connection.shutdown()
        await self._wait_until_none_left(grace)
        for connection in list(self._connections):
            connection.abort()
        for task in list(self._state.tasks):
            task.cancel()
        await self._wait_until_none_left(grace)

    def reject(self, why: Rejected) -> None:
        """Count a client that was turned away."""
        self.rejected[why] += 1

    def release(self, connection: GuardedProtocol) -> None:
        """Forget a connection that is over."""
        self._connections.discard(connection)
        if not self._connections:
            self._none_left.set()

    async def _wait_until_none_left(self, seconds: float) -> None:
        if self._connections:
            self._none_left.clear()
        closed = asyncio.ensure_future(self._none_left.wait())
        unfinished: set[asyncio.Task[Any]] = {closed, *self._openings, *self._state.tasks}
        await asyncio.wait(unfinished, timeout=seconds)
        closed.cancel()

    def _listen(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._accept_some, listener)

    def _stop_listening(self) -> None:
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener)
            listener.close()
        self._listeners = []

    def _accept_some(self, listener: socket.socket) -> None:
        admitted = 0
        for _ in range(LOOKS_AT_ONCE):
            try:
                accepted, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # What stays in the way would keep the event loop busy.
                asyncio.get_running_loop().remove_reader(listener)
                self._cannot_accept(listener, error)
                return
            admitted += self._take(accepted, site_of(address[0] if address else ""))
            if admitted == ACCEPTS_AT_ONCE:
                return

    def _cannot_accept(self, listener: socket.socket, error: OSError) -> None:
        """Try again later: out of descriptors or memory, or forbidden; but not if it was ended."""
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # as `ss -K` does
            self._lost(listener)
            return
        _LOG.warning("cannot accept HTTP connections for a moment: %s", error.strerror)
        asyncio.get_running_loop().call_later(RETRY_ACCEPT, self._listen, listener)

    def _take(self, accepted: socket.socket, site: str) -> bool:
        """Take a newcomer; false if it has gone."""
        visitor = Visitor(accepted, site, asyncio.get_running_loop().time())
        spoke = has_spoken(accepted)
        if spoke is None:
            accepted.close()
        elif self.connections_open >= self.limits.connections and not self._make_room():
            self._turn_away(accepted, BUSY)
        elif spoke:
            self._admit(visitor)
        else:
            self._lobby.receive(visitor)
        return spoke is not None

    def _heard(self, visitor: Visitor) -> None:
        if has_spoken(visitor.socket) is None:
            visitor.socket.close()
        else:
            self._admit(visitor)

    def _too_silent(self, visitor: Visitor) -> None:
        if self._tls is None:
            self._turn_away(visitor.socket, TOO_SLOW)
        else:
            self.reject(Rejected.HANDSHAKE)
            visitor.socket.close()

    def _admit(self, visitor: Visitor) -> None:
        tls = self._tls() if self._tls else None
        accepted = Accepted(visitor.socket, visitor.site, tls, visitor.since)
        connection = GuardedProtocol(self._config, self._state, self, accepted)
        self._connections.add(connection)
        opening = asyncio.get_running_loop().create_task(self._open(connection, accepted))
        self._openings.add(opening)
        opening.add_done_callback(self._openings.discard)

    def _make_room(self) -> bool:
        """Drop who has kept us waiting longest, of whoever has most connections, silent ones first.

        Returns:
            Whether there was any; false if we wait for none.
        """
        held = Counter(one.site for one in self._lobby)
        held.update(one.accepted.site for one in self._connections)
        # Of equals min takes the first, and the lobby is in the order of arrival.
        silent = min(self._lobby, key=lambda one: -held[one.site], default=None)
        spoken = min(
            (one for one in self._connections if one.waits_for_client),
            key=lambda one: (-held[one.accepted.site], one.since),
            default=None,
        )
        if silent and (spoken is None or held[silent.site] >= held[spoken.accepted.site]):
            self._lobby.leave(silent)
            self._turn_away(silent.socket, BUSY)
        elif spoken:
            self.reject(Rejected.CONNECTIONS)
            self.release(spoken)
            spoken.evict()
        return bool(silent or spoken)

    def _turn_away(self, accepted: socket.socket, refusal: Refusal) -> None:
        self.reject(refusal.rejected)
        with accepted, suppress(OSError):
            accepted.settimeout(0)
            if self._tls is None:
                accepted.send(raw(refusal_response(refusal)))

    async def _open(self, connection: GuardedProtocol, accepted: Accepted) -> None:
        """Bring a connection to where requests can come: at once, or after a TLS handshake."""
        loop = asyncio.get_running_loop()
        try:
            if accepted.tls is None:
                await loop.connect_accepted_socket(lambda: connection, accepted.socket)
            else:
                await _shake_hands(connection, accepted, accepted.tls.context)
        except OSError as error:
            _LOG.debug("no connection: %s", error)
            # Its frames hold it: the connection would stay in memory with them, until the garbage
            # collector comes, which is too late where many fail.
            error.__traceback__ = None
            if connection in self._connections:
                self.reject(Rejected.HANDSHAKE)
                self.release(connection)


async def _shake_hands(
    connection: GuardedProtocol, accepted: Accepted, context: ssl.SSLContext
) -> None:
    """Open TLS; as asyncio does, but with a protocol for it that is ours."""
    loop = asyncio.get_running_loop()
    shaken: asyncio.Future[None] = loop.create_future()
    late = loop.time() - accepted.since
    protocol = partial(TlsProtocol, connection, context, connection.limits, late, shaken)
    await loop.connect_accepted_socket(protocol, accepted.socket)
    await shaken


def _uvicorn_config(app: Application) -> Config:
    """What uvicorn's protocol asks of its configuration, everything else off."""
    config = Config(
        app,
        http=GuardedProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        workers=1,
    )
    config.load()
    return config
