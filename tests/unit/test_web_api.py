"""What `/api/v1/` serves, as a client over HTTP sees it."""

import json
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from http_client import PATIENCE, Served, Shelf, eventually, serving
from marked import OWNERS, Entry, seen, stuck
from snapshots import PSUTIL, TAKEN, listener, namespace, of_namespaces, service, snapshot

from sockwatch.export.leaks.reading import read_answer
from sockwatch.observe.leaks import Filter, Leaks
from sockwatch.observe.search import find_leaks
from sockwatch.observe.snapshot import NamespaceView, Snapshot
from sockwatch.tcp.causes import Cause
from sockwatch.tcp.states import State
from sockwatch.web.app import App

PATHS: Final = ["/api/v1/snapshot", "/api/v1/leaks", "/api/v1/listeners"]
STUCK: Final = (
    *[Entry(age=100.0 + number, inode=101) for number in range(12)],
    Entry(State.SYN_SENT, Cause.UNANSWERED, age=40.0, inbound=False, cgroup=12),
)
LEAKING: Final = of_namespaces(seen(stuck(*STUCK, owners=OWNERS)))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A server of which tests only ask."""
    with serving(Shelf(LEAKING)) as started:
        yield started


def read(served: Served, target: str) -> dict[str, Any]:
    answer = served.get(target)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    found = json.loads(answer.body)
    assert isinstance(found, dict)
    return found


# What is answered


def test_the_snapshot_is_what_report_prints_as_json() -> None:
    taken = snapshot(service(8080, "app.service", close_wait=40), listener(8080, "app.service"))
    with serving(Shelf(taken)) as server:
        told = read(server, "/api/v1/snapshot")
    assert (told["taken_seconds"], told["host"]["name"]) == (TAKEN, "web1")
    assert told["namespaces"][0]["services"][0]["states"] == {"close_wait": 40}
    assert "stale" in {finding["kind"] for finding in told["findings"]}


@pytest.mark.parametrize(("preferred", "found"), [("netlink", True), ("psutil", False)])
def test_the_source_that_was_asked_for_is_no_finding(preferred: str, found: bool) -> None:
    app = App(Shelf(snapshot(source=PSUTIL)), preferred=lambda: preferred)
    with serving(app=app) as server:
        kinds = {finding["kind"] for finding in read(server, "/api/v1/snapshot")["findings"]}
    assert ("source" in kinds) is found


def test_listeners_are_told_with_their_namespaces() -> None:
    taken = of_namespaces(
        namespace(listener(443, "nginx.service", queue=3), listener(22)),
        namespace(listener(80), netns="blue"),
    )
    with serving(Shelf(taken)) as server:
        told = read(server, "/api/v1/listeners")
    found = [(one["netns"], one["port"], one["queue"]) for one in told["listeners"]]
    assert found == [("", "22", 0), ("", "443", 3), ("blue", "80", 0)]
    assert told.keys() == {"version", "host", "taken_seconds", "listeners"}


def test_leaks_are_told_and_can_be_read_back(served: Served) -> None:
    told = read(served, "/api/v1/leaks")
    assert told["connections"] == 13
    assert [group["connections"] for group in told["groups"]] == [12, 1]
    assert told["sockets"][0]["processes"][0]["name"] == "python3"
    assert read_answer(told).leaks is not None


@pytest.mark.parametrize(
    ("query", "connections", "sockets"),
    [
        ("", 13, 13),
        ("?limit=2", 13, 2),
        ("?state=close_wait", 12, 12),
        ("?state=last_ack", 0, 0),
        ("?port=8080&limit=1", 12, 1),
        ("?port=50000", 1, 1),
        ("?unit=db.service", 1, 1),
        ("?unit=", 0, 0),
        ("?older_than=110s", 2, 2),
        ("?older_than=1m&state=close_wait&port=8080&unit=app.service&limit=5", 12, 5),
    ],
)
def test_filters_choose_what_is_told(
    served: Served, query: str, connections: int, sockets: int
) -> None:
    told = read(served, f"/api/v1/leaks{query}")
    assert (told["connections"], len(told["sockets"])) == (connections, sockets)


@pytest.mark.parametrize("query", ["state=no", "port=0", "older_than=5", "limit=0", "x=1", "a&b"])
def test_a_wrong_parameter_is_one_sentence(served: Served, query: str) -> None:
    answer = served.get(f"/api/v1/leaks?{query}")
    assert (answer.status, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert answer.text.count("\n") == 1
    assert query.partition("=")[0].partition("&")[0] in answer.text


def test_before_there_is_any_snapshot_nothing_is_invented() -> None:
    with serving(Shelf(None)) as server:
        assert {server.get(path).status for path in PATHS} == {503}


def test_before_a_pass_has_succeeded_leaks_are_not_known_rather_than_none() -> None:
    with serving(Shelf(of_namespaces())) as server:
        assert read(server, "/api/v1/leaks")["connections"] is None
        assert read(server, "/api/v1/listeners")["listeners"] == []


# Who may ask, and how


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [{"X_Forwarded_For": "198.51.100.7"}, {"Host": "rebound.example"}],
    ids=["proxied", "rebound"],
)
def test_details_are_for_this_host_only(served: Served, path: str, headers: dict[str, str]) -> None:
    answer = served.get(path, **headers)
    assert answer.status == 403
    assert "app.service" not in answer.text


@pytest.mark.parametrize("path", PATHS)
def test_only_get_and_head_are_answered(served: Served, path: str) -> None:
    assert served.get(path, "POST").status == 405
    head = served.get(path, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["cache-control"] == "no-store"


# What it costs


class Counting:
    """Counts searches, and holds them up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.searches = self.at_a_time = self.most_at_a_time = 0
        self.may_search = threading.Event()
        monkeypatch.setattr("sockwatch.export.leaks.answering.find_leaks", self)

    def __call__(self, views: Iterable[NamespaceView], wanted: Filter) -> Leaks | None:
        self.searches += 1
        self.at_a_time += 1
        self.most_at_a_time = max(self.at_a_time, self.most_at_a_time)
        assert self.may_search.wait(PATIENCE)
        self.at_a_time -= 1
        return find_leaks(views, wanted)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(monkeypatch)


def test_the_same_question_about_the_same_snapshot_is_searched_for_once(counting: Counting) -> None:
    counting.may_search.set()
    shelf = Shelf(LEAKING)
    with serving(shelf) as server:
        answers_given = {server.get("/api/v1/leaks?port=8080&limit=3").body for _ in range(3)}
        answers_given.add(server.get("/api/v1/leaks?limit=3&port=08080").body)
        assert (counting.searches, len(answers_given)) == (1, 1)
        server.get("/api/v1/leaks?port=8080")
        assert counting.searches == 2
        shelf.current = renewed(LEAKING)
        server.get("/api/v1/leaks?port=8080")
        assert counting.searches == 3


def renewed(taken: Snapshot) -> Snapshot:
    return of_namespaces(*taken.namespaces)


def test_searches_are_made_one_at_a_time_and_hold_up_nobody_else(counting: Counting) -> None:
    with serving(Shelf(LEAKING)) as server, ThreadPoolExecutor(3) as clients:
        targets = [f"/api/v1/leaks?limit={limit}" for limit in (1, 2, 3)]
        slow = [clients.submit(server.get, target) for target in targets]
        assert eventually(lambda: counting.searches > 0)
        assert eventually(lambda: server.server.requests_in_flight == 3)
        assert server.get("/-/healthy").status == 200
        assert server.get("/metrics").status == 200
        counting.may_search.set()
        assert [one.result(PATIENCE).status for one in slow] == [200] * 3
    assert (counting.searches, counting.most_at_a_time) == (3, 1)


def test_too_many_different_questions_at_a_time_are_put_off(counting: Counting) -> None:
    with serving(Shelf(LEAKING)) as server, ThreadPoolExecutor(8) as clients:
        targets = [f"/api/v1/leaks?limit={limit}" for limit in range(1, 9)]
        asked = [clients.submit(server.get, target) for target in targets]
        assert eventually(lambda: sum(one.done() for one in asked) == 4)
        put_off = [one.result() for one in asked if one.done()]
        assert {one.status for one in put_off} == {503}
        assert {one.headers["retry-after"] for one in put_off} == {"1"}
        counting.may_search.set()
        assert sorted(one.result(PATIENCE).status for one in asked) == [200] * 4 + [503] * 4
        assert server.get(targets[0]).status == 200
