"""Asking the daemon of this host, or whoever else answers at its address."""

from __future__ import annotations

import json
import os
import socket
import time
from base64 import b64encode
from collections.abc import Iterable
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

import h11

from sockwatch.config.addresses import Address
from sockwatch.web.pem import at_path, read

if TYPE_CHECKING:
    from ssl import SSLContext

TIMEOUT: Final = 5.0
"""Seconds to wait for a connection, and for each part of an answer."""
DEADLINE: Final = 30.0
"""Seconds for a whole answer."""
LARGEST: Final = 64 << 20
"""Bytes of an answer; ten thousand connections take four million."""
_RECEIVE: Final = 256 << 10
_SHOWN: Final = 200
"""Characters of a refusal that are passed on."""
_EVERYWHERE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  to connect
_PORTS: Final = {"http": 80, "https": 443}
_OK, _UNAUTHORIZED = 200, 401


class Unanswered(Exception):
    """There is no answer; the message says why in a clause for people, names unescaped."""


class _Answer(NamedTuple):
    status: int
    body: bytes


def urls(addresses: Iterable[Address]) -> list[str]:
    """Where a daemon that listens on these addresses is asked from its own host."""
    known = (address for address in addresses if address.port)
    return [f"http://{Address(_EVERYWHERE.get(one.host, one.host), one.port)}" for one in known]


def ask(url: str, target: str, ca_file: str | None = None) -> object:
    """What JSON there is.

    A password that is asked for is taken from the file that the variable NETRC names, else from
    ~/.netrc.

    Args:
        url: of a server, `http://host:port` or `https://host:port`.
        target: path and query.
        ca_file: certificates to trust in place of the system's.

    Raises:
        Unanswered: nobody is there, or whoever is gives no JSON.
    """
    parts = urlsplit(url)
    trust = _trust(ca_file) if parts.scheme == "https" else None
    answer = _answer(url, parts, target, trust)
    if answer.status == _UNAUTHORIZED:
        answer = _answer(url, parts, target, trust, _login(url, parts.hostname or ""))
    return _content(url, answer)


def _trust(ca_file: str | None) -> SSLContext:
    import ssl  # noqa: PLC0415  it takes long to load

    if ca_file is None:
        return ssl.create_default_context()
    try:
        with at_path(read(ca_file)) as path:
            return ssl.create_default_context(cafile=path)
    except OSError as error:
        raise Unanswered(f"{ca_file} is no file of certificates ({_why(error)})") from error


def _login(url: str, host: str) -> str:
    """The password for a host, as the header has it."""
    path, asked = _netrc(), f"{url} asks for a password"
    try:
        known = netrc(path).hosts.get(host)
    except FileNotFoundError:
        known = None
    except (OSError, ValueError, NetrcParseError) as error:
        raise Unanswered(f"{asked}, and {path} cannot be read: {error}") from error
    if known is None:
        raise Unanswered(f"{asked}, and {path} has none for {host}")
    user, _, password = known
    return "Basic " + b64encode(f"{user}:{password or ''}".encode()).decode()


def _netrc() -> str:
    return os.environ.get("NETRC") or str(Path("~/.netrc").expanduser())


def _answer(
    url: str, parts: SplitResult, target: str, trust: SSLContext | None, login: str = ""
) -> _Answer:
    until = time.monotonic() + DEADLINE
    headers = [("Host", parts.netloc), ("Connection", "close")]
    if login:
        headers.append(("Authorization", login))
    host = parts.hostname or ""
    try:
        with socket.create_connection((host, parts.port or _PORTS[parts.scheme]), TIMEOUT) as plain:
            if trust is None:
                return _exchange(plain, target, headers, until)
            with trust.wrap_socket(plain, server_hostname=host) as secured:
                return _exchange(secured, target, headers, until)
    except OSError as error:
        raise Unanswered(f"no daemon answers at {url} ({_why(error)})") from error
    except h11.RemoteProtocolError as error:
        what = f"what answers at {url} does not speak HTTP"
        hint = "" if trust else "; if it speaks TLS, ask it with --url https://host:port"
        raise Unanswered(what + hint) from error


def _why(error: OSError) -> str:
    # The first is of certificates (ssl.SSLCertVerificationError).
    said: str = getattr(error, "verify_message", "") or error.strerror or str(error)
    return said or type(error).__name__


def _exchange(
    connection: socket.socket, target: str, headers: list[tuple[str, str]], until: float
) -> _Answer:
    """Ask, and read the whole answer; `until` is the monotonic time at which it must be there."""
    talk = h11.Connection(h11.CLIENT)
    request = h11.Request(method="GET", target=target, headers=headers)
    asked = [talk.send(event) or b"" for event in (request, h11.EndOfMessage())]
    connection.sendall(b"".join(asked))
    status, body = 0, bytearray()
    while True:
        event = _next_event(talk)
        if event is h11.NEED_DATA:
            talk.receive_data(_received(connection, until))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > LARGEST:
                raise OSError("the answer is too large")
        elif isinstance(event, h11.EndOfMessage):
            return _Answer(status, bytes(body))


def _next_event(talk: h11.Connection) -> object:
    in_body = talk.their_state is h11.SEND_BODY
    try:
        return talk.next_event()
    except h11.RemoteProtocolError as error:
        if in_body:
            raise ConnectionError("its answer breaks off") from error
        raise


def _received(connection: socket.socket, until: float) -> bytes:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    connection.settimeout(min(TIMEOUT, left))
    return connection.recv(_RECEIVE)


def _content(url: str, answer: _Answer) -> object:
    if answer.status == _UNAUTHORIZED:
        raise Unanswered(f"{url} does not take the password of {_netrc()}")
    if answer.status != _OK:
        said = " ".join(answer.body[:_SHOWN].decode(errors="replace").split())
        raise Unanswered(f"{url} answers with {answer.status}: {said or 'no more is said'}")
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise Unanswered(f"what answers at {url} is not sockwatch") from error
