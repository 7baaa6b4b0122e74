"""Services with their connections by state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Mapping, Sequence
from typing import Final, NamedTuple

from sockwatch.export.findings import Finding, Kind
from sockwatch.export.names import clip
from sockwatch.export.report.page import GAP, INDENT, NAME_ROOM, Page
from sockwatch.export.terminal import Cell, heading, table
from sockwatch.observe.snapshot import NamespaceView, ServiceKey
from sockwatch.tcp.states import State

SERVICES: Final = 20
"""Rows shown unless asked otherwise."""

_TITLES: Final[Mapping[State, str]] = {
    State.ESTABLISHED: "estab",
    State.CLOSE_WAIT: "close wait",
    State.SYN_SENT: "syn sent",
    State.FIN_WAIT2: "fin wait2",
    State.TIME_WAIT: "time wait",
    State.SYN_RECV: "syn recv",
    State.LAST_ACK: "last ack",
    State.FIN_WAIT1: "fin wait1",
    State.CLOSING: "closing",
    State.CLOSE: "close",
    State.UNKNOWN: "unknown",
    State.LISTEN: "listen",
}
"""Columns, each over two lines; the last ones are added up where there is no room for all."""

_ABOUT: Final[Mapping[Kind, str]] = {
    Kind.UNANSWERED: State.SYN_SENT.label,
    Kind.SYN_QUEUE: State.SYN_RECV.label,
    Kind.SYN_FLOOD: State.SYN_RECV.label,
}
"""The states that findings are about whose kind is not called like a state."""

_LABELS_ROOM: Final = sum(map(len, (INDENT, "outbound", GAP, "other", GAP)))
"""Columns left of the unit."""


def service_section(
    view: NamespaceView, suspects: Sequence[Finding], page: Page, title: str
) -> str:
    """Services with connections, those that look wrong first, then by size; empty without any."""
    wrong = Counter[ServiceKey]()
    for finding in suspects:
        if finding.service is not None:
            wrong[finding.service] += finding.count or 0
    sizes = {key: sum(states.values()) for key, states in view.services.items()}
    ranked = sorted(filter(sizes.get, sizes), key=lambda key: (-wrong[key], -sizes[key], key))
    if not ranked:
        return ""
    shown = page.first(ranked, SERVICES)
    rest = ranked[len(shown) :]
    more = f"and {len(rest):,} more ({sum(sizes[key] for key in rest):,} connections)"
    other = f"{view.folded:,} more services are added up as other (labels.series_limit)"
    return page.section(
        title,
        _table(view, shown, suspects, page),
        page.aside(more) if rest else "",
        page.aside(other) if view.folded else "",
    )


class _Column(NamedTuple):
    """Numbers of one state, or of the states for which there is no room."""

    title: str
    states: Collection[State]
    counts: Sequence[int]

    @classmethod
    def of(
        cls, title: str, states: Collection[State], rows: Sequence[Mapping[State, int]]
    ) -> _Column:
        return cls(title, states, [sum(row.get(state, 0) for state in states) for row in rows])

    @property
    def width(self) -> int:
        """Enough for the largest number and the longest word of the title."""
        return max(map(len, [*self.title.split(), *(f"{count:,}" for count in self.counts)]))

    def cell(
        self, row: int, key: ServiceKey, wrong: Container[tuple[ServiceKey, str]], page: Page
    ) -> Cell:
        """One number, marked if a finding is about it."""
        found = any((key, state.label) in wrong for state in self.states)
        return page.count(self.counts[row], wrong=found)


def _columns(rows: Sequence[Mapping[State, int]], room: int) -> list[_Column]:
    """A column for each state that occurs; where there is no room for all, one for the last."""
    present = [state for state in _TITLES if any(row.get(state) for row in rows)]
    choices = [_split(present, number, rows) for number in range(len(present), 0, -1)]
    fitting = (choice for choice in choices if _width(choice) <= room)
    return next(fitting, choices[-1])


def _split(
    present: Sequence[State], number: int, rows: Sequence[Mapping[State, int]]
) -> list[_Column]:
    columns = [_Column.of(_TITLES[state], [state], rows) for state in present[:number]]
    folded = present[number:]
    return [*columns, _Column.of("others", folded, rows)] if folded else columns


def _width(columns: Sequence[_Column]) -> int:
    return sum(len(GAP) + column.width for column in columns)


def _table(
    view: NamespaceView, shown: Sequence[ServiceKey], suspects: Sequence[Finding], page: Page
) -> str:
    room = page.room - _LABELS_ROOM
    columns = _columns([view.services[key] for key in shown], room - NAME_ROOM)
    wrong = {(one.service, _ABOUT.get(one.kind, one.kind)) for one in suspects if one.service}
    rows = [heading(page.style, "", "port", "unit", *(column.title for column in columns))]
    for number, key in enumerate(shown):
        unit = clip(key.unit or "-", room - _width(columns))
        names = [Cell(key.direction), Cell(key.port), Cell(unit)]
        rows.append([*names, *(column.cell(number, key, wrong, page) for column in columns)])
    most = {position: column.width for position, column in enumerate(columns, start=3)}
    return table(rows, right={1, *most}, most=most, indent=INDENT)
