"""Live sockets in a namespace, watched by passes on a clock that only the test moves.

    with Scene(namespace, close_wait=60) as scene:
        client, server = scene.pair(8080)
        client.close()
        scene.watch(61)                        # passes, a second apart
        assert scene.stuck() == {("inbound", "8080", "close_wait", "eof_unread"): 1}
        assert scene.verdicts() == []

The kernel is real and time is not: an hour of passes takes seconds. What the kernel times itself
(SYN_SENT and SYN_RECV) has its true age, whatever the clock says.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final, Self, TypeVar

from daemon import Metrics
from fake_sources import Time
from lab import LabError, Namespace
from lab.stage import reach

from sockwatch.config import AgesConfig, Config, CpuConfig, OwnersConfig, WatchConfig
from sockwatch.export.document import Host
from sockwatch.export.exposition import Exposition
from sockwatch.export.findings import Finding, find
from sockwatch.export.formats import Format
from sockwatch.export.leaks.answer import Answer
from sockwatch.export.leaks.answering import answer
from sockwatch.export.leaks.document import leaks_document
from sockwatch.export.leaks.query import parse_query
from sockwatch.observe.snapshot import PassKind, Snapshot
from sockwatch.poll import Poller
from sockwatch.tcp.states import State

T = TypeVar("T")
Pair = tuple[socket.socket, socket.socket]
StuckBy = dict[tuple[str, str, str, str], float]
"""How many are stuck, by direction, port, state and cause."""

INTERVAL: Final = 1.0
"""Seconds of the scene's clock between passes."""
HERE: Final = "127.0.0.1"
_PASSES: Final = 2000
"""Passes, a few milliseconds each, that may be needed to look through all processes."""


class Scene:
    """A namespace with sockets and a Poller in it.

    Args:
        namespace: where all of it is.
        interval: seconds between passes.
        processes: whether processes are looked for.
        ages: limits in seconds, as in the section of the configuration.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        interval: float = INTERVAL,
        processes: bool = False,
        **ages: float,
    ) -> None:
        self.namespace = namespace
        self.time = Time()
        self.began = self.time.monotonic
        self._interval = interval
        self._held = ExitStack()
        self._doors: dict[int, socket.socket] = {}
        config = replace(
            Config(),
            watch=WatchConfig(interval=interval),
            cpu=CpuConfig(budget=0),
            ages=AgesConfig(**ages),
            owners=OwnersConfig(processes=processes),
        )
        with namespace.entered():
            self._poller = Poller(config, clocks=self.time.clocks())
        self._held.callback(self._poller.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    # Sockets

    def open(self, protocol: int = 0) -> socket.socket:
        made = self.namespace.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
        made.settimeout(5)
        return self._held.enter_context(made)

    def door(self, port: int, protocol: int = 0) -> socket.socket:
        """The listener of a port."""
        if port not in self._doors:
            made = self.open(protocol)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((HERE, port))
            made.listen(1024)
            self._doors[port] = made
        return self._doors[port]

    def connect(self, port: int, protocol: int = 0) -> socket.socket:
        """A client that is connected, to whoever listens."""
        client = self.open(protocol)
        client.connect((HERE, port))
        return client

    def pair(self, port: int, protocol: int = 0) -> Pair:
        """Both ends of an accepted connection: client, server."""
        door = self.door(port, protocol)
        client = self.connect(port, protocol)
        server, _ = door.accept()
        server.settimeout(5)
        return client, self._held.enter_context(server)

    def closed_by_client(self, port: int) -> socket.socket:
        """The server's end in CLOSE_WAIT; the client's has gone."""
        client, server = self.pair(port)
        client.close()
        reach(State.CLOSE_WAIT, server)
        return server

    # Passes

    @property
    def elapsed(self) -> float:
        """Seconds since the scene began."""
        return self.time.monotonic - self.began

    def watch(self, seconds: float = 0.0, each: Callable[[], object] = lambda: None) -> None:
        """One pass, and more of them until so much time has gone by; `each` after every one."""
        end = self.time.monotonic + seconds
        self._pass(PassKind.WATCH)
        each()
        while self.time.monotonic < end:
            self.time.move(self._interval)
            self._pass(PassKind.WATCH)
            each()

    def census(self) -> None:
        self._pass(PassKind.CENSUS)

    def _pass(self, kind: PassKind) -> None:
        with self.namespace.entered():
            assert self._poller.step(kind), self._poller.snapshot().passes[kind].last_failure

    def until(self, probe: Callable[[], T], what: str) -> T:
        """The first true value of the probe, after passes for which the clock stands still."""
        for _ in range(_PASSES):
            self.watch()
            if value := probe():
                return value
        raise LabError(f"{what}: not so within {_PASSES} passes")

    # What is seen

    @property
    def snapshot(self) -> Snapshot:
        """All that is known."""
        return self._poller.snapshot()

    def findings(self) -> dict[str, Finding]:
        """What looks wrong, by kind: of each no more than one is expected."""
        snapshot = self.snapshot
        found = find(snapshot, now=snapshot.taken)
        by_kind = {finding.kind.value: finding for finding in found}
        assert len(by_kind) == len(found), found
        return by_kind

    def metrics(self) -> Metrics:
        text = Exposition().render(self.snapshot, Format.TEXT_0_0_4)
        return Metrics(text.decode())

    def stuck(self) -> StuckBy:
        """All that the metrics call stuck."""
        labels = ("direction", "port", "state", "cause")
        found = self.metrics().by("sockwatch_tcp_stuck_connections", *labels)
        return {_named(*key): number for key, number in found.items() if number}

    def answer(self, query: str = "") -> Answer:
        """What `sockwatch leaks` tells of."""
        return answer(self._poller.snapshot(), parse_query(query), Host("lab", "6.18"))

    def leaks(self, query: str = "") -> dict[str, Any]:
        """What `/api/v1/leaks` and `sockwatch leaks --json` answer."""
        return leaks_document(self.answer(query))

    def told(self) -> StuckBy:
        """`stuck`, as `leaks` has it."""
        keys = ("direction", "port", "state", "cause")
        groups = self.leaks()["groups"]
        return {_named(*(one[key] for key in keys)): one["connections"] for one in groups}

    def verdicts(self) -> list[dict[str, Any]]:
        """The groups that are leaks, by what is more than an idle pool keeps."""
        return [group for group in self.leaks()["groups"] if group["leaking"]]


def _named(direction: str, port: str, state: str, cause: str) -> tuple[str, str, str, str]:
    return direction, port, state, cause
