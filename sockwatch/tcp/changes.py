"""What has changed from pass to pass where most things are the same objects as before."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from operator import is_not
from typing import TypeVar

T = TypeVar("T")


def changes(before: Sequence[T], now: Sequence[T]) -> list[tuple[T, T]] | None:
    """Old and new of what is another object in its place now; `None` if there are more or fewer."""
    if len(before) != len(now):
        return None
    return [*compress(zip(before, now, strict=True), map(is_not, before, now))]
