"""Which host is told of."""

from __future__ import annotations

from typing import NamedTuple


class Host(NamedTuple):
    """The host that was looked at."""

    name: str
    kernel: str
    """Release, as `uname -r` prints it."""
