"""Destinations that use up many source ports, and those that do not answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import repeat
from typing import Final

from sockwatch.export.findings import Finding, Kind
from sockwatch.export.names import clip
from sockwatch.export.report.page import GAP, INDENT, NAME_ROOM, Page, bar
from sockwatch.export.terminal import Cell, display_width, heading, table
from sockwatch.observe.snapshot import DestinationUse, NamespaceView

_BAR: Final = 20
"""Columns of a bar at most."""
_SHORTEST_BAR: Final = 5


def destination_section(
    view: NamespaceView, suspects: Sequence[Finding], page: Page, title: str
) -> str:
    """Destinations, the fullest first; empty if there is nothing to tell of any."""
    found = view.destinations
    if found is None or not (found.crowded or found.unanswered):
        return ""
    wrong = {one.destination for one in suspects if one.kind is Kind.EPHEMERAL_PORTS}
    lines = (
        page.aside(f"no answer from {destination}: {number:,} connections")
        for destination, number in (found.unanswered or {}).items()
    )
    rows = _table(found.crowded, found.ports, wrong, page) if found.crowded else ""
    return page.section(title, rows, *lines)


def _table(
    crowded: Sequence[DestinationUse],
    ports: int | None,
    wrong: Collection[str | None],
    page: Page,
) -> str:
    columns = _columns(crowded, ports, wrong, page)
    room = page.room - len(INDENT) - sum(_width(column) + len(GAP) for column in columns)
    sources, ends = [one.source for one in crowded], [one.destination for one in crowded]
    bar_room = min(room - sum(max(map(len, names)) + len(GAP) for names in (ends, sources)), _BAR)
    if bar_room >= _SHORTEST_BAR:
        paints = (cell.paint for cell in columns[0][1:])
        bars = map(bar, (_share(one, ports) for one in crowded), repeat(bar_room))
        columns.append([Cell(""), *map(Cell, bars, paints)])
        room -= bar_room + len(GAP)
    for_source = min(NAME_ROOM, max(map(len, sources)))
    ends = [clip(end, room - len(GAP) - for_source) for end in ends]
    left = room - len(GAP) - max(map(len, ends))
    columns.append([*heading(page.style, "to"), *map(Cell, ends)])
    columns.append([*heading(page.style, "from"), *(Cell(clip(one, left)) for one in sources)])
    rows = zip(*columns, strict=True)
    return table(rows, right={0, 1, 2}, width=page.room, indent=INDENT)


def _width(column: Sequence[Cell]) -> int:
    return max(display_width(cell.text) for cell in column)


def _columns(
    crowded: Sequence[DestinationUse],
    ports: int | None,
    wrong: Collection[str | None],
    page: Page,
) -> list[list[Cell]]:
    """The numbers, each with its title."""
    in_use = [page.count(one.in_use, wrong=one.destination in wrong) for one in crowded]
    shares = [_share(one, ports) for one in crowded]
    full = (
        cell._replace(text="-" if share is None else f"{share:.0%}")
        for cell, share in zip(in_use, shares, strict=True)
    )
    waiting = (page.count(one.time_wait) for one in crowded)
    titles = heading(page.style, "ports", "time wait", "full")
    return [[title, *cells] for title, cells in zip(titles, (in_use, waiting, full), strict=True)]


def _share(one: DestinationUse, ports: int | None) -> float | None:
    return one.in_use / ports if ports else None
