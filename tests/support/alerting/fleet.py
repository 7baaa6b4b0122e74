"""Very many hosts, as Prometheus sees them: pages that one small server answers for all of them.

A page is what the exporter makes of a snapshot of a host of ordinary size. Each host has the same
services; numbers of connections sway, counters go on with time, and on one host a service leaks.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Final, cast

from everything import passes
from kernel_figures import FIGURES, with_figures
from lab.processes import end, fork
from snapshots import listener, outbound, service, snapshot

from alerting.servers import Json
from sockwatch.export.exposition import Exposition
from sockwatch.export.formats import Format
from sockwatch.export.own import HttpCounts, Reloads, own_families
from sockwatch.observe.snapshot import (
    Destinations,
    DestinationUse,
    Listener,
    PassKind,
    Snapshot,
    Stuck,
    StuckKey,
)
from sockwatch.tcp.causes import Cause
from sockwatch.tcp.states import State

SERVED: Final = 12
"""Services of a host, with a listener each."""
USED: Final = 18
"""Services elsewhere that a host is a client of."""
LEAKING: Final = "8003"
"""Port of the service that leaks where one does."""
LEAKING_PATH: Final = "/17"
LEAKING_HOST: Final = "host0017"
"""Where it does."""

_INBOUND: Final = [
    service(8000 + n, f"app{n}.service", established=40 + n, close_wait=1, time_wait=25, last_ack=1)
    for n in range(SERVED)
]
_OUTBOUND: Final = [
    outbound(9000 + n, f"app{n % SERVED}.service", established=8, close_wait=0, time_wait=12)
    for n in range(USED)
]
_DESTINATIONS: Final = Destinations(
    ports=28_232,
    in_use_max=4_000,
    crowded=(DestinationUse("192.0.2.1", "198.51.100.7:9000", 4_000, 3_800),),
    unanswered={},
)
_LEAK: Final = StuckKey(_INBOUND[3].key, State.CLOSE_WAIT, Cause.NOT_CLOSED)
_STUCK: Final = 987_654
"""Stands in the page for the stuck connections of that service."""
_GOING_ON: Final = re.compile(
    rb"^(sockwatch_(?:tcp_(?:active|passive)_opens|passes|pass_cpu_seconds)_total.*|"
    rb"sockwatch_last_pass_timestamp_seconds.*) (\S+)$",
    re.MULTILINE,
)
"""What goes on with time."""
_SWAYING: Final = re.compile(
    rb'^(sockwatch_tcp_(?:connections|sockets)\{.*state="(?:established|time_wait)".*) (\S+)$',
    re.MULTILINE,
)
"""What goes up and down."""
_FIGURES: Final = replace(FIGURES, time_wait=300)
_NOT_WATCHED: Final = (State.UNKNOWN, State.TIME_WAIT, State.CLOSE, State.LISTEN)


def _listeners() -> list[Listener]:
    made = (listener(8000 + n, f"app{n}.service", queue=1, limit=511) for n in range(SERVED))
    return [replace(one, peak=9, half_open=1, drops=0) for one in made]


def _stuck() -> Stuck:
    states = [state for state in State if state not in _NOT_WATCHED]
    return Stuck(
        connections={_LEAK: _STUCK},
        oldest={(key, State.CLOSE_WAIT): 30.0 for key, _ in _INBOUND}
        | {(_LEAK.service, State.CLOSE_WAIT): 3600.0},
        ages={state: {1.0: 3} for state in states},
        limits=dict.fromkeys(states, 10.0),
        marked=(),
        units={},
        taken=5000.0,
        lower_bounds=frozenset(),
        followed=40,
        most_followed=200_000,
        stride=1,
    )


def host() -> Snapshot:
    """An ordinary host."""
    seen = snapshot(*_INBOUND, *_OUTBOUND, *_listeners())
    (view,) = seen.namespaces
    peaks = dict.fromkeys(State, 100)
    view = replace(view, stuck=_stuck(), destinations=_DESTINATIONS, peaks=peaks)
    known = {PassKind.WATCH: passes(1_000, 0), PassKind.CENSUS: passes(100, 0)}
    return with_figures(replace(seen, namespaces=(view,), passes=known), _FIGURES)


def page() -> bytes:
    """Its metrics, as the exporter writes them."""
    loaded, served = Reloads(successful=True, success_time=0), HttpCounts(1, {"malformed": 0})
    own = [*own_families(loaded, served, 0.02)]
    return Exposition(lambda: own).render(host(), Format.TEXT_0_0_4)


class _Pages:
    """The pages of all hosts as of now, compressed as Prometheus asks for them."""

    def __init__(self) -> None:
        self._template = page()
        self._random = Random(1)
        self._began = time.monotonic()
        self._second = -1
        self._made = (b"", b"")

    def of(self, path: str) -> bytes:
        passed = int(time.monotonic() - self._began)
        if passed != self._second:
            self._second = passed
            self._made = (self._page(passed, 0), self._page(passed, 25 + passed))
        return self._made[path == LEAKING_PATH]

    def _page(self, passed: int, stuck: int) -> bytes:
        body = self._template.replace(f"{float(_STUCK)}".encode(), b"%d" % stuck)
        body = _SWAYING.sub(lambda line: b"%b %d" % (line[1], self._swayed(line[2])), body)
        body = _GOING_ON.sub(lambda line: b"%b %f" % (line[1], self._value(line, passed)), body)
        return gzip.compress(body, compresslevel=1)

    def _swayed(self, value: bytes) -> int:
        return round(float(value) * self._random.uniform(0.7, 1.3))

    def _value(self, line: re.Match[bytes], passed: int) -> float:
        if b"timestamp" in line[1]:
            return time.time()
        return float(line[2]) + passed * (0.005 if b"cpu" in line[1] else 1)


class _Answering(asyncio.Protocol):
    """A connection, kept open, on which pages are asked for one after the other."""

    def __init__(self, pages: _Pages) -> None:
        self._pages = pages
        self._asked = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._asked += data
        while b"\r\n\r\n" in self._asked:
            head, _, self._asked = self._asked.partition(b"\r\n\r\n")
            body = self._pages.of(head.split()[1].decode())
            self._transport.write(_HEAD % len(body) + body)


_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
    b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
)


async def _serve(listening: socket.socket) -> None:
    pages = _Pages()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Answering(pages), sock=listening
    )
    await server.serve_forever()


def _answer(listening: socket.socket) -> None:
    asyncio.run(_serve(listening))


def targets(address: str, hosts: int) -> list[Json]:
    """Return the scrape targets of so many hosts at `address`, as `static_configs`."""
    return [
        {
            "targets": [address],
            "labels": {"instance": f"host{number:04}", "__metrics_path__": f"/{number}"},
        }
        for number in range(hosts)
    ]


@contextmanager
def answering() -> Iterator[str]:
    """Serve a page for every path, in a process of its own; yields the address."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        child = fork(_answer, (listening,), None)
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            end(child)
