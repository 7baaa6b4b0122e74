"""What is measured: the bare dump, sockwatch's passes, and the peers that are installed."""

from __future__ import annotations

import http.client
import os
import resource
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import psutil
from lab import Namespace, eventually
from pyroute2.netlink.diag import DiagSocket

from sockwatch.config import AgesConfig, Config
from sockwatch.observe.snapshot import PassKind
from sockwatch.poll import Poller

FOLLOWED: Final = "watch, followed"
ALL_STUCK: Final = "watch, all stuck"
ALL_STATES: Final = 0xFFE
"""idiag_states: states 1 to 11."""
_NODE_EXPORTER: Final = "prometheus-node-exporter"
_NODE_EXPORTER_PORT: Final = 9_199
_COLLECTD_INTERVAL: Final = 5


class Cost(NamedTuple):
    """What one look at all sockets took."""

    cpu: float
    """Seconds, user and system."""
    wall: float
    """Seconds."""
    peak_rss: int | None = None
    """Bytes, of a process that does nothing else."""


def timed(look: Callable[[], object]) -> Cost:
    """The cost of a call in this process."""
    cpu, wall = time.process_time(), time.perf_counter()
    look()
    return Cost(time.process_time() - cpu, time.perf_counter() - wall)


class Floor:
    """The two dumps of type 20 (SOCK_DIAG_BY_FAMILY), received and thrown away."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)  # NETLINK_SOCK_DIAG
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
        self._buffer = bytearray(1 << 16)

    def __call__(self) -> None:
        for family in (socket.AF_INET, socket.AF_INET6):
            body = struct.pack("=BBBBI48x", family, socket.IPPROTO_TCP, 0, 0, ALL_STATES)
            self._socket.send(struct.pack("=IHHII", 16 + len(body), 20, 0x301, 1, 0) + body)
            while True:
                self._socket.recv_into(self._buffer)
                if self._buffer[4] == 3:  # NLMSG_DONE
                    break


Looks = dict[str, Callable[[], object]]
"""What looks at the sockets, by name; the floor among them."""


def passes() -> Looks:
    """Whole passes, from the kernel to the view."""
    poller = Poller(Config())
    return {
        "floor": Floor(),
        "census": partial(_whole, poller, PassKind.CENSUS),
        "watch": partial(_whole, poller, PassKind.WATCH),
    }


def followed() -> Looks:
    """Watch passes that follow every connection."""
    return {
        "floor": Floor(),
        FOLLOWED: _watch(close_wait=3600.0),
        ALL_STUCK: _watch(close_wait=0.001),
    }


def _watch(close_wait: float) -> Callable[[], object]:
    config = replace(Config(), ages=AgesConfig(close_wait=close_wait))
    return partial(_whole, Poller(config), PassKind.WATCH)


def _whole(poller: Poller, kind: PassKind) -> None:
    if not poller.step(kind):
        raise RuntimeError(f"the {kind} failed: {poller.snapshot().passes[kind].last_failure}")


def measured_side_by_side(make: Callable[[], Looks], rounds: int) -> dict[str, list[Cost]]:
    """Costs by name, the looks alternating; to be called in a process of the namespace."""
    looks = make()
    for look in looks.values():
        look()  # the first dump ever of a socket allocates its cookie
    costs: dict[str, list[Cost]] = {name: [] for name in looks}
    for _ in range(rounds):
        for name, look in looks.items():
            costs[name].append(timed(look))
    return costs


def _alone(look: Callable[[], object]) -> Cost:
    """The cost of a call in a process of its own, memory included."""
    cost = timed(look)
    return cost._replace(peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _psutil() -> Cost:
    return _alone(lambda: psutil.net_connections("tcp"))


def _pyroute2() -> Cost:
    with DiagSocket() as diag:
        diag.bind()
        return _alone(
            lambda: [
                diag.get_sock_stats(family=family) for family in (socket.AF_INET, socket.AF_INET6)
            ]
        )


def _census() -> Cost:
    return _alone(partial(_whole, Poller(Config()), PassKind.CENSUS))


def _command(namespace: Namespace, *command: str) -> Cost:
    began = time.perf_counter()
    process = namespace.start(*command, stdout=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    wall = time.perf_counter() - began
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024)


def cpu_of(pid: int) -> float:
    """Seconds of CPU of another process so far (MAKE_PROCESS_CPUCLOCK, CPUCLOCK_SCHED)."""
    return time.clock_gettime((~pid << 3) | 2)


def rss_of(pid: int) -> int:
    """Resident bytes of another process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def get(namespace: Namespace, port: int, path: str = "/metrics") -> bytes:
    """The body of an answer from inside the namespace."""
    with namespace.entered():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.connect()
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


@contextmanager
def node_exporter(namespace: Namespace) -> Iterator[Callable[[], Cost]]:
    """A running node_exporter with `tcpstat` alone; the call scrapes it once."""
    process = namespace.start(
        _NODE_EXPORTER,
        "--collector.disable-defaults",
        "--collector.tcpstat",
        f"--web.listen-address=127.0.0.1:{_NODE_EXPORTER_PORT}",
        stderr=subprocess.DEVNULL,
    )

    def up() -> bool:
        try:
            return bool(get(namespace, _NODE_EXPORTER_PORT, "/"))
        except OSError:
            return False

    def scrape() -> Cost:
        cpu, wall = cpu_of(process.pid), time.perf_counter()
        get(namespace, _NODE_EXPORTER_PORT)
        spent = cpu_of(process.pid) - cpu
        return Cost(spent, time.perf_counter() - wall, rss_of(process.pid))

    eventually(up, "node_exporter listens", 10.0)
    try:
        yield scrape
    finally:
        process.terminate()
        process.wait(10)


def _collectd(namespace: Namespace) -> Cost:
    """Two reads of tcpconns, halved."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "collectd.conf")
        config.write_text(
            f'BaseDir "{folder}"\nPIDFile "{folder}/pid"\nInterval {_COLLECTD_INTERVAL}\n'
            "LoadPlugin tcpconns\n<Plugin tcpconns>\n  ListeningPorts true\n</Plugin>\n"
        )
        process = namespace.start(
            "collectd",
            "-f",
            "-C",
            str(config),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(_COLLECTD_INTERVAL / 2)  # the first read comes at once
        cpu = cpu_of(process.pid)
        time.sleep(2 * _COLLECTD_INTERVAL)
        cost = Cost((cpu_of(process.pid) - cpu) / 2, float("nan"), rss_of(process.pid))
        process.terminate()
        process.wait(30)
        return cost


class Peer(NamedTuple):
    """Something else that looks at all sockets."""

    name: str
    measure: Callable[[Namespace], Cost]
    installed: bool
    most_sockets: int = 10_000_000
    """Beyond this it takes minutes or all memory."""


def peers() -> tuple[Peer, ...]:
    """The peers, in the order of the table."""

    def inside(look: Callable[[], Cost]) -> Callable[[Namespace], Cost]:
        return lambda namespace: namespace.call(look, timeout=300.0)

    return (
        Peer("census, own process", inside(_census), installed=True),
        Peer("ss -tan", lambda namespace: _command(namespace, "ss", "-tan"), True),
        Peer("ss -s (counters only)", lambda namespace: _command(namespace, "ss", "-s"), True),
        Peer("node_exporter tcpstat", _scraped_once, shutil.which(_NODE_EXPORTER) is not None),
        Peer("collectd tcpconns", _collectd, shutil.which("collectd") is not None, 200_000),
        Peer("psutil.net_connections", inside(_psutil), True, 200_000),
        Peer("pyroute2 get_sock_stats", inside(_pyroute2), True, 200_000),
    )


def _scraped_once(namespace: Namespace) -> Cost:
    with node_exporter(namespace) as scrape:
        scrape()
        return scrape()
