"""Prometheus, Alertmanager and a receiver of notifications, on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import yaml

Json = dict[str, Any]
READY_WITHIN: Final = 30.0
PATIENCE: Final = 60.0
"""Seconds; the machine may be busy with other tests."""
PROMETHEUS_3: Final = "PROMETHEUS_3"
"""Environment variable: a folder with `prometheus` and `promtool` of version 3."""


def of_version_3(name: str) -> str | None:
    """Return the path of a program of Prometheus 3, None where there is none.

    It is that of the folder named in the environment, else one on PATH that says so.
    """
    if folder := os.environ.get(PROMETHEUS_3):
        return shutil.which(name, path=folder)
    found = (shutil.which(name, path=folder) for folder in os.get_exec_path())
    return next((program for program in found if program and _is_of_version_3(program)), None)


def _is_of_version_3(program: str) -> bool:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return " version 3." in said.stdout


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        body: bytes = answer.read()
    return body


class Server:
    """A program that serves HTTP on a port of loopback for a `with` block."""

    def __init__(self, folder: Path, program: str, flags: Mapping[str, object]) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._log = folder / "log"
        self._command = [program, f"--web.listen-address={self.address}", "--log.level=warn"]
        self._command += [
            f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items()
        ]

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while not self._is_ready():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.__exit__()
                raise AssertionError(f"{self._command[0]} is not ready: {self._log.read_text()}")
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            get(f"http://{self.address}/-/ready")
        except OSError:
            return False
        return True

    def ask(self, path: str, **parameters: str | float) -> Json:
        """Return an answer of the API; an error is an AssertionError that tells it."""
        query = urllib.parse.urlencode(parameters)
        try:
            answer: Json = json.loads(get(f"http://{self.address}/api/v1/{path}?{query}"))
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        return answer


class Prometheus(Server):
    """A Prometheus that keeps its data in the folder."""

    def __init__(self, folder: Path, program: str, config: Json, **flags: object) -> None:
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        own = {"config.file": folder / "prometheus.yml", "storage.tsdb.path": folder / "data"}
        super().__init__(folder, program, own | flags)

    def query(self, expression: str) -> list[Json]:
        """Return the present series of an expression."""
        result: list[Json] = self.ask("query", query=expression)["data"]["result"]
        return result

    def value(self, expression: str) -> float:
        """Return the value of an expression that is one number, 0 if nothing has it."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else 0.0

    def federate(self, match: str) -> bytes:
        """Return what a server that federates gets for a selector."""
        query = urllib.parse.urlencode({"match[]": match})
        return get(f"http://{self.address}/federate?{query}")

    def unhealthy(self) -> dict[str, str]:
        """Return the rules that did not evaluate, and why."""
        groups = self.ask("rules")["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return {rule["name"]: str(rule) for rule in rules if rule["health"] != "ok"}


class Alertmanager(Server):
    """An Alertmanager that clusters with nobody."""

    def __init__(self, folder: Path, program: str, config: Json) -> None:
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
        flags = {
            "config.file": folder / "alertmanager.yml",
            "storage.path": folder / "data",
            "cluster.listen-address": "",
        }
        super().__init__(folder, program, flags)


class Alert(NamedTuple):
    """An alert as a notification told of it."""

    at: float
    """Monotonic time of its arrival."""
    receiver: str
    status: str
    """firing or resolved"""
    labels: dict[str, str]
    annotations: dict[str, str]
    group: dict[str, str]


class Receiver:
    """Takes Alertmanager's webhooks on loopback, for a `with` block."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        """In the order of their arrival; one is told again whenever its group changes."""

    def __enter__(self) -> Self:
        take = self._take

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/"

    def _take(self, body: Json) -> None:
        now = time.monotonic()
        self.alerts += [
            Alert(
                now,
                body["receiver"],
                alert["status"],
                alert["labels"],
                alert["annotations"],
                body["groupLabels"],
            )
            for alert in body["alerts"]
        ]
