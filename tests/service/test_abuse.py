"""Abusive clients against the daemon as a process, while another client scrapes it.

Throughout, each scrape is answered within a second, and memory stays near what it is at rest.
"""

from __future__ import annotations

import contextlib
import math
import re
import resource
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import abusers
import bcrypt
import pytest
from abusers import Abuse, Target, nonsense, say, smuggled
from authority import Authority
from daemon import Daemon, start
from guards import need_kernel_diag
from http_client import basic, status_of
from lab.processes import eventually
from scraper import Scrapes, scraping

from sockwatch.web.guard import Limits

pytestmark = pytest.mark.slow

ATTEMPTS = 3
SLOWEST = 1.0
"""Seconds that a scrape may take."""
MOST_MEMORY = 20_000_000
"""Bytes above those at rest."""
LATE = 1.5
"""Seconds that a connection may live beyond its deadline, on a busy machine."""
PASSWORD = basic("prometheus", "secret")


@dataclass
class Victim:
    """A daemon, another client of it, and what it needs at rest."""

    daemon: Daemon
    target: Target
    scrapes: Scrapes
    at_rest: int = field(init=False)

    def __post_init__(self) -> None:
        eventually(lambda: len(self.scrapes.since(0.0)) >= 20, "scrapes", 30.0)
        self.at_rest = self.daemon.resident_bytes()

    def suffer(self, abuse: Abuse) -> tuple[list[float], int]:
        """How long scrapes took meanwhile, and the most memory in bytes above that at rest."""
        start, memory = time.monotonic(), [0]
        worker = threading.Thread(target=abuse, args=(self.target,))
        worker.start()
        while worker.is_alive():
            memory.append(self.daemon.resident_bytes() - self.at_rest)
            worker.join(0.05)
        end = time.monotonic()
        eventually(lambda: self.scrapes.since(end), "a scrape afterwards", 15.0)
        return self.scrapes.since(start), max(memory)


@pytest.fixture(scope="module", autouse=True)
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def plain() -> Iterator[Victim]:
    need_kernel_diag()
    with start() as daemon, scraping(daemon.port) as scrapes:
        yield Victim(daemon, Target(daemon.port), scrapes)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """With TLS and a password of bcrypt's usual cost."""
    need_kernel_diag()
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    authority.issue("server")
    file = Path(folder, "web.yml")
    made = bcrypt.hashpw(b"secret", bcrypt.gensalt(10)).decode()
    file.write_text(
        "tls_server_config: {cert_file: server.crt, key_file: server.key}\n"
        f"basic_auth_users: {{prometheus: {made}}}\n"
    )
    with (
        start(f"--web.config.file={file}") as daemon,
        scraping(daemon.port, authority.cert, PASSWORD) as scrapes,
    ):
        yield Victim(daemon, Target(daemon.port, authority.client(), PASSWORD), scrapes)


Record = Callable[[str, object], None]


def check(victim: Victim, abuse: Abuse, record: Record) -> None:
    """Measured anew if it was slow: other tests of the machine may have had its processors."""
    slowest: list[float] = []
    while len(slowest) < ATTEMPTS and min(slowest, default=math.inf) >= SLOWEST:
        took, memory = victim.suffer(abuse)
        slowest.append(max(took))
        record("scrapes, slowest in s, MB", f"{len(took)}, {max(took):.3f}, {memory / 1e6:.1f}")
        assert memory < MOST_MEMORY
    assert min(slowest) < SLOWEST


@pytest.mark.parametrize("name", abusers.PLAIN)
def test_over_http_others_are_served(plain: Victim, name: str, record_property: Record) -> None:
    check(plain, abusers.PLAIN[name], record_property)


@pytest.mark.parametrize("name", abusers.TLS)
def test_over_tls_others_are_served(secured: Victim, name: str, record_property: Record) -> None:
    check(secured, abusers.TLS[name], record_property)


VICTIMS = ("plain", "secured")
ANSWER = re.compile(rb"HTTP/1\.1 [0-9]{3} ")


@pytest.fixture(params=VICTIMS)
def victim(request: pytest.FixtureRequest) -> Victim:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Victim)
    return found


def test_a_smuggled_request_is_never_answered(victim: Victim) -> None:
    for name, said in smuggled(victim.target).items():
        answer = say(victim.target, said)
        assert len(ANSWER.findall(answer)) == 1, name
        assert status_of(answer) in {400, 501}, name
        assert b"\r\nconnection: close\r\n" in answer.lower(), name


def test_nonsense_gets_one_answer(victim: Victim) -> None:
    for name, (said, status) in nonsense(victim.target).items():
        answer = say(victim.target, said)
        assert len(ANSWER.findall(answer)) == 1, name
        assert status_of(answer) == status, name


# Deadlines


SAID: dict[str, Callable[[Target], bytes]] = {
    "nothing": lambda _: b"",
    "half a head": lambda target: target.head()[:-2],
    "a request and half a head": lambda target: target.head() + target.head()[:-2],
}


def lifetimes(connections: Mapping[str, socket.socket], most: float) -> dict[str, float]:
    """Seconds until the server ends each; what it says before is read, and not answered."""
    start = time.monotonic()
    ended: dict[str, float] = {}
    with selectors.DefaultSelector() as selector:
        for name, connection in connections.items():
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ, name)
        while selector.get_map() and time.monotonic() < start + most:
            for key, _ in selector.select(0.1):
                if is_over(connections[key.data]):
                    ended[key.data] = time.monotonic() - start
                    selector.unregister(key.fileobj)
    return ended


def is_over(connection: socket.socket) -> bool:
    try:
        return connection.recv(65536) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


def test_no_connection_outlives_its_deadline(plain: Victim, secured: Victim) -> None:
    limits = Limits()
    with contextlib.ExitStack() as opened:
        connections = {
            f"{scheme}: {name}": opened.enter_context(victim.target.connect())
            for scheme, victim in (("http", plain), ("https", secured))
            for name in SAID
        }
        for name, connection in connections.items():
            scheme, _, what = name.partition(": ")
            connection.sendall(SAID[what]((plain if scheme == "http" else secured).target))
        connections["https: no handshake"] = opened.enter_context(secured.target.bare())
        most = limits.request + limits.linger + LATE
        ended = lifetimes(connections, most)
    assert ended.keys() == connections.keys()
    assert min(ended.values()) > limits.request - LATE
