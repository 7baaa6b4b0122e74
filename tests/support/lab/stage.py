"""A stage in a namespace, on which recipes put live sockets to be counted."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

from lab.namespace import Namespace
from lab.processes import eventually
from sockwatch.tcp.states import Family, State, Unowned

# include/uapi/linux/tcp.h
TCP_REPAIR: Final = 19

LOOPBACK: Final = {Family.INET: "127.0.0.1", Family.INET6: "::1"}
FIRST_PORT: Final = 7001


def tcp_state(sock: socket.socket) -> State:
    """The state of a socket that is held, from the first byte of its `struct tcp_info`."""
    return State.of(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])


def retransmissions(sock: socket.socket) -> int:
    """How often a socket that is held has sent its oldest segment again (tcpi_retransmits)."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 3)[2]


def reach(state: State, sock: socket.socket) -> None:
    """Wait until a socket that is held is in the state."""
    eventually(lambda: tcp_state(sock) is state, f"socket in {state.label}")


def vanish(sock: socket.socket) -> None:
    """Close a socket without any packet, so that its peer learns nothing."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    sock.close()


def reset(sock: socket.socket) -> None:
    """Close a socket with an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


Make: TypeAlias = "Callable[[Stage, Family, int], object]"
"""Makes one socket; the port is the recipe's own."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make one socket in a state."""

    name: str
    state: State
    make: Make
    unowned: Unowned | None = None
    drops: str = ""
    """nftables rule for its port."""
    listed: bool = True
    """Whether the kernel's tables have it."""


class Stage:
    """The sockets that recipes make in a namespace, open for a `with` block at most."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.sockets: Counter[tuple[Family, State]] = Counter()
        """What is there to be counted."""
        self.unowned: Counter[Unowned] = Counter()
        """Those of them that no process holds."""
        self._opened: list[socket.socket] = []
        self._doors: dict[tuple[Family, int], socket.socket] = {}
        self._ports: dict[Recipe, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._opened:
            sock.close()

    def play(self, recipe: Recipe, family: Family, count: int) -> list[socket.socket]:
        """Make `count` sockets by the recipe; returns those of them that are held."""
        before, port = len(self._opened), self._port(recipe)
        for _ in range(count):
            recipe.make(self, family, port)
        if recipe.listed:
            self.sockets[family, recipe.state] += count
        if recipe.unowned is not None:
            self.unowned[recipe.unowned] += count
        return [sock for sock in self._opened[before:] if self._is_held(sock)]

    @property
    def held(self) -> list[socket.socket]:
        """All sockets made by recipes that are still open."""
        return [sock for sock in self._opened if self._is_held(sock)]

    def _is_held(self, sock: socket.socket) -> bool:
        return sock.fileno() >= 0 and sock not in self._doors.values()

    def _port(self, recipe: Recipe) -> int:
        if recipe not in self._ports:
            self._ports[recipe] = FIRST_PORT + len(self._ports)
            if recipe.drops:
                self.namespace.filter(recipe.drops.format(port=self._ports[recipe]))
        return self._ports[recipe]

    def open(self, family: Family) -> socket.socket:
        sock = self.namespace.socket(family)
        self._opened.append(sock)
        return sock

    def bind(self, family: Family, port: int = 0) -> socket.socket:
        sock = self.open(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LOOPBACK[family], port))
        return sock

    def listen(self, family: Family, port: int = 0) -> socket.socket:
        sock = self.bind(family, port)
        sock.listen()
        sock.settimeout(5.0)
        return sock

    def connect(self, family: Family, port: int) -> socket.socket:
        """A client that has begun to connect."""
        sock = self.open(family)
        sock.setblocking(False)
        sock.connect_ex((LOOPBACK[family], port))
        return sock

    def knock(self, family: Family, port: int) -> socket.socket:
        """A client that is connected as far as it knows; nobody has accepted it."""
        self._door(family, port)
        client = self.connect(family, port)
        reach(State.ESTABLISHED, client)
        return client

    def pair(self, family: Family, port: int) -> tuple[socket.socket, socket.socket]:
        """Both ends of an accepted connection: client, server."""
        client = self.knock(family, port)
        server, _ = self._door(family, port).accept()
        self._opened.append(server)
        return client, server

    def _door(self, family: Family, port: int) -> socket.socket:
        """The listener behind a recipe's port; it is counted, too."""
        if (family, port) not in self._doors:
            self._doors[family, port] = self.listen(family, port)
            self.sockets[family, State.LISTEN] += 1
        return self._doors[family, port]
