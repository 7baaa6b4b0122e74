"""What a reader of the alerts relies on, and what pint finds in rules that are wrong.

The checks are those of pint (https://cloudflare.github.io/pint/) that need no running Prometheus,
by the names that they have there.
"""

from __future__ import annotations

import re
from collections import Counter

import boards
import promql
import promql_parser
import pytest
from alerting import labels, rules
from alerting.labels import COMPARISONS, KNOWN, labels_of, operator
from alerting.rules import (
    ALERTS,
    FLEET,
    FOLDER,
    NAMES,
    RECORDS,
    RUNBOOKS,
    THRESHOLDS,
    UNIT_TESTS,
    Rule,
    label,
    seconds,
)
from everything import EVERYTHING
from promql_parser import (
    AggregateExpr,
    BinaryExpr,
    Call,
    Expr,
    MatchOp,
    MatrixSelector,
    NumberLiteral,
    ParenExpr,
    VectorSelector,
)

from sockwatch.export.families import families

SCRAPE_INTERVAL = 15
OF_COUNTERS = {"rate", "increase", "irate", "resets"}
CHANGING_SETS = {"topk", "bottomk", "quantile", "limitk"}
SEVERITIES = {"critical", "warning", "info"}
KINDS = (
    "fires",
    "quiet just below",
    "recovers",
    "missing scrape",
    "restart",
    "absent",
)
RUNBOOK_BASE = "https://sockwatch.example/runbooks/"
NO_VALUE_TO_TELL = {"Down", "Absent", "SourceFallback", "ConfigReloadFailed"}
IDENTITY = {"instance", "port", "unit", "address", "destination", "netns"}
"""Labels that say which thing an alert is about."""
QUOTED_UNIT = """{{- with $labels.unit }} --unit '{{ reReplaceAll "'" "'\\\\''" . }}'{{ end }}"""
"""As a shell may read it. Who owns a cgroup can give it a name with quotes."""
LEVELS = {
    "job": {"job"},
    "instance": {"job", "instance"},
    "service": {"direction", "port", "unit"},
    "unit": {"direction", "unit"},
    "listener": {"address", "port", "unit"},
    "destination": {"destination"},
    "state": {"state"},
    "level": {"level"},
    "pass": {"pass"},
    "netns": {"netns"},
}
"""Labels by the parts of the first part of a recorded name."""
RULES = [*RECORDS, *ALERTS, *FLEET]

each_rule = pytest.mark.parametrize("rule", RULES, ids=label)
each_alert = pytest.mark.parametrize("alert", ALERTS, ids=label)
each_name = pytest.mark.parametrize("name", NAMES)


def root(rule: Rule) -> Expr:
    return promql.nodes(str(rule["expr"]))[0]


def binary(rule: Rule) -> list[BinaryExpr]:
    return [node for node in promql.nodes(str(rule["expr"])) if isinstance(node, BinaryExpr)]


def expression(text: str) -> Rule:
    return {"expr": text}


# What each alert has


@each_alert
def test_each_alert_says_what_is_wrong_where_and_what_to_do(alert: Rule) -> None:
    """pint: alerts/annotation, rule/label."""
    notes = alert["annotations"]
    assert alert["labels"]["severity"] in SEVERITIES
    assert re.fullmatch(r"[A-Z].*\.|sockwatch .*\.", notes["summary"])
    assert "{{" not in notes["summary"], "a summary is the same for all members of a group"
    assert re.search(r"\brun: \S", notes["description"])
    assert "sockwatch" in notes["description"].rpartition("run: ")[2]
    assert notes["runbook_url"] == RUNBOOK_BASE + alert["alert"]


@each_alert
def test_commands_quote_units_as_their_names_may_be_anything(alert: Rule) -> None:
    command = alert["annotations"]["description"].rpartition("run: ")[2]
    assert "unit" not in command.replace(QUOTED_UNIT, "")


@each_alert
def test_each_description_tells_the_value_and_all_that_names_the_thing(alert: Rule) -> None:
    description = alert["annotations"]["description"]
    told = set(re.findall(r"\$labels\.(\w+)", description))
    assert (labels_of(root(alert), KNOWN) & IDENTITY) <= told
    told_value = "$value" in description
    assert told_value != (alert["alert"].removeprefix("Sockwatch") in NO_VALUE_TO_TELL)


@each_alert
def test_templates_use_labels_that_the_expression_keeps(alert: Rule) -> None:
    """pint: alerts/template."""
    used = set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["description"]))
    assert used <= labels_of(root(alert), KNOWN) | alert["labels"].keys()


@each_alert
def test_each_alert_waits(alert: Rule) -> None:
    """pint: alerts/for; one that fires at once is one that a single scrape makes fire."""
    assert seconds(alert["for"]) >= 4 * SCRAPE_INTERVAL


@each_alert
def test_a_threshold_stands_in_the_first_group_only(alert: Rule) -> None:
    for node in (*binary(alert), *(one for record in RECORDS for one in binary(record))):
        if operator(node) in COMPARISONS:
            numbers = {side.val for side in (node.lhs, node.rhs) if isinstance(side, NumberLiteral)}
            assert numbers <= {0, 1}, str(node)


def test_no_alert_looks_at_the_number_of_time_wait() -> None:
    for rule in ALERTS:
        for selector in promql.selectors(rule["expr"]):
            assert selector.name != "sockwatch_tcp_time_wait_sockets"
            assert "time_wait" not in promql.matched(selector).get("state", "")


@each_alert
def test_the_pass_of_an_alert_is_the_one_that_measures(alert: Rule) -> None:
    """By it Alertmanager holds back what a stale pass can no longer know."""
    own = alert["labels"].get("pass")
    if alert["alert"] in NAMES_OF_THE_WATCHER:
        assert own is None
        return
    told = " ".join(HELP.get(name, "") for name in metrics_of(alert))
    measured_by = {name for name in ("watch", "census") if f"of the last {name}" in told}
    assert own in (measured_by or {"watch"})


HELP = {
    sample.name: family.documentation
    for family in families(EVERYTHING)
    for sample in family.samples
}


def metrics_of(rule: Rule) -> set[str]:
    """Return the exported metrics that a rule is made of, at whatever remove."""
    names = rules.needed([rule["expr"]])
    made_of = [rule["expr"], *(one["expr"] for one in RECORDS if one["record"] in names)]
    return {str(selector.name) for text in made_of for selector in promql.selectors(str(text))}


NAMES_OF_THE_WATCHER = {
    f"Sockwatch{name}"
    for name in (
        "Down",
        "Absent",
        "Stale",
        "PassesFailing",
        "SourceFallback",
        "BudgetExceeded",
        "IntervalsStretched",
        "LabelSetsFolded",
        "ConfigReloadFailed",
    )
}


# What belongs to each alert


@each_name
def test_each_alert_has_a_unit_test_of_every_kind(name: str) -> None:
    groups = rules.load(UNIT_TESTS / f"{name}.yml")["tests"]
    titles = " ".join(group["name"] for group in groups)
    assert [kind for kind in KINDS if kind not in titles] == []
    severities = {rule["labels"]["severity"] for rule in ALERTS if rule["alert"] == name}
    assert severities == {
        expected["exp_labels"]["severity"]
        for group in groups
        for case in group.get("alert_rule_test", ())
        for expected in case["exp_alerts"]
    }


OF_TARGETS = {"cluster"}
"""A label that whoever scrapes gives to targets, beyond job and instance."""


@each_name
def test_unit_tests_are_of_series_that_there_are(name: str) -> None:
    for group in rules.load(UNIT_TESTS / f"{name}.yml")["tests"]:
        asked = {case["alertname"] for case in group.get("alert_rule_test", ())}
        assert asked <= {name}
        for series in group["input_series"]:
            assert promql.unknown(series["series"]) <= OF_TARGETS


def test_nothing_is_left_over_of_an_alert_that_is_no_more() -> None:
    assert sorted(page.stem for page in RUNBOOKS.iterdir()) == NAMES
    assert sorted(file.stem for file in UNIT_TESTS.iterdir()) == NAMES


def test_the_readme_lists_each_alert_with_its_severities() -> None:
    listed: list[tuple[str, str]] = []
    for row in re.findall(r"^\| (?:\[(\w+)\]\((.*?)\))? *\| (\w+) \|", README, re.MULTILINE):
        name, link, severity = row
        assert link in ("", f"runbooks/{name}.md")
        if severity in SEVERITIES:
            listed.append((name or listed[-1][0], severity))
    assert listed == [(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS]


README = (FOLDER / "README.md").read_text()


def test_the_readme_of_the_project_links_each_alert_once() -> None:
    readme = (FOLDER.parents[1] / "README.md").read_text()
    linked = re.findall(r"\[(\w+)\]\(deploy/prometheus/runbooks/Sockwatch(\w+)\.md\)", readme)
    assert sorted(f"Sockwatch{name}" for _, name in linked) == NAMES
    assert all(text == name for text, name in linked)


# Metrics and labels


@each_rule
def test_rules_use_metrics_and_labels_that_exist(rule: Rule) -> None:
    """pint: promql/series, rule/dependency, promql/impossible."""
    for node in promql.nodes(str(rule["expr"])):
        if isinstance(node, VectorSelector):
            assert promql.matched(node).keys() <= labels_of(node, KNOWN), str(node)
        if isinstance(node, AggregateExpr) and node.modifier:
            assert set(node.modifier.labels) <= labels_of(node.expr, KNOWN), str(node)


@each_rule
def test_every_selector_names_the_job(rule: Rule) -> None:
    for selector in promql.selectors(rule["expr"]):
        wanted = None if str(selector.name).endswith(":threshold") else '="sockwatch"'
        assert promql.matched(selector).get("job") == wanted, str(selector)


@each_rule
def test_both_sides_of_an_operator_have_the_labels_that_are_matched(rule: Rule) -> None:
    """pint: promql/vector_matching."""
    for node in binary(rule):
        if not (labels.is_scalar(node.lhs) or labels.is_scalar(node.rhs)):
            assert unmatched(node) == set(), str(node)


def unmatched(node: BinaryExpr) -> set[str]:
    """Return labels by which both sides are to match and that one does not have."""
    sides = (labels_of(node.lhs, KNOWN), labels_of(node.rhs, KNOWN))
    left, right = (labels.matched_by(node, side) for side in sides)
    named = set(node.modifier.matching.labels) if labels.is_on(node) else set()  # type: ignore[union-attr]
    return set(left ^ right) | (named - left)


@each_rule
def test_regular_expressions_are_needed(rule: Rule) -> None:
    """pint: promql/regexp."""
    for selector in promql.selectors(rule["expr"]):
        for matcher in selector.matchers.matchers:
            if matcher.op in (MatchOp.Re, MatchOp.NotRe):
                assert re.escape(matcher.value) != matcher.value, str(selector)
                assert not re.match(r"\^|.*\$$", matcher.value), "they are anchored anyway"


# Values over time


@each_rule
def test_rates_are_of_counters_and_counters_are_only_read_as_rates(rule: Rule) -> None:
    """pint: promql/rate, promql/counter."""
    assert misread(str(rule["expr"])) == set()


def misread(text: str) -> set[str]:
    counters = {str(one.name) for one in promql.selectors(text) if str(one.name).endswith("_total")}
    rated = {
        str(one.name)
        for call in promql.nodes(text)
        if isinstance(call, Call) and call.func.name in OF_COUNTERS
        for one in promql.selectors(str(call))
    }
    return counters ^ rated


@each_rule
def test_ranges_hold_at_least_four_scrapes(rule: Rule) -> None:
    """pint: promql/range_query, and promql/rate: one missing scrape is not to leave a gap."""
    ranges = [node for node in promql.nodes(rule["expr"]) if isinstance(node, MatrixSelector)]
    assert all(node.range.total_seconds() >= 4 * SCRAPE_INTERVAL for node in ranges)


# Conditions


@each_alert
def test_each_alert_compares(alert: Rule) -> None:
    """pint: alerts/comparison; each condition of several can be false."""
    assert always(root(alert)) == []


def always(node: Expr) -> list[str]:
    """Return the conditions that are true whenever there are series."""
    if isinstance(node, ParenExpr):
        return always(node.expr)
    if isinstance(node, BinaryExpr) and operator(node) in {"and", "unless"}:
        return always(node.lhs) + always(node.rhs)
    if isinstance(node, BinaryExpr) and operator(node) == "or":
        return [*always(node.rhs), *(always(node.lhs) and [str(node)])]
    if isinstance(node, BinaryExpr) and operator(node) in COMPARISONS:
        return [str(node)] if node.modifier and node.modifier.return_bool else []
    if isinstance(node, Call) and node.func.name == "absent":
        return []
    return [] if str(node) in GROWS else [str(node)]


GROWS = {
    str(promql_parser.parse(f'{name}{{job="sockwatch"}}'))
    for name in ("instance_service_state:sockwatch_tcp_stuck_connections:growth2m",)
}
"""Compared with zero beside it, in the same alert."""


@each_rule
def test_no_alert_depends_on_what_changes_places(rule: Rule) -> None:
    """pint: promql/fragile."""
    aggregations = [one for one in promql.nodes(rule["expr"]) if isinstance(one, AggregateExpr)]
    assert not {str(one.op) for one in aggregations} & CHANGING_SETS


# Names


def test_no_two_rules_are_the_same() -> None:
    """pint: rule/duplicate."""
    named = Counter(label(rule) for rule in (*THRESHOLDS, *RULES))
    assert [name for name, number in named.items() if number > 1] == []
    told = Counter(str(root(rule)) for rule in RULES)
    assert [text for text, number in told.items() if number > 1] == []


@pytest.mark.parametrize("rule", [*RECORDS, *FLEET], ids=label)
def test_recorded_names_tell_their_labels(rule: Rule) -> None:
    """pint: rule/name. Network namespaces are told apart wherever there are any."""
    level, metric, operations = rule["record"].split(":")
    assert re.fullmatch(r"sockwatch_\w+|up", metric)
    assert re.fullmatch(r"[a-z][a-z0-9_]*", operations)
    named = set[str]().union(*(LEVELS[part] for part in level.split("_")))
    if rule in FLEET and level.startswith("job_service"):
        named -= {"unit"}
    assert KNOWN[rule["record"]] - {"netns", "phase"} == (named | {"job"}) - {"netns"}


def test_thresholds_are_numbers() -> None:
    for rule in THRESHOLDS:
        assert re.fullmatch(r"sockwatch:[a-z_]+:threshold", rule["record"])
        assert float(rule["expr"]) > 0


def test_whatever_is_recorded_is_used() -> None:
    """pint: rule/dependency."""
    queries = [query.expression for query in boards.queries(boards.load())]
    used = rules.needed(str(rule["expr"]) for rule in (*ALERTS, *FLEET))
    used |= {rule["record"] for rule in RECORDS if rule["record"] in " ".join(queries)}
    assert {rule["record"] for rule in (*THRESHOLDS, *RECORDS)} - used == set()


# The checks themselves


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("sockwatch_tcp_sockets", set()),
        ("sockwatch_tcp_socket", {"sockwatch_tcp_socket"}),
        ('sockwatch_tcp_sockets{port="80"}', {"port"}),
        ("sum by (unit) (sockwatch_tcp_sockets)", {"unit"}),
        ("up * on (cause) group_left (kind) sockwatch_pass_failures_total", {"kind"}),
    ],
)
def test_the_check_against_the_catalogue_finds_what_is_wrong(text: str, wrong: set[str]) -> None:
    assert promql.unknown(text) == wrong


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("up", {"job", "instance"}),
        ("sum without (instance) (up)", {"job"}),
        ("sum by (instance, port) (up)", {"instance"}),
        ("sum(up)", set()),
        ("topk by (job) (3, sum by (instance) (up))", {"instance"}),
        ('absent(up{job="a", instance=~"b"})', {"job"}),
        ("rate(sockwatch_pass_failures_total[5m]) > 0", {"job", "instance", "pass", "cause"}),
        ("up and on (job) sockwatch_pass_failures_total", {"job", "instance"}),
        ("up / on (job) up", {"job"}),
        (
            "up * on (instance) group_left (pass) sockwatch_passes_total",
            {"job", "instance", "pass"},
        ),
        ("up * ignoring (pass) group_right () sockwatch_passes_total", {"job", "instance", "pass"}),
        ("sockwatch_passes_total / ignoring (pass) up", {"job", "instance"}),
        ("2 * -(up) or sockwatch_passes_total", {"job", "instance", "pass"}),
    ],
)
def test_labels_are_found_as_prometheus_finds_them(text: str, kept: set[str]) -> None:
    assert labels_of(promql.nodes(text)[0], KNOWN) == kept


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("up / sockwatch_passes_total", {"pass"}),
        ("up / on (job, pass) sockwatch_passes_total", {"pass"}),
        ("up / on (job, instance) sockwatch_passes_total", set()),
        ("up / ignoring (pass) sockwatch_passes_total", set()),
        ("up / ignoring (job) sockwatch_passes_total", {"pass"}),
    ],
)
def test_labels_that_never_match_are_found(text: str, wrong: set[str]) -> None:
    (node,) = binary(expression(text))
    assert unmatched(node) == wrong


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("rate(up[5m])", {"up"}),
        ("sockwatch_passes_total > 5", {"sockwatch_passes_total"}),
        ("rate(sockwatch_passes_total[5m]) > up", set()),
    ],
)
def test_what_is_read_wrongly_is_found(text: str, wrong: set[str]) -> None:
    assert misread(text) == wrong


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("up", 1),
        ("up == bool 0", 1),
        ("up == 0", 0),
        ("up == 0 and up", 1),
        ("up == 0 or up", 1),
        ("(up == 0) unless up > 1", 0),
        ("absent(up)", 0),
    ],
)
def test_conditions_that_are_always_true_are_found(text: str, number: int) -> None:
    assert len(always(promql.nodes(text)[0])) == number
