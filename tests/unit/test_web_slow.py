"""Clients that take their time: cut at absolute deadlines, at nobody else's cost."""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator

import pytest
from http_client import (
    GET,
    PATIENCE,
    SCRAPE,
    Served,
    Shelf,
    anonymous,
    eventually,
    large,
    one_reply,
    read_all,
    serving,
    status_of,
)

from sockwatch.web.app import CHUNK
from sockwatch.web.guard import Limits, Rejected
from sockwatch.web.protocol import READ_SIZE


def piece(connection: socket.socket, wait: float = 0.02) -> bytes:
    """What has come by now; nothing if nothing comes."""
    connection.settimeout(wait)
    with contextlib.suppress(TimeoutError, BlockingIOError):
        return connection.recv(4096)
    return b""


def test_a_slow_head_is_cut_at_its_deadline_however_it_drips() -> None:
    with serving(limits=Limits(request=0.5)) as served, served.connect() as slow:
        slow.sendall(b"GET /-/healthy HTTP/1.1\r\nX: ")
        start = time.monotonic()
        while not (answer := piece(slow)):
            slow.sendall(b"x")
            assert time.monotonic() < start + PATIENCE
        assert 0.4 < time.monotonic() - start < 1.5
        assert status_of(answer) == 408
        assert served.rejected() == {Rejected.REQUEST_TIMEOUT: 1}


def test_others_are_answered_meanwhile() -> None:
    with serving() as served, served.connect() as silent, served.connect() as slow:
        slow.sendall(b"GET /-/healthy HTTP/1.1\r\nX: ")
        for _ in range(20):
            start = time.monotonic()
            assert served.get("/metrics").status == 200
            assert time.monotonic() - start < 0.5
            slow.sendall(b"x")
        assert piece(silent, wait=0.0) == piece(slow, wait=0.0) == b""


@pytest.mark.parametrize("before", [b"", GET], ids=["first", "second"])
def test_a_silent_or_unfinished_head_is_cut(before: bytes) -> None:
    with serving(limits=Limits(request=0.2)) as served:
        answer = served.say(before + b"GET /")
    assert answer.count(b"HTTP/1.1 200") == (1 if before else 0)
    assert answer.count(b"HTTP/1.1 408") == 1


def test_a_connection_that_never_speaks_is_closed() -> None:
    with serving(limits=Limits(request=0.1, linger=0.1)) as served, served.connect() as silent:
        assert status_of(read_all(silent)) == 408
        assert eventually(lambda: served.server.connections_open == 0)


def test_who_leaves_without_a_word_is_forgotten() -> None:
    with serving() as served:
        with served.connect():
            assert eventually(lambda: served.server.connections_open == 1)
        assert eventually(lambda: served.server.connections_open == 0)
        assert served.rejected() == {}


FIRST_WORDS = {"http": GET[:5], "https": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"}


@pytest.mark.parametrize("scheme", FIRST_WORDS)
def test_silence_counts_toward_the_deadline_of_what_follows(scheme: str) -> None:
    context = anonymous(ssl.PROTOCOL_TLS_SERVER) if scheme == "https" else None
    limits = Limits(handshake=1.0, request=1.0, linger=0.1)
    with serving(limits=limits, ssl_context=context) as served, served.connect() as slow:
        start = time.monotonic()
        time.sleep(0.7)
        slow.sendall(FIRST_WORDS[scheme])
        read_all(slow)
        assert 0.9 < time.monotonic() - start < 1.5


def talk_on(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"more")
        time.sleep(0.01)


def test_who_talks_on_after_a_refusal_is_cut() -> None:
    with serving(limits=Limits(linger=0.2)) as served, served.connect() as stubborn:
        stubborn.sendall(b"nonsense\r\n\r\n")
        assert status_of(read_all(stubborn)) == 400
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            talk_on(stubborn)


def test_a_slow_reader_is_cut_at_the_deadline_of_the_response() -> None:
    with (
        serving(large(), limits=Limits(response=0.5)) as served,
        served.connect(receive_buffer=4096) as slow,
    ):
        start = time.monotonic()
        slow.sendall(SCRAPE)
        while served.server.connections_open or time.monotonic() < start + 0.2:
            assert slow.recv(100)
            assert served.get("/-/healthy").status == 200
            time.sleep(0.02)
            assert time.monotonic() < start + PATIENCE
        assert 0.4 < time.monotonic() - start < 1.5
        assert served.rejected() == {Rejected.RESPONSE_TIMEOUT: 1}


@contextlib.contextmanager
def all_made_not_all_sent(seconds: float) -> Iterator[tuple[Served, socket.socket]]:
    """A response that may take `seconds`, its last bytes waiting for the client to read."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    shelf, limits = Shelf(metrics=b"x" * CHUNK), Limits(response=seconds)
    with (
        serving(shelf, limits=limits, listener=listener) as served,
        served.connect(receive_buffer=4096) as client,
    ):
        client.sendall(SCRAPE)
        assert eventually(lambda: bool(shelf.renderings))
        assert eventually(lambda: served.server.requests_in_flight == 0)
        yield served, client


def test_the_end_of_a_response_has_the_deadline_of_the_whole() -> None:
    with all_made_not_all_sent(seconds=0.3) as (served, _):
        assert eventually(lambda: served.server.connections_open == 0)
        assert served.rejected() == {Rejected.RESPONSE_TIMEOUT: 1}


def test_after_a_response_in_time_the_connection_lives_on() -> None:
    with all_made_not_all_sent(seconds=1.0) as (_, client):
        assert one_reply(client).endswith(b"x")
        time.sleep(1.1)
        client.sendall(GET)
        assert status_of(one_reply(client)) == 200


def test_a_refused_client_may_finish_what_it_is_saying() -> None:
    """Were its connection closed at once, a reset could overtake the answer."""
    with serving() as served, served.connect() as client:
        client.sendall(GET[:-2] + b"Content-Length: 1000000\r\n\r\n")
        time.sleep(0.05)
        for _ in range(100):
            client.sendall(b"x" * 10_000)
        client.shutdown(socket.SHUT_WR)
        answer = bytearray()
        while chunk := client.recv(4096):
            answer += chunk
    assert status_of(answer) == 400


def test_little_of_what_is_pipelined_waits_in_our_memory() -> None:
    shelf = Shelf()
    shelf.may_render.clear()
    with serving(shelf) as served, served.connect() as eager:
        eager.sendall(SCRAPE + GET * 5000)
        assert eventually(lambda: bool(shelf.renderings))
        time.sleep(0.1)
        (connection,) = served.server._connections
        assert 0 < len(connection.conn.trailing_data[0]) <= 2 * READ_SIZE
        shelf.may_render.set()
        assert [status_of(one_reply(eager)) for _ in range(100)] == [200] * 100


def test_little_of_a_response_waits_in_our_memory() -> None:
    with serving(large()) as served, served.connect(receive_buffer=4096) as slow:
        slow.sendall(SCRAPE)
        assert slow.recv(1)
        (connection,) = served.server._connections
        assert eventually(lambda: connection.transport.get_write_buffer_size() > 0)
        time.sleep(0.1)
        assert connection.transport.get_write_buffer_size() <= CHUNK
