"""No test is skipped in silence, and none at all where everything is expected to run."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]
GROUPS = [line.partition(":")[0] for line in SETTINGS["markers"] if "(" not in line]

CASE = """
import pytest
from guards import need, need_command

{mark}
def test_case():
    {body}
"""


def try_case(folder: Path, mark: str, body: str, ci: str) -> str:
    """Run one test under this project's settings and return what pytest says."""
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copy(ROOT / "tests/conftest.py", folder / "tests")
    shutil.copytree(ROOT / "tests/support", folder / "tests/support")
    (folder / "tests/test_case.py").write_text(CASE.format(mark=mark, body=body))
    pytest_command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
    environment = {"CI": ci, "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        pytest_command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    ).stdout


@pytest.mark.parametrize("group", GROUPS)
def test_a_skipped_group_is_told_with_its_reason(tmp_path: Path, group: str) -> None:
    said = try_case(tmp_path, f"@pytest.mark.{group}", 'need(False, "no moon")', ci="")
    assert f"{group}: 1 not run: no moon" in said
    assert "1 skipped" in said.splitlines()[-1]


def test_a_missing_program_is_told_with_its_package(tmp_path: Path) -> None:
    said = try_case(tmp_path, "", 'need_command("no-such", "some-package")', ci="")
    assert "other: 1 not run: needs no-such (Debian package some-package)" in said


FAILS = "skipped under CI=true, where everything must run: no moon"


@pytest.mark.parametrize(
    ("mark", "body"),
    [
        ("", 'need(False, "no moon")'),
        ("@pytest.mark.skip(reason='no moon')", "pass"),
        ("need(False, 'no moon')", "pass"),
        ("@pytest.fixture(autouse=True)\ndef moon(): need(False, 'no moon')\n", "pass"),
    ],
    ids=["test", "mark", "module", "fixture"],
)
def test_a_skip_in_ci_is_a_failure(tmp_path: Path, mark: str, body: str) -> None:
    said = try_case(tmp_path, mark, body, ci="true")
    assert FAILS in said
    assert re.search(r"1 (failed|error) in", said.splitlines()[-1])


def test_a_skip_that_is_expected_in_ci_stays_a_skip(tmp_path: Path) -> None:
    mark = "@pytest.mark.may_skip_in_ci(reason='no sky there')"
    said = try_case(tmp_path, mark, 'need(False, "no moon")', ci="true")
    assert "1 skipped" in said.splitlines()[-1]


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    said = try_case(tmp_path, "@pytest.mark.xfail(reason='bug')", "assert False", ci="true")
    assert "1 xfailed" in said.splitlines()[-1]
