"""Metrics rendered once per snapshot, however many ask at a time."""

from __future__ import annotations

import gzip
from functools import partial
from http import HTTPStatus
from typing import Final

from sockwatch.export.formats import Format
from sockwatch.web.content import Content
from sockwatch.web.negotiate import choose_format, prefers_gzip
from sockwatch.web.responses import Response, response
from sockwatch.web.shared import Shared

_VARY: Final = (b"vary", b"Accept, Accept-Encoding")
_GZIP: Final = (b"content-encoding", b"gzip")
_GZIP_LEVEL: Final = 1
"""Of 2,000 series a fifth of the time of level 6, and hardly more bytes."""
_KINDS: Final = 2 * len(Format)
"""Each format plain and gzipped."""


class Rendered:
    """The responses to scrapes of the current snapshot."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._shared = Shared("render", _KINDS)

    async def answer(self, accept: str, accept_encoding: str) -> Response:
        """The response to a scrape with these headers, empty where absent.

        Raises:
            TooMany: rendering does not keep up.
        """
        wanted = (choose_format(accept), prefers_gzip(accept_encoding))
        make = partial(self._render, *wanted)
        return await self._shared.get(self._content.snapshot(), wanted, make)

    def _render(self, fmt: Format, compressed: bool) -> Response:  # noqa: FBT001
        body = self._content.render(fmt)
        if not compressed:
            return response(HTTPStatus.OK, fmt, body, _VARY)
        small = gzip.compress(body, _GZIP_LEVEL, mtime=0)
        return response(HTTPStatus.OK, fmt, small, _VARY, _GZIP)
