"""Alerts, each with one thing changed that its unit tests must notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import promql
from promql_parser import BinaryExpr

from alerting.rules import (
    ALERTS,
    NAMES,
    RECORDS,
    THRESHOLDS,
    Document,
    Rule,
    label,
    needed,
    seconds,
)

Change = Callable[[Document], Document]

FIRES: Final = ("fires",)
QUIET: Final = ("quiet",)
ENDS: Final = ("recovers",)
EITHER: Final = ("fires", "quiet")
ONLY_SOONER: Final = {"sockwatch:ephemeral_ports_growing_ratio:threshold"}
"""What grows passes these in any case."""
LITTLE: Final = 0.05
"""By how much of itself a threshold is changed, but numbers that are no ratio by one at least."""


class Mutant(NamedTuple):
    """A change, the kind of unit test that must fail for it, and of which alerts one of these."""

    alerts: Sequence[str]
    name: str
    caught_by: Sequence[str]
    change: Change

    def __str__(self) -> str:
        return f"{self.alerts[0]}: {self.name}"


def changed(wanted: str, key: str, value: object) -> Change:
    """Return what gives another value to a key of the rule of that label."""

    def change(document: Document) -> Document:
        (rule,) = (
            rule for group in document["groups"] for rule in group["rules"] if label(rule) == wanted
        )
        rule[key] = value
        return document

    return change


def thresholds(name: str) -> Iterator[Mutant]:
    """One that is higher makes the alert rarer: all are compared in that direction."""
    names = needed(alert["expr"] for alert in ALERTS if alert["alert"] == name)
    for rule in THRESHOLDS:
        if rule["record"] in names:
            value, ratio = float(rule["expr"]), rule["record"].endswith("_ratio:threshold")
            step = LITTLE * value if ratio else max(1, LITTLE * value)
            below = FIRES if rule["record"] in ONLY_SOONER else QUIET
            for word, kinds, other in (
                ("higher", FIRES, value + step),
                ("lower", below, value - step),
            ):
                change = changed(label(rule), "expr", other)
                yield Mutant([name], f"{label(rule)} {word}", kinds, change)


def durations(alert: Rule) -> Iterator[Mutant]:
    for key, kinds in (("for", FIRES), ("keep_firing_for", ENDS)):
        if key in alert:
            for by in (-60, 60):
                change = changed(label(alert), key, f"{seconds(alert[key]) + by}s")
                yield Mutant([alert["alert"]], f"{label(alert)} {key} {by:+} s", kinds, change)


def conditions(
    rule: Rule, alerts: Sequence[str], kinds: Mapping[str, Sequence[str]]
) -> Iterator[Mutant]:
    """Without each side of what it takes together, in turn, or from each other."""
    whole = str(promql.nodes(rule["expr"])[0])
    for number, node in enumerate(promql.nodes(rule["expr"])):
        if not isinstance(node, BinaryExpr) or (operator := str(node.op).strip()) not in kinds:
            continue
        for side, rest in (("left", node.rhs), ("right", node.lhs)):
            if side == "right" or operator in EITHER_SIDE:
                change = changed(label(rule), "expr", whole.replace(str(node), str(rest), 1))
                name = f"{label(rule)} without {side} of {operator} {number}"
                yield Mutant(alerts, name, kinds[operator], change)


def recorded() -> Iterator[Mutant]:
    """What is recorded; not without comparisons, which keep series few and alerts as they are."""
    for rule in RECORDS:
        users = (one["alert"] for one in ALERTS if rule["record"] in needed([one["expr"]]))
        kinds = dict.fromkeys(("and", "unless", "or", "+", "-"), EITHER)
        yield from conditions(rule, list(dict.fromkeys(users)), kinds)


EITHER_SIDE: Final = {"or", "+"}
BY_OPERATOR: Final = {"and": QUIET, "unless": QUIET, "or": FIRES}
MUTANTS: Final = [
    *(mutant for name in NAMES for mutant in thresholds(name)),
    *(mutant for alert in ALERTS for mutant in durations(alert)),
    *(mutant for alert in ALERTS for mutant in conditions(alert, [alert["alert"]], BY_OPERATOR)),
    *recorded(),
]
