"""From settings to what TLS is served with: certificates that fit, and those that do not."""

import os
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from authority import Authority
from http_client import GET, one_reply, serving, status_of

from sockwatch.web.certificates import CertificateError, tls_of
from sockwatch.web.config import load
from sockwatch.web.tls import Tls

FILES = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"


@pytest.fixture(scope="module")
def authority(authority: Authority) -> Authority:
    authority.issue("other")
    return authority


def tls(folder: Path, text: str = FILES) -> Tls:
    file = folder / "web.yml"
    file.write_text(text)
    settings = load(str(file)).tls
    assert settings is not None
    return tls_of(settings, str(file))


def inline(key: str, file: Path) -> str:
    lines = "".join(f"    {line}\n" for line in file.read_text().splitlines())
    return f"  {key}: |\n{lines}"


class Agreed(NamedTuple):
    """What client and server have agreed on."""

    cipher: str
    protocol: str | None


def speak(served_with: Tls, client: ssl.SSLContext) -> Agreed:
    """Have one request answered."""
    with (
        serving(ssl_context=served_with.context) as served,
        client.wrap_socket(served.connect(), server_hostname="localhost") as connection,
    ):
        connection.sendall(GET)
        assert status_of(one_reply(connection)) == 200
        cipher = connection.cipher()
        assert cipher is not None
        return Agreed(cipher[0], connection.selected_alpn_protocol())


def test_certificate_and_key_are_read_from_files(authority: Authority, folder: Path) -> None:
    speak(tls(folder), authority.client())


def test_or_from_the_configuration_itself(authority: Authority, folder: Path) -> None:
    cert, key = folder / "server.crt", folder / "server.key"
    text = f"tls_server_config:\n{inline('cert', cert)}{inline('key', key)}"
    speak(tls(folder, text), authority.client())


def test_both_may_stand_in_one_file(authority: Authority, folder: Path) -> None:
    both = folder / "both.pem"
    both.write_text((folder / "server.key").read_text() + (folder / "server.crt").read_text())
    text = "tls_server_config:\n  cert_file: both.pem\n  key_file: both.pem\n"
    speak(tls(folder, text), authority.client())


@pytest.fixture
def encrypted(authority: Authority, folder: Path) -> Iterator[Path]:
    key = folder / "encrypted.key"
    subprocess.run(
        ["openssl", "ec", "-aes128", "-passout", "pass:secret", "-in", "server.key", "-out", key],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=30,
    )
    yield key
    key.unlink()


@pytest.mark.usefixtures("encrypted")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (FILES.replace("server.crt", "no.crt"), "no.crt: cannot be read: No such file"),
        (FILES.replace("server.key", "."), ": cannot be read: Is a directory"),
        (FILES.replace("server.key", "server.crt"), "server.crt: there is no `-----BEGIN ... PRIV"),
        (FILES.replace("server.crt", "server.key"), "server.key: there is no `-----BEGIN ... CERT"),
        (FILES.replace("server.key", "other.key"), "other.key: the key is not the one of the "),
        (
            FILES.replace("server.key", "encrypted.key"),
            "the key is encrypted, and nobody is there ",
        ),
        (
            "tls_server_config:\n  key_file: server.key\n  cert: -----BEGIN CERTIFICATE-----\n",
            "tls_server_config.cert and tls_server_config.key_file = ",
        ),
        (
            FILES + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: /dev/null\n",
            "tls_server_config.client_ca_file = /dev/null: there is no `-----BEGIN ... CERTIFICATE",
        ),
        (
            FILES + "  client_auth_type: RequireAndVerifyClientCert\n"
            "  client_ca: -----BEGIN CERTIFICATE-----\n",
            "tls_server_config.client_ca: ",
        ),
    ],
    ids=lambda value: value[-40:],
)
def test_what_cannot_be_used_is_named(folder: Path, text: str, problem: str) -> None:
    with pytest.raises(CertificateError) as caught:
        tls(folder, text)
    (told,) = map(str, caught.value.problems)
    assert problem in told
    assert told.startswith(f"{folder}/web.yml: ")
    assert "\n" not in told


def test_nobody_waits_for_a_certificate_that_nobody_writes(folder: Path) -> None:
    os.mkfifo(folder / "pipe.crt")
    with pytest.raises(CertificateError, match=r"pipe\.crt: there is no `-----BEGIN"):
        tls(folder, FILES.replace("server.crt", "pipe.crt"))


def test_an_unreadable_key_leaves_no_file_open(authority: Authority, folder: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        tls(folder)
        with pytest.raises(CertificateError):
            tls(folder, FILES.replace("server.key", "other.key"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# What is spoken


def only(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = version
    return context


TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("", {TLS12, TLS13}),
        ("  min_version: TLS13\n", {TLS13}),
        ("  max_version: TLS12\n", {TLS12}),
        ("  cipher_suites: [TLS_AES_128_GCM_SHA256]\n", {TLS13}),
    ],
)
def test_the_versions_asked_for_are_spoken(
    authority: Authority, folder: Path, text: str, spoken: set[ssl.TLSVersion]
) -> None:
    for version in (TLS12, TLS13):
        client = only(authority.client(), version)
        if version in spoken:
            speak(tls(folder, FILES + text), client)
        else:
            with pytest.raises(ssl.SSLError):
                speak(tls(folder, FILES + text), client)


GO = "TLS_ECDHE_ECDSA_WITH_"
AES, CHACHA = "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"


@pytest.mark.parametrize(
    ("prefer", "chosen"), [("", AES), ("  prefer_server_cipher_suites: false\n", CHACHA)]
)
def test_the_order_of_cipher_suites_is_the_servers_unless_told(
    authority: Authority, folder: Path, prefer: str, chosen: str
) -> None:
    suites = f"  cipher_suites: [{GO}AES_256_GCM_SHA384, {GO}CHACHA20_POLY1305_SHA256]\n"
    client = only(authority.client(), TLS12)
    client.set_ciphers(f"{CHACHA}:{AES}")
    assert speak(tls(folder, FILES + suites + prefer), client).cipher == chosen


def test_a_curve_may_be_chosen(authority: Authority, folder: Path) -> None:
    text = FILES + "  curve_preferences: [CurveP384]\n"
    speak(tls(folder, text), authority.client())
    other = authority.client()
    other.set_ecdh_curve("secp521r1")
    with pytest.raises(ssl.SSLError):
        speak(tls(folder, text), other)


def test_only_http_1_1_is_agreed_on(authority: Authority, folder: Path) -> None:
    client = authority.client()
    client.set_alpn_protocols(["h2", "http/1.1"])
    assert speak(tls(folder), client).protocol == "http/1.1"
