"""What panels are made of; `build.py` makes panels of entries.

Panels stand from left to right, 24 columns to a line.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from grafana_foundation_sdk.models import units

TARGETS: Final = 'job=~"$job", instance=~"$instance"'


class Figure(NamedTuple):
    """One value with its recent course; it turns orange, then red at the limits."""

    title: str
    expression: str
    description: str
    unit: str = units.Short
    limits: tuple[float, ...] = ()
    width: int = 3


class Graph(NamedTuple):
    """A panel over time: expressions by legend; the width in columns."""

    title: str
    width: int
    series: dict[str, str]
    description: str
    unit: str = units.Short


class Listing(NamedTuple):
    """A table of the present: a row for each label set, its columns in this order.

    The values of the label `pivot` become columns, too. The largest of column `first` is on top.
    """

    title: str
    width: int
    expression: str
    columns: tuple[str, ...]
    first: str
    description: str
    pivot: str | None = None
    unit: str = units.Short
    value: str = ""
    """What the column of values is called, where there is one."""


Entry = Figure | Graph | Listing


def pick(metric: str, *matchers: str) -> str:
    """The series of a metric on the chosen targets."""
    return f"{metric}{{{', '.join((TARGETS, *matchers))}}}"


def share(used: str, limit: str) -> str:
    """How much of a limit is in use, where there is one."""
    return f"{used} / ({limit} > 0)"


def rate(metric: str, *matchers: str) -> str:
    """How fast a counter grows, per second."""
    return f"rate({pick(metric, *matchers)}[$__rate_interval])"
