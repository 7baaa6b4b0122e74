"""What abusive clients cost others, as a table for people."""

from __future__ import annotations

import math
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sockwatch.web.guard import Limits

SECONDS: Final = 8.0
"""How long each is done for the table: longer than the deadline of a request."""

_TEXT: Final = """\
# What abusive clients cost others

Written by `make abuse` from what the tests in `tests/service/test_abuse.py` measured. Each kind of
abuse is done for {seconds:g} s to a daemon with its default limits: {connections} connections,
{request:g} s for a request, {head:,} bytes of head. Meanwhile another client scrapes `/metrics` on
a new connection every 30 ms. A test fails when memory grows by 20 MB, or when a scrape takes a
second in each of three attempts, which are a row each.

One run, Python {python} on {cores} cores, which daemon, scraper and abuser share; the load average
was {before} before it and {after} after. "Nobody" is the same measurement with no abuse. With HTTPS
the daemon asks for a password, hashed by bcrypt at cost 10. "From everywhere" is from an address
of its own for each connection; all other abuse is from one address. Memory is the most that was
resident beyond what was before the first abuse.

| abuse | over | scrapes | median ms | worst ms | memory MB |
| --- | --- | ---: | ---: | ---: | ---: |
"""


@dataclass(frozen=True)
class Suffered:
    """What one abuse did."""

    name: str
    scheme: str
    scrapes: Sequence[float]
    """Seconds that each took; infinite if it failed."""
    memory: int
    """Bytes beyond those at rest."""

    @property
    def worst(self) -> float:
        return max(self.scrapes)

    def row(self) -> str:
        cells = (
            self.name,
            self.scheme,
            f"{len(self.scrapes)}",
            _milliseconds(statistics.median(self.scrapes)),
            _milliseconds(self.worst),
            f"{self.memory / 1e6:.1f}",
        )
        return f"| {' | '.join(cells)} |"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}" if math.isfinite(seconds) else "failed"


def load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def markdown(rows: Iterable[Suffered], before: str, after: str) -> str:
    """The table with what has to be known of it."""
    limits = Limits()
    text = _TEXT.format(
        seconds=SECONDS,
        connections=limits.connections,
        request=limits.request,
        head=limits.head_bytes,
        python=".".join(map(str, sys.version_info[:2])),
        cores=os.cpu_count(),
        before=before,
        after=after,
    )
    return text + "\n".join(row.row() for row in rows) + "\n"
