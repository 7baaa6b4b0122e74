"""The daemon as a process with a web configuration file: from its start over reloads to its end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bcrypt
import pytest
from authority import Authority
from daemon import Daemon, start
from guards import need_kernel_diag
from http_client import basic

PASSWORD = "correct horse"  # noqa: S105  nobody's
TLS = "tls_server_config:\n  cert_file: shown.crt\n  key_file: shown.key\n"


def users(password: str = PASSWORD) -> str:
    made = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    return f"basic_auth_users:\n  prometheus: {made}\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls"))
    made.issue("old", "IP:127.0.0.1", "DNS:old.example")
    made.issue("new", "IP:127.0.0.1", "DNS:new.example")
    return made


@pytest.fixture
def web(tmp_path: Path, authority: Authority) -> Path:
    file = tmp_path / "web.yml"
    show(file, authority, "old")
    write(file, TLS + users())
    return file


def write(file: Path, text: str) -> None:
    """Change a file, as if it had been a while ago."""
    file.write_text(text)
    settle(file)


def settle(file: Path) -> None:
    """It is not to be waited for; still each change is newer than the one before."""
    then = time.time() - 1000.0 + time.monotonic() % 500
    os.utime(file, (then, then))


def show(file: Path, authority: Authority, name: str) -> None:
    """Put a certificate in the place that the file names."""
    for ending in ("crt", "key"):
        target = file.with_name(f"shown.{ending}")
        shutil.copyfile(authority.cert.with_name(f"{name}.{ending}"), target)
        settle(target)


@contextmanager
def protected(web: Path, authority: Authority, *flags: str) -> Iterator[Daemon]:
    need_kernel_diag()
    with start(f"--web.config.file={web}", *flags) as daemon:
        daemon.trust, daemon.authorization = authority.client(), basic("prometheus", PASSWORD)
        daemon.until_ready()
        yield daemon


def reloaded(daemon: Daemon) -> float:
    return daemon.metrics().sum("sockwatch_config_last_reload_successful")


def name_shown(daemon: Daemon, authority: Authority) -> str:
    certificate = ssl.get_server_certificate(
        ("127.0.0.1", daemon.port), ca_certs=str(authority.cert), timeout=10
    )
    known = {authority.cert.with_name(f"{name}.crt").read_text(): name for name in ("old", "new")}
    return known[certificate]


def test_it_serves_who_knows_the_password_from_its_start_to_its_end(
    web: Path, authority: Authority
) -> None:
    with protected(web, authority) as daemon:
        assert daemon.get("/", host="watched.example").status == 200
        assert daemon.get("/metrics", authorization=basic("prometheus", "wrong")).status == 401
        rejected = daemon.metrics().by("sockwatch_http_requests_rejected_total", "reason")
        assert rejected["authentication",] == 1
        told = daemon.log()
        assert 'msg="web configuration loaded" tls=true client_certificates=false users=1' in told
        assert PASSWORD not in told
        assert "$2b$" not in told
        daemon.send(signal.SIGTERM)
        start = time.monotonic()
        assert daemon.ended() == 0
        assert time.monotonic() - start < 1.0


def test_its_end_does_not_wait_for_a_check_under_way(tmp_path: Path) -> None:
    made = bcrypt.hashpw(b"secret", bcrypt.gensalt(15)).decode()
    file = tmp_path / "web.yml"
    write(file, f"basic_auth_users:\n  prometheus: {made}\n")
    need_kernel_diag()
    wrong = basic("prometheus", "wrong").encode()
    with (
        start(f"--web.config.file={file}") as daemon,
        socket.create_connection(("127.0.0.1", daemon.port)) as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: %s\r\n\r\n" % wrong)
        time.sleep(0.3)  # of the two seconds that the check takes
        daemon.send(signal.SIGTERM)
        began = time.monotonic()
        assert daemon.ended() == 0
        assert time.monotonic() - began < 1.2


def test_a_password_and_a_certificate_are_changed_without_a_restart(
    web: Path, authority: Authority
) -> None:
    with protected(web, authority) as daemon:
        assert name_shown(daemon, authority) == "old"
        show(web, authority, "new")
        daemon.until(lambda: name_shown(daemon, authority) == "new", "the new certificate")
        write(web, TLS + users("changed"))
        daemon.until(lambda: daemon.get("/metrics").status == 401, "the new password")
        daemon.authorization = basic("prometheus", "changed")
        assert reloaded(daemon) == 1


def test_a_broken_file_changes_nothing_and_is_seen_in_the_metrics(
    web: Path, authority: Authority
) -> None:
    with protected(web, authority) as daemon:
        before = daemon.metrics().sum("sockwatch_config_last_reload_success_timestamp_seconds")
        write(web, "basic_auth_user: {}\n")
        daemon.until(lambda: reloaded(daemon) == 0, "the failed reload")
        for _ in range(3):
            assert daemon.get("/metrics").status == 200
        assert daemon.log().count("web configuration not reloaded") == 1
        write(web, TLS + users())
        daemon.until(lambda: reloaded(daemon) == 1, "the mended file")
        after = daemon.metrics().sum("sockwatch_config_last_reload_success_timestamp_seconds")
        assert after > before


def test_a_hangup_reads_both_files_or_takes_neither(
    web: Path, authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "sockwatch.toml"
    file.write_text('[watch]\ninterval = "300ms"\n')
    with protected(web, authority, f"--config.file={file}", "--cpu.budget=0") as daemon:
        file.write_text('[watch]\ninterval = "200ms"\n')
        web.write_text("nonsense")
        daemon.send(signal.SIGHUP)
        daemon.until(lambda: "configuration not reloaded" in daemon.log(), "refused")
        assert reloaded(daemon) == 0
        assert interval(daemon) == 0.3
        web.write_text(TLS + users())
        daemon.send(signal.SIGHUP)
        daemon.until(lambda: "configuration reloaded" in daemon.log(), "reloaded")
        daemon.until(lambda: interval(daemon) == 0.2, "the new interval")
        assert reloaded(daemon) == 1


def interval(daemon: Daemon) -> float:
    return daemon.metrics().sum("sockwatch_pass_interval_seconds", **{"pass": "watch"})


def test_who_shows_a_certificate_needs_no_password(web: Path, authority: Authority) -> None:
    ca = web.with_name("ca.crt")
    shutil.copyfile(authority.cert, ca)
    required = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n"
    write(web, f"{TLS}{required}  client_allowed_sans: [prometheus.example]\n")
    need_kernel_diag()
    with start(f"--web.config.file={web}") as daemon:
        daemon.trust = authority.client(authority.issue("client", "DNS:prometheus.example"))
        daemon.until_ready()
        assert daemon.get("/", host="watched.example").status == 200
        daemon.trust = authority.client(authority.issue("other", "DNS:other.example"))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            daemon.get("/metrics")
        daemon.trust = authority.client()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            daemon.get("/metrics")
