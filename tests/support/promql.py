"""What a PromQL expression asks for, read from its syntax tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import promql_parser
from catalogue import METRICS, TARGET_LABELS
from promql_parser import AggregateExpr, BinaryExpr, Expr, VectorSelector

NOTHING_RECORDED: Final[Mapping[str, frozenset[str]]] = {}


def nodes(expression: str) -> list[Expr]:
    """Return every node of an expression; one that does not parse is a ValueError."""
    found: list[Expr] = []
    promql_parser.walk(promql_parser.parse(expression), found.append)
    return found


def selectors(expression: str) -> list[VectorSelector]:
    return [node for node in nodes(expression) if isinstance(node, VectorSelector)]


def matched(selector: VectorSelector) -> dict[str, str]:
    """Return label to what it is compared with, such as `job` to `=~"$job"`."""
    matchers = selector.matchers.matchers
    return {matcher.name: str(matcher).removeprefix(matcher.name) for matcher in matchers}


def grouped(expression: str) -> set[str]:
    """Return the labels that by, without, on, ignoring, group_left and group_right name."""
    labels: set[str] = set()
    for node in nodes(expression):
        if isinstance(node, AggregateExpr) and node.modifier:
            labels.update(node.modifier.labels)
        if isinstance(node, BinaryExpr) and node.modifier:
            matching = node.modifier.matching
            labels.update(matching.labels if matching else (), node.modifier.group_labels or ())
    return labels


def unknown(expression: str, recorded: Mapping[str, frozenset[str]] = NOTHING_RECORDED) -> set[str]:
    """Return the metrics and labels that neither the catalogue nor the rules given have."""
    known = {**METRICS, **recorded}
    strange: set[str] = set()
    labels = set(TARGET_LABELS)
    for selector in selectors(expression):
        name = str(selector.name)
        own = TARGET_LABELS | known.get(name, frozenset())
        strange |= {name} - known.keys() | matched(selector).keys() - own
        labels |= own
    return strange | grouped(expression) - labels
