"""What goes on at a host: a function each, run in a process of its own until that is killed.

Clients and servers are one process, on loopback. Everything is bounded in number and in rate.
"""

from __future__ import annotations

import signal
import socket
import time
from collections import deque
from contextlib import suppress
from typing import Final

from lab import vanish
from lab.stage import reach, reset

from sockwatch.tcp.states import State

HERE: Final = "127.0.0.1"
SILENT: Final = "127.0.0.2"
"""From here come clients of which nothing but their SYN arrives."""
LEAK, HALF_CLOSED, ASLEEP, BLACK_HOLE = 8001, 8002, 8003, 8004
STANDING, CROWDED, FILLING, CHURN = 8005, 8006, 8007, 8008
SMALL, POOL, SLOW, BURSTY = 8009, 8010, 8011, 8012
DEAD, BUSY = 8013, 8014
NO_ANSWER: Final = f"tcp dport {BLACK_HOLE} tcp flags & (syn | ack) == syn drop"
ONLY_SYN: Final = f"ip saddr {SILENT} tcp flags & syn == 0x0 drop"


def listen(port: int, backlog: int = 128) -> socket.socket:
    return socket.create_server((HERE, port), backlog=backlog)


def hold(*_: object) -> None:
    """Keep what is given for as long as the process lives."""
    while True:
        signal.pause()


def pair(server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Return both ends of an accepted connection: client, server."""
    client = socket.create_connection(server.getsockname())
    return client, server.accept()[0]


def knock(port: int, source: str = HERE) -> socket.socket:
    """Return a client that has begun to connect."""
    client = socket.socket()
    client.setblocking(False)
    client.bind((source, 0))
    client.connect_ex((HERE, port))
    return client


def leaks(rate: float, most: int) -> None:
    """The service never closes: I1 and I6."""
    server, kept = listen(LEAK), list[socket.socket]()
    while len(kept) < most:
        client, accepted = pair(server)
        kept.append(accepted)
        client.close()
        time.sleep(1 / rate)
    hold(kept)


def half_closes(number: int) -> None:
    """The service shuts its half down and keeps the socket; its clients are gone: I16."""
    server, kept = listen(HALF_CLOSED), list[socket.socket]()
    for _ in range(number):
        client, accepted = pair(server)
        accepted.shutdown(socket.SHUT_WR)
        reach(State.FIN_WAIT2, accepted)
        vanish(client)
        kept.append(accepted)
    hold(kept)


def hoards(rate: float, most: int) -> None:
    """The service keeps connections that were reset, which are in no table any more."""
    server, kept = listen(DEAD), list[socket.socket]()
    while len(kept) < most:
        client, accepted = pair(server)
        kept.append(accepted)
        reset(client)
        time.sleep(1 / rate)
    hold(kept)


def stands(backlog: int, clients: int) -> None:
    """The service does not accept, and as many clients have come as there is nearly room for."""
    server = listen(STANDING, backlog)
    kept = [knock(STANDING) for _ in range(clients)]
    hold(server, kept)


def sleeps(backlog: int, rate: float) -> None:
    """The service does not accept, and clients go on to come and to give up: I11."""
    waiting = deque[socket.socket]()
    with listen(ASLEEP, backlog):
        while True:
            waiting.append(knock(ASLEEP))
            if len(waiting) > 10 * rate:
                waiting.popleft().close()
            time.sleep(1 / rate)


def stutters(backlog: int, burst: int) -> None:
    """The service accepts all that it got once a second; bursts do not fit into its queue."""
    server = listen(BURSTY, backlog)
    server.setblocking(False)
    while True:
        clients = [knock(BURSTY) for _ in range(burst)]
        time.sleep(0.6)
        with suppress(BlockingIOError):
            while True:
                server.accept()[0].close()
        time.sleep(0.8)
        for client in clients:
            client.close()


def asks_in_vain(number: int) -> None:
    """A client of a destination that does not answer: I18."""
    kept = [knock(BLACK_HOLE) for _ in range(number)]
    hold(kept)


def crowds(number: int) -> None:
    """A client that holds very many connections to one destination: I8."""
    server = listen(CROWDED, number)
    kept = [pair(server) for _ in range(number)]
    hold(kept)


def fills(first: int, rate: float, most: int) -> None:
    """A client that holds ever more connections to one destination."""
    server = listen(FILLING, most)
    kept = [pair(server) for _ in range(first)]
    while len(kept) < most:
        kept.append(pair(server))
        time.sleep(1 / rate)
    hold(kept)


def churns(rate: float) -> None:
    """Short connections, closed by the service first, so that it has the TIME_WAIT: I10."""
    server = listen(CHURN)
    while True:
        client, accepted = pair(server)
        accepted.close()
        client.close()
        time.sleep(1 / rate)


def works(clients: int, rate: float) -> None:
    """Clients that stay, and get an answer to each request."""
    server = listen(BUSY)
    pairs = deque([pair(server) for _ in range(clients)])
    while True:
        for one, other in (pairs[0], reversed(pairs[0])):
            one.sendall(bytes(512))
            other.recv(512)
        pairs.rotate()
        time.sleep(1 / rate)


def floods(backlog: int, rate: float) -> None:
    """Handshakes that are never finished, and hardly any that is."""
    with listen(SMALL, backlog):
        while True:
            client = knock(SMALL, SILENT)
            time.sleep(1 / rate)
            vanish(client)


def overflows(backlog: int, rate: float) -> None:
    """The same, but four times as many handshakes are finished: I14."""
    server = listen(SMALL, backlog)
    silent = [knock(SMALL, SILENT) for _ in range(2 * backlog)]
    while True:
        silent.append(knock(SMALL, SILENT))
        vanish(silent.pop(0))
        for _ in range(4):
            client, accepted = pair(server)
            client.close()
            accepted.close()
            time.sleep(1 / rate)


def pools(number: int) -> None:
    """A pool that keeps a few connections, which the other side has closed: I21."""
    server = listen(POOL)
    kept = [pair(server) for _ in range(number)]
    for client, _ in kept:
        client.close()
    hold(kept)


def is_slow(burst: int, delay: float, every: float) -> None:
    """Under load the service closes late, but it does close: I22."""
    server = listen(SLOW)
    while True:
        pairs = [pair(server) for _ in range(burst)]
        for client, _ in pairs:
            client.close()
        time.sleep(delay)
        for _, accepted in pairs:
            accepted.close()
        time.sleep(every - delay)
