"""HTTP as clients speak it, well behaved or not, and a server on loopback to speak it to."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from snapshots import snapshot

from sockwatch.export.formats import Format
from sockwatch.observe.snapshot import Snapshot
from sockwatch.web.app import App
from sockwatch.web.guard import Limits, Rejected
from sockwatch.web.protection import Protection
from sockwatch.web.server import Application, Lost, Server
from sockwatch.web.tls import Tls

PATIENCE = 10.0
"""Seconds after which a test gives up waiting."""
GET = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n"
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass
class Shelf:
    """Content that is what a test puts there; counts renderings."""

    current: Snapshot | None = field(default_factory=snapshot)
    metrics: bytes = b"# TYPE up gauge\nup 1\n"
    readiness: tuple[bool, str] = (True, "The last watch pass ended 1 s ago.")
    renderings: Counter[Format] = field(default_factory=Counter)
    may_render: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_render.set()

    def snapshot(self) -> Snapshot | None:
        return self.current

    def render(self, fmt: Format) -> bytes:
        self.renderings[fmt] += 1
        assert self.may_render.wait(PATIENCE)
        return self.metrics

    def ready(self) -> tuple[bool, str]:
        return self.readiness


def large() -> Shelf:
    """Metrics beyond what the kernel's buffers hold between two ends of loopback."""
    return Shelf(metrics=b"x" * 20_000_000)


class Reply(NamedTuple):
    """A response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Served:
    """A server that runs in a thread of its own, and ways to speak to it."""

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.port = port
        self.loop = asyncio.new_event_loop()

    def get(self, path: str, method: str = "GET", **headers: str) -> Reply:
        """One request on a connection of its own; underscores in header names are hyphens."""
        with contextlib.closing(self.client()) as client:
            return request(client, path, method, **headers)

    def client(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def connect(self, receive_buffer: int | None = None, source: str = "") -> socket.socket:
        """A bare connection, from another address if told."""
        connection = socket.socket()
        connection.bind((source, 0))
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(PATIENCE)
        try:
            connection.connect(("127.0.0.1", self.port))
        except OSError:
            connection.close()
            raise
        return connection

    def rejected(self) -> dict[Rejected, int]:
        """The reasons for which clients were turned away, and how many."""
        return {reason: count for reason, count in self.server.rejected.items() if count}

    def say(self, data: bytes) -> bytes:
        """What comes back for these bytes until the server closes."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)


def request(
    client: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str
) -> Reply:
    client.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = client.getresponse()
    found = {name.lower(): value for name, value in answer.getheaders()}
    return Reply(answer.status, found, answer.read())


def reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_all(connection: socket.socket) -> bytes:
    """Everything until the end of the stream, or until it is cut."""
    data = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            data += chunk
    return bytes(data)


def one_reply(connection: socket.socket) -> bytes:
    """The next response of a connection that stays open; its length must be given."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        data += received(connection, 1)
    length = int(data.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while length:
        chunk = received(connection, length)
        data += chunk
        length -= len(chunk)
    return bytes(data)


def received(connection: socket.socket, most: int) -> bytes:
    """Some bytes; the end of the stream is an error."""
    chunk = connection.recv(most)
    if not chunk:
        raise ConnectionAbortedError("the server has closed")
    return chunk


def status_of(answer: bytes | bytearray) -> int:
    return int(answer.split(b" ", 2)[1])


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether something becomes true before patience ends."""
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


@contextlib.contextmanager
def serving(
    content: Shelf | None = None,
    *,
    app: Application | None = None,
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
    protection: Protection | None = None,
    telemetry_path: str = "/metrics",
    listener: socket.socket | None = None,
    lost: Lost = lambda _: None,
) -> Iterator[Served]:
    """Serve `content`, or another application, while the test lasts; on loopback if not told."""
    app = app or App(content or Shelf(), telemetry_path=telemetry_path, host="web1")
    listener = listener or socket.create_server(("127.0.0.1", 0))
    port = 0 if listener.family == socket.AF_UNIX else listener.getsockname()[1]
    tls = None if ssl_context is None else lambda: Tls(ssl_context)
    if protection is not None:
        app, tls = protection.guard(app), protection.tls if protection.has_tls else None
    served = Served(Server(app, limits=limits, tls=tls), port)
    thread = threading.Thread(target=served.loop.run_forever, name="serve")
    thread.start()
    try:
        on_loop(served, served.server.start([listener], lost))
        yield served
    finally:
        on_loop(served, served.server.stop())
        served.loop.call_soon_threadsafe(served.loop.stop)
        thread.join(PATIENCE)
        served.loop.close()


def on_loop(served: Served, work: object) -> None:
    """Run a coroutine where the server runs."""
    assert asyncio.iscoroutine(work)
    asyncio.run_coroutine_threadsafe(work, served.loop).result(PATIENCE)


def basic(user: str, password: str) -> str:
    """The value of an Authorization header."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def anonymous(side: int) -> ssl.SSLContext:
    """TLS without certificates, as only tests may have it."""
    context = ssl.SSLContext(side)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES128-SHA:@SECLEVEL=0")
    return context
