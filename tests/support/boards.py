"""The committed dashboard, its panels and its queries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

Json = dict[str, Any]

FILE: Final = Path(__file__).parents[2] / "grafana" / "dashboards" / "sockwatch-overview.json"


class Query(NamedTuple):
    """A query of a panel."""

    panel: str
    kind: str
    expression: str
    legend: str
    instant: bool


def load() -> Json:
    board: Json = json.loads(FILE.read_text())
    return board


def panels(board: Json) -> Iterator[Json]:
    return (panel for panel in board["panels"] if panel["type"] != "row")


def variable(board: Json, name: str) -> Json:
    """Return a variable, or an empty object where there is none of the name."""
    found = (entry for entry in board["templating"]["list"] if entry["name"] == name)
    return next(found, {})


def queries(board: Json) -> Iterator[Query]:
    for panel in panels(board):
        for target in panel.get("targets", ()):
            yield Query(
                panel["title"],
                panel["type"],
                target["expr"],
                target["legendFormat"],
                bool(target.get("instant")),
            )


def interpolate(text: str, values: dict[str, str]) -> str:
    """Put values in place of variables, as Grafana does before it asks Prometheus."""
    for name, value in values.items():
        text = text.replace(f"${name}", value)
    return text
