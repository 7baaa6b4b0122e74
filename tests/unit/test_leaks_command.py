"""`sockwatch leaks` as it is called, against servers of every kind; looks of its own are replaced
(tests/kernel has real ones)."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import bcrypt
import pytest
from authority import Authority
from http_client import PATIENCE, Served, Shelf, serving
from marked import OWNERS, Entry, seen, stuck
from snapshots import PSUTIL, of_namespaces, snapshot

from sockwatch.__main__ import main
from sockwatch.config import Address, Config
from sockwatch.observe.snapshot import Snapshot
from sockwatch.poll import NoSource, look
from sockwatch.tcp.causes import Cause
from sockwatch.tcp.states import State
from sockwatch.web import client
from sockwatch.web.client import urls
from sockwatch.web.protection import Protection

STUCK: Final = (
    *[Entry(age=100.0 + number, inode=101) for number in range(30)],
    Entry(State.SYN_SENT, Cause.UNANSWERED, age=400.0, inbound=False, cgroup=12),
)
LEAKING: Final = of_namespaces(seen(stuck(*STUCK, owners=OWNERS)))
FINE: Final = of_namespaces(seen(stuck()))


@pytest.fixture(autouse=True)
def _this_host_has_no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = tmp_path / "empty.toml"
    empty.touch()
    monkeypatch.setenv("SOCKWATCH_CONFIG_FILE", str(empty))
    for name in ("NO_COLOR", "COLUMNS", "SOCKWATCH_WEB_LISTEN_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(Shelf(LEAKING)) as started:
        yield started


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Looks yield a leak; those made."""
    made: list[Config] = []

    def look_closely(config: Config) -> Snapshot:
        made.append(config)
        return of_namespaces(seen(stuck(Entry(age=2.0), bounds=[2.0])))

    monkeypatch.setattr(look, "look_closely", look_closely)
    return made


def address(server: Served) -> str:
    return f"127.0.0.1:{server.port}"


def url(server: Served) -> str:
    return f"http://{address(server)}"


def free_address() -> str:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return f"127.0.0.1:{unused.getsockname()[1]}"


# Asking the daemon


def test_a_leak_makes_the_exit_code_1(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaks", "--url", url(served)]) == 1
    out, err = capsys.readouterr()
    assert "app.service leaks 30 connections of inbound port 8080" in out
    assert "and 11 more, see --limit" in out
    assert err == ""


def test_nothing_stuck_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Shelf(FINE)) as server:
        assert main(["leaks", "--url", url(server)]) == 0
    assert "Nothing is stuck." in capsys.readouterr().out


def test_ages_that_are_not_known_are_not_fine(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Shelf(snapshot(source=PSUTIL))) as server:
        assert main(["leaks", "--url", url(server)]) == 1
    assert "It is not known" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "code", "connections"),
    [
        ([], 1, 31),
        (["--state", "close_wait"], 1, 30),
        (["--state", "SYN-SENT"], 1, 1),
        (["--state", "estab"], 0, 0),
        (["--port", "50000"], 1, 1),
        (["--unit", "db.service"], 1, 1),
        (["--unit", ""], 0, 0),
        (["--older-than", "2m"], 1, 11),
        (["--older-than", "5m", "--port=8080"], 0, 0),
    ],
)
def test_filters_go_to_the_daemon(
    served: Served,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    code: int,
    connections: int,
) -> None:
    assert main(["leaks", "--json", "--url", url(served), *flags]) == code
    assert json.loads(capsys.readouterr().out)["connections"] == connections


def test_json_is_what_the_daemon_answers(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["leaks", "--json", "--url", url(served)])
    assert json.loads(capsys.readouterr().out) == json.loads(served.get("/api/v1/leaks").body)


@pytest.mark.parametrize("text", [True, False], ids=["text", "json"])
def test_the_limit_shortens_what_is_told_one_by_one(
    served: Served, capsys: pytest.CaptureFixture[str], text: bool
) -> None:
    main(["leaks", "--limit=3", "--url", url(served), *([] if text else ["--json"])])
    out = capsys.readouterr().out
    if text:
        assert "and 28 more, see --limit" in out
    else:
        assert (len(json.loads(out)["sockets"]), json.loads(out)["connections"]) == (3, 31)


def test_the_daemon_is_found_where_the_configuration_has_it(
    served: Served, tmp_path: Path, looked: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sockwatch.toml"
    file.write_text(f'[web]\nlisten_address = ["{free_address()}", ":{served.port}"]\n')
    assert main(["leaks", f"--config.file={file}"]) == 1
    assert main(["leaks", f"--web.listen-address={address(served)}"]) == 1
    assert capsys.readouterr().out.count("leaks 30 connections") == 2
    assert looked == []


HEAVY: Final = {
    *("ssl", "http.client", "asyncio", "uvicorn", "prometheus_client", "pyroute2", "psutil"),
    *("sockwatch.poll", "sockwatch.kernel", "sockwatch.observe.search", "sockwatch.tcp.model"),
    *("sockwatch.export.findings", "sockwatch.export.report.text", "sockwatch.commands.run"),
}


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_who_asks_a_daemon_does_not_load_what_looks_itself(flags: list[str]) -> None:
    """At three in the morning it is the start of the program that one waits for."""
    code = "import sys; from sockwatch.__main__ import main; main(); print(*sys.modules)"
    with serving(Shelf(FINE)) as server:
        command = [sys.executable, "-c", code, "leaks", f"--url={url(server)}", *flags]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    loaded = {*told.stdout.splitlines()[-1].split()}
    assert "sockwatch.export.leaks.reading" in loaded
    assert HEAVY & loaded == set()


@pytest.mark.parametrize(
    ("listened", "asked"),
    [
        (Address("127.0.0.1", 10077), ["http://127.0.0.1:10077"]),
        (Address("", 80), ["http://127.0.0.1:80"]),
        (Address("0.0.0.0", 80), ["http://127.0.0.1:80"]),
        (Address("::", 80), ["http://[::1]:80"]),
        (Address("2001:db8::1", 80), ["http://[2001:db8::1]:80"]),
        (Address("localhost", 80), ["http://localhost:80"]),
        (Address("127.0.0.1", 0), []),
    ],
)
def test_who_listens_everywhere_is_asked_on_loopback(listened: Address, asked: list[str]) -> None:
    assert urls([listened]) == asked


# Without a daemon


def test_without_a_daemon_it_looks_itself_and_says_so(
    looked: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    where = free_address()
    assert main(["leaks", f"--web.listen-address={where}"]) == 1
    out, err = capsys.readouterr()
    assert len(looked) == 1
    assert f"no daemon answers at http://{where} (Connection refused)" in " ".join(out.split())
    assert "> 2 s" in out
    assert err == ""


def test_json_says_so_too(looked: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaks", "--json", f"--web.listen-address={free_address()}"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["look"]["seconds"] == 2.0
    assert "Connection refused" in told["look"]["why"]


def test_who_names_a_daemon_wants_no_other_answer(
    looked: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"http://{free_address()}"
    assert main(["leaks", "--url", where]) == 1
    out, err = capsys.readouterr()
    assert (out, looked) == ("", [])
    assert err == f"sockwatch leaks: no daemon answers at {where} (Connection refused)\n"


def test_if_nothing_can_be_read_either_that_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(config: Config) -> Snapshot:
        raise NoSource("netlink does not work (EPERM)")

    monkeypatch.setattr(look, "look_closely", refused)
    assert main(["leaks", f"--web.listen-address={free_address()}"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("cannot read the sockets of this host: netlink does not work (EPERM)\n")
    assert "Connection refused" in err
    assert err.count("\n") == 1


# Somebody else answers


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """The address of a server that says these, one to each client, whatever it is asked."""

    def serve(listener: socket.socket) -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with closing(connection):
                connection.recv(65536)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join(PATIENCE)


def http(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http("200 OK", "<html>It works!</html>"), "is not sockwatch"),
        (http("200 OK", "[]"), "is not sockwatch (its answer is no JSON object)"),
        (http("200 OK", '{"look": 0}'), "is not sockwatch (its answer has no 'host')"),
        (http("200 OK", "[" * 200_000), "is not sockwatch"),
        (http("404 Not Found", "Nothing is\nserved\x1b[2J here."), "answers with 404: Nothing is"),
        (http("403 Forbidden", "x" * 9999), "answers with 403: xxx"),
        (b"HTTP/1.0 500 Oops\r\n\r\nOut of order.", "answers with 500: Out of order."),
        (http("302 Found", ""), "answers with 302: no more is said"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "(its answer breaks off)"),
        (b"", "does not speak HTTP; if it speaks TLS, ask it with --url https://host:port"),
    ],
)
def test_who_is_not_sockwatch_is_not_believed(
    answer: bytes, said: str, looked: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(answer, answer) as where:
        assert main(["leaks", f"--web.listen-address={where}"]) == 1
        text = " ".join(capsys.readouterr().out.split())
        assert said in text
        assert "may leak" not in text
        assert len(looked) == 1
        assert main(["leaks", f"--url=http://{where}"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.strip().isprintable()
    assert len(err) < 400


def test_who_never_answers_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch, looked: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        assert main(["leaks", f"--web.listen-address={where}"]) == 1
    assert "(timed out)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [("LARGEST", 9_998, "(the answer is too large)"), ("DEADLINE", 0.0, "(timed out)")],
)
def test_an_answer_is_bounded_in_size_and_time(
    limit: str,
    value: float,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(client, limit, value)
    with answering(http("200 OK", "x" * 9_999)) as where:
        assert main(["leaks", f"--url=http://{where}"]) == 1
    assert said in capsys.readouterr().err


# A daemon that is protected


PASSWORD: Final = "correct horse"  # noqa: S105  nobody's


@pytest.fixture(scope="module")
def protected(authority: Authority, folder: Path) -> Iterator[str]:
    """Where a daemon answers over TLS who knows the password."""
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    file = folder / "web.yml"
    file.write_text(
        "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
        f"basic_auth_users:\n  admin: {hashed}\n"
    )
    with serving(Shelf(LEAKING), protection=Protection(str(file))) as server:
        assert authority.cert.exists()
        yield address(server)


@pytest.fixture
def trusted(protected: str, authority: Authority) -> list[str]:
    """Flags by which it is asked."""
    return [f"--url=https://{protected}", f"--ca-file={authority.cert}"]


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(file))
    return file


def knows(netrc: Path, password: str = PASSWORD, host: str = "127.0.0.1") -> None:
    netrc.write_text(f'machine {host} login admin password "{password}"\n')
    netrc.chmod(0o600)


def test_who_trusts_it_and_knows_the_password_is_answered(
    trusted: list[str], netrc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    knows(netrc)
    assert main(["leaks", *trusted]) == 1
    assert "app.service leaks 30 connections" in capsys.readouterr().out


def test_who_does_not_trust_it_sends_no_password(
    protected: str, netrc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    knows(netrc)
    assert main(["leaks", f"--url=https://{protected}"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"no daemon answers at https://{protected} (unable to get local issuer" in err
    assert PASSWORD not in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "asks for a password, and {path} has none for 127.0.0.1"),
        ("", "asks for a password, and {path} has none for 127.0.0.1"),
        ("machine elsewhere login a password b", "{path} has none for 127.0.0.1"),
        ("default login a password b", "{path} has none for 127.0.0.1"),
        ("machine 127.0.0.1 login admin password wrong", "does not take the password of {path}"),
        ("nonsense", "asks for a password, and {path} cannot be read: bad toplevel token"),
    ],
)
def test_without_the_password_it_says_where_to_put_it(
    content: str | None,
    said: str,
    trusted: list[str],
    netrc: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        netrc.write_text(content)
    assert main(["leaks", *trusted]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said.format(path=netrc) in err


def test_who_asks_tls_in_plain_text_looks_itself_and_is_told_how_to_ask(
    protected: str, looked: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["leaks", f"--web.listen-address={protected}"]) == 1
    assert "if it speaks TLS, ask it with --url" in " ".join(capsys.readouterr().out.split())
    assert len(looked) == 1


@pytest.mark.parametrize("content", [None, "nonsense"])
def test_a_file_that_is_none_of_certificates_is_named(
    content: str | None, protected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_text(content)
    assert main(["leaks", f"--url=https://{protected}", f"--ca-file={file}"]) == 1
    assert f"{file} is no file of certificates" in capsys.readouterr().err


def test_a_pipe_may_give_the_certificates(
    protected: str, authority: Authority, netrc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the shell's <(...) does."""
    knows(netrc)
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "wb") as pipe:
        pipe.write(authority.cert.read_bytes())
        pipe.close()
        file = f"/dev/fd/{reader}"
        assert main(["leaks", f"--url=https://{protected}", f"--ca-file={file}"]) == 1
    assert "app.service leaks" in capsys.readouterr().out


def test_nobody_waits_for_certificates_that_nobody_writes(
    protected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "ca.crt"
    os.mkfifo(pipe)
    assert main(["leaks", f"--url=https://{protected}", f"--ca-file={pipe}"]) == 1
    assert f"{pipe} is no file of certificates" in capsys.readouterr().err


# Wrong use


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--state", "time_wait"], "--state: 'time_wait' must be one of established, syn_sent"),
        (["--state", "closed_wait"], "--state: 'closed_wait' must be one of"),
        (["--port", "0"], "--port: '0' must be a port from 1 to 65535, or other"),
        (["--older-than", "5"], "--older-than: '5' must be a duration such as"),
        (["--limit", "0"], "--limit: '0' must be a whole number from 1 to 10000"),
        (["--url", "ftp://host"], "--url: 'ftp://host' must be http(s)://host:port"),
        (["--url", "http://host:x"], "must be http(s)://host:port"),
        (["--url", "http://..:80"], "must be http(s)://host:port"),
        (["--url", f"http://{'a' * 64}:80"], "must be http(s)://host:port"),
        (["--url", "http://é.example"], "must be http(s)://host:port"),
        (["--url", "http://[::1:80"], "must be http(s)://host:port"),
        (["--url", "http://host/path"], "must be http(s)://host:port"),
        (["--url", "https://user:word@host"], "must be http(s)://host:port"),
        (["--stat", "close_wait"], "did you mean --state?"),
    ],
)
def test_wrong_use_is_one_line_and_2(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["leaks", *flags])
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_a_wrong_configuration_is_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sockwatch.toml"
    file.write_text('[web]\nlisten_address = ["nonsense"]\n')
    assert main(["leaks", f"--config.file={file}"]) == 2
    assert "web.listen_address" in capsys.readouterr().err


# The terminal


def test_the_width_of_the_terminal_and_no_color_are_followed(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    main(["leaks", "--url", url(served)])
    coloured = capsys.readouterr().out
    assert "\x1b[31m" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    main(["leaks", "--url", url(served)])
    plain = capsys.readouterr().out
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) <= 80
