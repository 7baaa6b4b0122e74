"""What runbooks and descriptions tell people to do, can be done as written."""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

import promql
import pytest
from alerting import rules
from alerting.rules import NAMES, RUNBOOKS, THRESHOLDS, UNIT_TESTS
from guards import need_command

from sockwatch.__main__ import parser
from sockwatch.config import KEYS
from sockwatch.tcp.causes import Cause
from sockwatch.tcp.states import State

pytestmark = pytest.mark.stack

SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
STAND_INS = {"PID": "1", "ADDRESS": "127.0.0.1"}
"""What the reader is to put in."""
GONE: Final = {"tcp_tw_recycle"}
"""Sysctls that pages warn of, because they are still recommended."""
SECTION_OF_A_KEY = "|".join(sorted({name.partition(".")[0] for name in KEYS}))

each_alert = pytest.mark.parametrize("name", NAMES)


@cache
def page(name: str) -> str:
    return (RUNBOOKS / f"{name}.md").read_text()


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page(name), re.DOTALL)


def commands(name: str) -> list[str]:
    """Return the commands of a page and of the descriptions of its alert, one by one."""
    written = [line for block in blocks(name, "sh") for line in block.splitlines()]
    told = {
        alert["exp_annotations"]["description"].rpartition("run: ")[2]
        for group in rules.load(UNIT_TESTS / f"{name}.yml")["tests"]
        for case in group.get("alert_rule_test", ())
        for alert in case["exp_alerts"]
    }
    return [one for line in (*written, *sorted(told)) for one in split(line)]


def split(line: str) -> list[str]:
    """Return the commands of a line, as the shell would find them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for token in lexer:
        if set(token) <= {";", "|", "&"}:
            found.append([])
        else:
            found[-1].append(STAND_INS.get(token, token))
    return [shlex.join(words) for words in found if words]


def of_program(name: str, program: str) -> list[list[str]]:
    split_up = (shlex.split(command) for command in commands(name))
    return [words[1:] for words in split_up if words[0] == program]


@each_alert
def test_each_page_has_its_title_and_sections(name: str) -> None:
    assert page(name).startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", page(name), re.MULTILINE) == SECTIONS


@each_alert
def test_diagnosis_has_queries_and_commands(name: str) -> None:
    diagnosis = page(name).partition("## Diagnosis")[2].partition("## Mitigation")[0]
    assert "```sh\n" in diagnosis
    assert "```promql\n" in diagnosis or name == "SockwatchDown"
    assert "sockwatch " in diagnosis


@each_alert
def test_queries_parse_and_use_metrics_that_exist(name: str) -> None:
    for query in (line for block in blocks(name, "promql") for line in block.splitlines()):
        assert promql.unknown(query) == set(), query


@each_alert
def test_commands_are_right_for_the_shell(name: str) -> None:
    for block in blocks(name, "sh"):
        done = subprocess.run(
            ["bash", "-n"], input=block, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


@each_alert
def test_sockwatch_takes_its_commands_as_written(name: str) -> None:
    found = of_program(name, "sockwatch")
    assert found
    for words in found:
        assert parser().parse_args(words).run is not None


@cache
def judged_by_ss(*words: str) -> str:
    done = subprocess.run(["ss", *words], capture_output=True, text=True, check=False)
    return done.stderr or f"{done.returncode or ''}"


@each_alert
def test_ss_takes_its_commands_as_written(name: str) -> None:
    need_command("ss", "iproute2")
    for words in of_program(name, "ss"):
        assert judged_by_ss(*words) == "", words


@each_alert
def test_counters_are_those_that_nstat_shows(name: str) -> None:
    nstat = need_command("nstat", "iproute2")
    for _, *counters in of_program(name, "nstat"):
        done = subprocess.run(
            [nstat, "-az", "-s", *counters], capture_output=True, text=True, check=False
        )
        shown = {line.split()[0] for line in done.stdout.splitlines()[1:]}
        assert shown == set(counters)


@each_alert
def test_sysctls_are_there(name: str) -> None:
    named = {word for words in of_program(name, "sysctl") for word in words}
    named |= set(re.findall(r"`(net\.[\w.]+)", page(name)))
    named |= {f"net.ipv4.{word}" for word in re.findall(r"`(tcp_[a-z_]+)`", page(name))}
    absent = {one for one in named if not (Path("/proc/sys") / one.replace(".", "/")).exists()}
    modules = {"net.ipv4.tcp_diag"}
    assert absent - modules <= {f"net.ipv4.{word}" for word in GONE}


@each_alert
def test_whatever_else_is_named_exists(name: str) -> None:
    text = page(name)
    thresholds = {rule["record"] for rule in THRESHOLDS}
    assert set(re.findall(r"Sockwatch[A-Z]\w+", text)) <= set(NAMES)
    assert set(re.findall(r"sockwatch:\w+:threshold", text)) <= thresholds
    assert set(re.findall(rf"`((?:{SECTION_OF_A_KEY})\.[a-z_]+)\b", text)) <= KEYS.keys()
    assert set(re.findall(r'state="(\w+)"', text)) <= {state.label for state in State}
    assert set(re.findall(r'cause="(\w+)"', text)) <= set(Cause)


def test_the_configuration_is_named_where_it_is() -> None:
    paths = {path for name in NAMES for path in re.findall(r"/etc/sockwatch/\S+toml", page(name))}
    assert paths == {"/etc/sockwatch/sockwatch.toml"}
