"""The PrometheusRule is the rule file, and one that the Kubernetes API takes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from alerting.rules import DOCUMENT, RULES

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
RESOURCE = yaml.safe_load((FOLDER / "prometheusrule.yaml").read_text())
GROUPS: list[dict[str, Any]] = RESOURCE["spec"]["groups"]

# The custom resource of the Prometheus Operator, 0.82; expr may be an integer, but no other number.
DURATION = re.compile(
    r"^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$"
)
FIELDS = {"record", "alert", "expr", "for", "keep_firing_for", "labels", "annotations"}


def build(folder: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, str(folder / "kubernetes" / "build.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_committed_resource_is_what_the_generator_writes() -> None:
    assert build(FOLDER.parent, "--check") == (0, "")


def test_a_threshold_changed_in_the_rule_file_is_told_and_taken_over(tmp_path: Path) -> None:
    (tmp_path / "prometheus").mkdir()
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    rules = RULES.read_text().replace("        expr: 0.85\n", "        expr: 0.75\n")
    (tmp_path / "prometheus" / RULES.name).write_text(rules)
    code, said = build(tmp_path, "--check")
    assert code == 1
    assert "run make rules" in said
    assert build(tmp_path) == (0, "")
    assert 'expr: "0.75"' in (tmp_path / "kubernetes" / "prometheusrule.yaml").read_text()


def test_it_holds_the_groups_of_the_rule_file_and_nothing_else() -> None:
    as_text = [
        {
            **group,
            "rules": [{**rule, "expr": str(rule["expr"])} for rule in group["rules"]],
        }
        for group in DOCUMENT["groups"]
    ]
    assert as_text == GROUPS


def test_it_keeps_the_comments_that_say_why() -> None:
    comments = re.findall(r"^ +(#.*)$", RULES.read_text(), re.MULTILINE)
    assert re.findall(r"^ +(#.*)$", (FOLDER / "prometheusrule.yaml").read_text(), re.MULTILINE) == (
        comments
    )


def test_it_is_a_resource_of_that_kind() -> None:
    assert RESOURCE.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert (RESOURCE["apiVersion"], RESOURCE["kind"]) == (
        "monitoring.coreos.com/v1",
        "PrometheusRule",
    )
    assert re.fullmatch(r"[a-z0-9-]+", RESOURCE["metadata"]["name"])


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: str(group["name"]))
def test_each_rule_has_fields_of_the_types_that_the_resource_allows(group: dict[str, Any]) -> None:
    assert group.keys() == {"name", "rules"}
    for rule in group["rules"]:
        assert rule.keys() <= FIELDS
        assert isinstance(rule["expr"], str)
        for field in {"for", "keep_firing_for"} & rule.keys():
            assert DURATION.match(rule[field])
        for field in {"labels", "annotations"} & rule.keys():
            assert all(isinstance(value, str) for value in rule[field].values())
