"""Live TCP sockets in bulk, in a namespace of their own, made by forked processes.

Every socket is real and both ends are on this host. A process holds at most `PAIRS` connections,
because each end is a descriptor and 20,000 of them are a common limit.
"""

from __future__ import annotations

import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Final

from lab import Namespace, eventually

PAIRS: Final = 9_000
DESCRIPTORS: Final = 20_000
SILENT_PORT: Final = 999
"""SYN+ACKs from here are dropped: connections to it stay SYN_RECV."""
SILENCE: Final = f"tcp sport {SILENT_PORT} tcp flags & (syn | ack) == (syn | ack) drop"
SETTINGS: Final[dict[str, int | str]] = {
    "net.ipv4.ip_local_port_range": "16384 65535",
    "net.ipv4.tcp_max_tw_buckets": 2_000_000,
    "net.ipv4.tcp_tw_reuse": 0,
    "net.ipv4.tcp_max_syn_backlog": 65_535,
    "net.core.somaxconn": 65_535,
    "net.ipv4.tcp_synack_retries": 10,
}
_FIRST_PORT: Final = 1_024
_BACKLOG: Final = 1_024
_READY_WITHIN: Final = 600.0
"""Seconds for a process to make its sockets."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """What the sockets are."""

    name: str
    listeners: int = 64
    """Listening ports altogether; connections go to them in turn."""
    time_wait: int = 0
    """Of each hundred connections, how many are closed by both sides."""
    close_wait: int = 0
    """Of each hundred connections, how many are closed by the client only."""
    syn_recv: int = 0
    """Half-open connections per process."""
    ipv6: bool = False
    """Whether every other connection is IPv6."""


ESTABLISHED: Final = Mixture("established")
MIXED: Final = Mixture("mixture", time_wait=20, close_wait=2, syn_recv=50, ipv6=True)
MANY_PORTS: Final = Mixture("10,000 remote ports", listeners=10_000)
MANY_LISTENERS: Final = Mixture("5,000 listeners", listeners=5_000)
TIME_WAIT: Final = Mixture("time_wait", time_wait=100)
CLOSE_WAIT: Final = Mixture("close_wait", listeners=512, close_wait=100)


def populate(namespace: Namespace, mixture: Mixture, sockets: int) -> None:
    """Make `sockets` of a mixture; they live until the namespace is left, TIME_WAIT for a minute.

    Of a connection that both sides have closed one end is left.
    """
    remaining = 100 * sockets // (200 - mixture.time_wait)
    descriptors = 2 * remaining + mixture.listeners
    processes = -(-descriptors // (2 * PAIRS))
    pairs, listeners = -(-remaining // processes), -(-mixture.listeners // processes)
    waiting: list[Connection] = []
    for number in range(processes):
        receiver, sender = Pipe(duplex=False)
        ports = range(_FIRST_PORT + number * listeners, _FIRST_PORT + (number + 1) * listeners)
        namespace.fork(_hold, mixture, ports, min(pairs, remaining), sender)
        sender.close()
        waiting.append(receiver)
        remaining -= pairs
    for receiver in waiting:
        if not receiver.poll(_READY_WITHIN):
            raise TimeoutError("a process did not finish making its sockets")
        receiver.recv()


def populate_close_wait(namespace: Namespace, connections: int) -> None:
    """Make connections in CLOSE_WAIT, and wait until the far ends are gone."""
    namespace.set_sysctls({"net.ipv4.tcp_fin_timeout": 1})
    populate(namespace, CLOSE_WAIT, 2 * connections)
    eventually(lambda: "tw 0 " in namespace.read("sockstat"), "no far ends", _READY_WITHIN)


def _hold(mixture: Mixture, ports: range, pairs: int, ready: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    with ExitStack() as held:
        listeners = [held.enter_context(each) for each in _listeners(mixture, ports)]
        for index, listener in enumerate(islice(cycle(listeners), pairs)):
            _connect(mixture, index % 100, listener, held)
        _knock(mixture.syn_recv, ports.start, held)
        ready.send(None)
        signal.pause()


def _listeners(mixture: Mixture, ports: range) -> Iterator[socket.socket]:
    """The process's listeners, on ports that no other process has."""
    for port in ports:
        ipv6 = mixture.ipv6 and port % 2
        family, host = (socket.AF_INET6, "::1") if ipv6 else (socket.AF_INET, "127.0.0.1")
        yield socket.create_server((host, port), family=family, backlog=_BACKLOG)


def _connect(mixture: Mixture, percent: int, listener: socket.socket, held: ExitStack) -> None:
    client = socket.create_connection(listener.getsockname()[:2])
    server, _ = listener.accept()
    if percent < mixture.time_wait:
        client.close()
        server.close()
    elif percent < mixture.time_wait + mixture.close_wait:
        client.close()
        held.enter_context(server)
    else:
        held.enter_context(client)
        held.enter_context(server)


def _knock(times: int, mark: int, held: ExitStack) -> None:
    """Leave half-open connections at the silent port of an address that `mark` alone has."""
    if not times:
        return
    address = (f"127.1.{mark >> 8}.{mark & 255}", SILENT_PORT)
    held.enter_context(socket.create_server(address, backlog=2 * times))
    for _ in range(times):
        client = held.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex(address)
