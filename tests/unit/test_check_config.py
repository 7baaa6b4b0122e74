"""`sockwatch check-config` tells whether a file is right, to people and to programs."""

import argparse
import json
from pathlib import Path

import pytest

from sockwatch.commands import check_config
from sockwatch.config import Config, to_toml

GOOD = '[watch]\ninterval = "2s"\n[web]\nlisten_address = [":80"]\n[cpu]\nbudget = 0.02\n'
BAD = '[watch]\ninterval = "0s"\n[cpu]\nbudjet = 0.5\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sockwatch.toml"


def check(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser(prog="sockwatch")
    check_config.register(parser.add_subparsers())
    args = parser.parse_args(["check-config", *map(str, arguments)])
    status: int = args.run(args)
    return status


def test_a_valid_file_is_confirmed_with_what_it_changes(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(GOOD)
    assert check(file) == 0
    out, err = capsys.readouterr()
    assert out == (
        f"{file}: configuration is valid\n"
        '  watch.interval     = "2s"     (default "1s")\n'
        '  web.listen_address = [":80"]  (default ["127.0.0.1:10077"])\n'
    )
    assert err == ""


def test_a_file_that_changes_nothing_is_confirmed_in_one_line(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text('[source]\nrecheck = "1m"  # the same as 60s\n')
    assert check(file) == 0
    assert capsys.readouterr() == (f"{file}: configuration is valid\n", "")


def test_problems_go_to_stderr_and_the_exit_code_says_wrong_use(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(BAD)
    assert check(file) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f'{file}:2: watch.interval = "0s": must be a duration from 1ms to 1d,'
        ' such as "500ms", "15s" or "1h30m"\n'
        f"{file}:4: unknown key cpu.budjet; did you mean cpu.budget?\n"
    )


def test_a_file_that_is_absent_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("/nonexistent") == 2
    assert capsys.readouterr() == ("", "/nonexistent: there is no such file\n")


def test_no_name_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("") == 2
    assert capsys.readouterr() == ("", '"": there is no such file\n')


def test_the_environment_has_no_say(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOCKWATCH_WATCH_INTERVAL", "wrong")
    file.write_text("")
    assert check(file) == 0
    assert capsys.readouterr().err == ""


def test_json_holds_the_effective_values(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD)
    assert check("--json", file) == 0
    expected = to_toml(Config())
    expected["watch"]["interval"] = "2s"
    expected["web"]["listen_address"] = [":80"]
    assert json.loads(capsys.readouterr().out) == {
        "file": str(file),
        "valid": True,
        "problems": [],
        "config": expected,
    }


def test_json_holds_the_problems(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(BAD)
    assert check("--json", file) == 2
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["valid"], report["config"], err) == (False, None, "")
    assert [(each["line"], each["key"]) for each in report["problems"]] == [
        (2, "watch.interval"),
        (4, "cpu.budjet"),
    ]
    assert report["problems"][1]["message"] == (
        f"{file}:4: unknown key cpu.budjet; did you mean cpu.budget?"
    )
