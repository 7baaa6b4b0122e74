"""Which labels the result of an expression has, as Prometheus would find out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import promql
from catalogue import METRICS, TARGET_LABELS
from promql_parser import (
    AggModifierType,
    AggregateExpr,
    BinaryExpr,
    Call,
    Expr,
    LabelModifierType,
    MatchOp,
    MatrixSelector,
    NumberLiteral,
    ParenExpr,
    StringLiteral,
    SubqueryExpr,
    UnaryExpr,
    VectorMatchCardinality,
    VectorSelector,
)

from alerting.rules import FLEET, RECORDS, THRESHOLDS

Labels = frozenset[str]
Known = Mapping[str, Labels]
COMPARISONS: Final = {">", ">=", "<", "<=", "==", "!="}
SETS: Final = {"and", "or", "unless"}
CHOOSING: Final = {"topk", "bottomk"}
"""Aggregations that keep series as they are."""
EXPORTED: Final[Known] = {name: TARGET_LABELS | labels for name, labels in METRICS.items()}


def operator(node: BinaryExpr) -> str:
    return str(node.op).strip()


def is_scalar(node: Expr) -> bool:
    """Whether it is a number and no series."""
    match node:
        case ParenExpr() | UnaryExpr():
            return is_scalar(node.expr)
        case BinaryExpr():
            return is_scalar(node.lhs) and is_scalar(node.rhs)
        case _:
            return isinstance(node, NumberLiteral | StringLiteral)


def labels_of(node: Expr, known: Known) -> Labels:
    """Return the labels that the result may have.

    Raises:
        KeyError: a metric that is not known.
    """
    match node:
        case VectorSelector():
            found = known[str(node.name)]
        case MatrixSelector():
            found = known[str(node.vector_selector.name)]
        case ParenExpr() | UnaryExpr() | SubqueryExpr():
            found = labels_of(node.expr, known)
        case AggregateExpr():
            found = _aggregated(node, known)
        case Call():
            found = _called(node, known)
        case BinaryExpr():
            found = _combined(node, known)
        case _:
            found = frozenset()
    return found


def _aggregated(node: AggregateExpr, known: Known) -> Labels:
    own = labels_of(node.expr, known)
    if str(node.op) in CHOOSING:
        return own
    if node.modifier is None:
        return frozenset()
    if node.modifier.type == AggModifierType.By:
        return own & frozenset(node.modifier.labels)
    return own - frozenset(node.modifier.labels)


def _called(node: Call, known: Known) -> Labels:
    if node.func.name == "absent":
        (selector,) = promql.selectors(str(node))
        equal = (one for one in selector.matchers.matchers if one.op == MatchOp.Equal)
        return frozenset(one.name for one in equal)
    return frozenset[str]().union(*(labels_of(argument, known) for argument in node.args))


def _combined(node: BinaryExpr, known: Known) -> Labels:
    left, right = labels_of(node.lhs, known), labels_of(node.rhs, known)
    if is_scalar(node.lhs) or is_scalar(node.rhs) or operator(node) == "or":
        return left | right
    if operator(node) in SETS or node.modifier is None:
        return left
    if node.modifier.card == VectorMatchCardinality.OneToMany:
        return right | frozenset(node.modifier.group_labels or ())
    if node.modifier.card == VectorMatchCardinality.ManyToOne:
        return left | frozenset(node.modifier.group_labels or ())
    return matched_by(node, left)


def matched_by(node: BinaryExpr, side: Labels) -> Labels:
    """Return the labels of a side that must be the same on the other."""
    matching: Any = node.modifier and node.modifier.matching
    if not matching:
        return side
    named = frozenset(matching.labels)
    return side & named if is_on(node) else side - named


def is_on(node: BinaryExpr) -> bool:
    """Whether labels are named by `on`, as against `ignoring` or not at all."""
    matching: Any = node.modifier and node.modifier.matching
    return bool(matching) and matching.type == LabelModifierType.Include


def _recorded() -> Known:
    """The labels of what is recorded; twice, because one rule reads what itself recorded."""
    known: dict[str, Labels] = dict(EXPORTED)
    for rule in (*THRESHOLDS, *RECORDS, *RECORDS, *FLEET):
        known.setdefault(rule["record"], frozenset())
        found = labels_of(promql.nodes(str(rule["expr"]))[0], known)
        known[rule["record"]] |= found | rule.get("labels", {}).keys()
    return known


KNOWN: Final = _recorded()
"""Labels by metric, exported or recorded."""
