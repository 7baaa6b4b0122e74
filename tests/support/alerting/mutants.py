"""Alerts, each with one thing changed that its unit tests must notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import promql
from promql_parser import BinaryExpr

from alerting.rules import ALERTS, NAMES, THRESHOLDS, Document, Rule, label, needed, seconds

Change = Callable[[Document], Document]

FIRES: Final = ("fires",)
QUIET: Final = ("quiet",)
ENDS: Final = ("recovers",)
ONLY_SOONER: Final = {"sockwatch:ephemeral_ports_growing_ratio:threshold"}
"""What grows passes these in any case."""
LITTLE: Final = 0.05
"""By how much of itself a threshold is changed, but numbers that are no ratio by one at least."""


class Mutant(NamedTuple):
    """A change to what belongs to one alert, and the kind of unit test that must fail."""

    alert: str
    name: str
    caught_by: Sequence[str]
    change: Change

    def __str__(self) -> str:
        return f"{self.alert}: {self.name}"


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
                yield Mutant(name, f"{label(rule)} {word}", kinds, change)


def durations(alert: Rule) -> Iterator[Mutant]:
    for key, kinds in (("for", FIRES), ("keep_firing_for", ENDS)):
        if key in alert:
            for by in (-60, 60):
                change = changed(label(alert), key, f"{seconds(alert[key]) + by}s")
                yield Mutant(alert["alert"], f"{label(alert)} {key} {by:+} s", kinds, change)


def conditions(alert: Rule) -> Iterator[Mutant]:
    """Without each of the conditions that it takes together or in turn."""
    for number, node in enumerate(promql.nodes(alert["expr"])):
        if not isinstance(node, BinaryExpr) or (operator := str(node.op).strip()) not in KINDS:
            continue
        for side, rest in (("left", node.rhs), ("right", node.lhs)):
            if operator == "or" or side == "right":
                whole = str(promql.nodes(alert["expr"])[0])
                change = changed(label(alert), "expr", whole.replace(str(node), str(rest), 1))
                name = f"{label(alert)} without {side} of {operator} {number}"
                yield Mutant(alert["alert"], name, KINDS[operator], change)


KINDS: Final = {"and": QUIET, "unless": QUIET, "or": FIRES}


MUTANTS: Final = [
    *(mutant for name in NAMES for mutant in thresholds(name)),
    *(mutant for alert in ALERTS for kind in (durations, conditions) for mutant in kind(alert)),
]
