"""The real daemon as a process, on a port of its own choosing, ended by its process id.

    with running("--census.interval=1s", namespace=namespace, uid=65534) as daemon:
        assert daemon.get("/metrics").status == 200
        daemon.send(signal.SIGHUP)
        print(daemon.pid, daemon.url, daemon.log())

`start` gives it before it is ready, for those that never will be.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from http_client import Reply, request
from lab import Namespace
from lab.processes import command_line, eventually
from prometheus_client.parser import text_string_to_metric_families

T = TypeVar("T")

ROOT: Final = Path(__file__).parents[2]
SUPPORT: Final = Path(__file__).parent
PATIENCE: Final = 15.0
"""Seconds; the machine may be busy with other tests."""

PROGRAM: Final = ("-m", "sockwatch")
_LISTENING: Final = re.compile(r"msg=listening address=\S+:(\d+)")


def environment(**variables: str) -> dict[str, str]:
    """That of the test, without what would configure Python or sockwatch."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SOCKWATCH_"))}
    return own | {"PYTHONPATH": f"{ROOT}{os.pathsep}{SUPPORT}"} | variables


class Daemon:
    """A process that runs `sockwatch run`, ready or not.

    A test whose daemon serves TLS or asks for a password sets `trust` or `authorization`.
    """

    trust: ssl.SSLContext | None = None
    authorization: str = ""

    def __init__(
        self, process: subprocess.Popen[bytes], log_file: Path, namespace: Namespace | None
    ) -> None:
        self.began = time.monotonic()
        self._process = process
        self._log_file = log_file
        self._namespace = namespace

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @cached_property
    def port(self) -> int:
        """Where it listens first, as its log says."""
        return self.until(lambda: next(iter(self.ports()), 0), "an address in the log")

    def ports(self) -> list[int]:
        """Where it listens, as far as its log says so already."""
        return [int(port) for port in _LISTENING.findall(self.log())]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        """All that it has written to stdout and stderr."""
        return self._log_file.read_text()

    def get(self, path: str, method: str = "GET", **headers: str) -> Reply:
        """One request on a connection of its own; underscores in header names are hyphens."""
        client = self._client()
        if self.authorization:
            headers.setdefault("authorization", self.authorization)
        entered = self._namespace.entered() if self._namespace else nullcontext()
        with closing(client), entered:
            return request(client, path, method, **headers)

    def _client(self) -> http.client.HTTPConnection:
        if self.trust is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=PATIENCE, context=self.trust
        )

    def metrics(self) -> Metrics:
        return Metrics(self.get("/metrics").text)

    def until_ready(self) -> float:
        """Wait for it; seconds from its start."""
        self.until(lambda: self.get("/-/ready").status == 200, "ready")
        return time.monotonic() - self.began

    def until(self, probe: Callable[[], T], what: str) -> T:
        """The first true value of the probe, as long as the process lives."""

        def alive_and_true() -> T:
            assert self.is_running, f"ended with {self._process.returncode}:\n{self.log()}"
            return probe()

        return eventually(alive_and_true, what, PATIENCE)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self, timeout: float = PATIENCE) -> int:
        """Wait for its end; the exit code."""
        return self._process.wait(timeout)

    def resident_bytes(self) -> int:
        """VmRSS of its process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (kilobytes,) = re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        return int(kilobytes) * 1024


class Metrics:
    """One scrape in the plain text format."""

    def __init__(self, text: str) -> None:
        families = text_string_to_metric_families(text)
        self.samples = [sample for family in families for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """Of all series of a metric that have these labels; 0 if there is none."""
        return sum(self.values(name, **labels))

    def values(self, name: str, **labels: str) -> list[float]:
        return [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Values of a metric by these of its labels, added up over the others."""
        found: dict[tuple[str, ...], float] = {}
        for sample in self.samples:
            if sample.name == name:
                key = tuple(sample.labels[label] for label in labels)
                found[key] = found.get(key, 0.0) + sample.value
        return found


@contextmanager
def start(
    *flags: str,
    namespace: Namespace | None = None,
    uid: int | None = None,
    env: Mapping[str, str] | None = None,
    program: Sequence[str] = PROGRAM,
    listen: str = "127.0.0.1:0",
) -> Iterator[Daemon]:
    """The daemon with these flags, ended with the block.

    Args:
        flags: of `sockwatch run`.
        namespace: where it runs, by default that of the test.
        uid: as whom, without any capability; by default as who runs the test.
        env: its environment, by default `environment()`.
        program: arguments of Python that start sockwatch.
        listen: address, by default a free port of loopback; empty for the default one.
    """
    address = [f"--web.listen-address={listen}"] if listen else []
    command = [sys.executable, *program, "run", *address, *flags]
    with tempfile.TemporaryDirectory(prefix="sockwatch-test-") as folder:
        log_file = Path(folder, "log")
        entered = namespace.entered() if namespace else nullcontext()
        with log_file.open("wb") as log, entered:
            process = subprocess.Popen(
                command if uid is None else command_line(tuple(command), uid),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment() if env is None else dict(env),
                cwd="/",
            )
        try:
            yield Daemon(process, log_file, namespace)
        finally:
            _end(process)


@contextmanager
def running(
    *flags: str,
    namespace: Namespace | None = None,
    uid: int | None = None,
    env: Mapping[str, str] | None = None,
    program: Sequence[str] = PROGRAM,
) -> Iterator[Daemon]:
    """As `start`, once it is ready."""
    with start(*flags, namespace=namespace, uid=uid, env=env, program=program) as daemon:
        daemon.until_ready()
        yield daemon


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
