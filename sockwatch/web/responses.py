"""Whole responses: made once, sent often."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

Header = tuple[bytes, bytes]

TEXT: Final = "text/plain; charset=utf-8"
HTML: Final = "text/html; charset=utf-8"
CSS: Final = "text/css; charset=utf-8"
JSON: Final = "application/json"

ALLOW: Final[Header] = (b"allow", b"GET, HEAD")
CLOSE: Final[Header] = (b"connection", b"close")
RETRY: Final[Header] = (b"retry-after", b"1")
NOT_KEPT: Final[Header] = (b"cache-control", b"no-store")

# Only what a page of ours needs: no script, no inline style, no other origin.
_POLICY: Final = (
    b"default-src 'none'; style-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY: Final[tuple[Header, ...]] = (
    (b"content-security-policy", _POLICY),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


@dataclass(frozen=True, slots=True)
class Response:
    """A response, complete but for its `Date`."""

    status: HTTPStatus
    headers: tuple[Header, ...]
    body: bytes


def response(
    status: HTTPStatus,
    content_type: str,
    body: bytes,
    *extra: Header,
    cache: Header = NOT_KEPT,
) -> Response:
    """A response with its length and the headers that all of ours carry."""
    length = str(len(body)).encode()
    own = ((b"content-type", content_type.encode()), (b"content-length", length), cache)
    return Response(status, own + extra + SECURITY, body)


def text(status: HTTPStatus, sentence: str, *extra: Header) -> Response:
    """A response of one line of plain text."""
    return response(status, TEXT, f"{sentence}\n".encode(), *extra)


def date() -> Header:
    """The `Date` header of this second."""
    return (b"date", _date(int(time.time())))


def raw(answer: Response) -> bytes:
    """The response as HTTP/1.1 bytes that close the connection, for clients without a request."""
    status = f"HTTP/1.1 {answer.status.value} {answer.status.phrase}".encode()
    headers = (b": ".join(header) for header in (*answer.headers, date(), CLOSE))
    return b"\r\n".join((status, *headers, b"", answer.body))


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
