"""The web configuration file and what it names, followed while they change."""

import logging
import os
import shutil
import ssl
import time
from pathlib import Path

import bcrypt
import pytest
from authority import Authority
from http_client import Served, basic, serving

from sockwatch.config import ConfigError
from sockwatch.web.certificates import CertificateError
from sockwatch.web.protection import LOOK_EVERY, Protection

TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
LIMIT = "rate_limit:\n  interval: 1h\n  burst: 5\n"


def users(*names: str, password: str = "secret") -> str:  # noqa: S107  nobody's
    made = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    return "basic_auth_users:\n" + "".join(f"  {name}: {made}\n" for name in names)


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Kept:
    """A file that was last changed long ago, and what follows it."""

    def __init__(self, folder: Path, text: str) -> None:
        self.file = folder / "web.yml"
        self._age = 10_000
        self.write(text)
        self.clock = Clock()
        self.protection = Protection(str(self.file), self.clock)

    def write(self, text: str, name: str = "web.yml") -> None:
        """Change a file; each change is older than a second, and newer than the one before."""
        file = self.file.with_name(name)
        file.write_text(text)
        self.age(file)

    def age(self, file: Path) -> None:
        self._age -= 10
        then = time.time() - self._age
        os.utime(file, (then, then))

    def later(self) -> None:
        """When it is time to look again, somebody asks."""
        self.clock.now += LOOK_EVERY
        self.protection.rules()

    def good(self) -> bool:
        return self.protection.successful

    def names(self) -> set[str]:
        return set(self.protection.rules().file.users)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path, users("alice"))


def test_a_change_takes_effect(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    kept.write(users("alice", "bob"))
    with caplog.at_level(logging.INFO):
        kept.later()
    assert kept.names() == {"alice", "bob"}
    assert kept.protection.passwords.users.keys() == {"alice", "bob"}
    assert [record.message for record in caplog.records] == ["web configuration loaded"]


def test_files_are_looked_at_once_a_second_at_most(kept: Kept) -> None:
    kept.write(users("bob"))
    kept.clock.now += LOOK_EVERY * 0.9
    assert kept.names() == {"alice"}
    kept.clock.now += LOOK_EVERY * 0.2
    assert kept.names() == {"bob"}


def test_what_has_not_changed_is_not_read_again(kept: Kept) -> None:
    before = kept.protection.rules()
    kept.later()
    assert kept.protection.rules() is before


def test_a_change_under_way_is_waited_for(kept: Kept) -> None:
    kept.file.write_text(users("bob")[:30])
    kept.later()
    assert kept.names() == {"alice"}
    assert kept.good()
    kept.write(users("bob"))
    kept.later()
    assert kept.names() == {"bob"}


def test_a_file_that_was_put_in_its_place_is_seen(kept: Kept, tmp_path: Path) -> None:
    """Even if it is as long and as old: as `mv` of a copy does."""
    text, status = users("carol"), kept.file.stat()
    other = tmp_path / "other"
    other.write_text(text)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(kept.file)
    kept.later()
    assert kept.names() == {"carol"}


@pytest.mark.parametrize("broken", ["basic_auth_users: {alice: x}", "nonsense", "a: b: c"])
def test_a_broken_change_keeps_the_old_rules_and_is_told_once(
    kept: Kept, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    success_time = kept.protection.success_time
    kept.write(broken)
    for _ in range(3):
        kept.later()
    assert kept.names() == {"alice"}
    assert not kept.good()
    assert kept.protection.success_time == success_time
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert f"web configuration not reloaded, the old one stays: {kept.file}" in record.message
    kept.write(users("bob"))
    kept.later()
    assert kept.names() == {"bob"}
    assert kept.good()
    assert kept.protection.success_time > success_time


def test_a_file_that_has_gone_keeps_the_old_rules(kept: Kept) -> None:
    kept.file.unlink()
    kept.later()
    assert kept.names() == {"alice"}
    assert not kept.good()


@pytest.mark.parametrize("text", ["", "basic_auth_users: {}", LIMIT])
def test_no_change_lays_open_what_asked_for_passwords(
    kept: Kept, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """Such as one that an editor has just begun to write."""
    kept.write(text)
    kept.later()
    assert kept.names() == {"alice"}
    assert "it no longer asks for passwords, which takes a restart" in caplog.text


def test_passwords_may_be_asked_for_from_now_on(tmp_path: Path) -> None:
    kept = Kept(tmp_path, "")
    with serving(protection=kept.protection) as served:
        assert served.get("/metrics").status == 200
        kept.write(users("alice"))
        kept.clock.now += LOOK_EVERY
        assert served.get("/metrics").status == 401
        assert served.get("/metrics", authorization=basic("alice", "secret")).status == 200


def test_a_changed_password_takes_the_place_of_the_old_one(kept: Kept) -> None:
    old, new = basic("alice", "secret"), basic("alice", "changed")
    with serving(protection=kept.protection) as served:
        assert served.get("/metrics", authorization=old).status == 200
        kept.write(users("alice", password="changed"))  # noqa: S106
        kept.clock.now += LOOK_EVERY
        assert served.get("/metrics", authorization=old).status == 401
        assert served.get("/metrics", authorization=new).status == 200


def test_a_reload_on_demand_does_not_wait(kept: Kept) -> None:
    kept.file.write_text(users("bob"))
    kept.protection.reload()
    assert kept.names() == {"bob"}


def test_a_reload_on_demand_tells_what_is_wrong(kept: Kept) -> None:
    kept.file.write_text("nonsense")
    with pytest.raises(ConfigError, match="must be keys with values"):
        kept.protection.reload()
    assert kept.names() == {"alice"}
    assert not kept.good()


def test_an_unchanged_rate_goes_on_a_changed_one_begins_anew(tmp_path: Path) -> None:
    kept = Kept(tmp_path, LIMIT)
    first = kept.protection.rules().limiter
    kept.write(LIMIT + "http_server_config: {headers: {X-XSS-Protection: 0}}\n")
    kept.later()
    assert kept.protection.rules().limiter is first
    kept.write(LIMIT.replace("5", "6"))
    kept.later()
    assert kept.protection.rules().limiter is not first


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "asks neither for TLS nor for passwords"),
        (users("alice") + "http_server_config: {http2: true}", "asks for HTTP/2, which is not "),
    ],
)
def test_what_looks_like_a_mistake_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, told: str
) -> None:
    Kept(tmp_path, text).protection.log()
    assert told in caplog.text


# Certificates


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that has issued certificates for two names."""
    authority = Authority(tmp_path_factory.mktemp("made"))
    authority.issue("old", "DNS:localhost", "DNS:old.example")
    authority.issue("new", "DNS:localhost", "DNS:new.example")
    return authority


class Secured(Kept):
    """... whose certificates come from a folder."""

    def __init__(self, folder: Path, made: Authority, text: str = TLS) -> None:
        self._made = made.cert.parent
        self.file = folder / "web.yml"
        self._age = 20_000
        self.take("old", "crt", "key")
        super().__init__(folder, text)

    def take(self, name: str, *endings: str) -> None:
        for ending in endings:
            self.age(
                Path(
                    shutil.copyfile(
                        self._made / f"{name}.{ending}", self.file.with_name(f"server.{ending}")
                    )
                )
            )


@pytest.fixture
def secured(tmp_path: Path, made: Authority) -> Secured:
    return Secured(tmp_path, made)


def name_shown(served: Served, made: Authority) -> str:
    """For which name the certificate is that a new connection sees."""
    with made.client().wrap_socket(served.connect(), server_hostname="localhost") as client:
        certificate = client.getpeercert()
    assert certificate
    return str(certificate["subjectAltName"][-1][1])


def test_a_changed_certificate_is_shown_to_new_connections(
    secured: Secured, made: Authority
) -> None:
    with serving(protection=secured.protection) as served:
        assert name_shown(served, made) == "old.example"
        secured.take("new", "crt", "key")
        secured.clock.now += LOOK_EVERY
        assert name_shown(served, made) == "new.example"


def test_certificates_that_have_not_changed_are_not_read_again(secured: Secured) -> None:
    before = secured.protection.rules()
    secured.later()
    assert secured.protection.rules() is before


def test_half_a_pair_keeps_the_old_one_until_the_other_half_comes(
    secured: Secured, made: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(protection=secured.protection) as served:
        secured.take("new", "crt")
        secured.clock.now += LOOK_EVERY
        assert name_shown(served, made) == "old.example"
        assert "the key is not the one of the certificate" in caplog.text
        assert not secured.good()
        secured.take("new", "key")
        secured.clock.now += LOOK_EVERY
        assert name_shown(served, made) == "new.example"
        assert secured.good()


def test_a_file_that_is_named_only_now_is_followed_too(secured: Secured) -> None:
    secured.write(TLS.replace("server.key", "late.key"))
    secured.later()
    assert not secured.good()
    secured.write(secured.file.with_name("server.key").read_text(), "late.key")
    secured.later()
    assert secured.good()


@pytest.mark.parametrize("text", ["", "basic_auth_users:\n"])
def test_tls_stays_until_a_restart(
    secured: Secured, made: Authority, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    secured.write(text)
    secured.later()
    assert "TLS is turned on or off by it, which takes a restart" in caplog.text
    with serving(protection=secured.protection) as served:
        assert name_shown(served, made) == "old.example"


def test_tls_does_not_begin_before_a_restart(
    tmp_path: Path, made: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Secured(tmp_path, made, users("alice"))
    kept.write(TLS)
    kept.later()
    assert "TLS is turned on or off by it, which takes a restart" in caplog.text
    assert not kept.protection.has_tls


def test_an_authority_taken_away_shuts_its_clients_out(secured: Secured, made: Authority) -> None:
    clients = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n"
    secured.write(made.cert.read_text(), "ca.pem")
    secured.write(TLS + clients)
    secured.later()
    shown = made.client(made.issue("client"))
    other = Authority(secured.file.parent, "other")
    with serving(protection=secured.protection) as served:
        assert answered(served, shown)
        secured.write(other.cert.read_text(), "ca.pem")
        secured.clock.now += LOOK_EVERY
        assert not answered(served, shown)


def answered(served: Served, client: ssl.SSLContext) -> bool:
    try:
        with client.wrap_socket(served.connect(), server_hostname="localhost") as connection:
            connection.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n")
            return connection.recv(100).startswith(b"HTTP/1.1 200")
    except (ssl.SSLError, ConnectionError):
        return False


def test_at_the_start_a_broken_file_or_certificate_is_an_error(
    tmp_path: Path, made: Authority
) -> None:
    with pytest.raises(ConfigError):
        Kept(tmp_path, "nonsense")
    secured = Secured(tmp_path, made)
    secured.file.with_name("server.key").unlink()
    with pytest.raises(CertificateError):
        Protection(str(secured.file))
