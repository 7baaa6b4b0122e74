"""Groups of stuck connections as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sockwatch.export.leaks.words import process_name, since, words
from sockwatch.export.names import clip, service_name
from sockwatch.export.report.page import GAP, INDENT, Page
from sockwatch.export.terminal import NARROWEST_COLUMN, Cell, display_width, heading, table
from sockwatch.observe.leaks import Group, Leaks

GROUPS: Final = 20
"""Rows shown at most; the filters lead to the others."""
SHARES: Final = 5
"""Processes told of each."""


def group_section(leaks: Leaks, page: Page) -> str:
    """Groups with number, oldest age, state, cause and whose they are."""
    shown = leaks.groups[:GROUPS]
    rest = leaks.groups[GROUPS:]
    number = sum(group.connections for group in rest)
    estimated = f"estimates: one of {leaks.stride:,} connections is followed (tracking.limit)"
    return page.section(
        f"{leaks.connections:,} stuck",
        _table(shown, page),
        page.aside(f"and {len(rest):,} more ({number:,} connections)") if rest else "",
        page.aside(estimated) if leaks.stride > 1 else "",
    )


def _table(shown: Sequence[Group], page: Page) -> str:
    titles = heading(page.style, "number", "oldest", "state", "why", "service")
    facts = [_facts(group, page) for group in shown]
    columns = zip(titles[:-1], *facts, strict=True)
    taken = sum(max(display_width(cell.text) for cell in column) + len(GAP) for column in columns)
    room = max(page.room - len(INDENT) - taken, NARROWEST_COLUMN)
    rows = [
        row
        for group, cells in zip(shown, facts, strict=True)
        for row in _rows(group, cells, page, room)
    ]
    return table([titles, *rows], right={0, 1}, width=page.room, indent=INDENT)


def _facts(group: Group, page: Page) -> list[Cell]:
    return [
        page.count(group.connections, wrong=group.leaking),
        Cell(since(group.oldest, at_least=group.at_least)),
        Cell(group.state.label),
        Cell(words(group.cause, group.state).short),
    ]


def _rows(group: Group, facts: list[Cell], page: Page, room: int) -> Iterator[list[Cell]]:
    """The group, and below it the processes that hold its connections."""
    service = group.service._replace(unit=clip(group.service.unit, room))
    netns = f" in netns {clip(group.netns, room)}" if group.netns else ""
    yield [*facts, Cell(service_name(service) + netns)]
    blank = [Cell("")] * len(facts)
    for process, number in group.shares[:SHARES]:
        name = clip(process_name(process), room)
        yield [*blank, Cell(f"{number:,} of {name}", page.style.dim)]
    rest = len(group.shares) - SHARES
    if rest > 0:
        yield [*blank, Cell(f"and {rest:,} more processes", page.style.dim)]
