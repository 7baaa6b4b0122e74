"""The web configuration file: TLS and authentication, in the format of the exporter toolkit.

https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md says what each
key means. What cannot be done here with that meaning is refused: to serve with less protection
than was asked for would be worse than not to serve.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from sockwatch.config import ConfigError
from sockwatch.web import kinds
from sockwatch.web.yamlfile import Document, Names, Schema, read

_TLS: Final = "tls_server_config"
_HTTP: Final = "http_server_config"
_RATE: Final = "rate_limit"
_VERSIONS: Final = {"min": ssl.TLSVersion.TLSv1_2, "max": ssl.TLSVersion.TLSv1_3}
"""Which versions are spoken if the file does not say."""

HEADERS: Final[Schema] = {
    "Content-Security-Policy": kinds.header(),
    "Strict-Transport-Security": kinds.header(),
    "X-Content-Type-Options": kinds.header("nosniff"),
    "X-Frame-Options": kinds.header("deny", "sameorigin"),
    "X-XSS-Protection": kinds.header(),
}
SCHEMA: Final[Schema] = {
    _TLS: {
        "cert": kinds.text(),
        "key": kinds.text(secret=True),
        "client_ca": kinds.text(),
        "cert_file": kinds.text(),
        "key_file": kinds.text(),
        "client_ca_file": kinds.text(),
        "client_auth_type": kinds.client_auth(),
        "client_allowed_sans": kinds.names_of_clients(),
        "min_version": kinds.tls_version(),
        "max_version": kinds.tls_version(),
        "cipher_suites": kinds.cipher_suites(),
        "prefer_server_cipher_suites": kinds.switch(),
        "curve_preferences": kinds.curves(),
    },
    _HTTP: {"http2": kinds.switch(), "headers": HEADERS},
    "basic_auth_users": Names(kinds.check_user, kinds.bcrypt_hash()),
    _RATE: {"interval": kinds.go_duration(), "burst": kinds.whole()},
}


class Pem(NamedTuple):
    """A certificate or key, in a file or in the configuration itself; or neither."""

    name: str
    """Of the key that gives it."""
    file: str
    text: str


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How TLS is served."""

    cert: Pem
    key: Pem
    client_ca: Pem
    client_auth: ssl.VerifyMode
    client_allowed_sans: frozenset[str]
    """Names of which a client's certificate must have one; any will do if empty."""
    min_version: ssl.TLSVersion
    max_version: ssl.TLSVersion
    ciphers: tuple[str, ...]
    """OpenSSL's names, for TLS 1.2; its own choice if empty."""
    prefer_server_ciphers: bool
    curve: str | None
    """OpenSSL's name; its own choice if `None`."""


class RateLimit(NamedTuple):
    """At most `burst` requests at once, and one more each `interval` seconds."""

    interval: float
    burst: int


@dataclass(frozen=True, slots=True)
class WebFile:
    """A whole web configuration file."""

    tls: TlsSettings | None
    headers: Mapping[str, str]
    """Headers that are set; an empty value is for none."""
    users: Mapping[str, str]
    """bcrypt hashes by name; no passwords are asked for if empty."""
    rate_limit: RateLimit | None
    http2: bool
    """Whether it asks for HTTP/2 in so many words. It is not spoken here."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it names."""
        pems = (self.tls.cert, self.tls.key, self.tls.client_ca) if self.tls else ()
        return tuple(pem.file for pem in pems if pem.file)


def load(name: str) -> WebFile:
    """Read a web configuration file; the files that it names are not looked at.

    Raises:
        ConfigError: with every problem.
    """
    document = read(name, SCHEMA)
    if not document.problems:  # otherwise what would make the values fit may be missing
        _check_tls(document, _Section(document.values.get(_TLS, {})))
        _check_rate(document, document.values.get(_RATE, {}))
    if document.problems:
        raise ConfigError(document.problems)
    values = document.values
    tls, http, rate = (values.get(each, {}) for each in (_TLS, _HTTP, _RATE))
    return WebFile(
        tls=_tls(_Section(tls), Path(name).parent) if tls else None,
        headers=MappingProxyType(http.get("headers", {})),
        users=MappingProxyType(values.get("basic_auth_users", {})),
        rate_limit=RateLimit(rate["interval"], rate["burst"]) if rate.get("interval") else None,
        http2=http.get("http2", False),
    )


class _Section(dict[str, Any]):
    """`tls_server_config`, where what is empty is not given."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__({key: value for key, value in values.items() if value not in ("", ())})

    def version(self, which: str) -> ssl.TLSVersion:
        version: ssl.TLSVersion = self.get(f"{which}_version", _VERSIONS[which])
        return version

    @property
    def client_auth(self) -> ssl.VerifyMode:
        mode: ssl.VerifyMode = self.get("client_auth_type", ssl.CERT_NONE)
        return mode

    def pem(self, key: str, folder: Path) -> Pem:
        """What a pair of keys, such as `cert` and `cert_file`, gives."""
        if file := self.get(f"{key}_file"):
            return Pem(f"{_TLS}.{key}_file", str(folder / file), "")
        return Pem(f"{_TLS}.{key}", "", self.get(key, ""))


def _check_tls(document: Document, tls: _Section) -> None:
    if not document.values.get(_TLS):
        return
    for key in ("cert", "key"):
        if not tls.keys() & {key, f"{key}_file"}:
            document.wrong((_TLS,), f"one of {key}_file and {key} is missing")
    for key in ("cert", "key", "client_ca"):
        if {key, f"{key}_file"} <= tls.keys():
            document.wrong((_TLS, key), f"{key}_file is given too; remove one of them")
    _check_clients(document, tls)
    _check_versions(document, tls)


def _check_clients(document: Document, tls: _Section) -> None:
    authorities = tls.keys() & {"client_ca", "client_ca_file"}
    if tls.client_auth == ssl.CERT_NONE:
        for key in sorted(authorities | (tls.keys() & {"client_allowed_sans"})):
            document.wrong((_TLS, key), "needs client_auth_type: RequireAndVerifyClientCert")
    elif not authorities:
        document.wrong(
            (_TLS, "client_auth_type"),
            "needs client_ca_file; without, any certificate of any public authority would do",
        )


def _check_versions(document: Document, tls: _Section) -> None:
    if tls.version("min") > tls.version("max"):
        document.wrong((_TLS,), "min_version is above max_version")
    ciphers: Sequence[str] = tls.get("cipher_suites", ())
    if ciphers and not any(ciphers) and tls.version("max") < ssl.TLSVersion.TLSv1_3:
        document.wrong((_TLS, "cipher_suites"), "none of them is for max_version: TLS12")


def _check_rate(document: Document, rate: Mapping[str, Any]) -> None:
    if rate.get("interval") and not rate.get("burst"):
        document.wrong((_RATE,), "burst must be at least 1, or nothing is ever answered")


def _tls(tls: _Section, folder: Path) -> TlsSettings:
    ciphers = tuple(filter(None, tls.get("cipher_suites", ())))
    only_1_3 = "cipher_suites" in tls and not ciphers
    return TlsSettings(
        cert=tls.pem("cert", folder),
        key=tls.pem("key", folder),
        client_ca=tls.pem("client_ca", folder),
        client_auth=tls.client_auth,
        client_allowed_sans=tls.get("client_allowed_sans", frozenset()),
        min_version=ssl.TLSVersion.TLSv1_3 if only_1_3 else tls.version("min"),
        max_version=tls.version("max"),
        ciphers=ciphers,
        prefer_server_ciphers=tls.get("prefer_server_cipher_suites", True),
        curve=tls.get("curve_preferences"),
    )
