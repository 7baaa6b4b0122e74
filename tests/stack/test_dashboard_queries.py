"""The dashboard and the rules on a real Prometheus that scrapes the real daemon."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

import boards
import pytest
import yaml
from boards import Json
from everything import EVERYTHING
from guards import need_command, need_kernel_diag
from lab import eventually

from sockwatch.export.exposition import Exposition
from sockwatch.export.formats import Format
from sockwatch.export.own import HttpCounts, Reloads, own_families

pytestmark = [pytest.mark.stack, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
BOARD = boards.load()
QUERIES = list(boards.queries(BOARD))
SCRAPES = 6
VALUES = {"job": "sockwatch", "instance": ".+", "__rate_interval": "5s", "__range": "20s"}
# Nobody is told apart on a host where nothing is near its limit.
MAY_BE_EMPTY = {"Ephemeral ports in use, by destination", "Unanswered connections, by destination"}
# Labels that are empty, hence absent, where the kernel or the machine does not tell.
MAY_BE_ABSENT = {"unit", "netns"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        body: bytes = answer.read()
    return body


def wait_for(condition: Callable[[], object], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except OSError:  # refused or 503: not yet
            pass
        time.sleep(0.1)
    pytest.fail(f"{what}: not within {seconds} s")


@contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    """Run a program until the end of the block; what it said is in the log."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Service:
    """A listener with connections of three states, enough to be among the largest services."""

    counts: Final = {"established": 2, "close_wait": 30, "time_wait": 20}

    def __init__(self, stack: ExitStack) -> None:
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.port: str = str(self._listener.getsockname()[1])
        pairs = [self._connect(stack) for _ in range(sum(self.counts.values()))]
        for client, _ in pairs[: self.counts["close_wait"]]:
            client.close()
        for client, accepted in pairs[-self.counts["time_wait"] :]:
            accepted.close()
            client.close()

    def _connect(self, stack: ExitStack) -> tuple[socket.socket, socket.socket]:
        client = stack.enter_context(socket.create_connection(self._listener.getsockname()))
        accepted, _ = self._listener.accept()
        return client, stack.enter_context(accepted)


class Prometheus:
    """The HTTP API of a Prometheus."""

    def __init__(self, address: str) -> None:
        self._api = f"http://{address}/api/v1/"

    def ask(self, path: str, **parameters: str | float) -> Json:
        """Return an answer; what Prometheus has against a query fails the test."""
        try:
            body = get(f"{self._api}{path}?{urllib.parse.urlencode(parameters)}")
        except urllib.error.HTTPError as error:
            pytest.fail(f"{parameters}: {error.read().decode()}")
        answer: Json = json.loads(body)
        return answer

    def query(self, expression: str) -> list[Json]:
        """Return the present series of an expression."""
        return self._result("query", query=expression)

    def _result(self, path: str, **parameters: str | float) -> list[Json]:
        result: list[Json] = self.ask(path, **parameters)["data"]["result"]
        return result

    def series(self, query: boards.Query) -> list[Json]:
        """Return what a panel would draw."""
        expression = boards.interpolate(query.expression, VALUES)
        if query.instant:
            return self.query(expression)
        now = time.time()
        return self._result("query_range", query=expression, start=now - 10, end=now, step=1)

    def value(self, expression: str) -> float | None:
        """Return the value of an expression that is one number, None if nothing has it."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with ExitStack() as stack:
        yield Service(stack)


@pytest.fixture(scope="module")
def daemon(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a daemon that looks at everything each second."""
    need_kernel_diag()
    address = f"127.0.0.1:{free_port()}"
    log = tmp_path_factory.mktemp("daemon") / "log"
    options = ["--web.listen-address", address, "--census.interval", "1s"]
    with running([sys.executable, "-m", "sockwatch", "run", *options], log):
        wait_for(lambda: get(f"http://{address}/-/ready"), f"daemon ready, see {log}")
        yield address


@contextmanager
def scraping(
    target: str, folder: Path, rules: list[str], clusters: Sequence[str] = ("one",)
) -> Iterator[Prometheus]:
    """A Prometheus that has scraped the target several times, as one host in each cluster."""
    program = need_command("prometheus", "prometheus")
    address = f"127.0.0.1:{free_port()}"
    config = yaml.safe_load((RULES / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES / file) for file in rules]
    config["scrape_configs"][0]["static_configs"] = [
        {"targets": [target], "labels": {"cluster": cluster}} for cluster in clusters
    ]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": address,
        "log.level": "warn",
    }
    log = folder / "log"
    with running([program, *(f"--{name}={value}" for name, value in options.items())], log):
        wait_for(lambda: get(f"http://{address}/-/ready"), f"Prometheus ready, see {log}")
        server = Prometheus(address)
        scrapes = 'sum_over_time(up{job="sockwatch"}[1m])'
        wait_for(lambda: (server.value(scrapes) or 0) >= SCRAPES, f"{SCRAPES} good scrapes")
        yield server


@pytest.fixture(scope="module")
def prometheus(daemon: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Yield a Prometheus with the shipped rules that has scraped the daemon several times."""
    config = yaml.safe_load((RULES / "prometheus.yml").read_text())
    with scraping(daemon, tmp_path_factory.mktemp("prometheus"), config["rule_files"]) as server:
        yield server


class Page(BaseHTTPRequestHandler):
    """The metrics of a host of which everything is known."""

    def do_GET(self) -> None:
        own = own_families(Reloads(True, 0), HttpCounts(0, {"limit": 0}), 0.02)
        body = Exposition(lambda: own).render(EVERYTHING, Format.TEXT_0_0_4)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", Format.TEXT_0_0_4)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def in_trouble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Yield a Prometheus of two hosts of the same name on which much is wrong."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as page:
        Thread(target=page.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{page.server_port}"
        folder = tmp_path_factory.mktemp("prometheus")
        with scraping(address, folder, rules=[], clusters=("one", "two")) as server:
            yield server
        page.shutdown()


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.panel}: {query.legend}")
def test_of_a_host_in_trouble_each_query_shows_something(
    in_trouble: Prometheus, query: boards.Query
) -> None:
    assert in_trouble.series(query) != []


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.panel}: {query.legend}")
def test_each_query_of_a_panel_shows_something(prometheus: Prometheus, query: boards.Query) -> None:
    assert prometheus.series(query) != [] or query.panel in MAY_BE_EMPTY


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.panel}: {query.legend}")
def test_each_series_has_the_labels_of_its_legend(
    prometheus: Prometheus, query: boards.Query
) -> None:
    needed = set(re.findall(r"{{(\w+)}}", query.legend)) - MAY_BE_ABSENT
    names = [needed - series["metric"].keys() for series in prometheus.series(query)]
    assert not any(names)


@pytest.mark.parametrize("name", ["job", "instance"])
def test_each_variable_offers_what_is_scraped(
    prometheus: Prometheus, daemon: str, name: str
) -> None:
    query = boards.interpolate(boards.variable(BOARD, name)["query"], VALUES)
    match = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
    assert match
    offered = prometheus.ask(f"label/{match[2]}/values", **{"match[]": match[1]})
    assert offered["data"] == [{"job": "sockwatch", "instance": daemon}[name]]


@pytest.mark.parametrize(
    ("panel", "state"),
    [
        ("CLOSE_WAIT, by service", "close_wait"),
        ("TIME_WAIT, by service", "time_wait"),
        ("Connections now, by service and state", "established"),
    ],
)
def test_panels_show_the_connections_of_a_service(
    prometheus: Prometheus, service: Service, panel: str, state: str
) -> None:
    query = next(query for query in QUERIES if query.panel == panel)
    wanted = {"direction": "inbound", "port": service.port}
    (found,) = (
        series
        for series in prometheus.series(query)
        if wanted.items() <= series["metric"].items()
        and series["metric"].get("state", state) == state
    )
    newest = found["value"] if query.instant else found["values"][-1]
    assert float(newest[1]) == service.counts[state]


def test_a_service_without_close_wait_has_the_series_at_zero(
    prometheus: Prometheus, daemon: str
) -> None:
    """Otherwise the average of the alert would leave out the times without any."""
    port = daemon.rpartition(":")[2]
    series = f'sockwatch_tcp_connections{{direction="inbound", port="{port}", state="close_wait"}}'
    assert prometheus.value(series) == 0


def test_all_rules_evaluate_and_none_fires(prometheus: Prometheus) -> None:
    groups = prometheus.ask("rules")["data"]["groups"]
    health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert set(health.values()) == {"ok"}
    assert prometheus.ask("alerts")["data"]["alerts"] == []


def test_the_recorded_age_is_that_of_each_pass(prometheus: Prometheus) -> None:
    age = "instance_pass:sockwatch_last_pass_timestamp_seconds:age"

    def ages_of_passes() -> dict[str, float]:
        found = prometheus.query(age)
        return {series["metric"]["pass"]: float(series["value"][1]) for series in found}

    eventually(lambda: ages_of_passes().keys() == {"watch", "census"}, "both ages", 30.0)
    ages = ages_of_passes()
    assert all(0 <= value < 5 for value in ages.values()), ages
