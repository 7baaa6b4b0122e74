"""Metrics rendered once per snapshot, however many ask at a time."""

from __future__ import annotations

import asyncio
import gzip
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import Final

from sockwatch.export.formats import Format
from sockwatch.observe.snapshot import Snapshot
from sockwatch.web.content import Content
from sockwatch.web.negotiate import choose_format, prefers_gzip
from sockwatch.web.responses import Response, response

_VARY: Final = (b"vary", b"Accept, Accept-Encoding")
_GZIP: Final = (b"content-encoding", b"gzip")
_GZIP_LEVEL: Final = 1
"""Of 2,000 series a fifth of the time of level 6, and hardly more bytes."""

Wanted = tuple[Format, bool]
"""A format, and whether gzipped."""


class Rendered:
    """The responses to scrapes of the current snapshot.

    One thread renders, so that neither the event loop nor more than one core is kept busy. Who
    asks for what is being rendered waits for the same result.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        self._snapshot: Snapshot | None = None
        self._results: dict[Wanted, asyncio.Future[Response]] = {}
        self._renderer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="render")

    async def answer(self, accept: str, accept_encoding: str) -> Response:
        """The response to a scrape with these headers, empty where absent."""
        snapshot = self._content.snapshot()
        if snapshot is not self._snapshot:
            self._snapshot, self._results = snapshot, {}
        wanted = (choose_format(accept), prefers_gzip(accept_encoding))
        # Shielded: a scrape that is given up must not take the others' result with it.
        return await asyncio.shield(self._results.get(wanted) or self._start(wanted))

    def _start(self, wanted: Wanted) -> asyncio.Future[Response]:
        loop = asyncio.get_running_loop()
        result = loop.run_in_executor(self._renderer, self._render, *wanted)
        self._results[wanted] = result
        result.add_done_callback(partial(_drop_failed, self._results, wanted))
        return result

    def _render(self, fmt: Format, compressed: bool) -> Response:  # noqa: FBT001
        body = self._content.render(fmt)
        if not compressed:
            return response(HTTPStatus.OK, fmt, body, _VARY)
        small = gzip.compress(body, _GZIP_LEVEL, mtime=0)
        return response(HTTPStatus.OK, fmt, small, _VARY, _GZIP)


def _drop_failed(
    results: dict[Wanted, asyncio.Future[Response]],
    wanted: Wanted,
    result: asyncio.Future[Response],
) -> None:
    """Let the next scrape try again."""
    if result.cancelled() or result.exception() is not None:
        results.pop(wanted, None)
