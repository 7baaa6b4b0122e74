"""Text for terminals: colour where it is wanted, columns that line up, nothing hostile let through.

Names of units, processes and hosts are chosen by others, so every cell is made printable before
it is measured, and styled last.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from types import MappingProxyType
from typing import Final, NamedTuple, TextIO

_DEFAULT_WIDTH: Final = 80
_SMALLEST_WIDTH: Final = 40
NARROWEST_COLUMN: Final = 10
"""Columns that the last column of a table gets at least, if it has so much to tell."""
_UNLIMITED: Final = 1 << 16
_GAP: Final = "  "
_SECONDS_SUFFICE: Final = 1000
_LONG_TIMES: Final = (
    (86_400, "d", 3600, "h"),
    (3600, "h", 60, "min"),
    (60, "min", 1, "s"),
)

_KIB: Final = 1024
_UNITS: Final = ("KiB", "MiB", "GiB", "TiB")
_TENTHS_BELOW: Final = 10


class Style(NamedTuple):
    """Marks text with SGR sequences of ECMA-48, or leaves it plain."""

    coloured: bool

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str] = os.environ) -> Style:
        """Coloured on a terminal that can, unless NO_COLOR is set and not empty."""
        refused = bool(environ.get("NO_COLOR")) or environ.get("TERM") == "dumb"
        return cls(not refused and stream.isatty())

    def bold(self, text: str) -> str:
        """Headings, and what to look at first."""
        return self._mark("1", text)

    def dim(self, text: str) -> str:
        """What matters less."""
        return self._mark("2", text)

    def red(self, text: str) -> str:
        """What is wrong."""
        return self._mark("31", text)

    def yellow(self, text: str) -> str:
        """What may go wrong."""
        return self._mark("33", text)

    def green(self, text: str) -> str:
        """What is as it should be."""
        return self._mark("32", text)

    def _mark(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.coloured and text else text


PLAIN: Final = Style(coloured=False)


class Cell(NamedTuple):
    """Text of a table with the style it gets, such as `Cell("close_wait", style.red)`."""

    text: str
    paint: Callable[[str], str] = str


def width_of(stream: TextIO, environ: Mapping[str, str] = os.environ) -> int:
    """Columns to write for: COLUMNS, else those of the terminal, else 80; never below 40."""
    wanted = environ.get("COLUMNS", "")
    if wanted.isdecimal():
        return max(int(wanted), _SMALLEST_WIDTH)
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return max(columns, _SMALLEST_WIDTH) if columns else _DEFAULT_WIDTH


def printable(text: str) -> str:
    r"""The text with everything that could steer a terminal escaped: ESC becomes `\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def display_width(text: str) -> int:
    """Columns that printable text takes: 2 for wide characters, 0 for combining marks."""
    return len(text) if text.isascii() else sum(map(_char_width, text))


def _char_width(char: str) -> int:
    if unicodedata.category(char) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1


def wrap(text: str, width: int) -> list[str]:
    """Lines of whole words, at most `width` columns each; a longer word has a line to itself."""
    lines = [""]
    for word in printable(" ".join(text.split())).split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and display_width(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def paragraph(text: str, width: int, indent: str = "") -> str:
    """The text wrapped to `width` columns, each line indented."""
    return "\n".join(indent + line for line in wrap(text, width - len(indent)))


def duration(seconds: float) -> str:
    """A time for people, rounded down: `0.6 s`, `131 s`, `2 h 11 min`, `3 d 4 h`."""
    if seconds < _SECONDS_SUFFICE:
        tenths = int(seconds * 10) / 10
        return f"{tenths:g} s" if seconds < 1 else f"{int(seconds)} s"
    return next(
        f"{int(seconds // large)} {name} {int(seconds % large // small)} {part}"
        for large, name, small, part in _LONG_TIMES
        if seconds >= large
    )


def size(count: int) -> str:
    """Bytes for people: `260 KiB`, `2.2 GiB`."""
    power = max(0, min((count.bit_length() - 1) // 10 - 1, len(_UNITS) - 1))
    value = count / _KIB ** (power + 1)
    number = f"{value:.1f}" if 0 < value < _TENTHS_BELOW else f"{value:,.0f}"
    return f"{number} {_UNITS[power]}"


def heading(style: Style, *names: str) -> list[Cell]:
    """A first row for `table`."""
    return [Cell(name, style.bold) for name in names]


def table(
    rows: Iterable[Sequence[str | Cell]],
    *,
    right: Collection[int] = (),
    most: Mapping[int, int] = MappingProxyType({}),
    width: int = 0,
    indent: str = "",
) -> str:
    """Rows in aligned columns, without a newline at the end.

    Args:
        rows: cells; a short row ends in empty cells.
        right: numbers of the columns that are aligned to the right, from 0.
        most: widest that a column of that number may be; longer cells are wrapped.
        width: columns of the terminal; the last column is wrapped into what is left. 0: no wrap.
        indent: what each line begins with.
    """
    cells = [list(map(_cell, row)) for row in rows]
    columns = enumerate(zip_longest(*cells, fillvalue=Cell("")))
    widths = [
        min(max(display_width(cell.text) for cell in column), most.get(number, _UNLIMITED))
        for number, column in columns
    ]
    if width and widths:
        taken = len(indent) + sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
        widths[-1] = min(widths[-1], max(width - taken, NARROWEST_COLUMN))
    lines = (_line(part, widths, right) for row in cells for part in _split(row, widths))
    return "\n".join(indent + line for line in lines)


def _cell(cell: str | Cell) -> Cell:
    text, paint = (cell, str) if isinstance(cell, str) else cell
    return Cell(printable(text), paint)


def _split(row: Sequence[Cell], widths: Sequence[int]) -> Iterator[tuple[Cell, ...]]:
    """The row as rows of which each cell fits its column, as far as words can be kept whole."""
    parts = (
        [cell._replace(text=text) for text in wrap(cell.text, width)]
        if display_width(cell.text) > width
        else [cell]
        for cell, width in zip(row, widths, strict=False)
    )
    return zip_longest(*parts, fillvalue=Cell(""))


def _line(row: Sequence[Cell], widths: Sequence[int], right: Collection[int]) -> str:
    line = []
    for number, (cell, width) in enumerate(zip(row, widths, strict=False)):
        pad = " " * (width - display_width(cell.text))
        text = cell.paint(cell.text)
        line.append(pad + text if number in right else text + pad)
    return _GAP.join(line).rstrip()
