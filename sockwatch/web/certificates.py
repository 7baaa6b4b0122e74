"""From the settings of TLS to what it is served with: reading certificates and keys."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final, NoReturn

from sockwatch.config import ConfigError, Layer, Origin, Problem
from sockwatch.web.pem import at_path, read
from sockwatch.web.tls import Tls, plain

if TYPE_CHECKING:
    from sockwatch.web.config import Pem, TlsSettings

_HEADS: Final = {"cert": "CERTIFICATE-----", "key": "PRIVATE KEY-----"}
_WHY: Final = {
    "KEY_VALUES_MISMATCH": "the key is not the one of the certificate",
    "EE_KEY_TOO_SMALL": "the key of the certificate is too short to be safe",
    "CA_MD_TOO_WEAK": "the certificate is signed with a hash that is not safe",
}


class CertificateError(ConfigError):
    """A certificate or key cannot be used."""


def tls_of(settings: TlsSettings, web_file: str) -> Tls:
    """Read certificates and key.

    Args:
        settings: how TLS is served.
        web_file: which file has the settings, for messages.

    Raises:
        CertificateError: they cannot be read, or do not fit.
    """
    try:
        return Tls(_context(settings), frozenset(map(plain, settings.client_allowed_sans)))
    except _Unusable as error:
        raise CertificateError([Problem(Origin(Layer.FILE, web_file), str(error))]) from error


class _Unusable(Exception):
    """The message says which and why."""


def _context(settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = settings.min_version
    context.maximum_version = settings.max_version
    context.set_alpn_protocols(["http/1.1"])
    # A session that is resumed shows no certificate: it would outlive a reload that forbids it.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    if not settings.prefer_server_ciphers:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if settings.ciphers:
        context.set_ciphers(":".join(settings.ciphers))
    if settings.curve:
        context.set_ecdh_curve(settings.curve)
    _load_own(context, settings)
    if settings.client_auth is not ssl.CERT_NONE:
        _load_authorities(context, settings)
    return context


def _load_own(context: ssl.SSLContext, settings: TlsSettings) -> None:
    cert, key = _content(settings.cert, "cert"), _content(settings.key, "key")
    with at_path(cert) as cert_path, at_path(key) as key_path:
        try:
            context.load_cert_chain(cert_path, key_path, _refuse_password)
        except ssl.SSLError as error:
            both = " and ".join(map(_where, (settings.cert, settings.key)))
            raise _Unusable(f"{both}: {_why(error)}") from error


def _load_authorities(context: ssl.SSLContext, settings: TlsSettings) -> None:
    with at_path(_content(settings.client_ca, "cert")) as path:
        try:
            context.load_verify_locations(path)
        except ssl.SSLError as error:
            raise _Unusable(f"{_where(settings.client_ca)}: {_why(error)}") from error
    context.verify_mode = settings.client_auth


def _content(pem: Pem, what: str) -> bytes:
    content = _read(pem) if pem.file else pem.text.encode()
    if _HEADS[what].encode() not in content:
        raise _Unusable(f"{_where(pem)}: there is no `-----BEGIN ... {_HEADS[what]}` in it")
    return content


def _read(pem: Pem) -> bytes:
    try:
        return read(pem.file)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _Unusable(f"{_where(pem)}: cannot be read: {why}") from error


def _refuse_password() -> NoReturn:
    """Keep OpenSSL from asking at a terminal."""
    raise _Unusable("the key is encrypted, and nobody is there to give its passphrase; decrypt it")


def _where(pem: Pem) -> str:
    return f"{pem.name} = {pem.file}" if pem.file else pem.name


def _why(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    return _WHY.get(reason, reason.replace("_", " ").lower() or "it cannot be understood")
