"""`sockwatch report` looks at live sockets and names what is wrong, and nothing else."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final

import pytest
from lab import RECIPES, Namespace, Stage, eventually

import sockwatch
from sockwatch.tcp.states import Family

pytestmark = pytest.mark.kernel

CHECKOUT: Final = Path(sockwatch.__file__).parents[1]
RECIPE: Final = {recipe.name: recipe for recipe in RECIPES}


@pytest.fixture
def stage(namespace: Namespace) -> Iterator[Stage]:
    with Stage(namespace) as made:
        yield made


def report(namespace: Namespace, *flags: str, **variables: str) -> tuple[int, str]:
    """Exit code and output of the program, run inside."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "COLUMNS": "80", **variables}
    command = (sys.executable, "-m", "sockwatch", "report", *flags)
    with namespace.start(*command, stdout=PIPE, env=environment) as process:
        output, _ = process.communicate(timeout=20)
    return process.returncode, output


def findings(namespace: Namespace) -> dict[str, Any]:
    """What is found, by kind."""
    code, output = report(namespace, "--json")
    found = json.loads(output)["findings"]
    assert code == (1 if found else 0)
    by_kind = {finding["kind"]: finding for finding in found}
    assert len(by_kind) == len(found)
    return by_kind


def test_a_pile_of_close_wait_is_found_and_named(namespace: Namespace, stage: Stage) -> None:
    servers = stage.play(RECIPE["close_wait"], Family.INET, 30)
    port = str(servers[0].getsockname()[1])
    found = findings(namespace)
    assert list(found) == ["close_wait"]
    leak = found["close_wait"]
    assert (leak["count"], leak["direction"], leak["port"]) == (30, "inbound", port)
    code, text = report(namespace)
    assert code == 1
    assert f"30 connections in close_wait: inbound port {port}" in text
    assert text.index("Looks wrong") < text.index("Sockets") < text.index("Services")
    assert max(map(len, text.splitlines())) <= 80


def test_through_psutil_the_same_pile_is_found(namespace: Namespace, stage: Stage) -> None:
    stage.play(RECIPE["close_wait"], Family.INET6, 30)
    code, output = report(namespace, "--json", SOCKWATCH_SOURCE_PREFER="psutil")
    told = json.loads(output)
    assert code == 1
    assert [(one["kind"], one["count"]) for one in told["findings"]] == [("close_wait", 30)]
    assert told["source"]["name"] == "psutil"
    [view] = told["namespaces"]
    assert view["unowned"] is None
    assert view["listeners"][0]["queue"] is None


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("fin_wait2", ["fin_wait2"]),
        ("fin_wait2, mini", []),
        ("fin_wait2, orphan", []),
        ("time_wait", []),
        ("established", []),
        ("syn sent", ["syn_sent"]),
        ("last_ack, orphan", []),
    ],
)
def test_thirty_sockets_of_a_kind(
    namespace: Namespace, stage: Stage, recipe: str, expected: list[str]
) -> None:
    """What the kernel ends by itself is no finding."""
    stage.play(RECIPE[recipe], Family.INET, 30)
    assert list(findings(namespace)) == expected


def test_a_full_accept_queue_is_found_and_named(namespace: Namespace) -> None:
    with ExitStack() as open_sockets:
        with namespace.entered():
            server = socket.create_server(("::1", 0), family=socket.AF_INET6, backlog=4)
            open_sockets.enter_context(server)
            address = server.getsockname()[:2]
            for _ in range(5):
                open_sockets.enter_context(socket.create_connection(address, timeout=5))
        full = eventually(lambda: findings(namespace), "a finding")["accept_queue"]
        text = report(namespace)[1]
    assert (full["count"], full["limit"], full["address"]) == (5, 4, "::1")
    assert f"accept queue full, 5 of 4: [::1]:{address[1]}" in text


def knock(namespace: Namespace, opened: ExitStack, backlog: int, clients: int) -> int:
    """The port of a listener that accepts nobody, with so many clients at its door."""
    server = opened.enter_context(namespace.socket(socket.AF_INET))
    server.bind(("127.0.0.1", 0))
    server.listen(backlog)
    for _ in range(clients):
        client = opened.enter_context(namespace.socket(socket.AF_INET))
        client.setblocking(False)
        client.connect_ex(server.getsockname())
    return int(server.getsockname()[1])


def test_a_slow_application_is_told_from_a_flood_by_what_happens_within_a_second(
    namespace: Namespace,
) -> None:
    with ExitStack() as opened:
        slow = knock(namespace, opened, 8, 20)
        namespace.filter("tcp flags & (syn | ack) == (syn | ack) drop")
        flooded = knock(namespace, opened, 16, 40)
        found = findings(namespace)
        assert (found["accept_queue"]["count"], found["accept_queue"]["port"]) == (9, str(slow))
        assert (found["syn_flood"]["count"], found["syn_flood"]["port"]) == (17, str(flooded))
        assert "found an accept queue of this host full" in found["accept_queue"]["meaning"]
        assert "has completed 0 connections" in found["syn_flood"]["meaning"]


def test_a_quiet_namespace_looks_fine(namespace: Namespace) -> None:
    code, text = report(namespace)
    assert code == 0
    assert "Nothing looks wrong." in text
