"""Each key is a flag, and help says what it means."""

import argparse
import subprocess
import sys

import pytest

from sockwatch.config import KEYS, Config, add_flags, load


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sockwatch", allow_abbrev=False)
    add_flags(parser)
    return parser


def test_without_flags_nothing_is_given(parser: argparse.ArgumentParser) -> None:
    assert vars(parser.parse_args([])) == {}


def test_flags_are_spelled_as_other_exporters_do() -> None:
    flags = {flag for key in KEYS.values() for flag in key.flags}
    assert flags >= {
        "--web.listen-address",
        "--web.telemetry-path",
        "--web.config.file",
        "--web.systemd-socket",
        "--log.level",
        "--log.format",
        "--watch.interval",
        "--ages.close-wait",
        "--netns",
    }
    assert all(flag == flag.lower() and "_" not in flag for flag in flags)


def test_flags_reach_the_configuration(parser: argparse.ArgumentParser) -> None:
    given = parser.parse_args(
        ["--watch.interval=2s", "--web.config.file", "web.yml",
         "--web.listen-address=:1", "--web.listen-address", "[::1]:2,:3", "--netns", "all",
         "--owners.processes", "--no-web.systemd-socket"]
    )  # fmt: skip
    loaded = load(given, {}, "")
    config = loaded.config
    assert (config.watch.interval, config.web.config_file) == (2, "web.yml")
    assert list(map(str, config.web.listen_address)) == [":1", "[::1]:2", ":3"]
    assert config.netns.include == ("all",)
    assert (config.owners.processes, config.web.systemd_socket) == (True, False)
    assert str(loaded.origins["web.systemd_socket"]) == "--web.systemd-socket"


def test_a_switch_can_be_turned_off_again(parser: argparse.ArgumentParser) -> None:
    given = parser.parse_args(["--no-owners.processes"])
    assert load(given, {"SOCKWATCH_OWNERS_PROCESSES": "true"}, "").config == Config()


def test_help_tells_the_meaning_and_default_of_every_key(parser: argparse.ArgumentParser) -> None:
    text = " ".join(parser.format_help().split())
    for key in KEYS.values():
        assert key.meaning in text
        assert key.flags[0] in text
    assert '(default: "15s")' in text
    assert '(default: ["127.0.0.1:10077"])' in text
    assert "may be repeated" in text


def test_importing_the_configuration_is_cheap() -> None:
    """Every command pays for it, `--version` too."""
    code = (
        "import sys, sockwatch.config;"
        "heavy = {'asyncio', 'http', 'logging', 'prometheus_client', 'psutil', 'pyroute2', 'ssl'};"
        "print(*heavy & set(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []
