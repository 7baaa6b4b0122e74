"""Abusive clients against the daemon as a process, while another client scrapes it.

Throughout, each scrape is answered within a second, and memory stays near what it is at rest.
`make abuse` has each abuse go on for longer, and writes what was measured.
"""

from __future__ import annotations

import contextlib
import math
import re
import resource
import selectors
import socket
import ssl
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import abusers
import bcrypt
import pytest
from abuse_table import SECONDS, Suffered, load, markdown
from abusers import Abuse, Target, guess, nonsense, say, smuggled
from authority import Authority
from daemon import Daemon, start
from guards import need_kernel_diag
from http_client import basic, status_of
from lab.processes import eventually
from scraper import Scrapes, scraping

from sockwatch.web.guard import Limits
from sockwatch.web.passwords import CLIENT_BURST, CLIENT_SHARE

pytestmark = pytest.mark.slow

OPTION = "--abuse-table"
NOBODY = "nobody"
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
    scheme: str
    at_rest: int = field(init=False)

    def __post_init__(self) -> None:
        eventually(lambda: len(self.scrapes.since(0.0)) >= 20, "scrapes", 30.0)
        self.at_rest = self.daemon.resident_bytes()

    def suffer(self, name: str, abuse: Abuse) -> Suffered:
        """How long scrapes took meanwhile, and the most memory above that at rest."""
        start, memory = time.monotonic(), [0]
        worker = threading.Thread(target=abuse, args=(self.target,))
        worker.start()
        while worker.is_alive():
            memory.append(self.daemon.resident_bytes() - self.at_rest)
            worker.join(0.05)
        end = time.monotonic()
        eventually(lambda: self.scrapes.since(end), "a scrape afterwards", 15.0)
        return Suffered(name, self.scheme, self.scrapes.since(start), max(memory))


@pytest.fixture(scope="module", autouse=True)
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def seconds(request: pytest.FixtureRequest) -> float:
    return SECONDS if request.config.getoption(OPTION, None) else Target.seconds


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[Suffered]]:
    """What was measured, written to a file if the command line names one."""
    rows: list[Suffered] = []
    before = load()
    yield rows
    if file := request.config.getoption(OPTION, None):
        Path(file).write_text(markdown(rows, before, load()))


@pytest.fixture(scope="module")
def plain(seconds: float) -> Iterator[Victim]:
    need_kernel_diag()
    with start() as daemon, scraping(daemon.port) as scrapes:
        yield Victim(daemon, Target(daemon.port, seconds=seconds), scrapes, "HTTP")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def web(authority: Authority) -> Path:
    """TLS and a password of bcrypt's usual cost."""
    authority.issue("server")
    made = bcrypt.hashpw(b"secret", bcrypt.gensalt(10)).decode()
    file = authority.cert.with_name("web.yml")
    file.write_text(
        "tls_server_config: {cert_file: server.crt, key_file: server.key}\n"
        f"basic_auth_users: {{prometheus: {made}}}\n"
    )
    return file


@pytest.fixture(scope="module")
def secured(authority: Authority, web: Path, seconds: float) -> Iterator[Victim]:
    need_kernel_diag()
    with (
        start(f"--web.config.file={web}") as daemon,
        scraping(daemon.port, authority.cert, PASSWORD) as scrapes,
    ):
        target = Target(daemon.port, authority.client(), PASSWORD, seconds)
        yield Victim(daemon, target, scrapes, "HTTPS")


def check(victim: Victim, name: str, abuse: Abuse, table: list[Suffered]) -> None:
    """Measured anew if it was slow: other tests of the machine may have had its processors."""
    slowest: list[float] = []
    while len(slowest) < ATTEMPTS and min(slowest, default=math.inf) >= SLOWEST:
        suffered = victim.suffer(name, abuse)
        table.append(suffered)
        slowest.append(suffered.worst)
        assert suffered.memory < MOST_MEMORY
    assert min(slowest) < SLOWEST


@pytest.mark.parametrize("name", [NOBODY, *abusers.PLAIN])
def test_over_http_others_are_served(plain: Victim, name: str, table: list[Suffered]) -> None:
    check(plain, name, abusers.PLAIN.get(name, abusers.nothing), table)


@pytest.mark.parametrize("name", [NOBODY, *abusers.TLS])
def test_over_tls_others_are_served(secured: Victim, name: str, table: list[Suffered]) -> None:
    check(secured, name, abusers.TLS.get(name, abusers.nothing), table)


VICTIMS = ("plain", "secured")
ANSWERED = {b"/": 200, b"/metrics": 200, b"/nothing": 404, b"/ /": 400, b"/" + b"x" * 3000: 414}
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


def test_no_answer_may_be_framed_sniffed_or_run_scripts(victim: Victim) -> None:
    """Neither pages, nor metrics, nor what was refused before it was understood."""
    asked = {path: victim.target.head(b"Connection: close\r\n") for path in ANSWERED}
    for path, head in asked.items():
        answer = say(victim.target, head.replace(b"/metrics", path, 1)).partition(b"\r\n\r\n")[0]
        assert status_of(answer) == ANSWERED[path], path
        lines = set(answer.lower().split(b"\r\n"))
        assert {b"x-content-type-options: nosniff", b"x-frame-options: deny"} <= lines, path
        (policy,) = (line for line in lines if line.startswith(b"content-security-policy: "))
        assert b"default-src 'none'" in policy
        assert b"frame-ancestors 'none'" in policy
        assert b"unsafe" not in policy
        assert b"script-src" not in policy


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


# Passwords


def test_who_guesses_gets_few_tries(secured: Victim) -> None:
    """However long it goes on: a second of CPU at once, then a twentieth of a core."""
    began, answers = time.monotonic(), Counter[int]()
    while not answers[429] and time.monotonic() < began + 60.0:
        answers[status_of(guess(secured.target, "prometheus", str(sum(answers.values()))))] += 1
    assert {429} <= answers.keys() <= {401, 429}
    # What one costs is measured with that of others on the machine; a half of it is safe to assume.
    affordable = CLIENT_BURST + CLIENT_SHARE * (time.monotonic() - began)
    assert answers[401] <= 1 + affordable / (check_seconds() / 2)


def check_seconds() -> float:
    """CPU that bcrypt takes for a password of the secured victim."""
    start = time.thread_time()
    bcrypt.hashpw(b"secret", bcrypt.gensalt(10))
    return time.thread_time() - start


def cpu_seconds(daemon: Daemon) -> float:
    """All that its threads, also those that have ended, have used: clock_getcpuclockid(3)."""
    return time.clock_gettime(~daemon.pid << 3 | 2)


def test_a_wrong_name_costs_as_much_as_a_wrong_password(web: Path, authority: Authority) -> None:
    """No time tells which names there are."""
    costs: dict[str, list[float]] = {"prometheus": [], "nobody": []}
    with start(f"--web.config.file={web}", "--watch.interval=1m", "--census.interval=1m") as daemon:
        target = Target(daemon.port, authority.client())
        for turn in range(7):
            for user, found in costs.items():
                before = cpu_seconds(daemon)
                assert status_of(guess(target, user, f"{turn}")) == 401
                found.append(cpu_seconds(daemon) - before)
    known, unknown = map(statistics.median, costs.values())
    assert 0.7 < known / unknown < 1.4
