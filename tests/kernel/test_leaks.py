"""`sockwatch leaks` beside the real daemon and without it: live sockets stuck for every cause."""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from daemon import Daemon, environment, running
from guards import need
from lab import RECIPES, Namespace, Stage, eventually
from lab.processes import command_line
from lab.workers import work

from sockwatch.export.leaks.answering import UNCOUNTED
from sockwatch.observe.leaks import MANY
from sockwatch.poll.owners import SEARCHING
from sockwatch.tcp.states import Family, State

pytestmark = pytest.mark.kernel

NOBODY: Final = 65534
RECIPE: Final = {recipe.name: recipe for recipe in RECIPES}
STATES: Final = (
    *("close-wait", "fin-wait2", "syn-sent", "syn-recv"),
    *("fin-wait1", "last-ack", "closing", "not-accepted"),
)
SOON: Final = (
    "--watch.interval=100ms",
    "--cpu.budget=0",
    *(f"--ages.{state}=500ms" for state in STATES),
)
"""Stuck is what a test need not wait for."""


A_WALK: Final = 60.0
"""Seconds that a walk through all processes may take: there may be a benchmark among them."""
PATIENT: Final = {"net.ipv4.tcp_synack_retries": 10, "net.ipv4.tcp_orphan_retries": 15}
"""So that the kernel does not end what is stuck while tests look at it."""


@dataclass(frozen=True)
class Case:
    """A recipe, and what is told of what it makes."""

    recipe: str
    count: int
    """Of each family."""
    state: State
    cause: str
    held: bool
    """Whether a process holds them."""


CASES: Final = (
    Case("close_wait", MANY // 2, State.CLOSE_WAIT, "eof_unread", held=True),
    Case("close_wait, not accepted", 2, State.CLOSE_WAIT, "not_accepted", held=False),
    Case("established, not accepted", 3, State.ESTABLISHED, "not_accepted", held=False),
    Case("fin_wait2", 5, State.FIN_WAIT2, "half_closed", held=True),
    Case("syn sent", 7, State.SYN_SENT, "unanswered", held=True),
    Case("half open", 1, State.SYN_RECV, "unanswered", held=False),
    Case("fin_wait1", 2, State.FIN_WAIT1, "unanswered", held=True),
    Case("last_ack, orphan", 3, State.LAST_ACK, "unanswered", held=False),
    Case("closing", 1, State.CLOSING, "unanswered", held=True),
)
HEALTHY: Final = ("established", "time_wait", "fin_wait2, mini", "listening", "dead")
"""What is never stuck, however long it is there."""
TOTAL: Final = 2 * sum(case.count for case in CASES)


@pytest.fixture(scope="module")
def stage(laboratory: None) -> Iterator[Stage]:
    """Sockets that are stuck for every cause, and healthy ones."""
    with Namespace(PATIENT) as namespace, Stage(namespace) as made:
        for family in Family:
            for case in CASES:
                made.play(RECIPE[case.recipe], family, case.count)
            for name in HEALTHY:
                made.play(RECIPE[name], family, 2)
        yield made


@pytest.fixture(scope="module")
def daemon(stage: Stage) -> Iterator[Daemon]:
    """A daemon that knows all of them, and their processes."""
    with running(*SOON, "--owners.processes", namespace=stage.namespace) as started:
        started.until(lambda: document(started)["connections"] == TOTAL, f"{TOTAL} stuck")
        eventually(lambda: all(map(named, document(started)["sockets"])), "processes", A_WALK)
        yield started


def document(daemon: Daemon, query: str = "") -> dict[str, Any]:
    found = json.loads(daemon.get(f"/api/v1/leaks?{query}").body)
    assert isinstance(found, dict)
    return found


def named(leak: dict[str, Any]) -> bool:
    """Whether its process is known, if it has one."""
    return not leak["inode"] or bool(leak["processes"])


def leaks(namespace: Namespace, *flags: str, uid: int | None = None) -> tuple[int, str]:
    """Exit code and output of the command, run inside."""
    command = (sys.executable, "-m", "sockwatch", "leaks", *flags)
    env = environment(COLUMNS="100")
    with namespace.start(*command, uid=uid, stdout=subprocess.PIPE, env=env) as process:
        output, _ = process.communicate(timeout=30)
    return process.returncode, output


def told(namespace: Namespace, *flags: str) -> dict[str, Any]:
    code, output = leaks(namespace, "--json", *flags)
    found = json.loads(output)
    assert code == (1 if found["connections"] else 0)
    assert isinstance(found, dict)
    return found


def by_kind(found: dict[str, Any]) -> Counter[tuple[str, str]]:
    kinds: Counter[tuple[str, str]] = Counter()
    for group in found["groups"]:
        kinds[group["state"], group["cause"]] += group["connections"]
    return kinds


# Beside a daemon


def test_of_all_that_is_stuck_the_state_and_the_cause_are_told_and_of_nothing_else(
    stage: Stage, daemon: Daemon
) -> None:
    expected: Counter[tuple[str, str]] = Counter()
    for case in CASES:
        expected[case.state.label, case.cause] += 2 * case.count
    assert by_kind(told(stage.namespace, f"--url={daemon.url}")) == expected


def test_totals_are_those_of_the_metrics(daemon: Daemon) -> None:
    metrics = daemon.metrics().by("sockwatch_tcp_stuck_connections", "port", "state", "cause")
    groups = document(daemon)["groups"]
    found = {(one["port"], one["state"], one["cause"]): one["connections"] for one in groups}
    assert found == {key: number for key, number in metrics.items() if number}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.recipe)
def test_a_connection_is_told_with_its_addresses_and_its_process(
    stage: Stage, daemon: Daemon, case: Case
) -> None:
    found = [
        one
        for one in document(daemon, f"state={case.state.label}")["sockets"]
        if (one["cause"], bool(one["inode"])) == (case.cause, case.held)
    ]
    assert len(found) == 2 * case.count
    assert {one["age_seconds"] >= 0.5 for one in found} == {True}
    holders = {process["pid"] for one in found for process in one["processes"]}
    assert holders == ({os.getpid()} if case.held else set())
    assert {one["uid"] for one in found} <= {os.getuid(), None}
    assert {ends(one) for one in found} <= set(ss_ends(stage.namespace, case.state))


def ends(leak: dict[str, Any]) -> tuple[str, str]:
    local, remote = (endpoint(**leak[side]) for side in ("local", "remote"))
    return local, remote


def endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def ss_ends(namespace: Namespace, state: State) -> list[tuple[str, str]]:
    """Both ends of each connection in a state, as `ss` tells them."""
    name = state.label.replace("_", "-").replace("wait1", "wait-1").replace("wait2", "wait-2")
    lines = namespace.run("ss", "-tnH", "state", name).splitlines()
    return [(line.split()[-2], line.split()[-1]) for line in lines]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--state=syn_sent"], 14),
        (["--state=SYN-SENT", "--limit=3"], 14),
        (["--older-than=200ms"], TOTAL),
        (["--older-than=1h"], 0),
        (["--unit=none.service"], 0),
        (["--state=time_wait"], None),
    ],
)
def test_filters_and_exit_codes(
    stage: Stage, daemon: Daemon, flags: list[str], expected: int | None
) -> None:
    code, output = leaks(stage.namespace, f"--web.listen-address=127.0.0.1:{daemon.port}", *flags)
    assert code == {0: 0, None: 2}.get(expected, 1)
    assert (f"{expected} stuck" in output) is bool(expected)
    assert ("Nothing is stuck." in output) is (expected == 0)


def test_a_port_is_that_of_one_service(stage: Stage, daemon: Daemon) -> None:
    [group] = told(stage.namespace, f"--url={daemon.url}", "--state=close_wait")["groups"][:1]
    found = told(stage.namespace, f"--url={daemon.url}", f"--port={group['port']}", "--limit=2")
    assert found["connections"] == group["connections"] == MANY
    assert len(found["sockets"]) == 2
    assert {one["port"] for one in found["groups"]} == {group["port"]}


def test_the_text_says_who_leaks_and_fits(stage: Stage, daemon: Daemon) -> None:
    code, output = leaks(stage.namespace, f"--url={daemon.url}", "--state=close_wait")
    assert code == 1
    assert f"[{os.getpid()}] leaks {MANY} connections of inbound port" in output
    assert "  end not read  " in output
    assert max(map(len, output.splitlines())) <= 100
    assert "\x1b" not in output


def test_the_page_shows_what_is_stuck(daemon: Daemon) -> None:
    page = daemon.get("/").text
    assert "<td>CLOSE_WAIT</td><td>end not read</td>" in page
    assert "<td>SYN_SENT</td><td>SYN not answered</td>" in page


def test_listeners_and_the_snapshot_are_there_as_json(stage: Stage, daemon: Daemon) -> None:
    listening = json.loads(daemon.get("/api/v1/listeners").body)["listeners"]
    assert str(daemon.port) in {one["port"] for one in listening}
    waiting = sum(one["queue"] for one in listening)
    assert waiting >= 2 * (2 + 3)
    snapshot = json.loads(daemon.get("/api/v1/snapshot").body)
    stuck = snapshot["namespaces"][0]["stuck"]
    assert sum(one["connections"] for one in stuck["connections"]) == TOTAL


# Processes


def test_of_five_workers_on_a_listener_the_two_that_leak_are_named(namespace: Namespace) -> None:
    each = MANY // 2
    with namespace.entered(), socket.create_server(("127.0.0.1", 7000)) as listener:
        workers = [namespace.fork(work, listener, each, at in {1, 4}) for at in range(5)]
    with ExitStack() as connected:
        for _ in range(5 * each):
            client = connected.enter_context(closing(namespace.socket(socket.AF_INET)))
            client.connect(("127.0.0.1", 7000))
        eventually(lambda: len(ss_ends(namespace, State.ESTABLISHED)) == 10 * each, "all accepted")
    with running(*SOON, "--owners.processes", namespace=namespace) as daemon:

        def shares() -> dict[int, int]:
            groups = document(daemon, "port=7000&state=close_wait")["groups"]
            processes = groups[0]["processes"] if groups else []
            return {one["pid"]: one["connections"] for one in processes}

        leaking = {workers[1].pid: each, workers[4].pid: each}
        eventually(lambda: shares() == leaking, f"{leaking}", A_WALK)
        _, output = leaks(namespace, f"--url={daemon.url}")
        assert f"The application leaks {MANY} connections of inbound port 7000" in output
        for pid in leaking:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            assert f"{each} of {name}[{pid}]" in output


def test_without_processes_it_says_why_there_are_none(stage: Stage) -> None:
    with running(*SOON, namespace=stage.namespace) as daemon:
        daemon.until(lambda: document(daemon)["connections"] == TOTAL, "stuck connections")
        found = document(daemon)
    assert {len(one["processes"]) for one in found["sockets"]} == {0}
    told = [one for one in found["missing"] if one != UNCOUNTED]  # which depends on the machine
    assert told == ["processes are not looked for: owners.processes is off"]


@pytest.mark.may_skip_in_ci("a checkout below a private folder is no fault of the machine")
def test_without_privilege_it_says_what_is_missing(stage: Stage) -> None:
    command = command_line((sys.executable, "-c", "import sockwatch"), NOBODY)
    tried = subprocess.run(command, env=environment(), capture_output=True, check=False)
    need(tried.returncode == 0, "needs a checkout and a Python that everybody may read")
    code, output = leaks(stage.namespace, uid=NOBODY)
    assert code == 1
    assert "CAP_SYS_PTRACE" in output
    assert f"leak {MANY} connections" in output
    assert f"[{os.getpid()}]" not in output


# Without a daemon


def test_without_a_daemon_a_look_finds_what_no_timer_ends(stage: Stage) -> None:
    found = told(stage.namespace)
    assert found["look"]["seconds"] == 2.0
    assert "no daemon answers at http://127.0.0.1:10077" in found["look"]["why"]
    expected = {
        (case.state.label, case.cause): 2 * case.count
        for case in CASES
        if case.state in {State.CLOSE_WAIT, State.FIN_WAIT2, State.ESTABLISHED}
    }
    kinds = by_kind(found)
    assert {kind: kinds[kind] for kind in expected} == expected
    assert kinds.keys() - expected <= {("syn_sent", "unanswered"), ("syn_recv", "unanswered")}
    bounds = {one["at_least"] for one in found["sockets"] if one["state"] == "close_wait"}
    assert bounds == {True}
    # A host may have more processes than a look has time for.
    assert all(map(named, found["sockets"])) or SEARCHING in found["missing"]


def test_a_quiet_host_is_fine_with_and_without_a_daemon(namespace: Namespace) -> None:
    assert leaks(namespace)[0] == 0
    with running(*SOON, namespace=namespace) as daemon:
        code, output = leaks(namespace, f"--url={daemon.url}")
    assert (code, "Nothing is stuck." in output) == (0, True)
