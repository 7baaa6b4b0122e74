"""Readiness, inherited sockets and logs, as systemd and the journal take them."""

import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from guards import need_command
from hypothesis import example, given
from hypothesis import strategies as st

from sockwatch.service import FORMATS, ActivationError, Notifier, inherited_sockets, setup_logging

PID = str(os.getpid())
PYTHON_PATH = os.pathsep.join(sys.path)


class Manager:
    """The receiving end of sd_notify: a real datagram socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(65536).decode())
            except BlockingIOError:
                return messages


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    listening = Manager(str(tmp_path / "notify"))
    with listening.socket:
        yield listening


@pytest.fixture
def notify_socket(manager: Manager) -> str:
    name: str = manager.socket.getsockname()
    return name


@pytest.fixture
def notifier(notify_socket: str) -> Iterator[Notifier]:
    made = Notifier({"NOTIFY_SOCKET": notify_socket})
    yield made
    made.close()


def test_each_message_is_one_datagram(manager: Manager, notifier: Notifier) -> None:
    notifier.status("starting")
    notifier.ready()
    notifier.ready("reading sockets through netlink")
    notifier.stopping()
    assert manager.heard() == [
        "STATUS=starting",
        "READY=1",
        "READY=1\nSTATUS=reading sockets through netlink",
        "STOPPING=1",
    ]


def test_reloading_carries_the_monotonic_time(manager: Manager, notifier: Notifier) -> None:
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    after = time.monotonic_ns() // 1000
    (message,) = manager.heard()
    match = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", message)
    assert match
    assert before <= int(match[1]) <= after


def test_a_status_cannot_smuggle_in_another_message(manager: Manager, notifier: Notifier) -> None:
    notifier.status("bad\nSTOPPING=1\r\n \udcff")
    assert manager.heard() == ["STATUS=bad STOPPING=1 ?"]


def test_an_abstract_address_is_reached() -> None:
    name = f"sockwatch-test-{PID}"
    with Manager("\0" + name).socket as listening:
        notifier = Notifier({"NOTIFY_SOCKET": "@" + name})
        notifier.ready()
        notifier.close()
        assert listening.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    ("environ", "watched"),
    [
        ({}, False),
        ({"WATCHDOG_USEC": "30000000"}, True),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": PID}, True),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_USEC": "0", "WATCHDOG_PID": PID}, False),
        ({"WATCHDOG_USEC": "soon", "WATCHDOG_PID": PID}, False),
        ({"WATCHDOG_PID": PID}, False),
    ],
)
def test_the_watchdog_is_fed_only_if_it_watches_this_process(
    manager: Manager, notify_socket: str, environ: dict[str, str], watched: bool
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": notify_socket} | environ)
    notifier.watchdog()
    notifier.close()
    assert manager.heard() == ["WATCHDOG=1"] * watched


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative/path"])
def test_without_a_manager_nothing_is_said(address: str, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready()
    notifier.watchdog()
    notifier.close()
    assert caplog.records == []


def test_a_manager_that_went_away_is_logged_once_until_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = tmp_path / "notify"
    notifier = Notifier({"NOTIFY_SOCKET": str(address)})
    notifier.ready()
    notifier.ready()
    assert [record.getMessage() for record in caplog.records] == [
        "cannot notify the service manager: [Errno 2] No such file or directory"
    ]
    manager = Manager(str(address))
    notifier.ready()
    assert manager.heard() == ["READY=1"]
    manager.socket.close()
    notifier.ready()
    assert len(caplog.records) == 2
    notifier.close()


def test_a_manager_that_does_not_read_delays_for_a_second_at_most(
    manager: Manager, notifier: Notifier, caplog: pytest.LogCaptureFixture
) -> None:
    start = time.monotonic()
    while not caplog.records and time.monotonic() - start < 10:
        notifier.ready("x" * 1000)
    assert "timed out" in caplog.text
    assert time.monotonic() - start < 3
    assert manager.heard()


def test_after_closing_nothing_is_said(manager: Manager, notifier: Notifier) -> None:
    notifier.close()
    notifier.ready()
    assert manager.heard() == []


def test_another_program_of_systemd_speaks_the_same(
    manager: Manager, notify_socket: str, notifier: Notifier
) -> None:
    command = [
        need_command("systemd-notify", "systemd"),
        "--no-block",
        "--ready",
        "--status=up and well",
    ]
    environ = {"NOTIFY_SOCKET": notify_socket}
    subprocess.run(command, env=environ, check=True, timeout=10)
    theirs = manager.heard()
    notifier.ready("up and well")
    assert [set(m.splitlines()) for m in manager.heard()] == [set(m.splitlines()) for m in theirs]


ACTIVATED = """
import json, os, socket, sys
from sockwatch.service import ActivationError, inherited_sockets
try:
    sockets = inherited_sockets()
except ActivationError as error:
    facts = {"error": str(error)}
else:
    facts = {
        "families": [one.family.name for one in sockets],
        "inheritable": [one.get_inheritable() for one in sockets],
        "left": [name for name in os.environ if name.startswith("LISTEN_")],
    }
    peer, _ = sockets[0].accept()
    peer.sendall(b"served")
    peer.close()
with open(sys.argv[1], "w") as answer:
    json.dump(facts, answer)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Activation:
    """A program started by the real systemd-socket-activate at the first connection."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.local = folder / "local"
        self._answer = folder / "answer.json"
        # It passes descriptors in the order of -l, and only the environment it is told to.
        self._command = [
            need_command("systemd-socket-activate", "systemd"),
            f"--listen=127.0.0.1:{self.port}",
            f"--listen={self.local}",
            f"--setenv=PYTHONPATH={PYTHON_PATH}",
            *options,
            *(sys.executable, "-c", ACTIVATED, str(self._answer)),
        ]

    def run(self) -> tuple[bytes, Any]:
        """Connect, and return what was served and what the program found."""
        with subprocess.Popen(self._command, stderr=subprocess.DEVNULL) as process:
            try:
                served = self._connect()
                process.wait(timeout=10)
            finally:
                process.kill()
        return served, json.loads(self._answer.read_text())

    def _connect(self) -> bytes:
        deadline = time.monotonic() + 10
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
                    return client.recv(100)
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "systemd-socket-activate does not listen"
                time.sleep(0.01)


@pytest.mark.service
def test_sockets_of_the_real_socket_activation_are_served_on(tmp_path: Path) -> None:
    served, facts = Activation(tmp_path, "--fdname=web:local").run()
    assert served == b"served"
    assert facts == {
        "families": ["AF_INET", "AF_UNIX"],
        "inheritable": [False, False],
        "left": [],
    }


REFUSED = """
import os, socket, sys
from sockwatch.service import ActivationError, inherited_sockets
good = socket.create_server(("127.0.0.1", 0))
bad = {bad}
for number, one in enumerate([good, bad]):
    os.dup2(one.fileno(), 10 + number)
for number in (0, 1):
    os.dup2(10 + number, 3 + number)
environ = {{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": {names!r}}}
try:
    inherited_sockets(environ)
except ActivationError as error:
    print(error, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("bad", "names", "message"),
    [
        ("open(os.devnull)", "web:fifo", "descriptor 4 (fifo) from systemd is no socket: "),
        ("open(os.devnull)", "web", "descriptor 4 (unnamed) from systemd is no socket: "),
        ("socket.socket()", "web:api", "descriptor 4 (api) from systemd is not listening: "),
        (
            "socket.socket(type=socket.SOCK_DGRAM)",
            "web:udp",
            "its socket unit needs ListenStream= with a port or a path, and Accept=no",
        ),
        (
            "socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); bad.bind(''); bad.listen()",
            "web:packets",
            "descriptor 4 (packets) from systemd is not listening: ",
        ),
    ],
)
def test_a_descriptor_that_cannot_be_served_on_is_named(bad: str, names: str, message: str) -> None:
    program = REFUSED.format(bad=bad, names=names)
    environ = {"PYTHONPATH": PYTHON_PATH}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    assert message in done.stdout


NO_SOCKETS = [
    {},
    {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
    {"LISTEN_PID": PID},
    {"LISTEN_PID": PID, "LISTEN_FDS": "0"},
    {"LISTEN_PID": PID, "LISTEN_FDS": "many"},
    {"LISTEN_FDS": "1"},
]


@pytest.mark.parametrize("environ", NO_SOCKETS)
def test_without_sockets_for_this_process_it_says_what_to_do(environ: Mapping[str, str]) -> None:
    with pytest.raises(ActivationError, match=r"start it through sockwatch\.socket"):
        inherited_sockets(dict(environ))


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """Gives pytest its handlers back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


log = logging.getLogger("sockwatch.test")


def logged(fmt: str, environ: Mapping[str, str] | None = None, level: str = "debug") -> io.StringIO:
    """What is logged from now on."""
    stream = io.StringIO()
    setup_logging(level, fmt, environ or {}, stream)
    return stream


PAIR = re.compile(r'([\w.-]+)=("(?:[^"\\]|\\.)*"|[^\s"=]*)(?: |$)', re.ASCII)


def read_logfmt(line: str) -> dict[str, str]:
    """Parse as Loki's decoder does: bare words, or strings with the escapes of JSON."""
    assert "".join(match[0] for match in PAIR.finditer(line)) == line
    found = {match[1]: match[2] for match in PAIR.finditer(line)}
    return {k: json.loads(v) if v.startswith('"') else v for k, v in found.items()}


READERS: dict[str, Callable[[str], dict[str, Any]]] = {"logfmt": read_logfmt, "json": json.loads}


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_record_has_the_fields_of_prometheus(fmt: str) -> None:
    stream = logged(fmt)
    log.warning("pass failed", extra={"fields": {"pass": "watch", "cause": "busy"}})
    facts = READERS[fmt](stream.getvalue().removesuffix("\n"))
    assert list(facts) == ["time", "level", "source", "msg", "pass", "cause"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", facts.pop("time"))
    assert re.fullmatch(r"sockwatch\.test:\d+", facts.pop("source"))
    assert facts == {"level": "WARN", "msg": "pass failed", "pass": "watch", "cause": "busy"}


def test_logfmt_reads_well() -> None:
    stream = logged("logfmt")
    fields = {"port": 8080, "share": 0.5, "ok": True, "unit": r"a\x2db.service", "why": None}
    log.info("slow pass", extra={"fields": fields | {"empty": "", "odd key": "é"}})
    assert stream.getvalue().partition(" msg=")[2] == (
        '"slow pass" port=8080 share=0.5 ok=true unit=a\\x2db.service why=null empty="" odd_key=é\n'
    )


def test_json_keeps_types() -> None:
    stream = logged("json")
    fields = {"port": 8080, "share": 0.5, "ok": True, "why": None, "path": Path("/etc")}
    log.info("message", extra={"fields": fields})
    facts = json.loads(stream.getvalue())
    assert {key: facts[key] for key in fields} == fields | {"path": "/etc"}


HOSTILE = 'one\ntwo\r\x1b[31m\x00\x7f\x85\u2028\u202e\udcff"= \\'


@pytest.mark.parametrize("fmt", FORMATS)
@given(message=st.text(), value=st.text())
@example(message=HOSTILE, value=HOSTILE)
def test_one_record_is_one_printable_line_that_reads_back(
    fmt: str, message: str, value: str
) -> None:
    stream = logged(fmt)
    log.info("%s", message, extra={"fields": {"value": value}})
    line = stream.getvalue().removesuffix("\n")
    assert line.isprintable()
    facts = READERS[fmt](line)
    assert (facts["msg"], facts["value"]) == (message, value)


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_field_does_not_replace_what_every_record_has(fmt: str) -> None:
    stream = logged(fmt)
    log.info("true", extra={"fields": {"msg": "false", "level": "ERROR", "more": "x"}})
    facts = READERS[fmt](stream.getvalue().removesuffix("\n"))
    assert (facts["msg"], facts["level"], facts["more"]) == ("true", "INFO", "x")


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_traceback_is_part_of_the_line(fmt: str) -> None:
    stream = logged(fmt)
    try:
        int("two\nlines")
    except ValueError:
        log.exception("crashed")
    facts = READERS[fmt](stream.getvalue().removesuffix("\n"))
    assert facts["err"].startswith("ValueError: invalid literal")
    assert facts["traceback"].startswith("Traceback (most recent call last):\n")


@pytest.mark.parametrize("fmt", FORMATS)
def test_without_an_exception_there_is_no_traceback(fmt: str) -> None:
    stream = logged(fmt)
    log.error("failed", exc_info=(None, None, None))
    assert "traceback" not in READERS[fmt](stream.getvalue().removesuffix("\n"))


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["DEBUG", "INFO", "WARN", "ERROR", "ERROR"]),
        ("info", ["INFO", "WARN", "ERROR", "ERROR"]),
        ("warn", ["WARN", "ERROR", "ERROR"]),
        ("error", ["ERROR", "ERROR"]),
    ],
)
def test_only_what_is_severe_enough_is_written(level: str, written: list[str]) -> None:
    stream = logged("json", level=level)
    for severity in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        log.log(severity, "message")
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == written


def test_systemd_can_ask_for_debug() -> None:
    stream = logged("json", {"DEBUG_INVOCATION": "1"}, level="error")
    log.debug("message")
    assert json.loads(stream.getvalue())["level"] == "DEBUG"


def test_setting_up_again_replaces_what_was_set_up() -> None:
    first, second = logged("json"), logged("logfmt")
    log.info("message")
    assert first.getvalue() == ""
    assert second.getvalue().count("message") == 1


JOURNAL = """
import logging, os
facts = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{facts.st_dev}:{facts.st_ino + OFFSET}"
from sockwatch.service import setup_logging
setup_logging("debug", "FORMAT")
for level in (10, 20, 30, 40, 50):
    logging.getLogger("sockwatch").log(level, "two\\nlines")
"""


def stderr_of(fmt: str, offset: int) -> list[str]:
    program = JOURNAL.replace("FORMAT", fmt).replace("OFFSET", str(offset))
    environ = {"PYTHONPATH": PYTHON_PATH}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    return done.stderr.splitlines()


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_journal_gets_priorities_and_no_time(fmt: str) -> None:
    lines = stderr_of(fmt, offset=0)
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    facts = READERS[fmt](lines[2][3:])
    assert list(facts) == ["level", "source", "msg"]
    assert facts["msg"] == "two\nlines"


def test_stderr_that_is_not_the_journals_gets_times() -> None:
    lines = stderr_of("logfmt", offset=1)
    assert len(lines) == 5
    assert all(line.startswith("time=2") for line in lines)
