"""Stuck connections one by one, as a table that fits the terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Final

from sockwatch.export.leaks.words import process_name, since, words
from sockwatch.export.names import clip
from sockwatch.export.report.page import GAP, INDENT, NAME_ROOM, Page
from sockwatch.export.terminal import Cell, display_width, printable, table
from sockwatch.observe.leaks import Leak, Leaks

Fields = Mapping[str, str]
"""What is told of a connection, printable, by the title of its column."""
Layout = Sequence[Sequence[str]]
"""Columns, and what stands one below the other in each; what can be cut is in the last."""

LAYOUTS: Final[Sequence[Layout]] = (
    (("age",), ("state",), ("why",), ("local",), ("remote",), ("process",), ("unit",)),
    (("age",), ("state", "why"), ("local", "remote"), ("process", "unit")),
    (("age", "state", "why"), ("local", "remote", "process", "unit")),
    (("age", "state"), ("why", "local", "remote", "process", "unit")),
)
"""From wide terminals to narrow ones."""
_MAY_BE_CUT: Final = frozenset({"process", "unit"})
_MAY_BE_SAID_ONCE: Final = ("state", "why", "process", "unit")
_UNKNOWN: Final = "-"
_UNLIMITED: Final = 1 << 16


def socket_section(leaks: Leaks, page: Page) -> str:
    """Connections, the oldest first; what they all have in common is said once."""
    rows = [_fields(leak) for leak in leaks.sockets]
    same = {
        name: rows[0][name]
        for name in _MAY_BE_SAID_ONCE
        if len(rows) > 1 and all(row[name] == rows[0][name] for row in rows)
    }
    common = ", ".join(text for text in same.values() if text != _UNKNOWN)
    rest = leaks.connections - len(rows)
    return page.section(
        "Connections, oldest first" + (f": {common}" if common else ""),
        _table(rows, same, page),
        page.aside(f"and {rest:,} more, see --limit") if rest > 0 else "",
        page.aside("> at least, as nobody saw it enter the state")
        if any(leak.at_least for leak in leaks.sockets)
        else "",
    )


def _fields(leak: Leak) -> Fields:
    return {
        "age": since(leak.age, at_least=leak.at_least),
        "state": leak.state.label + (" (mptcp)" if leak.multipath else ""),
        "why": words(leak.cause, leak.state).short,
        "local": _endpoint(leak.local, leak.local_port),
        "remote": _endpoint(leak.remote, leak.remote_port),
        "process": _process(leak),
        "unit": printable(leak.unit) or _UNKNOWN,
    }


def _endpoint(address: str, port: int) -> str:
    address = printable(address)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _process(leak: Leak) -> str:
    if not leak.processes:
        return _UNKNOWN if leak.inode else "none"
    others = (leak.holders or 1) - 1
    return process_name(leak.processes[0]) + (f" +{others}" if others > 0 else "")


def _table(rows: Sequence[Fields], same: Collection[str], page: Page) -> str:
    titles = {name: name for name in rows[0]}
    everything = [titles, *rows]
    layouts = [_without(layout, same) for layout in LAYOUTS]
    fitting = (one for one in layouts if _room(one, everything, page) >= _need(one, everything))
    layout = next(fitting, layouts[-1])
    room = max(_room(layout, everything, page), NAME_ROOM)
    heads = [[Cell(text, page.style.bold) for text in line] for line in _lines(titles, layout)]
    cells = [line for row in rows for line in _lines(_cut(row, room), layout)]
    right = {0} if len(layout[0]) == 1 else set[int]()
    return table([*heads, *cells], right=right, width=page.room, indent=INDENT)


def _without(layout: Layout, names: Collection[str]) -> Layout:
    columns = ([name for name in column if name not in names] for column in layout)
    return [column for column in columns if column]


def _room(layout: Layout, rows: Sequence[Fields], page: Page) -> int:
    """What is left for the last column."""
    taken = sum(
        len(GAP) + max(display_width(row[name]) for row in rows for name in column)
        for column in layout[:-1]
    )
    return page.room - len(INDENT) - taken


def _need(layout: Layout, rows: Sequence[Fields]) -> int:
    """What the last column cannot do without."""
    return max(
        min(display_width(row[name]), NAME_ROOM if name in _MAY_BE_CUT else _UNLIMITED)
        for row in rows
        for name in layout[-1]
    )


def _cut(row: Fields, room: int) -> Fields:
    return {name: clip(text, room) if name in _MAY_BE_CUT else text for name, text in row.items()}


def _lines(row: Fields, layout: Layout) -> Iterator[tuple[str, ...]]:
    """A connection as lines of the table."""
    stacks = ([row[name] for name in column] for column in layout)
    return zip_longest(*stacks, fillvalue="")
