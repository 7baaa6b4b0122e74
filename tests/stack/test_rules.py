"""The rules and their unit tests, judged by promtool.

promtool evaluates every rule of a file at every step. Given only what an alert needs it takes an
eighth of the time, so each alert is judged by itself, and can be by many mutants as well.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from alerting import rules
from alerting.mutants import MUTANTS, Mutant
from alerting.rules import FOLDER, NAMES, UNIT_TESTS, Document
from alerting.servers import PROMETHEUS_3, of_version_3
from guards import need, need_command

pytestmark = pytest.mark.stack

DEBIAN, NEWER = "of Debian", "3"


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
    done = subprocess.run(
        [promtool, *arguments], cwd=folder, capture_output=True, text=True, check=False
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
    """Return what unit tests have against rules."""
    (folder / "rules.yml").write_text(yaml.safe_dump(document))
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


def test_the_documented_command_finds_the_rules(promtool: str) -> None:
    command = "promtool test rules tests/*.yml"
    assert command in (FOLDER / "README.md").read_text()
    some = ("tests/SockwatchDown.yml", "tests/SockwatchStale.yml")
    assert judge(promtool, "test", "rules", *some) == ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_unit_test_fails_for_each_mutant(tmp_path: Path, mutant: Mutant) -> None:
    promtool = need_command("promtool", "prometheus")
    document = mutant.change(rules.reduced(mutant.alert))
    assert run(promtool, tmp_path, document, unit_tests(mutant.alert, mutant.caught_by)) != ""
