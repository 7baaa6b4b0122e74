"""Limits of the kernel with what is in use, and those that have no usage of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from sockwatch.export.findings.limits import ORPHANS_ACTED_ON
from sockwatch.export.report.page import GAP, INDENT, Page, bar
from sockwatch.export.terminal import Cell, display_width, heading, size, table
from sockwatch.observe.figures import Figures
from sockwatch.observe.snapshot import NamespaceView

_BAR: Final = 20
"""Columns of a bar at most."""
_SHORTEST_BAR: Final = 5
_SOON: Final = 0.5
"""Of what makes the kernel act: from there on it is shown as what may go wrong."""
_TITLES: Final = ("", "used", "limit", "full", "acts from")
_ALWAYS: Final = 3
"""Columns that are shown also where they do not fit."""


class _Usage(NamedTuple):
    """One usage with its limit, and from which share of it on the kernel acts."""

    name: str
    used: int | None
    limit: int | None
    acts_from: float | None
    text: Callable[[int], str] = "{:,}".format

    @property
    def share(self) -> float | None:
        """How much of the limit is in use."""
        if self.used is None or not self.limit:
            return None
        return self.used / self.limit

    @property
    def urgency(self) -> float:
        """How much of what makes the kernel act is in use, 1 and more when it does."""
        return self.share / self.acts_from if self.share and self.acts_from else 0.0


def limit_section(view: NamespaceView, page: Page, title: str) -> str:
    """Limits, the nearest first; empty if nothing of them is known."""
    known = [one for one in _usages(view) if one.used is not None]
    rows = _table(sorted(known, key=lambda one: -one.urgency), page) if known else ""
    asides = map(page.aside, filter(None, (_settings(view.figures), _hidden(view.figures))))
    parts = [rows, *asides]
    return page.section(title, *parts) if any(parts) else ""


def _usages(view: NamespaceView) -> Iterator[_Usage]:
    if view.destinations is not None:
        found = view.destinations
        yield _Usage("ports to one end", found.in_use_max, found.ports, 1.0)
    figures = view.figures
    if figures is None:
        return
    yield _Usage("TIME_WAIT", figures.time_wait, figures.time_wait_limit, 1.0)
    if figures.host is not None:
        host, levels = figures.host, figures.host.memory_limits
        yield _Usage("orphans (host)", host.orphans, host.orphan_limit, ORPHANS_ACTED_ON)
        high = levels.get("high")
        pressure = levels["pressure"] / high if high else None
        yield _Usage("memory (host)", host.memory, high, pressure, size)


def _table(rows: Sequence[_Usage], page: Page) -> str:
    cells = [heading(page.style, *_TITLES), *(_cells(one, page) for one in rows)]
    fitting = _fitting(cells, page)
    cells = [line[:fitting] for line in cells]
    room = page.room - len(INDENT) - _width(cells)
    if room >= _SHORTEST_BAR:
        for one, line in zip(rows, cells[1:], strict=True):
            line.append(Cell(bar(one.share, min(room, _BAR)), line[1].paint))
    return table(cells, right={1, 2, 3, 4}, width=page.room, indent=INDENT)


def _fitting(cells: Sequence[Sequence[Cell]], page: Page) -> int:
    """How many columns there is room for; what matters least is on the right."""
    room = page.room - len(INDENT) + len(GAP)
    numbers = range(len(_TITLES), _ALWAYS, -1)
    return next((n for n in numbers if _width([line[:n] for line in cells]) <= room), _ALWAYS)


def _width(cells: Sequence[Sequence[Cell]]) -> int:
    """Columns that these take, with a gap behind each."""
    columns = zip(*cells, strict=True)
    return sum(max(display_width(cell.text) for cell in column) + len(GAP) for column in columns)


def _cells(one: _Usage, page: Page) -> list[Cell]:
    paint = page.style.red if one.urgency >= 1 else str
    if _SOON <= one.urgency < 1:
        paint = page.style.yellow
    return [
        Cell(one.name),
        Cell("-" if one.used is None else one.text(one.used), paint),
        Cell("-" if one.limit is None else one.text(one.limit)),
        Cell(_percent(one.share), paint),
        Cell(_percent(one.acts_from)),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _settings(figures: Figures | None) -> str:
    if figures is None:
        return ""
    syn_backlog = figures.max_syn_backlog
    texts = (
        ("{:,} ephemeral ports", figures.ephemeral_ports),
        ("accept queues up to {:,} (somaxconn)", figures.somaxconn),
        ("half-open ones without SYN cookies up to {:,} (tcp_max_syn_backlog)", syn_backlog),
    )
    return "; ".join(text.format(value) for text, value in texts if value is not None)


def _hidden(figures: Figures | None) -> str:
    host = figures.host if figures else None
    if host is None or host.hidden is None:
        return ""
    return (
        f"{host.hidden:,} sockets in no table (host): dead ones that their process has not closed,"
        " or only made or bound"
    )
