"""The shipped rules, as data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

Rule = dict[str, Any]
Document = dict[str, Any]

FOLDER: Final = Path(__file__).parents[3] / "deploy" / "prometheus"
RULES: Final = FOLDER / "sockwatch.rules.yml"
FLEET_RULES: Final = FOLDER / "fleet.rules.yml"


def load(file: Path = RULES) -> Document:
    document: Document = yaml.safe_load(file.read_text())
    return document


def rules_of(document: Document, group: str) -> list[Rule]:
    """Return the rules of a group by the last part of its name, such as `alerts`."""
    (found,) = (one for one in document["groups"] if one["name"] == f"sockwatch.{group}")
    rules: list[Rule] = found["rules"]
    return rules


THRESHOLDS: Final = rules_of(load(), "thresholds")
RECORDS: Final = rules_of(load(), "rules")
ALERTS: Final = rules_of(load(), "alerts")
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
