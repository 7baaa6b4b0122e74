"""How the server starts, stops, and what it leaves in the log."""

import contextlib
import errno
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from http_client import (
    SCRAPE,
    Served,
    Shelf,
    anonymous,
    eventually,
    large,
    on_loop,
    one_reply,
    read_all,
    request,
    reset,
    serving,
    status_of,
)

from sockwatch.web.app import CHUNK
from sockwatch.web.guard import Limits
from sockwatch.web.protocol import ClientLog
from sockwatch.web.server import Server


def stop_time(served: Served) -> float:
    start = time.monotonic()
    on_loop(served, served.server.stop())
    return time.monotonic() - start


def test_it_stops_at_once_when_nothing_is_being_answered() -> None:
    with serving() as served, contextlib.closing(served.client()) as idle:
        request(idle, "/metrics")
        with served.connect() as silent, served.connect() as partial:
            partial.sendall(b"GET / HT")
            assert eventually(lambda: served.server.connections_open == 3)
            assert stop_time(served) < 0.2
            assert read_all(silent) == read_all(partial) == b""
        with pytest.raises(ConnectionRefusedError):
            served.connect()


def test_what_is_being_answered_is_finished_first() -> None:
    shelf = Shelf()
    shelf.may_render.clear()
    with serving(shelf) as served, served.connect() as client:
        client.sendall(SCRAPE)
        assert eventually(lambda: served.server.requests_in_flight == 1)
        threading.Timer(0.1, shelf.may_render.set).start()
        assert stop_time(served) < 0.4
        assert read_all(client).endswith(shelf.metrics)


def test_it_stops_within_a_second_whoever_does_not_let_go(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stuck = Shelf()
    stuck.may_render.clear()
    secure = anonymous(ssl.PROTOCOL_TLS_SERVER)
    with contextlib.ExitStack() as opened:
        served = [
            opened.enter_context(serving(shelf, ssl_context=context))
            for shelf, context in ((large(), None), (stuck, None), (Shelf(), secure))
        ]
        clients = [opened.enter_context(one.connect(receive_buffer=4096)) for one in served]
        clients[0].sendall(SCRAPE)  # ... and does not read
        clients[1].sendall(SCRAPE)  # ... and gets no answer
        assert clients[0].recv(1)
        assert eventually(lambda: served[1].server.requests_in_flight == 1)
        assert eventually(lambda: served[2].server.connections_open == 1)
        assert [stop_time(one) < 1.0 for one in served] == [True] * 3
        assert [one.server.connections_open for one in served] == [0] * 3
        assert served[1].server.requests_in_flight == 0
        stuck.may_render.set()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_it_serves_on_sockets_that_others_opened() -> None:
    """As systemd hands them over: by number and blocking."""
    number = socket.create_server(("127.0.0.1", 0)).detach()
    with serving(listener=socket.socket(fileno=number)) as served:
        assert served.get("/metrics").status == 200


def test_a_unix_socket_serves_metrics_but_no_details(tmp_path: Path) -> None:
    path = str(tmp_path / "web.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    with serving(listener=listener):
        for target, status in (("/metrics", 200), ("/", 403)):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                assert status_of(one_reply(client)) == status


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        yield opened


def test_a_listener_that_is_ended_is_told_once(listener: socket.socket) -> None:
    """As `ss -K` ends it: it is always ready, and nothing can be accepted."""
    lost: list[socket.socket] = []
    with serving(listener=listener, lost=lost.append):
        assert not lost
        listener.shutdown(socket.SHUT_RDWR)
        assert eventually(lambda: bool(lost))
        time.sleep(0.2)
    assert lost == [listener]


class Refusing(socket.socket):
    """A listener that has nothing left to accept with, once."""

    refusals = 0

    def accept(self) -> tuple[socket.socket, Any]:
        if self.refusals:
            return super().accept()
        self.refusals += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_listener_that_cannot_accept_for_a_moment_is_not_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lost: list[socket.socket] = []
    with Refusing() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with serving(listener=listener, lost=lost.append) as served:
            assert served.get("/-/healthy").status == 200
    [record] = caplog.records
    assert record.getMessage() == "cannot accept HTTP connections for a moment: Too many open files"
    assert not lost


Send = Callable[[Mapping[str, Any]], Awaitable[None]]


async def broken_app(_scope: object, _receive: object, _send: Send) -> None:
    raise RuntimeError("broken")


def test_errors_of_ours_are_logged_but_do_not_flood(caplog: pytest.LogCaptureFixture) -> None:
    with serving(app=broken_app) as served:
        for _ in range(ClientLog.most + 5):
            assert served.get("/").status == 500
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * ClientLog.most


def test_what_clients_do_is_for_debugging_only(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), serving() as served:
        served.say(b"nonsense\r\n\r\n")
    assert not caplog.records
    with caplog.at_level(logging.DEBUG, "sockwatch.web"), serving() as served:
        served.say(b"nonsense\r\n\r\n")
    assert "Invalid HTTP request" in caplog.text
    assert {record.name for record in caplog.records} <= {"sockwatch.web", "asyncio"}


def test_clients_that_vanish_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf(metrics=b"x" * 10 * CHUNK)
    with serving(shelf) as served:
        for _ in range(20):
            client = served.connect()
            client.sendall(SCRAPE * 20)
            time.sleep(0.005)
            reset(client)
        assert served.get("/-/healthy").status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
def test_it_sets_no_clock_when_nobody_is_connected(leave: Callable[[socket.socket], None]) -> None:
    """uvicorn's own server wakes ten times a second."""
    with serving() as served, served.connect() as client:
        client.sendall(SCRAPE)
        assert status_of(one_reply(client)) == 200
        leave(client)
        assert eventually(lambda: served.server.connections_open == 0)
        assert all(timer.cancelled() for timer in served.loop._scheduled)  # type: ignore[attr-defined]


def test_importing_the_server_brings_no_other_protocols() -> None:
    program = "import sockwatch.web.server, sockwatch.web.app, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"psutil", "pyroute2", "prometheus_client", "httptools", "websockets", "yaml"} & {
        *loaded
    }


def test_a_server_needs_no_limits_given() -> None:
    assert Server(broken_app).limits == Limits()
