"""Another client: a process that scrapes again and again, and notes how long each scrape took.

    with scraping(port, authority.cert, authorization) as scrapes:
        start = time.monotonic()
        ...
        assert max(scrapes.since(start)) < 1.0

A process of its own, so that what the test does meanwhile does not slow it down; and from another
address of loopback, as another client would be.
"""

from __future__ import annotations

import http.client
import math
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

ADDRESS: Final = "127.0.0.2"
GAP: Final = 0.03
"""Seconds between two scrapes."""
PATIENCE: Final = 10.0
"""Seconds after which a scrape has failed."""


class Scrapes:
    """What the process has noted."""

    def __init__(self, notes: Path) -> None:
        self._notes = notes

    def since(self, start: float) -> list[float]:
        """Seconds that each scrape took that began after a time; infinity for a failed one."""
        *lines, _ = self._notes.read_text().split("\n")  # the last one is being written
        pairs = map(str.split, lines)
        return [float(took) for began, took in pairs if float(began) >= start]


@contextmanager
def scraping(port: int, trusted: Path | None = None, authorization: str = "") -> Iterator[Scrapes]:
    """Scrape while the block lasts.

    Args:
        port: of a server on loopback.
        trusted: certificate of the authority to trust; `None` for plain HTTP.
        authorization: header, if any.
    """
    command = [sys.executable, __file__, str(port), str(trusted or ""), authorization]
    with tempfile.TemporaryDirectory(prefix="sockwatch-test-") as folder:
        notes = Path(folder, "notes")
        with notes.open("wb") as output:
            process = subprocess.Popen(command, stdout=output)
        try:
            yield Scrapes(notes)
        finally:
            process.terminate()
            process.wait(10)


def _client(port: int, trusted: str) -> http.client.HTTPConnection:
    source = (ADDRESS, 0)
    if not trusted:
        return http.client.HTTPConnection(
            "127.0.0.1", port, timeout=PATIENCE, source_address=source
        )
    context = ssl.create_default_context(cafile=trusted)
    return http.client.HTTPSConnection(
        "127.0.0.1", port, timeout=PATIENCE, source_address=source, context=context
    )


def _scrape(port: int, trusted: str, authorization: str) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    with closing(_client(port, trusted)) as client:
        client.request("GET", "/metrics", headers=headers)
        answer = client.getresponse()
        if answer.status != http.client.OK or b"sockwatch_build_info" not in answer.read():
            raise ConnectionError(answer.status)


def _main(port: str, trusted: str, authorization: str) -> None:
    while True:
        start = time.monotonic()
        try:
            _scrape(int(port), trusted, authorization)
        except (OSError, http.client.HTTPException) as error:
            print(error, file=sys.stderr)  # noqa: T201
            took = math.inf
        else:
            took = time.monotonic() - start
        print(start, took, flush=True)  # noqa: T201
        time.sleep(GAP)


if __name__ == "__main__":
    _main(*sys.argv[1:])
