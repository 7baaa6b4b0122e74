"""What the parts of a report share: the terminal they are written for, and cells of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from sockwatch.export.terminal import PLAIN, Cell, Style, paragraph

T = TypeVar("T")

INDENT: Final = "  "
GAP: Final = "  "
"""Between columns, as `table` writes it."""
NAME_ROOM: Final = 16
"""Columns that a name gets at least; in fewer it tells nothing."""
NARROWEST: Final = 60
"""Columns below which tables do not become narrower."""
READABLE: Final = 100
"""Columns beyond which prose is hard to read."""


@dataclass(frozen=True, slots=True)
class Page:
    """For whom a report is rendered."""

    style: Style = PLAIN
    width: int = 80
    """Columns of the terminal."""
    limit: int | None = None
    """Rows of each list: `None` for as many as suit it, 0 for all."""

    @property
    def room(self) -> int:
        """Columns that a table may take."""
        return max(self.width, NARROWEST)

    @property
    def prose(self) -> int:
        """Columns that sentences may take."""
        return min(self.width, READABLE)

    def first(self, rows: Sequence[T], usual: int) -> Sequence[T]:
        """The rows to show of a list of which usually `usual` are shown."""
        limit = usual if self.limit is None else self.limit
        return rows[:limit] if limit else rows

    def section(self, title: str, *parts: str) -> str:
        """A title with what stands below it; empty parts take no line."""
        titles = map(self.style.bold, paragraph(title, self.prose).splitlines())
        return "\n".join([*titles, *filter(None, parts)])

    def count(self, value: int | None, *, wrong: bool = False) -> Cell:
        """A number; zero steps back, and what is not known is not written as a number."""
        text = "-" if value is None else f"{value:,}"
        if wrong:
            return Cell(text, self.style.red)
        return Cell(text, str if value else self.style.dim)

    def aside(self, text: str) -> str:
        """A remark below a table."""
        lines = paragraph(text, self.prose, INDENT).splitlines()
        return "\n".join(map(self.style.dim, lines))


def bar(share: float | None, width: int) -> str:
    """The share as `##........`, nothing if it is not known; more than all is all."""
    if share is None:
        return ""
    filled = min(round(share * width), width)
    return "#" * filled + "." * (width - filled)
