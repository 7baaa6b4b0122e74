"""Listeners with their accept queues."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from sockwatch.export.findings import Finding
from sockwatch.export.names import clip, endpoint
from sockwatch.export.report.page import GAP, INDENT, NAME_ROOM, Page
from sockwatch.export.terminal import Cell, display_width, heading, table
from sockwatch.observe.snapshot import Listener, NamespaceView

LISTENERS: Final = 10
"""Rows shown unless asked otherwise."""

_NUMBERS: Final = ("queue", "limit", "full")


def listener_section(
    view: NamespaceView, suspects: Sequence[Finding], page: Page, title: str
) -> str:
    """Listeners, the fullest first; empty without any."""
    if not view.listeners:
        return ""
    shown = page.first(sorted(view.listeners, key=_order), LISTENERS)
    rest = len(view.listeners) - len(shown)
    return page.section(
        title,
        _table(shown, {one.listener for one in suspects}, page),
        page.aside(f"and {rest:,} more") if rest else "",
    )


def _order(listener: Listener) -> tuple[float, int, int, str, str]:
    share, queue = _share(listener) or 0, listener.queue or 0
    return -share, -queue, listener.port, listener.address, listener.unit


def _share(listener: Listener) -> float | None:
    """How much of the accept queue is in use; `None` where that is not known."""
    if listener.queue is None or listener.limit is None:
        return None
    return listener.queue / max(listener.limit, 1)


def _table(shown: Sequence[Listener], wrong: Collection[Listener | None], page: Page) -> str:
    numbers = [_numbers(one, page, wrong=one in wrong) for one in shown]
    columns = zip(heading(page.style, *_NUMBERS), *numbers, strict=True)
    room = page.room - len(INDENT) - sum(_width(column) + len(GAP) for column in columns)
    names = [clip(endpoint(one), room - len(GAP) - NAME_ROOM) for one in shown]
    left = room - max(map(display_width, ["address", *names])) - len(GAP)
    rows = [
        [*cells, Cell(name), Cell(_unit(one, left))]
        for one, cells, name in zip(shown, numbers, names, strict=True)
    ]
    titles = heading(page.style, *_NUMBERS, "address", "unit")
    return table([titles, *rows], right={0, 1, 2}, width=page.room, indent=INDENT)


def _numbers(listener: Listener, page: Page, *, wrong: bool) -> list[Cell]:
    share = _share(listener)
    queue = page.count(listener.queue, wrong=wrong)
    return [
        queue,
        page.count(listener.limit),
        queue._replace(text="-" if share is None else f"{share:.0%}"),
    ]


def _width(column: Iterable[Cell]) -> int:
    return max(display_width(cell.text) for cell in column)


def _unit(listener: Listener, room: int) -> str:
    unit = clip(listener.unit or "-", room)
    return unit if listener.sockets == 1 else f"{unit} ({listener.sockets:,} sockets)"
