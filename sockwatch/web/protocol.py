"""One HTTP connection: uvicorn's protocol with an absolute deadline for every phase.

uvicorn bounds only the time between requests. Here a connection is always in one of these
phases, and what the client does within a phase never moves its end:

    request    from the connection, or from a request's first byte, until its head is complete
    response   from then until the last byte has left our buffer
    idle       until the next first byte (uvicorn's own keep-alive timer)
    linger     from a refusal until the client closes: closing at once would reset the
               connection, and the client might never read why
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol, cast

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from sockwatch.web.access import AUTHENTICATED
from sockwatch.web.guard import GuardedConnection, Limits, Refusal, Rejected
from sockwatch.web.responses import ALLOW, Response, raw, text
from sockwatch.web.tls import Tls

READ_SIZE: Final = 16 * 1024
"""Bytes taken from the kernel at a time. asyncio's 256 KiB would be room for abuse."""

REJECT: Final = "reject"
"""In a request's state: counts a client that is turned away, for a reason of `Rejected`."""

TOO_SLOW: Final = Refusal(
    HTTPStatus.REQUEST_TIMEOUT, Rejected.REQUEST_TIMEOUT, "This request took too long to arrive."
)
BUSY: Final = Refusal(
    HTTPStatus.SERVICE_UNAVAILABLE, Rejected.CONNECTIONS, "Too many connections; try again later."
)
_EXTRA: Final = {
    HTTPStatus.METHOD_NOT_ALLOWED: ALLOW,
    HTTPStatus.SERVICE_UNAVAILABLE: (b"retry-after", b"1"),
}


class Owner(Protocol):
    """Whom a connection reports to."""

    limits: Limits
    log: ClientLog

    def reject(self, why: Rejected) -> None:
        """Count a client that was turned away."""

    def release(self, connection: GuardedProtocol) -> None:
        """Forget a connection that is over; more than once is fine."""


class Accepted(NamedTuple):
    """A connection before anything was said."""

    socket: socket.socket
    site: str
    """Where it comes from; see `site_of`."""
    tls: Tls | None
    since: float
    """When it was accepted, in loop time: the clock of the first phase runs from there."""


class ClientLog(logging.LoggerAdapter[logging.Logger]):
    """Takes uvicorn's messages: what clients do is for debugging, only errors are ours.

    At most `most` messages of a level are let through per minute, lest clients fill the log.
    """

    level = logging.DEBUG
    """uvicorn asks its logger for it."""
    most = 10

    def __init__(self) -> None:
        super().__init__(logging.getLogger("sockwatch.web"))
        self._left: dict[int, tuple[float, int]] = {}

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Pass a message on, its level ours; that a request was cancelled at the end is no news."""
        cancelled = isinstance(kwargs.get("exc_info"), asyncio.CancelledError)
        level = logging.DEBUG if cancelled or level < logging.ERROR else level
        if self.isEnabledFor(level) and self._take(level):
            super().log(level, msg, *args, **kwargs)

    def _take(self, level: int) -> bool:
        now = time.monotonic()
        until, left = self._left.get(level, (now, 0))
        if now >= until:
            until, left = now + 60.0, self.most
        self._left[level] = (until, left - 1)
        return left > 0


def refusal_response(refusal: Refusal) -> Response:
    """What a client is sent that is turned away."""
    extra = _EXTRA.get(refusal.status)
    return text(refusal.status, refusal.sentence, *([extra] if extra else ()))


class GuardedProtocol(H11Protocol):
    """A connection that outlives no deadline; `since` is when its phase began (loop time)."""

    conn: GuardedConnection

    def __init__(
        self, config: Config, state: ServerState, owner: Owner, accepted: Accepted
    ) -> None:
        super().__init__(config, state, {REJECT: owner.reject})
        self.logger = cast("logging.Logger", owner.log)
        self.conn = GuardedConnection(owner.limits)
        self.timeout_keep_alive = owner.limits.idle  # type: ignore[assignment] # a fraction will do
        self.since = self.loop.time()
        self._owner = owner
        self.limits = owner.limits
        self.accepted = accepted
        self._connected = False
        self._refused = False
        self._request: RequestResponseCycle | None = None
        """The newest request, answered or not; `None` before the first."""
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def waits_for_client(self) -> bool:
        """Whether it is the client's turn: to send a request, or to read its response."""
        return not self._responding or self.flow.write_paused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        # Any byte left in our buffer counts as paused, so that resuming means all is sent.
        tls = self.accepted.tls
        if tls is None:
            transport.set_write_buffer_limits(high=1)
            transport.max_size = READ_SIZE  # type: ignore[attr-defined] # asyncio's have it
        else:  # TlsProtocol sees to it that all is sent
            transport.set_read_buffer_limits(high=READ_SIZE)  # type: ignore[attr-defined]
        super().connection_made(transport)
        self._connected = True
        certificate = transport.get_extra_info("peercert")
        if tls is not None and not tls.admits(certificate):
            self._owner.reject(Rejected.HANDSHAKE)
            transport.abort()
            return
        self.app_state[AUTHENTICATED] = bool(certificate)
        late = self.loop.time() - self.accepted.since if tls is None else 0.0
        self._start(self.limits.request - late, self._request_too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        self._stop()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self._owner.release(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request; those after a refused one are dropped."""
        if self._refused:
            return
        if self._deadline is None:
            self._start(self.limits.request, self._request_too_slow)
        super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override] # as asyncio allows
        """Still answer who has only closed its sending side, which TLS cannot tell."""
        if not self._responding or not self.transport.can_write_eof():
            return False
        self.cycle.keep_alive = False
        return True

    def handle_events(self) -> None:
        """Answer the next request, if it is complete."""
        super().handle_events()
        if self.cycle is not self._request:
            self._request = self.cycle
            self._start(self.limits.response, self._response_too_slow)

    def on_response_complete(self) -> None:
        """Wait for the next request, or begin with one that was pipelined."""
        if not self.flow.write_paused:
            self._stop()
        super().on_response_complete()
        if self._deadline is None and self.conn.trailing_data[0]:
            self._start(self.limits.request, self._request_too_slow)

    def resume_writing(self) -> None:
        """All that was written has left; if that was the whole response, its clock stops."""
        super().resume_writing()
        if not self._responding and not self._refused:
            self._stop()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 # what the parser said is better
        """Refuse a request that the parser did not let in."""
        self._refuse(self.conn.refusal)

    def shutdown(self) -> None:
        """Close, but finish a response first."""
        if not self._connected:
            self._give_up()
        elif self._responding:
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def abort(self) -> None:
        """Close now, whatever is lost."""
        if self._connected:
            self.transport.abort()
        else:
            self._give_up()

    def evict(self) -> None:
        """Make room for another client."""
        if self._connected and self._request is None and not self._refused:
            self.transport.write(raw(refusal_response(BUSY)))
        self.abort()

    def _give_up(self) -> None:
        """End a connection that asyncio is still opening: it sees the end of the stream."""
        with suppress(OSError):
            self.accepted.socket.shutdown(socket.SHUT_RDWR)

    @property
    def _responding(self) -> bool:
        return self._request is not None and not self._request.response_complete

    def _start(self, seconds: float, expired: Callable[[], None]) -> None:
        self._stop()
        self.since = self.loop.time()
        self._deadline = self.loop.call_at(self.since + seconds, expired)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            self.since = self.loop.time()

    def _request_too_slow(self) -> None:
        self._refuse(TOO_SLOW)

    def _response_too_slow(self) -> None:
        self._owner.reject(Rejected.RESPONSE_TIMEOUT)
        self.transport.abort()

    def _refuse(self, refusal: Refusal) -> None:
        self._refused = True
        self._unset_keepalive_if_required()
        self._owner.reject(refusal.rejected)
        self.transport.write(raw(refusal_response(refusal)))
        self._start(self.limits.linger, self.transport.abort)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()
