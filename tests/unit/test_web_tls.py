"""Connections over TLS: whose certificates are let in, and the bounds that hold here, too."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from authority import Authority
from http_client import (
    GET,
    PATIENCE,
    SCRAPE,
    Served,
    Shelf,
    eventually,
    large,
    one_reply,
    read_all,
    serving,
    status_of,
)

from sockwatch.web.app import CHUNK
from sockwatch.web.guard import Limits, Rejected
from sockwatch.web.protection import Protection
from sockwatch.web.protocol import READ_SIZE
from sockwatch.web.tls import TlsProtocol

FILES = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
REQUIRED = FILES + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n"
IF_GIVEN = REQUIRED.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven")
PAGE = b"GET / HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n"


def protection(folder: Path, text: str = FILES) -> Protection:
    file = folder / "web.yml"
    file.write_text(text)
    return Protection(str(file))


def say(served: Served, client: ssl.SSLContext, data: bytes) -> bytes:
    """The first answer to it; nothing if there is none."""
    with served.connect() as bare:
        try:
            with client.wrap_socket(bare, server_hostname="localhost") as connection:
                connection.sendall(data)
                return one_reply(connection)
        except (ssl.SSLError, ConnectionError):
            return b""


# Certificates of clients


def test_without_a_certificate_that_is_required_nobody_is_answered(
    authority: Authority, folder: Path
) -> None:
    with serving(protection=protection(folder, REQUIRED)) as served:
        assert say(served, authority.client(), GET) == b""
        assert eventually(lambda: served.rejected() == {Rejected.HANDSHAKE: 1})
        shown = authority.client(authority.issue("client"))
        assert status_of(say(served, shown, GET)) == 200


def test_a_certificate_of_another_authority_is_none(
    authority: Authority, folder: Path, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger").issue("client")
    for text in (REQUIRED, IF_GIVEN):
        with serving(protection=protection(folder, text)) as served:
            assert say(served, authority.client(stranger), GET) == b""
            assert eventually(lambda: served.rejected() == {Rejected.HANDSHAKE: 1})


def test_who_shows_a_certificate_may_see_details_from_anywhere(
    authority: Authority, folder: Path
) -> None:
    shown = authority.client(authority.issue("client"))
    with serving(protection=protection(folder, IF_GIVEN)) as served:
        assert status_of(say(served, authority.client(), PAGE)) == 403
        assert status_of(say(served, shown, PAGE)) == 200
        assert status_of(say(served, authority.client(), GET)) == 200


def test_a_certificate_that_nobody_asked_for_opens_nothing(
    authority: Authority, folder: Path
) -> None:
    shown = authority.client(authority.issue("client"))
    with serving(protection=protection(folder)) as served:
        assert status_of(say(served, shown, PAGE)) == 403


NAMES = (
    "DNS:prometheus.example",
    "IP:192.0.2.7",
    "IP:2001:db8::7",
    "URI:spiffe://example/prometheus",
    "email:ops@example.org",
)


@pytest.mark.parametrize("name", [each.partition(":")[2] for each in NAMES])
def test_a_certificate_with_an_allowed_name_is_let_in(
    authority: Authority, folder: Path, name: str
) -> None:
    shown = authority.client(authority.issue("client", *NAMES))
    text = f'{REQUIRED}  client_allowed_sans: [another.example, "{name}"]\n'
    with serving(protection=protection(folder, text)) as served:
        assert status_of(say(served, shown, GET)) == 200


@pytest.mark.parametrize("text", [REQUIRED, IF_GIVEN], ids=["required", "if given"])
@pytest.mark.parametrize("name", ["example", "PROMETHEUS.example.org", "client", "*.example"])
def test_a_certificate_without_an_allowed_name_is_not(
    authority: Authority, folder: Path, text: str, name: str
) -> None:
    """Its common name, client, is not among the names."""
    shown = authority.client(authority.issue("client", *NAMES))
    allowed = f'{text}  client_allowed_sans: ["{name}"]\n'
    with serving(protection=protection(folder, allowed)) as served:
        assert say(served, shown, GET) == b""
        assert eventually(lambda: served.rejected() == {Rejected.HANDSHAKE: 1})
        assert eventually(lambda: served.server.connections_open == 0)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_is_resumed(authority: Authority, folder: Path, version: ssl.TLSVersion) -> None:
    """It would carry a certificate past a reload that no longer allows it."""
    client = authority.client()
    client.minimum_version = client.maximum_version = version
    session = None
    with serving(protection=protection(folder)) as served:
        for _ in range(2):
            with client.wrap_socket(
                served.connect(), server_hostname="localhost", session=session
            ) as connection:
                connection.sendall(GET)
                assert one_reply(connection)
                assert not connection.session_reused
                session = connection.session
                assert session is None or not session.has_ticket


# Bounds


@contextlib.contextmanager
def connected(
    authority: Authority,
    folder: Path,
    content: Shelf | None = None,
    limits: Limits | None = None,
    receive_buffer: int | None = None,
) -> Iterator[tuple[Served, ssl.SSLSocket]]:
    """A server, and a client that has shaken hands."""
    with (
        serving(content, protection=protection(folder), limits=limits) as served,
        authority.client().wrap_socket(
            served.connect(receive_buffer), server_hostname="localhost"
        ) as client,
    ):
        yield served, client


def below(served: Served) -> TlsProtocol:
    """What asyncio has for the only connection."""
    (connection,) = served.server._connections
    protocol = connection.transport._ssl_protocol  # type: ignore[attr-defined]
    assert isinstance(protocol, TlsProtocol)
    return protocol


def test_a_peer_has_no_more_than_a_record_of_buffer(authority: Authority, folder: Path) -> None:
    with connected(authority, folder) as (served, client):
        client.sendall(GET)
        assert one_reply(client)
        assert len(below(served)._ssl_buffer) == 16 * 1024  # type: ignore[attr-defined]


def test_who_is_silent_after_the_handshake_is_cut(authority: Authority, folder: Path) -> None:
    limits = Limits(request=0.2, linger=0.2)
    with connected(authority, folder, limits=limits) as (served, client):
        assert status_of(read_all(client)) == 408
        assert eventually(lambda: served.server.connections_open == 0)
        assert served.rejected() == {Rejected.REQUEST_TIMEOUT: 1}


def test_who_neither_speaks_nor_closes_is_cut_all_the_same(
    authority: Authority, folder: Path
) -> None:
    """Closing TLS takes both sides; it must not take for ever."""
    with connected(authority, folder, limits=Limits(request=0.2, linger=0.3)) as (served, _):
        start = time.monotonic()
        assert eventually(lambda: served.server.connections_open == 0)
        assert time.monotonic() - start < 1.5


def test_an_idle_connection_is_closed_after_a_while(authority: Authority, folder: Path) -> None:
    with connected(authority, folder, limits=Limits(idle=0.2, linger=0.2)) as (served, client):
        client.sendall(GET)
        assert one_reply(client)
        assert read_all(client) == b""
        assert eventually(lambda: served.server.connections_open == 0)
        assert served.rejected() == {}


def test_a_slow_reader_is_cut_at_the_deadline_of_the_response(
    authority: Authority, folder: Path
) -> None:
    with connected(authority, folder, large(), Limits(response=0.5), 4096) as (served, slow):
        start = time.monotonic()
        slow.sendall(SCRAPE)
        while served.server.connections_open or time.monotonic() < start + 0.2:
            with contextlib.suppress(OSError):
                slow.recv(100)
            time.sleep(0.02)
            assert time.monotonic() < start + PATIENCE
        assert 0.4 < time.monotonic() - start < 1.5
        assert served.rejected() == {Rejected.RESPONSE_TIMEOUT: 1}


def test_little_of_a_response_waits_in_our_memory(authority: Authority, folder: Path) -> None:
    with connected(authority, folder, large(), None, 4096) as (served, slow):
        slow.sendall(SCRAPE)
        assert slow.recv(1)
        protocol = below(served)
        transport = protocol._transport
        assert isinstance(transport, asyncio.Transport)
        assert eventually(lambda: transport.get_write_buffer_size() > 0)
        time.sleep(0.1)
        waiting = transport.get_write_buffer_size() + protocol._outgoing.pending  # type: ignore[attr-defined]
        assert waiting <= 3 * CHUNK


@contextlib.contextmanager
def waiting_for_its_reader(
    authority: Authority, folder: Path, seconds: float
) -> Iterator[tuple[Served, ssl.SSLSocket]]:
    """A response that is made, and may take `seconds`, whose end the client has not yet read."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    shelf, limits = Shelf(metrics=b"x" * CHUNK), Limits(response=seconds)
    with (
        serving(shelf, protection=protection(folder), limits=limits, listener=listener) as served,
        authority.client().wrap_socket(
            served.connect(receive_buffer=4096), server_hostname="localhost"
        ) as client,
    ):
        client.sendall(SCRAPE)
        assert eventually(lambda: bool(shelf.renderings))
        assert eventually(lambda: served.server.requests_in_flight == 0)
        yield served, client


def test_the_end_of_a_response_has_the_deadline_of_the_whole(
    authority: Authority, folder: Path
) -> None:
    """asyncio's TLS counts as sent what the connection below it still has."""
    with waiting_for_its_reader(authority, folder, seconds=0.4) as (served, _):
        assert served.server.connections_open == 1
        assert eventually(lambda: served.server.connections_open == 0)
        assert served.rejected() == {Rejected.RESPONSE_TIMEOUT: 1}


def test_a_large_response_arrives_whole(authority: Authority, folder: Path) -> None:
    """Though it has to wait again and again until some of it was read."""
    shelf = Shelf(metrics=bytes(range(32, 127)) * 50_000)
    limits = Limits(response=20.0, idle=0.2)
    with connected(authority, folder, shelf, limits, receive_buffer=65536) as (served, client):
        for _ in range(2):
            client.sendall(SCRAPE)
            assert one_reply(client).endswith(shelf.metrics)
        assert eventually(lambda: served.server.connections_open == 0)
        assert served.rejected() == {}


def test_after_a_response_in_time_the_connection_lives_on(
    authority: Authority, folder: Path
) -> None:
    """The end of which waited for the client to read; then the clock of the response stops."""
    with waiting_for_its_reader(authority, folder, seconds=0.8) as (served, client):
        assert one_reply(client).endswith(b"x")
        time.sleep(0.9)
        client.sendall(GET)
        assert status_of(one_reply(client)) == 200
        assert served.rejected() == {}


def test_little_of_what_is_pipelined_waits_in_our_memory(
    authority: Authority, folder: Path
) -> None:
    shelf = Shelf()
    shelf.may_render.clear()
    with connected(authority, folder, shelf) as (served, eager):
        eager.settimeout(0.5)
        eager.sendall(SCRAPE)
        assert eventually(lambda: bool(shelf.renderings))
        with contextlib.suppress(TimeoutError):
            eager.sendall(GET * 200_000)
        (connection,) = served.server._connections
        held = len(connection.conn.trailing_data[0]) + below(served)._incoming.pending  # type: ignore[attr-defined]
        assert 0 < held <= 4 * READ_SIZE
        shelf.may_render.set()
