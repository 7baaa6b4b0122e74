"""Clients that mean harm, each for a short time: by number, slowness, size or nonsense."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from http_client import GET, basic, read_all, received

CLIENTS: Final = 4
"""At a time, of those that are quick."""
PATIENCE: Final = 1.0

_END: Final = b"\r\n\r\n"
_HEAD: Final = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"
_INNER: Final = b"GET /api/v1/snapshot HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass(frozen=True)
class Target:
    """Whom it is done to."""

    port: int
    trust: ssl.SSLContext | None = None
    authorization: str = ""
    seconds: float = 0.5
    """How long it is done."""
    everywhere: bool = False
    """Whether each connection is from another address."""

    def bare(self) -> socket.socket:
        connection = socket.socket()
        connection.settimeout(PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # no time to lose
        try:
            if self.everywhere:
                connection.bind((f"127.{random.randrange(1, 255)}.{random.randrange(255)}.9", 0))
            connection.connect(("127.0.0.1", self.port))
        except OSError:
            connection.close()
            raise
        return connection

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """As bare, after the TLS handshake if there is TLS."""
        connection = self.bare()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if self.trust is None:
            return connection
        try:
            return self.trust.wrap_socket(connection, server_hostname="localhost")
        except BaseException:
            connection.close()
            raise

    def head(self, lines: bytes = b"") -> bytes:
        """A request, its password included, with further lines of a head."""
        password = (
            f"Authorization: {self.authorization}\r\n".encode() if self.authorization else b""
        )
        return _HEAD + password + lines + b"\r\n"


Abuse = Callable[[Target], None]


def nothing(target: Target) -> None:
    """For comparison."""
    time.sleep(target.seconds)


def _at_speed(once: Abuse) -> Abuse:
    """Do it again and again, several at a time; that the server hangs up is to be expected."""

    def again(target: Target, end: float) -> None:
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                once(target)

    def abuse(target: Target) -> None:
        end = time.monotonic() + target.seconds
        threads = [threading.Thread(target=again, args=(target, end)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return abuse


def _from_everywhere(abuse: Abuse) -> Abuse:
    return lambda target: abuse(replace(target, everywhere=True))


def _until_the_end(target: Target) -> Iterator[None]:
    end = time.monotonic() + target.seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.02)


def _hold(number: int, open_one: Callable[[Target], socket.socket]) -> Abuse:
    """Have that many connections at a time, some of which the server may have cut."""

    def abuse(target: Target) -> None:
        with contextlib.ExitStack() as opened:
            for _ in range(number):
                with contextlib.suppress(OSError):
                    opened.enter_context(open_one(target))
            time.sleep(target.seconds)

    return abuse


def _after_a_scrape(target: Target) -> socket.socket:
    with contextlib.ExitStack() as opened:
        connection = opened.enter_context(target.connect())
        connection.sendall(target.head())
        received(connection, 1)
        opened.pop_all()
    return connection


def _drip(target: Target, connections: Iterable[socket.socket]) -> None:
    """Send a byte on each of them again and again."""
    slow = list(connections)
    for _ in _until_the_end(target):
        for connection in slow:
            with contextlib.suppress(OSError):
                connection.sendall(b"x")


def _slow_heads(target: Target) -> None:
    with contextlib.ExitStack() as opened:
        slow = [opened.enter_context(target.connect()) for _ in range(40)]
        for connection in slow:
            connection.sendall(target.head()[:-2] + b"X: ")
        _drip(target, slow)


def _slow_handshakes(target: Target) -> None:
    """Each begins a record of 512 bytes with a ClientHello, as TLS does."""
    with contextlib.ExitStack() as opened:
        slow = [opened.enter_context(target.bare()) for _ in range(60)]
        for connection in slow:
            connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        _drip(target, slow)


def _slow_readers(target: Target) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(60):
            slow = opened.enter_context(target.connect(receive_buffer=4096))
            slow.settimeout(0.02)
            with contextlib.suppress(OSError):
                slow.sendall(target.head() * 100)
        time.sleep(target.seconds)


def _pipeline(target: Target) -> None:
    """Ask for much at once, and read all of it."""
    with target.connect() as eager:
        asker = threading.Thread(target=_send, args=(eager, target.head() * 300))
        asker.start()
        end = time.monotonic() + target.seconds
        with contextlib.suppress(OSError):
            while time.monotonic() < end:
                received(eager, 1 << 16)
        with contextlib.suppress(OSError):
            eager.shutdown(socket.SHUT_RDWR)
        asker.join()


def _send(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(data)


def say(target: Target, data: bytes) -> bytes:
    """What comes back, whether or not all is taken."""
    with target.connect() as connection:
        _send(connection, data)
        return read_all(connection)


def _body(target: Target) -> None:
    """A body that goes on for as long as anybody takes it."""
    with target.connect() as connection:
        connection.sendall(target.head(b"Content-Length: 100000000\r\n"))
        while True:
            connection.sendall(b"x" * 65536)


def smuggled(target: Target) -> dict[str, bytes]:
    """Requests that some take for one, others for two; each has another inside."""
    length = b"Content-Length: %d\r\n" % len(_INNER)
    chunked = b"Transfer-Encoding: chunked\r\n"
    chunk = b"%x\r\n" % len(_INNER)
    last = b"0\r\n\r\n"
    tricks = {
        "length": (length, b""),
        "length twice": (length + length, b""),
        "lengths that differ": (length + b"Content-Length: 0\r\n", b""),
        "lengths in one": (b"Content-Length: 0, %d\r\n" % len(_INNER), b""),
        "signed length": (b"Content-Length: +%d\r\n" % len(_INNER), b""),
        "length of another base": (b"Content-Length: 0x%x\r\n" % len(_INNER), b""),
        "chunked": (chunked, chunk),
        "chunked and length": (chunked + length, last),
        "length and chunked": (length + chunked, last),
        "chunked twice": (chunked + chunked, chunk),
        "chunked in disguise": (b"Transfer-Encoding: xchunked\r\n" + length, b""),
        "chunked after a tab": (b"Transfer-Encoding:\tchunked\r\n", chunk),
        "space before the colon": (b"Transfer-Encoding : chunked\r\n" + length, last),
        "folded": (b"X: y\r\n Transfer-Encoding: chunked\r\n" + length, last),
        "bare carriage return": (b"X: y\rTransfer-Encoding: chunked\r\n" + length, b""),
        "bare line feed": (b"X: y\n" + chunked + length, last),
        "nul": (b"X: y\0\r\n" + length, b""),
    }
    return {name: target.head(lines) + body + _INNER for name, (lines, body) in tricks.items()}


class Nonsense(NamedTuple):
    """What is no HTTP/1.1, or hardly, and the status that it gets."""

    said: bytes
    status: int


def nonsense(target: Target) -> dict[str, Nonsense]:
    """Each is said to a server that asks for what the target brings."""
    upgrade = (
        b"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    )
    unknown = 401 if target.authorization else 404
    return {
        "HTTP/0.9": Nonsense(b"GET /metrics\r\n\r\n", 400),
        "HTTP/2": Nonsense(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), 400),
        "HTTP/2 by upgrade": Nonsense(target.head(upgrade), 200),
        "HTTP/3": Nonsense(b"GET /metrics HTTP/3\r\n\r\n", 400),
        "TLS": Nonsense(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),
        "invalid UTF-8 in the path": Nonsense(b"GET /\xff\xc0\x80 HTTP/1.1\r\nHost: a" + _END, 400),
        "invalid UTF-8 escaped": Nonsense(b"GET /%ff%fe%c0%80 HTTP/1.0" + _END, unknown),
        "invalid UTF-8 in a header": Nonsense(
            target.head(b"X: \xff\xfe\r\nConnection: close\r\n"), 200
        ),
        "invalid UTF-8 in a password": Nonsense(
            b"GET /nothing HTTP/1.0\r\nAuthorization: Basic //79/zo6" + _END, unknown
        ),
        "no host": Nonsense(b"GET /metrics HTTP/1.1" + _END, 400),
        "two hosts": Nonsense(target.head(b"Host: evil.example\r\n"), 400),
        "only line ends": Nonsense(b"\r\n" * 1000, 400),
        "zeros": Nonsense(bytes(10_000) + _END, 400),
        "random bytes": Nonsense(b"\xff" + os.urandom(4000) + _END, 400),
        "SSH": Nonsense(b"SSH-2.0-OpenSSH_9.2" + _END, 400),
        "SMTP": Nonsense(b"HELO localhost" + _END, 400),
    }


def _nonsense(target: Target) -> None:
    say(target, random.choice(list(nonsense(target).values())).said)


def _smuggle(target: Target) -> None:
    say(target, random.choice(list(smuggled(target).values())))


def guess(target: Target, user: str, password: str) -> bytes:
    """What a name and a password get."""
    given = basic(user, password)
    return say(target, _HEAD + f"Authorization: {given}\r\nConnection: close\r\n\r\n".encode())


def _guess(target: Target) -> None:
    guess(target, random.choice(("prometheus", "nobody")), str(random.random()))


def _guess_at_length(target: Target) -> None:
    guess(target, "prometheus", f"{random.random():.17f}" * 300)


def _ask(path: bytes) -> Abuse:
    """Ask properly, never twice for the same."""

    def ask(target: Target) -> None:
        query = b"?older_than=%ds&limit=1000" % random.randrange(1000)
        head = target.head(b"Connection: close\r\n").replace(b"/metrics", path + query, 1)
        say(target, head)

    return ask


def _reset(target: Target) -> None:
    with target.bare() as connection:
        connection.sendall(_HEAD)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _shake_hands(target: Target) -> None:
    target.connect().close()


def _plain_on_tls(target: Target) -> None:
    with target.bare() as connection:
        connection.sendall(GET)
        read_all(connection)


PLAIN: Final[dict[str, Abuse]] = {
    "1,000 silent connections": _hold(1000, Target.bare),
    "slow heads": _slow_heads,
    "readers that do not read": _slow_readers,
    "300 idle after a scrape": _hold(300, _after_a_scrape),
    "heads of a megabyte": _at_speed(lambda t: _send_all(t, t.head(b"X: " + b"x" * 1_000_000))),
    "a hundred thousand headers": _at_speed(lambda t: _send_all(t, t.head(b"X: y\r\n" * 100_000))),
    "paths of a megabyte": _at_speed(lambda t: _send_all(t, b"GET /" + b"x" * 1_000_000 + _END)),
    "bodies without end": _at_speed(_body),
    "pipelining": _at_speed(_pipeline),
    "smuggling": _at_speed(_smuggle),
    "nonsense": _at_speed(_nonsense),
    "resets": _at_speed(_reset),
    "scrapes at speed": _at_speed(_ask(b"/metrics")),
    "searches at speed": _at_speed(_ask(b"/api/v1/leaks")),
    "1,000 silent connections from everywhere": _from_everywhere(_hold(1000, Target.bare)),
    "slow heads from everywhere": _from_everywhere(_slow_heads),
    "scrapes at speed from everywhere": _from_everywhere(_at_speed(_ask(b"/metrics"))),
}
TLS: Final[dict[str, Abuse]] = {
    **PLAIN,
    "300 silent connections after the handshake": _hold(300, Target.connect),
    "slow handshakes": _slow_handshakes,
    "handshakes at speed": _at_speed(_shake_hands),
    "handshakes at speed from everywhere": _from_everywhere(_at_speed(_shake_hands)),
    "plain HTTP on the port of TLS": _at_speed(_plain_on_tls),
    "wrong passwords at speed": _at_speed(_guess),
    "wrong passwords at speed from everywhere": _from_everywhere(_at_speed(_guess)),
    "passwords of 5 KB at speed": _at_speed(_guess_at_length),
}


def _send_all(target: Target, data: bytes) -> None:
    say(target, data)
