"""Requests of every kind over real connections: answered, or refused with a reason."""

import contextlib
import socket
import time

import pytest
from http_client import (
    GET,
    SCRAPE,
    Shelf,
    eventually,
    one_reply,
    read_all,
    request,
    serving,
    status_of,
)

from sockwatch.web.guard import Limits, Rejected


def test_a_connection_serves_many_requests() -> None:
    with serving() as served, contextlib.closing(served.client()) as client:
        assert request(client, "/metrics").status == 200
        port = client.sock.getsockname()[1]
        for path in ("/-/healthy", "/nothing", "/metrics"):
            request(client, path)
            assert client.sock.getsockname()[1] == port
        assert served.server.connections_open == 1
        assert served.rejected() == {}


def test_a_response_does_not_wait_for_acknowledgements() -> None:
    """Which the kernel delays by 40 ms when a head and a body are sent in turn."""
    times = []
    with serving(Shelf(metrics=b"x" * 10_000)) as served, served.connect() as client:
        for _ in range(9):
            start = time.monotonic()
            client.sendall(SCRAPE)
            one_reply(client)
            times.append(time.monotonic() - start)
    assert sorted(times)[len(times) // 2] < 0.03


def test_an_idle_connection_is_closed_after_a_while() -> None:
    with serving(limits=Limits(idle=0.1)) as served, served.connect() as client:
        client.sendall(GET)
        assert status_of(one_reply(client)) == 200
        assert client.recv(1) == b""
        assert eventually(lambda: served.server.connections_open == 0)
        assert served.rejected() == {}


def test_a_request_may_come_byte_by_byte() -> None:
    with serving() as served, served.connect() as client:
        for byte in GET:
            client.sendall(bytes([byte]))
        assert status_of(one_reply(client)) == 200


def test_pipelined_requests_are_answered_in_order() -> None:
    with serving() as served, served.connect() as client:
        client.sendall(GET + SCRAPE + GET.replace(b"healthy", b"nothing"))
        answers = [one_reply(client) for _ in range(3)]
    assert [status_of(answer) for answer in answers] == [200, 200, 404]
    assert b"Healthy." in answers[0]


def test_an_http_1_0_client_gets_its_answer_and_the_end() -> None:
    with serving() as served:
        assert status_of(served.say(b"GET /-/healthy HTTP/1.0\r\n\r\n")) == 200


def test_who_asks_to_close_is_closed() -> None:
    with serving() as served:
        answer = served.say(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert b"connection: close" in answer.lower()


def test_who_closes_its_sending_side_still_gets_the_answer() -> None:
    shelf = Shelf()
    shelf.may_render.clear()
    with serving(shelf) as served, served.connect() as client:
        client.sendall(SCRAPE)
        client.shutdown(socket.SHUT_WR)
        assert eventually(lambda: served.server.requests_in_flight == 1)
        time.sleep(0.05)
        shelf.may_render.set()
        assert read_all(client).endswith(shelf.metrics)


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c"])
def test_an_upgrade_is_not_taken_up(upgrade: bytes) -> None:
    head = GET.removesuffix(b"\r\n") + b"Connection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n\r\n"
    with serving() as served, served.connect() as client:
        client.sendall(head)
        assert status_of(one_reply(client)) == 200
        client.sendall(GET)
        assert status_of(one_reply(client)) == 200


def test_connect_is_only_another_method() -> None:
    with serving() as served, served.connect() as client:
        client.sendall(b"CONNECT example.org:443 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert status_of(one_reply(client)) == 404


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"GET /\r\n\r\n", 400, Rejected.MALFORMED),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, Rejected.MALFORMED),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, Rejected.MALFORMED),
        (b"\r\n\r\n", 400, Rejected.MALFORMED),
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n", 400, Rejected.MALFORMED),
        (b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, Rejected.TOO_LARGE),
        (GET[:-2] + b"X: " + b"x" * 8192 + b"\r\n\r\n", 431, Rejected.TOO_LARGE),
        (GET[:-2] + b"X: " + b"x" * 1_000_000, 431, Rejected.TOO_LARGE),
        (GET[:-2] + b"X: y\r\n" * 100 + b"\r\n", 431, Rejected.TOO_LARGE),
        (GET[:-2] + b"Content-Length: 5\r\n\r\nhello", 400, Rejected.BODY),
        (GET[:-2] + b"Content-Length: 100000000\r\n\r\n" + b"x" * 500_000, 400, Rejected.BODY),
        (GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, Rejected.BODY),
        (
            GET[:-2] + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n",
            400,
            Rejected.MALFORMED,
        ),
        (
            b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
            405,
            Rejected.BODY,
        ),
    ],
    ids=lambda value: repr(value[:40] + value[-20:]) if isinstance(value, bytes) else None,
)
def test_what_is_not_let_in_is_told_why_and_closed(
    data: bytes, status: int, reason: Rejected
) -> None:
    with serving() as served:
        answer = served.say(data)
        assert status_of(answer) == status
        assert b"\r\nconnection: close\r\n" in answer.lower()
        assert b"\r\nx-content-type-options: nosniff\r\n" in answer.lower()
        assert answer.count(b"HTTP/1.1 4") == 1
        assert served.rejected() == {reason: 1}
        assert eventually(lambda: served.server.connections_open == 0)


def test_a_smuggled_request_is_never_answered() -> None:
    smuggled = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SCRAPE
    shelf = Shelf()
    with serving(shelf) as served:
        assert served.say(GET[:-2] + smuggled).count(b"HTTP/1.1 ") == 1
    assert not shelf.renderings


def test_a_bad_request_after_good_ones_is_refused_too() -> None:
    with serving() as served:
        answer = served.say(GET + GET + b"nonsense\r\n\r\n" + GET)
    assert [status_of(b"x " + part) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 200, 400]
