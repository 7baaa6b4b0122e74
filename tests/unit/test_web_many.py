"""More clients than connections: who keeps us waiting makes room for who does not."""

import contextlib
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

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

from sockwatch.web.guard import Limits, Rejected
from sockwatch.web.protocol import GuardedProtocol


def test_when_all_connections_are_busy_a_further_one_gets_503_at_once() -> None:
    shelf = Shelf()
    shelf.may_render.clear()
    with (
        serving(shelf, limits=Limits(connections=3)) as served,
        ThreadPoolExecutor(3) as clients,
    ):
        busy = [clients.submit(served.get, "/metrics") for _ in range(3)]
        assert eventually(lambda: served.server.requests_in_flight == 3)
        answer = served.say(b"")
        assert status_of(answer) == 503
        assert b"retry-after: 1" in answer
        assert served.rejected() == {Rejected.CONNECTIONS: 1}
        shelf.may_render.set()
        assert [one.result(PATIENCE).status for one in busy] == [200] * 3
        assert eventually(lambda: served.server.connections_open == 0)
        assert served.get("/metrics").status == 200


def test_the_longest_silent_connection_makes_room() -> None:
    with serving(limits=Limits(connections=3)) as served, contextlib.ExitStack() as opened:
        first, *others = [opened.enter_context(served.connect()) for _ in range(3)]
        assert eventually(lambda: served.server.connections_open == 3)
        assert served.get("/metrics").status == 200
        assert status_of(read_all(first)) == 503
        others[-1].sendall(GET)
        assert status_of(one_reply(others[-1])) == 200
        assert served.rejected() == {Rejected.CONNECTIONS: 1}


def test_an_idle_connection_makes_room_without_a_word() -> None:
    with serving(limits=Limits(connections=1)) as served, served.connect() as idle:
        idle.sendall(GET)
        one_reply(idle)
        assert served.get("/metrics").status == 200
        assert read_all(idle) == b""


def test_readers_that_do_not_read_make_room() -> None:
    with serving(large(), limits=Limits(connections=2)) as served, contextlib.ExitStack() as opened:
        for _ in range(2):
            opened.enter_context(served.connect(receive_buffer=4096)).sendall(SCRAPE)
        assert eventually(lambda: sum(map(is_paused, served.server._connections)) == 2)
        assert served.get("/-/healthy").status == 200


def is_paused(connection: GuardedProtocol) -> bool:
    return connection._connected and connection.flow.write_paused


def test_a_thousand_silent_connections_do_not_lock_out_a_scrape() -> None:
    with serving() as served, contextlib.ExitStack() as opened:
        slowest = 0.0
        for number in range(1000):
            opened.enter_context(served.connect())
            if number % 50 == 0:
                start = time.monotonic()
                assert served.get("/metrics").status == 200
                slowest = max(slowest, time.monotonic() - start)
        assert served.server.connections_open <= Limits().connections
        assert slowest < 1.0


@pytest.mark.parametrize("said", [b"", GET[:5]], ids=["silent", "slow"])
def test_who_has_most_connections_makes_room_first(said: bytes) -> None:
    with serving(limits=Limits(connections=4)) as served, contextlib.ExitStack() as opened:
        elsewhere = opened.enter_context(served.connect(source="127.0.0.2"))
        elsewhere.sendall(said)
        assert eventually(lambda: heard(served) == bool(said))
        for _ in range(10):
            opened.enter_context(served.connect()).sendall(said)
        assert eventually(lambda: served.rejected() == {Rejected.CONNECTIONS: 7})
        elsewhere.sendall(GET.removeprefix(said))
        assert status_of(one_reply(elsewhere)) == 200


def test_who_has_spoken_outlasts_who_is_silent() -> None:
    """Else a flood from many addresses would cut off who sends a request in two pieces."""
    with serving(limits=Limits(connections=4)) as served, contextlib.ExitStack() as opened:
        slow = opened.enter_context(served.connect(source="127.0.0.2"))
        slow.sendall(GET[:5])
        assert eventually(lambda: heard(served) == 1)
        flood(served, opened)
        slow.sendall(GET[5:])
        assert status_of(one_reply(slow)) == 200


def heard(served: Served) -> int:
    """Connections on which something has come."""
    return len(served.server._connections)


def flood(served: Served, opened: contextlib.ExitStack) -> None:
    """Ten silent connections, each from another address, for four places of which one is taken."""
    for number in range(10):
        opened.enter_context(served.connect(source=f"127.0.1.{number}"))
    assert eventually(lambda: served.rejected() == {Rejected.CONNECTIONS: 7})


def gone(served: Served, how: Callable[[socket.socket], None]) -> None:
    """Fifty clients that come and go while the server is busy with something else."""
    busy, free = threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        assert free.wait(PATIENCE)

    served.loop.call_soon_threadsafe(work)
    assert busy.wait(PATIENCE)
    for _ in range(50):
        with served.connect() as client:
            how(client)
    free.set()


def say_nothing(client: socket.socket) -> None:
    assert client.fileno() >= 0


def say_half_and_reset(client: socket.socket) -> None:
    client.sendall(GET[:5])
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("how", [say_nothing, say_half_and_reset])
def test_who_has_gone_again_takes_the_place_of_nobody(how: Callable[[socket.socket], None]) -> None:
    with serving(limits=Limits(connections=1)) as served, served.connect() as silent:
        assert eventually(lambda: served.server.connections_open == 1)
        gone(served, how)
        silent.sendall(GET)
        assert status_of(one_reply(silent)) == 200
        assert served.rejected() == {}


def test_running_out_of_file_descriptors_is_survived() -> None:
    """In a process of its own, for it is the process that runs out."""
    program = """
import resource, socket, sys, time
sys.path[:0] = sys.argv[1:]
from http_client import eventually, serving
from sockwatch.web import server
server.RETRY_ACCEPT = 0.1
with serving() as served:
    served.get("/metrics")
    assert eventually(lambda: served.server.connections_open == 0)
    time.sleep(0.1)  # its descriptor is closed right after
    spare = [socket.socket() for _ in range(3)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare[-1].fileno() + 1, 4096))
    spare.pop().close()
    waiting = served.connect()
    waiting.sendall(b"GET /-/healthy HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
    waiting.settimeout(0.3)
    try:
        waiting.recv(1)
    except TimeoutError:
        pass
    else:
        raise SystemExit("answered without a descriptor")
    for one in spare:
        one.close()
    waiting.settimeout(5)
    print(waiting.recv(15).decode())
    waiting.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *sys.path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "HTTP/1.1 200 OK\n", done.stderr
    assert "Too many open files" in done.stderr


def test_a_tls_handshake_that_does_not_come_is_cut() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with serving(limits=Limits(handshake=0.2), ssl_context=context) as served:
        with served.connect() as silent:
            assert eventually(lambda: served.server.connections_open == 1)
            assert read_all(silent) == b""
        assert eventually(lambda: served.server.connections_open == 0)
        assert served.rejected() == {Rejected.HANDSHAKE: 1}


def tls_scrape(served: Served) -> bytes:
    context = anonymous(ssl.PROTOCOL_TLS_CLIENT)
    with context.wrap_socket(served.connect()) as client:
        client.sendall(SCRAPE)
        return one_reply(client)


def test_tls_handshakes_that_do_not_come_do_not_lock_out_a_scrape() -> None:
    shelf = large()
    context = anonymous(ssl.PROTOCOL_TLS_SERVER)
    with (
        serving(shelf, limits=Limits(connections=4), ssl_context=context) as served,
        contextlib.ExitStack() as opened,
    ):
        for _ in range(20):
            opened.enter_context(served.connect())
        assert eventually(lambda: sum(served.server.rejected.values()) == 16)
        assert tls_scrape(served).endswith(shelf.metrics)
        assert served.rejected() == {Rejected.CONNECTIONS: 17}


def test_who_has_begun_a_tls_handshake_outlasts_who_is_silent() -> None:
    context = anonymous(ssl.PROTOCOL_TLS_SERVER)
    with (
        serving(limits=Limits(connections=4), ssl_context=context) as served,
        contextlib.ExitStack() as opened,
    ):
        bare = opened.enter_context(served.connect(source="127.0.0.2"))
        client = anonymous(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(bare, do_handshake_on_connect=False)
        opened.enter_context(client).setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        assert eventually(lambda: heard(served) == 1)
        flood(served, opened)
        client.settimeout(PATIENCE)
        client.do_handshake()
        client.sendall(GET)
        assert status_of(one_reply(client)) == 200


def test_beyond_the_cap_a_tls_client_is_closed_before_any_handshake() -> None:
    shelf = Shelf()
    shelf.may_render.clear()
    context = anonymous(ssl.PROTOCOL_TLS_SERVER)
    with (
        serving(shelf, limits=Limits(connections=1), ssl_context=context) as served,
        ThreadPoolExecutor(1) as clients,
    ):
        busy = clients.submit(tls_scrape, served)
        assert eventually(lambda: served.server.requests_in_flight == 1)
        with served.connect() as further:
            assert read_all(further) == b""
        shelf.may_render.set()
        assert status_of(busy.result(PATIENCE)) == 200


def test_plain_http_on_a_tls_port_is_no_handshake() -> None:
    with serving(ssl_context=anonymous(ssl.PROTOCOL_TLS_SERVER)) as served:
        assert b"HTTP" not in served.say(GET)
        assert eventually(lambda: served.rejected() == {Rejected.HANDSHAKE: 1})
