"""The program as a whole: what it imports, how it refuses, how it ends."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from lab.processes import eventually

from sockwatch import __version__
from sockwatch.__main__ import COMMANDS, main

ROOT: Final = Path(__file__).parents[2]
ENVIRONMENT: Final = {
    name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SOCKW"))
} | {"PYTHONPATH": str(ROOT)}
BUFFERED: Final = {"buffered": ENVIRONMENT, "unbuffered": ENVIRONMENT | {"PYTHONUNBUFFERED": "1"}}
HEAVY: Final = {"pyroute2", "psutil", "uvicorn", "prometheus_client", "asyncio", "h11"}
SIGPIPE: Final = 141
"""As shells report it."""


def sockwatch(
    *arguments: str, python: tuple[str, ...] = (), env: Mapping[str, str] = ENVIRONMENT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, "-m", "sockwatch", *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_version_is_told() -> None:
    told = sockwatch("--version")
    assert (told.returncode, told.stdout, told.stderr) == (0, f"sockwatch {__version__}\n", "")


def test_help_names_every_command() -> None:
    told = sockwatch("--help")
    assert told.returncode == 0
    for name in COMMANDS:
        assert re.search(rf"^    {name}\b", told.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_and_reads_nothing_for_it(command: str) -> None:
    told = sockwatch(command, "--help", env=ENVIRONMENT | {"SOCKWATCH_WATCH_INTERVAL": "no"})
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith(f"usage: sockwatch {command} ")


WRONG: Final = {
    (): "a command is missing",
    ("nosuch",): "nosuch",
    ("--bogus",): "--bogus",
    ("--vers",): "--vers; did you mean --version?",
    ("--version=1",): "--version",
    ("run", "--watch.intervall", "3s"): "--watch.intervall; did you mean --watch.interval?",
    ("run", "--watch.interval"): "--watch.interval",
    ("run", "--watch.inter=3s"): "--watch.inter; did you mean --watch.interval?",
    ("run", "--web.listen_address=:1"): "--web.listen_address; did you mean --web.listen-address?",
    ("run", "extra"): "extra",
    ("run", "--watch.interval=0"): "--watch.interval",
    ("run", "--cpu.budget=nan"): "--cpu.budget",
    ("run", "--config.file=/no/such/file"): "/no/such/file",
    ("explain", "--bogus"): "--bogus",
    ("check-config",): "FILE",
    ("report", "--jason"): "--jason; did you mean --json?",
}


@pytest.mark.parametrize(("arguments", "named"), WRONG.items(), ids=map(" ".join, WRONG))
def test_wrong_use_is_one_line_that_names_it(arguments: tuple[str, ...], named: str) -> None:
    told = sockwatch(*arguments)
    assert (told.returncode, told.stdout) == (2, "")
    assert named in told.stderr
    assert told.stderr.startswith("sockwatch")
    assert told.stderr.count("\n") == 1
    assert told.stderr.endswith("\n")


def test_every_mistake_in_the_configuration_is_a_line() -> None:
    told = sockwatch("run", "--cpu.budget=7", env=ENVIRONMENT | {"SOCKWATCH_CENSUS_INTERVAL": "x"})
    assert told.returncode == 2
    lines = told.stderr.splitlines()
    assert len(lines) == 2
    assert {"SOCKWATCH_CENSUS_INTERVAL", "--cpu.budget"} == {
        name for name in ("SOCKWATCH_CENSUS_INTERVAL", "--cpu.budget") if name in told.stderr
    }


def imported(*arguments: str) -> set[str]:
    """Modules of the standard library and others that a command imports."""
    told = sockwatch(*arguments, python=("-X", "importtime"))
    assert told.returncode == 0
    lines = (line for line in told.stderr.splitlines() if line.startswith("import time:"))
    return {line.rsplit("|", 1)[-1].strip() for line in lines}


@pytest.mark.parametrize(
    "arguments",
    [("--version",), ("--help",), ("explain",), ("explain", "close_wait"), ("run", "--help")],
    ids=" ".join,
)
def test_what_needs_no_kernel_starts_without_what_reads_it(arguments: tuple[str, ...]) -> None:
    names = imported(*arguments)
    assert "sockwatch.config.problems" in names
    assert not HEAVY & {name.split(".")[0] for name in names}


CHATTY: Final = [("--version",), ("--help",), ("explain",), ("explain", "--json")]


@pytest.fixture
def broken_pipe() -> Iterator[int]:
    """The end to write to of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("env", BUFFERED.values(), ids=BUFFERED)
@pytest.mark.parametrize("arguments", CHATTY, ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_error(
    arguments: tuple[str, ...], env: Mapping[str, str], broken_pipe: int
) -> None:
    command = [sys.executable, "-m", "sockwatch", *arguments]
    told = subprocess.run(
        command, env=env, stdout=broken_pipe, stderr=subprocess.PIPE, timeout=30, check=False
    )
    assert (told.returncode, told.stderr) == (SIGPIPE, b"")


@pytest.mark.parametrize("env", BUFFERED.values(), ids=BUFFERED)
@pytest.mark.parametrize("arguments", CHATTY, ids=" ".join)
def test_a_full_disk_is_one_line(arguments: tuple[str, ...], env: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "sockwatch", *arguments]
    with Path("/dev/full").open("wb") as full:
        told = subprocess.run(
            command, env=env, stdout=full, stderr=subprocess.PIPE, timeout=30, check=False
        )
    line = b"sockwatch: the output cannot be written: No space left on device\n"
    assert (told.returncode, told.stderr) == (1, line)


@pytest.mark.parametrize("env", BUFFERED.values(), ids=BUFFERED)
@pytest.mark.parametrize("arguments", CHATTY, ids=" ".join)
def test_an_output_that_can_only_be_read_is_one_line(
    arguments: tuple[str, ...], env: Mapping[str, str]
) -> None:
    command = ["sh", "-c", '"$@" 1</dev/null', "sh", sys.executable, "-m", "sockwatch", *arguments]
    told = subprocess.run(
        command, env=env, stderr=subprocess.PIPE, timeout=30, check=False, text=True
    )
    line = "sockwatch: the output cannot be written: Bad file descriptor\n"
    assert (told.returncode, told.stderr) == (1, line)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", CHATTY, ids=" ".join)
def test_closed_streams_are_no_error(arguments: tuple[str, ...], closed: str) -> None:
    """As some supervisors and cron jobs start programs."""
    script = f'"$@" {closed}'
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "sockwatch", *arguments]
    told = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False
    )
    assert (told.returncode, told.stderr) == (0, "")


def test_errors_are_told_by_the_exit_code_where_stderr_is_closed() -> None:
    command = ["sh", "-c", '"$@" 2>&-', "sh", sys.executable, "-m", "sockwatch", "nosuch"]
    assert subprocess.run(command, env=ENVIRONMENT, timeout=30, check=False).returncode == 2


def is_open(path: Path, pid: int) -> bool:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it is closed meanwhile
            if path.samefile(descriptor):
                return True
    return False


def test_who_interrupts_it_sees_no_traceback(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "sockwatch", "check-config", str(pipe)]
    with (
        pipe.open("r+b", buffering=0),  # a writer that never writes, for which it waits
        subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE) as program,
    ):
        eventually(lambda: is_open(pipe, program.pid), "it reads the pipe", timeout=30)
        program.send_signal(signal.SIGINT)
        _, told = program.communicate(timeout=30)
    assert (program.returncode, told) == (-signal.SIGINT, b"")


def test_the_program_can_be_called_from_python(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "close_wait"]) == 0
    assert "close_wait" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["nosuch"])
    assert ended.value.code == 2
