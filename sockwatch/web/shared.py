"""Responses that take time: made in one thread, once per snapshot however many ask at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor

from sockwatch.observe.snapshot import Snapshot
from sockwatch.web.responses import Response


class TooMany(Exception):
    """So many responses are being made that whoever wants another has to ask again later."""


class Shared:
    """Responses that depend on a snapshot, kept until there is a newer one.

    One thread makes them, so that neither the event loop nor more than one core is kept busy. Who
    asks for what is being made waits for the same response.

    Args:
        name: of the thread.
        most: responses that are kept, and that wait to be made, at most.
    """

    def __init__(self, name: str, most: int) -> None:
        self._most = most
        self._snapshot: Snapshot | None = None
        self._results: dict[Hashable, asyncio.Future[Response]] = {}
        self._unfinished = 0
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def get(
        self, snapshot: Snapshot | None, wanted: Hashable, make: Callable[[], Response]
    ) -> Response:
        """What `make` makes of the snapshot, for all who want the same.

        Raises:
            TooMany: not now.
        """
        if snapshot is not self._snapshot:
            self._snapshot, self._results = snapshot, {}
        # Shielded: who gives up must not take the others' result with them.
        return await asyncio.shield(self._results.get(wanted) or self._start(wanted, make))

    def _start(self, wanted: Hashable, make: Callable[[], Response]) -> asyncio.Future[Response]:
        if self._unfinished >= self._most:
            raise TooMany
        results = self._results
        if len(results) >= self._most:
            del results[next(iter(results))]
        result = asyncio.get_running_loop().run_in_executor(self._worker, make)
        results[wanted] = result
        self._unfinished += 1
        result.add_done_callback(lambda _: self._finished(results, wanted, result))
        return result

    def _finished(
        self,
        results: dict[Hashable, asyncio.Future[Response]],
        wanted: Hashable,
        result: asyncio.Future[Response],
    ) -> None:
        """Let whoever asks next try again if it failed."""
        self._unfinished -= 1
        if result.cancelled() or result.exception() is not None:
            results.pop(wanted, None)
