"""Which requests are let in: h11's parser with our bounds. No I/O.

h11 bounds only heads that are incomplete, and allows bodies. Here every head is bounded, and a
request with a body is refused before anything of it is read: what follows a refused head is
never parsed, so it cannot be smuggled in as a request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Final, NamedTuple

import h11


class Rejected(StrEnum):
    """Why a client was turned away; a label value."""

    AUTHENTICATION = "authentication"
    CONNECTIONS = "connections"
    HANDSHAKE = "handshake"
    RATE = "rate"
    REQUEST_TIMEOUT = "request_timeout"
    RESPONSE_TIMEOUT = "response_timeout"
    TOO_LARGE = "too_large"
    BODY = "body"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take; times in seconds, each absolute from where it starts."""

    connections: int = 64
    handshake: float = 5.0
    """For the TLS handshake."""
    request: float = 5.0
    """For a request's head, from its first byte, or from when the connection was ready."""
    response: float = 30.0
    """For a whole response, from its request until its last byte has left us."""
    idle: float = 75.0
    """Between a response and the next request; longer than usual scrape intervals."""
    linger: float = 1.0
    """For a client that was turned away to close its side."""
    head_bytes: int = 8192
    headers: int = 100
    target_bytes: int = 2048


class Refusal(NamedTuple):
    """What a client is told when its request is not let in."""

    status: HTTPStatus
    rejected: Rejected
    sentence: str


_VERSION: Final = Refusal(
    HTTPStatus.BAD_REQUEST, Rejected.MALFORMED, "Only HTTP/1.1 and HTTP/1.0 are spoken here."
)
_TARGET: Final = Refusal(
    HTTPStatus.REQUEST_URI_TOO_LONG, Rejected.TOO_LARGE, "The path of this request is too long."
)
_HEAD: Final = Refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    Rejected.TOO_LARGE,
    "The headers of this request are too many or too long.",
)
_BODY: Final = Refusal(
    HTTPStatus.BAD_REQUEST, Rejected.BODY, "A request has no body here; send none."
)
_METHOD: Final = Refusal(
    HTTPStatus.METHOD_NOT_ALLOWED, Rejected.BODY, "Only GET and HEAD are answered here."
)
_MALFORMED: Final = Refusal(
    HTTPStatus.BAD_REQUEST, Rejected.MALFORMED, "This is not a valid HTTP request."
)
_UNREAD: Final = Refusal(
    HTTPStatus.NOT_IMPLEMENTED, Rejected.MALFORMED, "This transfer coding is not understood."
)

_OF_STATUS: Final = {
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: _HEAD,
    HTTPStatus.NOT_IMPLEMENTED: _UNREAD,
}


def _is_unknown_version(request: h11.Request, _: Limits) -> bool:
    return request.http_version not in {b"1.0", b"1.1"}


def _is_target_too_long(request: h11.Request, limits: Limits) -> bool:
    return len(request.target) > limits.target_bytes


def _is_head_too_large(request: h11.Request, limits: Limits) -> bool:
    fields = sum(len(name) + len(value) + len(": \r\n") for name, value in request.headers)
    line = len(request.method) + len(request.target) + len("  HTTP/1.1\r\n")
    return len(request.headers) > limits.headers or line + fields > limits.head_bytes


def _has_body(request: h11.Request, _: Limits) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and int(value) > 0)
        for name, value in request.headers
    )


def _is_other_with_body(request: h11.Request, limits: Limits) -> bool:
    return request.method not in {b"GET", b"HEAD"} and _has_body(request, limits)


_CHECKS: Final[tuple[tuple[Callable[[h11.Request, Limits], bool], Refusal], ...]] = (
    (_is_unknown_version, _VERSION),
    (_is_target_too_long, _TARGET),
    (_is_head_too_large, _HEAD),
    (_is_other_with_body, _METHOD),
    (_has_body, _BODY),
)


class GuardedConnection(h11.Connection):
    """A server's side of one connection that lets in only what `Limits` allow."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(h11.SERVER, limits.head_bytes)
        self._limits = limits
        self.refusal = _MALFORMED
        """What to say once `next_event` has raised."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        """As h11's; RemoteProtocolError also for what is valid, but not let in."""
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint)
            self.refusal = _OF_STATUS.get(status, _MALFORMED)
            # h11's frames hold the error, which holds them, and so all that called: a connection
            # would stay in memory until the garbage collector comes, too late where many fail.
            raise error.with_traceback(None)  # noqa: B904  it is the same
        if isinstance(event, h11.Request):
            self._judge(event)
        return event

    def _judge(self, request: h11.Request) -> None:
        for breaks, refusal in _CHECKS:
            if breaks(request, self._limits):
                self.refusal = refusal
                raise h11.RemoteProtocolError(refusal.sentence, refusal.status)
