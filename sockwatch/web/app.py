"""What is served under which path: an ASGI application.

Answers come from an immutable snapshot; no request touches the kernel.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from sockwatch.export.document import Host
from sockwatch.export.leaks.query import LEAKS_PATH
from sockwatch.observe.snapshot import Snapshot
from sockwatch.web.access import may_see_details
from sockwatch.web.api import LISTENERS_PATH, SNAPSHOT_PATH, Api
from sockwatch.web.content import Content
from sockwatch.web.page import STYLE_PATH, page, refusal_page
from sockwatch.web.rendered import Rendered
from sockwatch.web.responses import ALLOW, CSS, HTML, RETRY, Response, date, response, text
from sockwatch.web.shared import TooMany

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Handler = Callable[[Scope], Awaitable[Response]]

METHODS: Final = frozenset({"GET", "HEAD"})
CHUNK: Final = 16 * 1024
"""Bytes of a body that are handed over at a time: all that a slow reader can make us buffer."""

_NOT_FOUND: Final = text(HTTPStatus.NOT_FOUND, "Nothing is served here; see / for what is.")
_NOT_ALLOWED: Final = text(
    HTTPStatus.METHOD_NOT_ALLOWED, "Only GET and HEAD are answered here.", ALLOW
)
_NO_DETAILS: Final = text(
    HTTPStatus.FORBIDDEN,
    "This shows details of connections, so it answers only clients on the host itself, "
    "or that authenticate.",
)
_TOO_MANY: Final = text(
    HTTPStatus.SERVICE_UNAVAILABLE, "Too much is asked for at a time; try again later.", RETRY
)
_HEALTHY: Final = text(HTTPStatus.OK, "Healthy.")
_STYLE: Final = response(
    HTTPStatus.OK,
    CSS,
    Path(__file__).with_name("style.css").read_bytes(),
    cache=(b"cache-control", b"max-age=300"),
)


class App:
    """The route table, and what each route answers.

    Args:
        content: where answers come from.
        telemetry_path: where the metrics are; no other route's path.
        host: name of this host as the page shows it.
        preferred: says which source was asked for.
    """

    def __init__(
        self,
        content: Content,
        *,
        telemetry_path: str = "/metrics",
        host: str | None = None,
        preferred: Callable[[], str] = lambda: "netlink",
    ) -> None:
        self._content = content
        self._telemetry_path = telemetry_path
        uname = os.uname()
        self._host = uname.nodename if host is None else host
        self._rendered = Rendered(content)
        api = Api(content, Host(self._host, uname.release), preferred)
        self._page: tuple[Snapshot | None, int, Response] | None = None
        self._refused = response(HTTPStatus.FORBIDDEN, HTML, refusal_page(telemetry_path).encode())
        self._routes: Mapping[str, Handler] = {
            "/": self._landing,
            "/-/healthy": self._healthy,
            "/-/ready": self._ready,
            STYLE_PATH: self._style,
            SNAPSHOT_PATH: partial(_details, api.snapshot),
            LEAKS_PATH: partial(_details, api.leaks),
            LISTENERS_PATH: partial(_details, api.listeners),
            telemetry_path: self._metrics,
        }

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        answer = await self._answer(scope)
        await send(
            {
                "type": "http.response.start",
                "status": answer.status.value,
                "headers": [date(), *answer.headers],
            }
        )
        body = b"" if scope["method"] == "HEAD" else answer.body
        for start in range(0, max(len(body), 1), CHUNK):
            end = start + CHUNK
            more = end < len(body)
            await send({"type": "http.response.body", "body": body[start:end], "more_body": more})
            if more:  # others have their turn, and a client that has gone is noticed
                await asyncio.sleep(0)

    async def _answer(self, scope: Scope) -> Response:
        handler = self._routes.get(scope["path"])
        if handler is None:
            return _NOT_FOUND
        if scope["method"] not in METHODS:
            return _NOT_ALLOWED
        try:
            return await handler(scope)
        except TooMany:
            return _TOO_MANY

    async def _metrics(self, scope: Scope) -> Response:
        return await self._rendered.answer(
            _header(scope, b"accept"), _header(scope, b"accept-encoding")
        )

    async def _healthy(self, _: Scope) -> Response:
        return _HEALTHY

    async def _ready(self, _: Scope) -> Response:
        ready, reason = self._content.ready()
        return text(HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, reason)

    async def _style(self, _: Scope) -> Response:
        return _STYLE

    async def _landing(self, scope: Scope) -> Response:
        return self._page_of_now() if may_see_details(scope) else self._refused

    def _page_of_now(self) -> Response:
        """The page, made at most once a second for each snapshot."""
        snapshot, now = self._content.snapshot(), time.time()
        if self._page is None or self._page[0] is not snapshot or self._page[1] != int(now):
            html = page(
                snapshot,
                now,
                ready=self._content.ready(),
                host=self._host,
                telemetry_path=self._telemetry_path,
            )
            made = response(HTTPStatus.OK, HTML, html.encode())
            self._page = (snapshot, int(now), made)
        return self._page[2]


async def _details(of: Callable[[str], Awaitable[Response]], scope: Scope) -> Response:
    """What is told to clients on this host only, by the query of their request."""
    return (
        await of(scope["query_string"].decode("latin-1")) if may_see_details(scope) else _NO_DETAILS
    )


def _header(scope: Scope, wanted: bytes) -> str:
    """A list header, its lines joined; empty if absent."""
    return ", ".join(value.decode("latin-1") for name, value in scope["headers"] if name == wanted)
