"""Sockets by phase and state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Final

from sockwatch.export.report.page import INDENT, Page
from sockwatch.export.terminal import Cell, heading, table
from sockwatch.observe.snapshot import NamespaceView
from sockwatch.tcp.model import MODEL, Phase, Standing
from sockwatch.tcp.states import Family, State, Unowned

_PHASES: Final = (
    Phase.OPENING,
    Phase.ESTABLISHED,
    Phase.CLOSING_ACTIVE,
    Phase.CLOSING_PASSIVE,
    Phase.LISTEN,
    Phase.CLOSED,
)
_STANDINGS: Final = sorted(
    {standing.state: standing for standing in MODEL}.values(),
    key=lambda standing: (_PHASES.index(standing.phase), standing.step),
)
"""One for each state, in the order in which a connection goes through them."""

_ROOM_FOR_ALL: Final = 80
"""Columns from which on step and who acts next are shown, too."""

_UNOWNED: Final[Mapping[Unowned, str]] = {
    Unowned.HALF_OPEN: "half-open",
    Unowned.NOT_ACCEPTED: "waiting for accept()",
    Unowned.ORPHAN: "orphans",
    Unowned.MINI: "in time_wait or closed fin_wait2",
}


def state_section(view: NamespaceView, page: Page, title: str) -> str:
    """The states that sockets are in, those that none is in, and who holds none of them."""
    totals = {one.state: _total(view, one.state) for one in _STANDINGS}
    remarks = {
        "no socket in": [state.label for state, total in totals.items() if total == 0],
        "not measured:": [state.label for state, total in totals.items() if total is None],
        "held by no process:": _unowned(view),
    }
    lines = [page.aside(f"{text} {', '.join(names)}") for text, names in remarks.items() if names]
    return page.section(title, _table(view, page), *lines)


def _total(view: NamespaceView, state: State) -> int | None:
    counts = [view.sockets[family, state] for family in Family if (family, state) in view.sockets]
    return sum(counts) if counts else None


def _unowned(view: NamespaceView) -> list[str]:
    if view.unowned is None:
        return ["not known from this source"]
    present = [(text, view.unowned.get(kind, 0)) for kind, text in _UNOWNED.items()]
    return [f"{count:,} {text}" for text, count in present if count] or ["none"]


def _table(view: NamespaceView, page: Page) -> str:
    rows = list(_rows(view, page))
    if not rows:
        return ""
    titles = heading(page.style, "", "IPv4", "IPv6", "all", "step", "who acts next")
    columns = len(titles) if page.width >= _ROOM_FOR_ALL else len(titles) - 2
    cells = [row[:columns] for row in [titles, *rows]]
    return table(cells, right={1, 2, 3}, width=page.room, indent=INDENT)


def _rows(view: NamespaceView, page: Page) -> Iterator[list[Cell]]:
    present = [one for one in _STANDINGS if _total(view, one.state)]
    for phase, group in groupby(present, key=lambda one: one.phase):
        standings = list(group)
        speaks_for_itself = [one.state.label for one in standings] == [phase.value]
        if not speaks_for_itself:
            yield [Cell(phase.value)]
        indent = "" if speaks_for_itself else INDENT
        yield from (_row(one, view, page, indent) for one in standings)


def _row(standing: Standing, view: NamespaceView, page: Page, indent: str) -> list[Cell]:
    state = standing.state
    return [
        Cell(indent + state.label),
        *(page.count(view.sockets.get((family, state))) for family in Family),
        page.count(_total(view, state)),
        Cell(standing.step.replace(" of ", "/")),
        Cell(standing.waits_on),
    ]
