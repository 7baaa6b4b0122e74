"""The rules, judged by promtool and by what a reader of the rules relies on."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql
import pytest
import yaml
from catalogue import METRICS, TARGET_LABELS
from guards import need_command
from promql_parser import BinaryExpr, MatrixSelector

pytestmark = pytest.mark.stack

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
RULE_FILES = ("rules.yml", "alerts.yml")
RUNBOOK_BASE = "https://sockwatch.example/runbooks/"
RUNBOOK_SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
UNIT_TESTS_COVER = ("fires", "quiet just below", "recovers", "missing scrape", "restart", "absent")
COMPARISONS = {">", ">=", "<", "<=", "==", "!="}
FOR_AT_LEAST = 60  # four scrapes

# Each on its own must make a unit test fail, otherwise that test proves nothing.
MUTATIONS = {
    "CLOSE_WAIT earlier": ("> 100", "> 99"),
    "CLOSE_WAIT later": ("> 100", "> 101"),
    "CLOSE_WAIT held shorter": ("for: 15m", "for: 14m45s"),
    "CLOSE_WAIT held longer": ("for: 15m", "for: 15m15s"),
    "CLOSE_WAIT hardly averaged": ("[5m]", "[15s]"),
    "CLOSE_WAIT kept too long": ("keep_firing_for: 5m", "keep_firing_for: 10m"),
    "down earlier": ("for: 5m\n        labels", "for: 4m45s\n        labels"),
    "down later": ("for: 5m\n        labels", "for: 5m15s\n        labels"),
    "stale with fewer intervals": ("30 + 5 *", "30 + 4 *"),
    "stale with more intervals": ("30 + 5 *", "30 + 6 *"),
    "stale with less room": ("> 30 +", "> 29 +"),
    "stale held shorter": ("for: 3m", "for: 2m45s"),
    "stale held longer": ("for: 3m", "for: 3m15s"),
    "every state": (', state="close_wait"', ""),
    "every job": ('up{job="sockwatch"}', "up"),
}


def rules(file: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALL_RULES = {
    rule.get("alert") or rule["record"]: rule for file in RULE_FILES for rule in rules(file)
}
ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}
# A recording rule here keeps the labels of its first metric.
RECORDED = {
    rule["record"]: METRICS[str(promql.selectors(rule["expr"])[0].name)]
    for rule in rules("rules.yml")
}

each_rule = pytest.mark.parametrize("rule", ALL_RULES.values(), ids=ALL_RULES)
each_alert = pytest.mark.parametrize("name", ALERTS)


def seconds(duration: str) -> int:
    units = {"s": 1, "m": 60, "h": 3600}
    return sum(int(n) * units[unit] for n, unit in re.findall(r"(\d+)([smh])", duration))


@pytest.fixture(scope="module")
def promtool() -> str:
    return need_command("promtool", "prometheus")


def judge(promtool: str, *arguments: str, folder: Path = PROMETHEUS) -> tuple[int, str]:
    done = subprocess.run(
        [promtool, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def run_unit_tests(promtool: str, folder: Path) -> tuple[int, str]:
    files = sorted(str(file) for file in (folder / "tests").glob("*.yml"))
    return judge(promtool, "test", "rules", *files, folder=folder)


def test_promtool_accepts_the_rules(promtool: str) -> None:
    code, said = judge(promtool, "check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)
    assert code == 0, said


def test_promtool_accepts_the_configuration(promtool: str) -> None:
    code, said = judge(promtool, "check", "config", "prometheus.yml")
    assert code == 0, said


def test_the_alerts_pass_their_unit_tests(promtool: str) -> None:
    code, said = run_unit_tests(promtool, PROMETHEUS)
    assert code == 0, said


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS)
def test_a_changed_threshold_fails_the_unit_tests(
    promtool: str, tmp_path: Path, mutation: tuple[str, str]
) -> None:
    folder = tmp_path / "prometheus"
    shutil.copytree(PROMETHEUS, folder)
    old, new = mutation
    alerts = (folder / "alerts.yml").read_text()
    assert old in alerts
    (folder / "alerts.yml").write_text(alerts.replace(old, new, 1))
    code, _ = run_unit_tests(promtool, folder)
    assert code != 0


@each_alert
def test_each_alert_has_a_unit_test_of_every_kind(name: str) -> None:
    groups = yaml.safe_load((PROMETHEUS / "tests" / f"{name}.yml").read_text())["tests"]
    titles = " ".join(group["name"] for group in groups)
    assert [kind for kind in UNIT_TESTS_COVER if kind not in titles] == []
    asked = {case["alertname"] for group in groups for case in group["alert_rule_test"]}
    assert asked == {name}


@each_alert
def test_each_alert_has_a_runbook_with_all_sections(name: str) -> None:
    assert ALERTS[name]["annotations"]["runbook_url"] == RUNBOOK_BASE + name
    page = (PROMETHEUS / "runbooks" / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == RUNBOOK_SECTIONS


def test_no_runbook_or_unit_test_is_left_over() -> None:
    pages = {page.stem for page in (PROMETHEUS / "runbooks").glob("*.md")}
    unit_tests = {file.stem for file in (PROMETHEUS / "tests").glob("*.yml")}
    assert pages == unit_tests == ALERTS.keys()


def promql_blocks(page: Path) -> Iterator[str]:
    for block in re.findall(r"```promql\n(.*?)```", page.read_text(), re.DOTALL):
        yield from block.splitlines()


@each_alert
def test_runbook_queries_parse_and_use_metrics_that_exist(name: str) -> None:
    for query in promql_blocks(PROMETHEUS / "runbooks" / f"{name}.md"):
        assert promql.unknown(query) == set(), query


@each_rule
def test_rules_use_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    assert promql.unknown(rule["expr"], RECORDED) == set()


@each_rule
def test_every_selector_names_the_job(rule: dict[str, Any]) -> None:
    for selector in promql.selectors(rule["expr"]):
        assert promql.matched(selector).get("job") == '="sockwatch"', str(selector)


@each_rule
def test_ranges_hold_at_least_four_scrapes(rule: dict[str, Any]) -> None:
    ranges = [node for node in promql.nodes(rule["expr"]) if isinstance(node, MatrixSelector)]
    assert all(node.range.total_seconds() >= FOR_AT_LEAST for node in ranges)


@each_alert
def test_each_alert_compares_and_waits(name: str) -> None:
    top = promql.nodes(ALERTS[name]["expr"])[0]
    assert isinstance(top, BinaryExpr)
    assert str(top.op) in COMPARISONS
    assert seconds(ALERTS[name]["for"]) >= FOR_AT_LEAST


@each_alert
def test_each_alert_says_what_is_wrong_where_and_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    summary, description = alert["annotations"]["summary"], alert["annotations"]["description"]
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert re.fullmatch(r"[A-Z].*\.", summary)
    assert "{{" not in summary, "a summary is the same for all members of a group"
    assert "{{ $labels.instance }}" in description
    assert "On the host, run: " in description
    assert "sockwatch report" in description


@each_alert
def test_templates_use_labels_that_the_expression_keeps(name: str) -> None:
    alert = ALERTS[name]
    known = {**METRICS, **RECORDED}
    found = promql.selectors(alert["expr"])
    labels = TARGET_LABELS.union(*(known[str(selector.name)] for selector in found))
    used = set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["description"]))
    assert used <= labels


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("sockwatch_tcp_sockets", set()),
        ("sockwatch_tcp_socket", {"sockwatch_tcp_socket"}),
        ('sockwatch_tcp_sockets{port="80"}', {"port"}),
        ("sum by (unit) (sockwatch_tcp_sockets)", {"unit"}),
        ("up * on (cause) group_left (kind) sockwatch_pass_failures_total", {"kind"}),
    ],
)
def test_the_check_against_the_catalogue_finds_what_is_wrong(
    expression: str, wrong: set[str]
) -> None:
    assert promql.unknown(expression) == wrong
