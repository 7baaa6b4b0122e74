"""The daemon as a whole under many sockets: its memory, and how it answers meanwhile."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from statistics import median, quantiles
from typing import Final, NamedTuple

from daemon import Daemon, running
from lab import Namespace
from population import SETTINGS, SILENCE, Mixture, populate
from snapshots import service, snapshot

from sockwatch.export.exposition import Exposition
from sockwatch.export.formats import Format
from sockwatch.observe.snapshot import Snapshot

FLAGS: Final = ("--cpu.budget=0", "--watch.interval=1s")
ASKED: Final = 500
"""Requests per second under load."""
CLIENTS: Final = 32
"""Connections that these come on."""
SETTLE: Final = 12.0
"""Seconds for the daemon to see a population, and to have rendered it."""


class Memory(NamedTuple):
    """Resident bytes of the daemon."""

    idle: int
    loaded: int

    @property
    def growth(self) -> int:
        """Bytes above idle."""
        return self.loaded - self.idle


class Latency(NamedTuple):
    """Seconds that scrapes took."""

    median: float
    p99: float


def under(mixture: Mixture, sockets: int, *flags: str) -> tuple[Memory, Latency]:
    """What a population makes of the daemon, and of scrapes while it counts all the time."""
    with (
        Namespace(sysctls=SETTINGS) as namespace,
        running(*FLAGS, "--census.interval=2s", *flags, namespace=namespace) as daemon,
    ):
        namespace.filter(SILENCE)
        scrape_for(namespace, daemon, SETTLE / 2)
        idle = daemon.resident_bytes()
        populate(namespace, mixture, sockets)
        taken = scrape_for(namespace, daemon, SETTLE)
        memory = Memory(idle, daemon.resident_bytes())
        return memory, Latency(median(taken), quantiles(taken, n=100)[98])


def connect(namespace: Namespace, daemon: Daemon) -> http.client.HTTPConnection:
    """A connection to the daemon from inside the namespace."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    with namespace.entered():
        connection.connect()
    return connection


def scrape(connection: http.client.HTTPConnection) -> float:
    """Seconds that a scrape took."""
    began = time.perf_counter()
    connection.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
    connection.getresponse().read()
    return time.perf_counter() - began


def scrape_for(
    namespace: Namespace, daemon: Daemon, seconds: float, pause: float = 0.02
) -> list[float]:
    """Scrape again and again on one connection."""
    taken: list[float] = []
    end = time.monotonic() + seconds
    with closing(connect(namespace, daemon)) as connection:
        while time.monotonic() < end:
            taken.append(scrape(connection))
            time.sleep(pause)
    return taken


class Load(NamedTuple):
    """What 500 requests per second do to the passes."""

    rate: float
    """Per second, as achieved."""
    pass_cpu_alone: float
    """Seconds of CPU per watch pass."""
    pass_cpu_loaded: float


def load(sockets: int, mixture: Mixture, seconds: float = 10.0) -> Load:
    """Scrape on `CLIENTS` connections, `ASKED` times a second, and compare the cost of passes."""
    with (
        Namespace(sysctls=SETTINGS) as namespace,
        running(*FLAGS, "--census.interval=1h", namespace=namespace) as daemon,
    ):
        namespace.filter(SILENCE)
        populate(namespace, mixture, sockets)
        time.sleep(2)
        alone = _pass_cost(daemon, lambda: time.sleep(seconds))
        done: list[int] = []
        loaded = _pass_cost(daemon, lambda: done.append(_storm(namespace, daemon, seconds)))
        return Load(done[0] / seconds, alone, loaded)


def _pass_cost(daemon: Daemon, meanwhile: Callable[[], object]) -> float:
    before = daemon.metrics()
    meanwhile()
    after = daemon.metrics()
    spent, passes = (
        after.sum(name, **{"pass": "watch"}) - before.sum(name, **{"pass": "watch"})
        for name in ("sockwatch_pass_cpu_seconds_total", "sockwatch_passes_total")
    )
    return spent / passes


def _storm(namespace: Namespace, daemon: Daemon, seconds: float) -> int:
    connections = [connect(namespace, daemon) for _ in range(CLIENTS)]
    pause = len(connections) / ASKED

    def drive(connection: http.client.HTTPConnection) -> int:
        number, began = 0, time.monotonic()
        with closing(connection):
            while (now := time.monotonic()) < began + seconds:
                scrape(connection)
                number += 1
                time.sleep(max(0.0, began + number * pause - now))
        return number

    with ThreadPoolExecutor(len(connections)) as drivers:
        return sum(drivers.map(drive, connections))


def busy_snapshot(series: int, number: int) -> Snapshot:
    """A host with so many series of connections, each with the value `number`."""
    states = dict.fromkeys(("established", "close_wait", "time_wait", "syn_recv"), number)
    services = (service(port, "app.service", **states) for port in range(1, series // 4 + 1))
    return snapshot(*services)


def rendering(series: int) -> dict[str, float]:
    """CPU seconds to render so many series for the first time, with other values, and again."""
    before, after = (busy_snapshot(series, number) for number in (1, 2))
    steps = {"new": before, "all changed": after, "unchanged": after}
    times: dict[str, float] = {}
    for fmt in (Format.TEXT_0_0_4, Format.OPENMETRICS_1_0_0):
        for _ in range(5):
            page = Exposition()
            for step, taken in steps.items():
                name = f"{fmt.partition(';')[0]}, {step}"
                seconds = _seconds(partial(page.render, taken, fmt))
                times[name] = min(seconds, times.get(name, seconds))
    return times


def _seconds(call: Callable[[], object]) -> float:
    began = time.thread_time()
    call()
    return time.thread_time() - began
