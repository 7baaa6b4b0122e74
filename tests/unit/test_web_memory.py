"""Connections that are over leave memory at once, not when the garbage collector comes by.

It comes late where objects are many and long-lived, and each connection in TLS has a lot of memory.
"""

import contextlib
import gc
import ssl
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from authority import Authority
from http_client import GET, SCRAPE, Served, anonymous, eventually, large, read_all, reset, serving

from sockwatch.web.guard import Limits
from sockwatch.web.lobby import Lobby, Visitor
from sockwatch.web.protection import Protection
from sockwatch.web.server import Server

LIMITS = Limits(connections=3, handshake=0.2, request=0.2, response=0.2, linger=0.1)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def tls(served: Served, receive_buffer: int | None = None) -> ssl.SSLSocket:
    return anonymous(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(served.connect(receive_buffer))


def ask(served: Served) -> None:
    with served.connect() as client:
        client.sendall(GET)
        client.recv(4096)


def ask_over_tls(served: Served) -> None:
    with tls(served) as client:
        client.sendall(GET)
        client.recv(4096)


def talk_nonsense(served: Served) -> None:
    served.say(b"nonsense\r\n\r\n")


def smuggle(served: Served) -> None:
    served.say(GET[:-2] + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n" + GET)


def stay_silent(served: Served) -> None:
    with served.connect() as client:
        read_all(client)


def not_read(served: Served) -> None:
    with served.connect(receive_buffer=4096) as client:
        client.sendall(SCRAPE * 3)
        assert eventually(lambda: served.server.connections_open == 0)


def not_read_over_tls(served: Served) -> None:
    with tls(served, receive_buffer=4096) as client:
        client.sendall(SCRAPE)
        assert eventually(lambda: served.server.connections_open == 0)


def crowd(served: Served) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(10):
            opened.enter_context(served.connect())
        assert eventually(lambda: sum(served.server.rejected.values()) >= 7)


def vanish(served: Served) -> None:
    """Once it was taken: who goes before that leaves nothing to forget."""
    server = served.server
    assert eventually(lambda: server.connections_open == 0)
    before = sum(server.rejected.values())
    client = served.connect()
    client.sendall(GET[:10])
    assert eventually(lambda: server.connections_open > 0 or sum(server.rejected.values()) > before)
    reset(client)


def speak_plainly(served: Served) -> None:
    served.say(GET)


PLAIN = (ask, talk_nonsense, smuggle, stay_silent, not_read, crowd, vanish)
TLS = (ask_over_tls, not_read_over_tls, stay_silent, crowd, vanish, speak_plainly)


@pytest.fixture
def born(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[object]]:
    """Every connection of every server: as a visitor, and once it has spoken."""
    found: list[weakref.ref[object]] = []
    admit, receive = Server._open, Lobby.receive

    async def noted(self: Server, *opening: object) -> None:
        found.append(weakref.ref(opening[0]))
        await admit(self, *opening)  # type: ignore[arg-type]

    def received(self: Lobby, visitor: Visitor) -> None:
        found.append(weakref.ref(visitor))
        receive(self, visitor)

    monkeypatch.setattr(Server, "_open", noted)
    monkeypatch.setattr(Lobby, "receive", received)
    return found


def check(
    served: Served, behave: Callable[[Served], None], born: list[weakref.ref[object]]
) -> None:
    for _ in range(3):
        behave(served)
    assert eventually(lambda: len(born) >= 3)
    assert eventually(lambda: served.server.connections_open == 0)
    assert eventually(lambda: not any(one() for one in born))


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("behave", PLAIN)
def test_nothing_is_left_of_a_connection(
    behave: Callable[[Served], None], born: list[weakref.ref[object]]
) -> None:
    with serving(large() if behave is not_read else None, limits=LIMITS) as served:
        check(served, behave, born)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("behave", TLS)
def test_nothing_is_left_of_a_connection_over_tls(
    behave: Callable[[Served], None], born: list[weakref.ref[object]]
) -> None:
    context = anonymous(ssl.PROTOCOL_TLS_SERVER)
    content = large() if behave is not_read_over_tls else None
    with serving(content, limits=LIMITS, ssl_context=context) as served:
        check(served, behave, born)


@pytest.mark.usefixtures("no_collector")
def test_nothing_is_left_of_a_client_whose_certificate_is_refused(
    tmp_path: Path, born: list[weakref.ref[object]]
) -> None:
    authority = Authority(tmp_path)
    authority.issue("server")
    file = tmp_path / "web.yml"
    file.write_text(
        "tls_server_config: {cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt, "
        "client_auth_type: RequireAndVerifyClientCert, client_allowed_sans: [other.example]}\n"
    )
    shown = authority.client(authority.issue("client"))

    def come(served: Served) -> None:
        with (
            contextlib.suppress(OSError),
            shown.wrap_socket(served.connect(), server_hostname="localhost") as client,
        ):
            read_all(client)

    with serving(limits=LIMITS, protection=Protection(str(file))) as served:
        check(served, come, born)
