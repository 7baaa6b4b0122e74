"""What is served under which path, as a client sees it."""

import asyncio
import contextlib
import gzip
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection

import pytest
from guards import need
from http_client import PATIENCE, Reply, Served, Shelf, eventually, request, serving
from snapshots import service, snapshot

from sockwatch.export.formats import Format
from sockwatch.web.app import CHUNK
from sockwatch.web.rendered import Rendered

PATHS = ["/", "/metrics", "/-/healthy", "/-/ready", "/static/style.css"]
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def test_metrics_come_in_the_format_asked_for(shelf: Shelf) -> None:
    with serving(shelf) as served:
        plain = served.get("/metrics")
        assert plain == Reply(200, plain.headers, shelf.metrics)
        assert plain.headers["content-type"] == Format.TEXT_0_0_4
        assert served.get("/metrics", Accept=OPENMETRICS).headers["content-type"] == (
            Format.OPENMETRICS_1_0_0
        )


def test_accept_may_be_spread_over_several_lines(shelf: Shelf) -> None:
    with serving(shelf) as served:
        answer = served.say(
            b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAccept: text/plain;q=0.1\r\n"
            b"Accept: application/openmetrics-text\r\n\r\n"
        )
    assert Format.OPENMETRICS_1_0_0.encode() in answer


def test_metrics_are_compressed_for_who_wants_it(shelf: Shelf) -> None:
    shelf.metrics = b"x_total 1\n" * 5000
    with serving(shelf) as served:
        answer = served.get("/metrics", Accept_Encoding="gzip")
        assert answer.headers["content-encoding"] == "gzip"
        assert len(answer.body) < len(shelf.metrics) / 10
        assert gzip.decompress(answer.body) == shelf.metrics
        assert "content-encoding" not in served.get("/metrics", Accept_Encoding="gzip;q=0").headers


def test_caches_are_told_what_the_metrics_depend_on() -> None:
    with serving() as served:
        answer = served.get("/metrics")
    assert answer.headers["vary"] == "Accept, Accept-Encoding"
    assert answer.headers["cache-control"] == "no-store"


def test_a_large_page_arrives_whole(shelf: Shelf) -> None:
    shelf.metrics = bytes(range(256)) * (CHUNK // 64) + b"end"
    with serving(shelf) as served:
        assert served.get("/metrics").body == shelf.metrics


@pytest.mark.parametrize("path", PATHS)
def test_head_has_the_headers_of_get_and_no_body(path: str) -> None:
    with serving() as served, contextlib.closing(served.client()) as client:
        got, asked = request(client, path), request(client, path, "HEAD")
    got.headers.pop("date")
    asked.headers.pop("date")
    assert asked == Reply(got.status, got.headers, b"")
    assert got.headers["content-length"] == str(len(got.body)) != "0"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get"])
def test_other_methods_are_told_which_there_are(path: str, method: str) -> None:
    with serving() as served:
        answer = served.get(path, method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path",
    [
        "/metrics/",
        "//metrics",
        "/-/reload",
        "/favicon.ico",
        "/static/",
        "/static/../app.py",
        "/%2e%2e/etc/passwd",
        "/metrics%00",
        "/%ff%fe",
        "*",
    ],
)
def test_nothing_else_is_served(path: str) -> None:
    with serving() as served:
        assert served.get(path).status == 404
        assert served.get(path, "POST").status == 404


def test_a_query_does_not_matter() -> None:
    with serving() as served:
        assert served.get("/metrics?collect[]=x").status == 200


def test_the_metrics_may_be_elsewhere() -> None:
    with serving(telemetry_path="/m") as served:
        assert served.get("/m").status == 200
        assert served.get("/metrics").status == 404
        assert '<a href="/m">' in served.get("/").text


def test_healthy_is_who_answers_ready_is_who_has_figures(shelf: Shelf) -> None:
    shelf.readiness = (False, "No pass has succeeded yet.")
    with serving(shelf) as served:
        assert served.get("/-/healthy").status == 200
        answer = served.get("/-/ready")
        assert (answer.status, answer.text) == (503, "No pass has succeeded yet.\n")
        shelf.readiness = (True, "Ready.")
        assert served.get("/-/ready")[::2] == (200, b"Ready.\n")


@pytest.mark.parametrize("path", [*PATHS, "/nothing"])
def test_every_answer_is_dated_and_locked_down(path: str) -> None:
    with serving() as served:
        headers = served.get(path).headers
    assert parsedate_to_datetime(headers["date"]).tzinfo is not None
    policy = {
        part.split()[0]: part.split()[1:] for part in headers["content-security-policy"].split(";")
    }
    assert policy["default-src"] == policy["frame-ancestors"] == ["'none'"]
    assert "script-src" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


def test_the_page_shows_the_current_snapshot(shelf: Shelf) -> None:
    with serving(shelf) as served:
        assert "leaky.service" not in served.get("/").text
        shelf.current = snapshot(service(8080, "leaky.service", close_wait=1))
        answer = served.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "leaky.service" in answer.text
    assert "web1" in answer.text


def test_the_style_of_the_page_is_served() -> None:
    with serving() as served:
        answer = served.get("/static/style.css")
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert "color-scheme: dark" in answer.text


@pytest.mark.parametrize(
    "headers",
    [{"X_Forwarded_For": "198.51.100.7"}, {"Host": "rebound.example"}],
    ids=["proxied", "rebound"],
)
def test_details_are_for_this_host_only(shelf: Shelf, headers: dict[str, str]) -> None:
    shelf.current = snapshot(service(8080, "secret.service", close_wait=1))
    with serving(shelf) as served:
        answer = served.get("/", **headers)
        assert served.get("/metrics", **headers).status == 200
    assert answer.status == 403
    assert "secret.service" not in answer.text
    assert '<a href="/metrics">' in answer.text


def address_beside_loopback() -> str:
    """Another address of this host; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return "127.0.0.1"


@pytest.mark.may_skip_in_ci("a machine without network has no other address")
def test_a_client_at_another_address_gets_metrics_but_no_details() -> None:
    address = address_beside_loopback()
    need(not address.startswith("127."), "needs an IPv4 address besides loopback")
    with serving(listener=socket.create_server(("0.0.0.0", 0))) as served:
        client = HTTPConnection(address, served.port, timeout=PATIENCE)
        with contextlib.closing(client):
            assert request(client, "/", Host="localhost").status == 403
            assert request(client, "/metrics").status == 200


# Rendering


def scrape_at_once(served: Served, number: int, **headers: str) -> list[Reply]:
    barrier = threading.Barrier(number)

    def scrape(_: int) -> Reply:
        barrier.wait(PATIENCE)
        return served.get("/metrics", **headers)

    with ThreadPoolExecutor(number) as clients:
        return list(clients.map(scrape, range(number)))


def test_scrapes_at_the_same_time_share_one_rendering(shelf: Shelf) -> None:
    shelf.may_render.clear()
    with serving(shelf) as served:
        threading.Timer(0.2, shelf.may_render.set).start()
        answers = scrape_at_once(served, 10, Accept_Encoding="gzip")
    assert {answer.status for answer in answers} == {200}
    assert shelf.renderings == {Format.TEXT_0_0_4: 1}


def test_a_rendered_page_is_not_rendered_again(shelf: Shelf) -> None:
    with serving(shelf) as served:
        for _ in range(3):
            served.get("/metrics")
        assert shelf.renderings == {Format.TEXT_0_0_4: 1}
        served.get("/metrics", Accept=OPENMETRICS)
        assert shelf.renderings == {Format.TEXT_0_0_4: 1, Format.OPENMETRICS_1_0_0: 1}


def test_a_new_snapshot_is_rendered_anew(shelf: Shelf) -> None:
    with serving(shelf) as served:
        served.get("/metrics")
        shelf.current, shelf.metrics = snapshot(), b"new 1\n"
        assert served.get("/metrics").body == b"new 1\n"


def test_other_requests_are_answered_while_metrics_are_rendered(shelf: Shelf) -> None:
    shelf.may_render.clear()
    with serving(shelf) as served, ThreadPoolExecutor(1) as clients:
        slow = clients.submit(served.get, "/metrics")
        assert eventually(lambda: served.server.requests_in_flight == 1)
        assert served.get("/-/healthy").status == 200
        assert not slow.done()
        shelf.may_render.set()
        assert slow.result(PATIENCE).status == 200


class Failing(Shelf):
    """Cannot render the first time."""

    def render(self, fmt: Format) -> bytes:
        if not self.renderings:
            self.renderings[fmt] += 1
            raise RuntimeError("no")
        return super().render(fmt)


def test_a_failed_rendering_is_an_error_once(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Failing()) as served:
        assert served.get("/metrics").status == 500
        assert served.get("/metrics").status == 200
    assert [record.levelname for record in caplog.records] == ["ERROR"]


class Alone(Shelf):
    """Notices when it is asked to render while it renders."""

    rendering = False
    disturbed = False

    def render(self, fmt: Format) -> bytes:
        self.disturbed = self.disturbed or self.rendering
        self.rendering = True
        time.sleep(0.02)
        self.rendering = False
        return super().render(fmt)


def test_no_more_than_one_core_renders() -> None:
    alone = Alone()
    with serving(alone) as served, ThreadPoolExecutor(3) as clients:
        accepts = ["text/plain; version=0.0.4", "text/plain; version=1.0.0", OPENMETRICS]
        for scrape in [clients.submit(served.get, "/metrics", Accept=one) for one in accepts]:
            assert scrape.result(PATIENCE).status == 200
    assert alone.renderings.total() == 3
    assert not alone.disturbed


def test_a_client_that_gives_up_does_not_take_the_rendering_with_it(shelf: Shelf) -> None:
    shelf.may_render.clear()
    with serving(shelf) as served, ThreadPoolExecutor(1) as clients:
        with served.connect() as impatient:
            impatient.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            assert eventually(lambda: bool(shelf.renderings))
        patient = clients.submit(served.get, "/metrics")
        assert eventually(lambda: served.server.requests_in_flight == 2)
        shelf.may_render.set()
        assert patient.result(PATIENCE).status == 200
    assert shelf.renderings == {Format.TEXT_0_0_4: 1}


def test_a_scrape_that_is_cancelled_does_not_cancel_the_others(shelf: Shelf) -> None:
    async def scrape_twice() -> bytes:
        rendered = Rendered(shelf)
        first, second = (asyncio.create_task(rendered.answer("", "")) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        shelf.may_render.set()
        return (await second).body

    shelf.may_render.clear()
    assert asyncio.run(scrape_twice()) == shelf.metrics
    assert shelf.renderings.total() == 1
