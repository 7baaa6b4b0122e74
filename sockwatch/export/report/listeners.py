"""Listeners with their queues."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from sockwatch.export.findings import Finding, Kind
from sockwatch.export.names import clip, endpoint
from sockwatch.export.report.page import GAP, INDENT, NAME_ROOM, Page, bar
from sockwatch.export.terminal import Cell, display_width, heading, table
from sockwatch.observe.snapshot import Listener, NamespaceView

LISTENERS: Final = 10
"""Rows shown unless asked otherwise."""

_BAR: Final = 10
"""Columns of a bar at most; there are none where names would have to be shortened for them."""
_SHORTEST_BAR: Final = 5
_UNLIMITED: Final = 1 << 16


class _Column(NamedTuple):
    """A number of a listener, left out where no listener has anything to tell there."""

    title: str
    value: Callable[[Listener], int | None]
    tells: Callable[[Listener], object]
    kinds: Collection[Kind] = ()
    """Findings that are about it."""


_ALWAYS: Final = 3
"""Columns that are always there: the queue, its limit, how full it is."""
_COLUMNS: Final = (
    _Column("queue", lambda one: one.queue, lambda _: True, (Kind.ACCEPT_QUEUE,)),
    _Column("limit", lambda one: one.limit, lambda _: True),
    _Column("drops", lambda one: one.drops, lambda one: one.drops),
    _Column(
        "half-open",
        lambda one: one.half_open,
        lambda one: one.half_open,
        (Kind.SYN_QUEUE, Kind.SYN_FLOOD),
    ),
    _Column("peak", lambda one: one.peak, lambda one: (one.peak or 0) > (one.queue or 0)),
)


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
        _table(shown, {one.listener: one.kind for one in suspects if one.listener}, page),
        page.aside(f"and {rest:,} more") if rest else "",
    )


def _order(listener: Listener) -> tuple[float, int, int, int, str, str]:
    shares = _full(listener), _share(listener, listener.half_open)
    fullest = max(float(listener.full > 0), *(share or 0.0 for share in shares))
    return (
        -fullest,
        -(listener.queue or 0),
        -(listener.drops or 0),
        listener.port,
        listener.address,
        listener.unit,
    )


def _share(listener: Listener, queue: int | None) -> float | None:
    """How much of a queue is in use, both have the same limit; `None` where it is not known."""
    if queue is None or listener.limit is None:
        return None
    return queue / max(listener.limit, 1)


def _full(listener: Listener) -> float | None:
    return _share(listener, listener.queue)


def _table(shown: Sequence[Listener], wrong: Mapping[Listener, Kind], page: Page) -> str:
    columns = _columns(shown, wrong, page)
    names_room = _room_for_names(shown)
    while _left(columns, page) < min(names_room, 2 * NAME_ROOM) and len(columns) > _ALWAYS:
        columns.pop()
    numbers, room = len(columns), _left(columns, page)
    bar_room = min(room - len(GAP) - names_room, _BAR)
    if bar_room >= _SHORTEST_BAR and any(one.queue for one in shown):
        columns.append([Cell(""), *(_bar(one, bar_room, wrong, page) for one in shown)])
        room -= bar_room + len(GAP)
    for_units = min(_widest_unit(shown), NAME_ROOM)
    names = [clip(endpoint(one), room - len(GAP) - for_units) for one in shown]
    left = room - max(map(display_width, ["address", *names])) - len(GAP)
    columns.append([*heading(page.style, "address"), *map(Cell, names)])
    columns.append([*heading(page.style, "unit"), *(Cell(_unit(one, left)) for one in shown)])
    rows = zip(*columns, strict=True)
    return table(rows, right={*range(numbers)}, width=page.room, indent=INDENT)


def _left(columns: Sequence[Sequence[Cell]], page: Page) -> int:
    """What is left of a line for names."""
    taken = sum(len(GAP) + max(display_width(cell.text) for cell in column) for column in columns)
    return page.room - len(INDENT) - taken


def _room_for_names(shown: Sequence[Listener]) -> int:
    names = max(display_width(name) for name in ("address", *map(endpoint, shown)))
    return names + len(GAP) + _widest_unit(shown)


def _widest_unit(shown: Sequence[Listener]) -> int:
    return max(display_width(unit) for unit in ("unit", *(_unit(one, _UNLIMITED) for one in shown)))


def _columns(
    shown: Sequence[Listener], wrong: Mapping[Listener, Kind], page: Page
) -> list[list[Cell]]:
    """The numbers, each with its title."""
    columns = [
        [*heading(page.style, column.title), *_cells(column, shown, wrong, page)]
        for column in _COLUMNS
        if any(map(column.tells, shown))
    ]
    full = (
        queue._replace(text="-" if share is None else f"{share:.0%}")
        for queue, share in zip(columns[0][1:], map(_full, shown), strict=True)
    )
    columns.insert(_ALWAYS - 1, [*heading(page.style, "full"), *full])
    return columns


def _cells(
    column: _Column, shown: Sequence[Listener], wrong: Mapping[Listener, Kind], page: Page
) -> Iterator[Cell]:
    for one in shown:
        yield page.count(column.value(one), wrong=wrong.get(one) in column.kinds)


def _bar(listener: Listener, room: int, wrong: Mapping[Listener, Kind], page: Page) -> Cell:
    paint = page.style.red if wrong.get(listener) is Kind.ACCEPT_QUEUE else str
    return Cell(bar(_full(listener), room), paint)


def _unit(listener: Listener, room: int) -> str:
    unit = clip(listener.unit or "-", room)
    return unit if listener.sockets == 1 else f"{unit} ({listener.sockets:,} sockets)"
