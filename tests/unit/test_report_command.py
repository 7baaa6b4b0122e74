"""`sockwatch report` as it is called; the look itself is replaced (tests/kernel has real ones)."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from snapshots import PSUTIL, listener, service, snapshot

from sockwatch import poll
from sockwatch.__main__ import main
from sockwatch.config import Config
from sockwatch.observe.snapshot import Snapshot

Look: TypeAlias = Callable[[Snapshot], None]

FINE = snapshot(service(443, "nginx.service", established=9), listener(443, "nginx.service"))
WRONG = snapshot(service(8080, "app.service", close_wait=40))


@pytest.fixture
def looks_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Look:
    """Makes every look yield a snapshot, whatever is configured on this host."""
    empty = tmp_path / "empty.toml"
    empty.touch()
    monkeypatch.setenv("SOCKWATCH_CONFIG_FILE", str(empty))
    for name in ("NO_COLOR", "COLUMNS", "SOCKWATCH_SOURCE_PREFER"):
        monkeypatch.delenv(name, raising=False)

    def look_at(taken: Snapshot) -> None:
        monkeypatch.setattr(poll, "look_once", lambda _: taken)

    return look_at


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_host_without_findings_is_fine(
    looks_at: Look, capsys: pytest.CaptureFixture[str]
) -> None:
    looks_at(FINE)
    assert main(["report"]) == 0
    out, err = capsys.readouterr()
    assert "Nothing looks wrong." in out
    assert "nginx.service" in out
    assert err == ""


def test_a_finding_makes_the_exit_code_1(
    looks_at: Look, capsys: pytest.CaptureFixture[str]
) -> None:
    looks_at(WRONG)
    assert main(["report"]) == 1
    assert "40 connections in close_wait" in capsys.readouterr().out


@pytest.mark.parametrize(("taken", "code"), [(FINE, 0), (WRONG, 1)], ids=["fine", "wrong"])
def test_json_says_the_same_as_text(
    looks_at: Look, capsys: pytest.CaptureFixture[str], taken: Snapshot, code: int
) -> None:
    looks_at(taken)
    assert main(["report"]) == code
    text = capsys.readouterr().out
    assert main(["report", "--json"]) == code
    told = json.loads(capsys.readouterr().out)
    assert len(told["findings"]) == code
    assert all(finding["message"] in text for finding in told["findings"])
    assert told["host"]["name"] in text
    assert told["host"]["kernel"] in text


def test_the_limit_shortens_the_text_and_never_the_json(
    looks_at: Look, capsys: pytest.CaptureFixture[str]
) -> None:
    looks_at(snapshot(*(service(port, established=1) for port in range(1, 41))))
    main(["report", "--limit", "5"])
    assert "and 35 more (35 connections)" in capsys.readouterr().out
    main(["report", "--limit", "0"])
    assert "more" not in capsys.readouterr().out
    main(["report", "--json", "--limit", "5"])
    assert len(json.loads(capsys.readouterr().out)["namespaces"][0]["services"]) == 40


@pytest.mark.parametrize("limit", ["-1", "many", "1.5", "", "\u0662"])
def test_a_limit_that_is_none_is_wrong_use(capsys: pytest.CaptureFixture[str], limit: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["report", f"--limit={limit}"])
    assert stopped.value.code == 2
    assert f"--limit: {limit!r} is not a number of rows; 0 = all" in capsys.readouterr().err


def test_a_terminal_gets_colour_and_a_pipe_none(
    looks_at: Look, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks_at(WRONG)
    main(["report"])
    assert "\x1b" not in capsys.readouterr().out
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    main(["report"])
    assert "\x1b[31m" in terminal.getvalue()


def test_no_color_is_honoured_on_a_terminal(
    looks_at: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks_at(WRONG)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    main(["report"])
    assert "40 connections" in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()


def test_the_width_of_the_terminal_is_followed(
    looks_at: Look, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks_at(WRONG)
    widths = []
    for columns in ("60", "100"):
        monkeypatch.setenv("COLUMNS", columns)
        main(["report"])
        widths.append(max(map(len, capsys.readouterr().out.splitlines())))
    assert widths[0] <= 60 < widths[1] <= 100


def test_a_terminal_that_cannot_write_a_name_gets_it_escaped(
    looks_at: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks_at(snapshot(service(1, "größe.service", established=1)))
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["report"]) == 0
    terminal.seek(0)
    assert r"gr\xf6\xdfe.service" in terminal.read()


def test_nothing_readable_is_one_clear_line(
    looks_at: Look, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(config: Config) -> Snapshot:
        raise poll.NoSource("netlink does not work (EPERM)")

    monkeypatch.setattr(poll, "look_once", refused)
    assert main(["report"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    expected = "cannot read the sockets of this host: netlink does not work (EPERM)"
    assert err == f"sockwatch report: {expected}\n"


def test_a_wrong_configuration_is_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sockwatch.toml"
    file.write_text("[source]\nprefer = 'ss'\n")
    assert main(["report", f"--config.file={file}"]) == 2
    assert "source.prefer" in capsys.readouterr().err


def test_the_source_that_the_configuration_prefers_is_fine(
    looks_at: Look, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks_at(snapshot(source=PSUTIL))
    assert main(["report"]) == 1
    monkeypatch.setenv("SOCKWATCH_SOURCE_PREFER", "psutil")
    capsys.readouterr()
    assert main(["report"]) == 0
    assert "read from psutil" in capsys.readouterr().out
