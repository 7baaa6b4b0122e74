"""The shipped rules, as data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import promql
import yaml

Rule = dict[str, Any]
Document = dict[str, Any]

FOLDER: Final = Path(__file__).parents[3] / "deploy" / "prometheus"
RULES: Final = FOLDER / "sockwatch.rules.yml"
FLEET_RULES: Final = FOLDER / "fleet.rules.yml"
RUNBOOKS: Final = FOLDER / "runbooks"
UNIT_TESTS: Final = FOLDER / "tests"


def load(file: Path = RULES) -> Document:
    document: Document = yaml.safe_load(file.read_text())
    return document


def rules_of(document: Document, group: str) -> list[Rule]:
    """Return the rules of a group by the last part of its name, such as `alerts`."""
    (found,) = (one for one in document["groups"] if one["name"] == f"sockwatch.{group}")
    rules: list[Rule] = found["rules"]
    return rules


DOCUMENT: Final = load()
THRESHOLDS: Final = rules_of(DOCUMENT, "thresholds")
RECORDS: Final = rules_of(DOCUMENT, "rules")
ALERTS: Final = rules_of(DOCUMENT, "alerts")
NAMES: Final = sorted({rule["alert"] for rule in ALERTS})
FLEET: Final = rules_of(load(FLEET_RULES), "fleet")


def label(rule: Rule) -> str:
    """Return what tells a rule from all others."""
    name = rule.get("alert") or rule["record"]
    told = (value for key, value in rule.get("labels", {}).items() if key != "pass")
    return " ".join((name, *told))


def seconds(duration: str) -> int:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    return sum(int(n) * units[unit] for n, unit in re.findall(r"(\d+)([smhd])", duration))


def needed(expressions: Iterable[str]) -> set[str]:
    """Return the recorded names that expressions are made of, at whatever remove."""
    recorded = THRESHOLDS + RECORDS
    found, unseen = set[str](), list(expressions)
    while unseen:
        asked = {str(selector.name) for selector in promql.selectors(unseen.pop())} - found
        found |= asked
        unseen += [str(rule["expr"]) for rule in recorded if rule["record"] in asked]
    return found & {rule["record"] for rule in recorded}


def reduced(name: str) -> Document:
    """Return the rule file with one alert and what that needs, which promtool is fast with."""
    names = needed(rule["expr"] for rule in ALERTS if rule["alert"] == name)
    document = deepcopy(DOCUMENT)
    for group in document["groups"]:
        group["rules"] = [
            rule
            for rule in group["rules"]
            if rule.get("alert") == name or rule.get("record") in names
        ]
    return document
