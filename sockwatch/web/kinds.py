"""The kinds of values in a web configuration file: how each is written, checked and meant.

Where Go's TLS can do what Python's cannot, the value is refused with what to write instead.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

import yaml

from sockwatch.config.problems import nearest, shown
from sockwatch.web.yamlfile import NULL, Kind, scalar

T = TypeVar("T")

MOST_COST: Final = 18
"""A check with this one takes about 16 s; each more doubles it."""
BCRYPT: Final = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")

_BOOLEAN: Final = "tag:yaml.org,2002:bool"
_YES: Final = frozenset({"yes", "true", "on"})
_FIELD_VALUE: Final = re.compile(r"[ -~]*")
_DURATION: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ns|us|µs|ms|s|m|h))+|0")
_PART: Final = re.compile(r"([0-9.]+)([^0-9.]+)")
_SECONDS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_LONGEST: Final = 366 * 86400.0


CIPHERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TLS_AES_128_GCM_SHA256": "",
        "TLS_AES_256_GCM_SHA384": "",
        "TLS_CHACHA20_POLY1305_SHA256": "",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    }
)
"""What Go's `tls.CipherSuites` lists (crypto/tls/cipher_suites.go), by OpenSSL's names.

Those of TLS 1.3 have none: there all are always offered, by Go too.
"""

_CLIENT_AUTH: Final = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_UNVERIFIED: Final = "a certificate that nobody verifies says nothing; write "
_NOT_CLIENT_AUTH: Final = {
    "RequestClientCert": f"{_UNVERIFIED}VerifyClientCertIfGiven, with client_ca_file",
    "RequireClientCert": f"{_UNVERIFIED}RequireAndVerifyClientCert, with client_ca_file",
    "RequireAnyClientCert": f"{_UNVERIFIED}RequireAndVerifyClientCert, with client_ca_file",
}
_VERSIONS: Final = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_NOT_VERSIONS: Final = dict.fromkeys(
    ("TLS10", "TLS11"), "is broken, and not offered here; write TLS12 or TLS13"
)
_CURVES: Final = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1"}
_NOT_CURVES: Final = {
    "X25519": "cannot be chosen here by itself; leave curve_preferences out, then it comes first"
}


def text(*, secret: bool = False) -> Kind:
    """Any text."""
    return Kind(lambda node: scalar(node, "must be a text"), secret=secret)


def switch() -> Kind:
    """On or off."""

    def parse(node: yaml.Node) -> bool:
        rule = "must be true or false"
        value = scalar(node, rule).lower()
        if node.tag != _BOOLEAN:
            raise ValueError(rule)
        return value in _YES

    return Kind(parse)


def whole() -> Kind:
    """A number of requests."""

    def parse(node: yaml.Node) -> int:
        rule = "must be a whole number from 0 to 1000000"
        value = scalar(node, rule)
        if not re.fullmatch("[0-9]{1,7}", value) or int(value) > 1_000_000:  # noqa: PLR2004
            raise ValueError(rule)
        return int(value)

    return Kind(parse)


def go_duration() -> Kind:
    """Seconds, as Go's time.ParseDuration takes them."""

    def parse(node: yaml.Node) -> float:
        rule = "must be a duration with its units, such as 500ms, 1.5s or 1m30s; 0 for no limit"
        value = scalar(node, rule)
        if not _DURATION.fullmatch(value):
            raise ValueError(rule)
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(value))
        if seconds > _LONGEST:
            raise ValueError("must not be longer than a year")
        return seconds

    return Kind(parse)


def one_of(allowed: Mapping[str, T], refused: Mapping[str, str]) -> Callable[[yaml.Node], T]:
    """One of a few words; `refused` are those that Go knows, with what to do."""
    *most, last = allowed
    rule = f"must be {', '.join(most)} or {last}" if most else f"must be {last}"

    def parse(node: yaml.Node) -> T:
        value = scalar(node, rule)
        if value in refused:
            raise ValueError(refused[value])
        if value not in allowed:
            meant = nearest(value, allowed)
            raise ValueError(f"did you mean {meant}? {rule}" if meant else rule)
        return allowed[value]

    return parse


def client_auth() -> Kind:
    """Whether clients must show a certificate."""
    return Kind(one_of(_CLIENT_AUTH, _NOT_CLIENT_AUTH))


def tls_version() -> Kind:
    """A version of TLS."""
    return Kind(one_of(_VERSIONS, _NOT_VERSIONS))


def cipher_suites() -> Kind:
    """Cipher suites by Go's names."""
    return Kind(_list_of(one_of(CIPHERS, {})))


def curves() -> Kind:
    """One elliptic curve: a list of several is a choice that Python's TLS does not offer."""
    parse_each = _list_of(one_of(_CURVES, _NOT_CURVES))

    def parse(node: yaml.Node) -> str | None:
        chosen = parse_each(node)
        if len(chosen) > 1:
            raise ValueError("only one curve can be chosen here; leave it out for all the usual")
        return next(iter(chosen), None)

    return Kind(parse)


def names_of_clients() -> Kind:
    """Subject alternative names, of which a client's certificate must have one."""
    parse_each = _list_of(lambda node: scalar(node, "must be a name"))

    def parse(node: yaml.Node) -> frozenset[str]:
        names = frozenset(parse_each(node))
        if not names or "" in names:
            raise ValueError("must have at least one name, and none that is empty")
        return names

    return Kind(parse)


def header(*allowed: str) -> Kind:
    """The value of an HTTP header."""
    if allowed:
        return Kind(one_of(dict(zip(allowed, allowed, strict=True)), {}))

    def parse(node: yaml.Node) -> str:
        rule = "must be one line of printable ASCII"
        value = scalar(node, rule)
        if not _FIELD_VALUE.fullmatch(value):
            raise ValueError(rule)
        return value.strip()

    return Kind(parse)


def check_user(name: str) -> None:
    """Refuse a name that no client could send."""
    if not name or ":" in name or not name.isprintable():
        raise ValueError("a user's name must be printable, without a colon")


def bcrypt_hash() -> Kind:
    """A password as bcrypt hashes it."""

    def parse(node: yaml.Node) -> str:
        rule = "must be a bcrypt hash, such as `htpasswd -nBC 10 NAME` makes"
        value = scalar(node, rule)
        match = BCRYPT.fullmatch(value)
        if match is None:
            raise ValueError(rule)
        if not 4 <= int(match[1]) <= MOST_COST:  # noqa: PLR2004  bcrypt's own least
            raise ValueError(f"its bcrypt cost must be from 4 to {MOST_COST}; 10 to 12 is usual")
        return value

    return Kind(parse, secret=True)


def _list_of(parse_one: Callable[[yaml.Node], T]) -> Callable[[yaml.Node], tuple[T, ...]]:
    def parse(node: yaml.Node) -> tuple[T, ...]:
        if node.tag == NULL:
            return ()
        if not isinstance(node, yaml.SequenceNode):
            raise ValueError("must be a list, written [one, another]")  # noqa: TRY004  a rule
        return tuple(_item(parse_one, item) for item in node.value)

    return parse


def _item(parse_one: Callable[[yaml.Node], T], node: yaml.Node) -> T:
    try:
        return parse_one(node)
    except ValueError as error:
        what = shown(node.value) if isinstance(node, yaml.ScalarNode) else "an entry"
        raise ValueError(f"{what}: {error}") from None
