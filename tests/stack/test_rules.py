"""The rules and their unit tests, judged by promtool.

promtool evaluates every rule of a file at every step. Given only what an alert needs it takes an
eighth of the time, so each alert is judged by itself, and can be by many mutants as well.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from alerting import rules
from alerting.mutants import MUTANTS, Mutant
from alerting.rules import FOLDER, NAMES, UNIT_TESTS, Document
from alerting.servers import PROMETHEUS_3, of_version_3
from guards import need, need_command

pytestmark = pytest.mark.stack

DEBIAN, NEWER = "of Debian", "3"
FRUGAL = {**os.environ, "GOGC": "400", "GOMAXPROCS": "1"}
"""Its heap is small, and collecting garbage all the time takes a quarter of its CPU time."""


@pytest.fixture(
    scope="module",
    params=[
        DEBIAN,
        pytest.param(
            NEWER, marks=pytest.mark.may_skip_in_ci("Debian 12 has no Prometheus 3; it is extra")
        ),
    ],
)
def promtool(request: pytest.FixtureRequest) -> str:
    if request.param == DEBIAN:
        return need_command("promtool", "prometheus")
    program = of_version_3("promtool")
    need(program is not None, f"needs a folder with a Prometheus 3 in {PROMETHEUS_3}")
    return str(program)


def judge(promtool: str, *arguments: str, folder: Path = FOLDER) -> str:
    """Return what promtool has against files, nothing if they are right."""
    command = [promtool, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=FRUGAL, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr if done.returncode else ""


def unit_tests(name: str, kinds: Sequence[str] = ("",)) -> str:
    """Return the unit tests of an alert of which the name holds one of these words.

    As text: to YAML for Python, values such as 0x20 are numbers.
    """
    text = (UNIT_TESTS / f"{name}.yml").read_text()
    head, *tests = re.split(r"^(?=  - name: )", text, flags=re.MULTILINE)
    chosen = [test for test in tests if any(kind in test.splitlines()[0] for kind in kinds)]
    return "".join((head.replace("../sockwatch.rules.yml", "rules.yml"), *chosen))


def run(promtool: str, folder: Path, document: Document, tests: str) -> str:
    """Return what unit tests have against rules; JSON is YAML, and written quickly."""
    (folder / "rules.yml").write_text(json.dumps(document))
    (folder / "tests.yml").write_text(tests)
    return judge(promtool, "test", "rules", "tests.yml", folder=folder)


def test_promtool_accepts_the_rules(promtool: str) -> None:
    files = ("sockwatch.rules.yml", "fleet.rules.yml")
    assert judge(promtool, "check", "rules", "--lint=all", "--lint-fatal", *files) == ""


def test_promtool_accepts_the_configuration(promtool: str) -> None:
    assert judge(promtool, "check", "config", "prometheus.yml") == ""


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_passes_its_unit_tests(promtool: str, tmp_path: Path, name: str) -> None:
    assert run(promtool, tmp_path, rules.reduced(name), unit_tests(name)) == ""


OF_SCRAPES_THEMSELVES = {"SockwatchDown", "SockwatchAbsent"}
EVERY = 8
"""Of so many scrapes one is missing: with 15 s one in two minutes."""
LATER = 120
"""Seconds that an alert may come later for it."""


@pytest.mark.parametrize("name", sorted({*NAMES} - OF_SCRAPES_THEMSELVES))
def test_missing_scrapes_do_not_keep_it_from_firing(
    promtool: str, tmp_path: Path, name: str
) -> None:
    text = unit_tests(name, ("fires",))
    document = yaml.load(text, yaml.BaseLoader)  # noqa: S506  makes strings and nothing else
    document["tests"] = [with_missing_scrapes(test) for test in document["tests"]]
    tests = json.dumps(document)
    assert run(promtool, tmp_path, lowered(rules.reduced(name)), tests) == ""


def lowered(document: Document) -> Document:
    """Return rules with room below what fires them; with gaps, rates are a little less."""
    for rule in rules.rules_of(document, "thresholds"):
        rule["expr"] = 0.9 * float(rule["expr"])
    return document


def with_missing_scrapes(test: dict[str, Any]) -> dict[str, Any]:
    """Return a unit test that only asks whether something fires, soon after it is expected to."""
    told = [
        *(case for case in test.get("alert_rule_test", ()) if case["exp_alerts"]),
        *(case for case in test.get("promql_expr_test", ()) if case["exp_samples"]),
    ]
    expected = {
        "expr": 'count(ALERTS{alertstate="firing"}) > bool 0',
        "eval_time": f"{rules.seconds(told[0]['eval_time']) + LATER}s",
        "exp_samples": [{"labels": "{}", "value": 1}],
    }
    series = [{**one, "values": thinned(one["values"])} for one in test["input_series"]]
    return {"interval": test["interval"], "input_series": series, "promql_expr_test": [expected]}


def thinned(values: str) -> str:
    """Return values of which some are as Prometheus marks them when a scrape fails."""
    every = [value for token in values.split() for value in expanded(token)]
    every[EVERY - 1 :: EVERY] = ["stale"] * len(every[EVERY - 1 :: EVERY])
    return " ".join(every)


def expanded(token: str) -> Iterator[str]:
    """Return the samples of one token of promtool's notation, such as 1+2x3."""
    found = re.fullmatch(r"(-?[\d.]+|_)(?:([+-][\d.]+)?x(\d+))?", token)
    if not found or not found[3]:
        yield token
    elif found[1] == "_":
        yield from "_" * int(found[3])
    else:
        for number in range(int(found[3]) + 1):
            yield f"{float(found[1]) + number * float(found[2] or 0):.10g}"


def test_the_documented_command_finds_the_rules(promtool: str) -> None:
    command = "promtool test rules tests/*.yml"
    assert command in (FOLDER / "README.md").read_text()
    some = ("tests/SockwatchDown.yml", "tests/SockwatchStale.yml")
    assert judge(promtool, "test", "rules", *some) == ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_unit_test_fails_for_each_mutant(tmp_path: Path, mutant: Mutant) -> None:
    promtool = need_command("promtool", "prometheus")
    assert any(
        run(
            promtool,
            tmp_path,
            mutant.change(rules.reduced(alert)),
            unit_tests(alert, mutant.caught_by),
        )
        for alert in mutant.alerts
    )
