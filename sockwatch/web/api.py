"""What is served below `/api/v1/`: the snapshot as JSON, for programs on this host.

/api/v1/snapshot    see `sockwatch.export.document`
/api/v1/leaks       see `sockwatch.export.leaks.document`, its parameters included
/api/v1/listeners   see `listeners_document` of `sockwatch.export.document`
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Hashable
from functools import partial
from http import HTTPStatus
from typing import Final

from sockwatch.export.document import Document, Host, document, listeners_document
from sockwatch.export.findings import find
from sockwatch.export.leaks.answering import answer
from sockwatch.export.leaks.document import leaks_document
from sockwatch.export.leaks.query import QueryError, parse_query
from sockwatch.observe.snapshot import Snapshot
from sockwatch.web.content import Content
from sockwatch.web.responses import JSON, Response, response, text
from sockwatch.web.shared import Shared

SNAPSHOT_PATH: Final = "/api/v1/snapshot"
LISTENERS_PATH: Final = "/api/v1/listeners"
_MOST: Final = 4
"""Responses kept: ten thousand connections are four megabytes."""
_NOTHING_YET: Final = text(HTTPStatus.SERVICE_UNAVAILABLE, "No pass has ended yet.")

Make = Callable[[Snapshot], Document]


class Api:
    """Answers from the current snapshot.

    Args:
        content: where snapshots come from.
        host: this host.
        preferred: says which source was asked for.
    """

    def __init__(self, content: Content, host: Host, preferred: Callable[[], str]) -> None:
        self._content = content
        self._host = host
        self._preferred = preferred
        self._shared = Shared("api", _MOST)

    async def snapshot(self, _query: str) -> Response:
        """All that is known.

        Raises:
            TooMany: too much is asked for at a time; likewise below.
        """
        return await self._answer("snapshot", self._document)

    async def listeners(self, _query: str) -> Response:
        """The listeners alone."""
        return await self._answer(
            "listeners", lambda snapshot: listeners_document(snapshot, self._host)
        )

    async def leaks(self, query: str) -> Response:
        """Stuck connections that pass a filter."""
        try:
            wanted = parse_query(query)
        except QueryError as error:
            return text(HTTPStatus.BAD_REQUEST, str(error))
        return await self._answer(
            wanted, lambda snapshot: leaks_document(answer(snapshot, wanted, self._host))
        )

    async def _answer(self, wanted: Hashable, make: Make) -> Response:
        snapshot = self._content.snapshot()
        if snapshot is None:
            return _NOTHING_YET
        return await self._shared.get(snapshot, wanted, partial(_respond, make, snapshot))

    def _document(self, snapshot: Snapshot) -> Document:
        findings = find(snapshot, now=time.time(), preferred=self._preferred())
        return document(snapshot, findings, self._host)


def _respond(make: Make, snapshot: Snapshot) -> Response:
    body = json.dumps(make(snapshot), separators=(",", ":"))
    return response(HTTPStatus.OK, JSON, f"{body}\n".encode())
