"""Makes hours pass in minutes, in configurations as they are shipped.

Every duration is divided by the same factor, in rules, routes and scrape configuration alike, those
thresholds that are seconds too. The daemon under them gets age limits and intervals divided
likewise. As passes then come as much more often, the share of CPU that they may take is multiplied.
Nothing else is touched, so that what is tested are the shipped rules; rates of traffic and numbers
of connections stay as they are.
"""

from __future__ import annotations

import re
from typing import Any, Final

from alerting.rules import Document, Rule

_DURATION: Final = re.compile(r"(\d+)(ms|s|m|h|d)")
_MILLISECONDS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_IN_EXPRESSION: Final = re.compile(r"(?<=\[)\w+(?=])|(?<=offset )\w+")
_AGES: Final = {
    "close-wait": 60,
    "fin-wait2": 120,
    "syn-sent": 10,
    "syn-recv": 10,
    "fin-wait1": 30,
    "last-ack": 30,
    "closing": 30,
    "not-accepted": 10,
}
"""The age limits that are the default, in seconds."""


def divided(duration: str, factor: float) -> str:
    """Return `15s` divided by 30 as `500ms`."""
    whole = sum(int(n) * _MILLISECONDS[unit] for n, unit in _DURATION.findall(duration))
    return f"{round(whole / factor)}ms"


def rules(document: Document, factor: float) -> Document:
    """Return a rule file with all its durations divided."""
    for group in document["groups"]:
        for rule in group["rules"]:
            rule["expr"] = _expression(rule, factor)
            for key in {"for", "keep_firing_for"} & rule.keys():
                rule[key] = divided(rule[key], factor)
    return document


def _expression(rule: Rule, factor: float) -> str:
    record, expression = rule.get("record", ""), str(rule["expr"])
    if record.endswith("_seconds:threshold"):
        return f"{float(expression) / factor}"
    return _IN_EXPRESSION.sub(lambda found: divided(found[0], factor), expression)


def durations(node: Any, factor: float) -> Any:  # noqa: ANN401  any YAML
    """Return a configuration with every value that is a duration divided."""
    if isinstance(node, dict):
        return {key: durations(value, factor) for key, value in node.items()}
    if isinstance(node, list):
        return [durations(value, factor) for value in node]
    if isinstance(node, str) and re.fullmatch(rf"({_DURATION.pattern})+", node):
        return divided(node, factor)
    return node


def flags(factor: float) -> list[str]:
    """Return the flags that shorten the age limits and the census of the daemon likewise.

    The watch pass, once a second as shipped, need not come as often as that to see the same, and
    would take more of a core than it may.
    """
    ages = [f"--ages.{state}={round(1000 * age / factor)}ms" for state, age in _AGES.items()]
    census = divided("15s", factor)
    return [*ages, "--watch.interval=250ms", f"--census.interval={census}"]
