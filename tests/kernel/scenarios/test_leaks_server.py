"""Servers that do not close what their peers have closed: who, why, since when, and soon."""

import os
import signal
import socket
import struct
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
from lab import Namespace, eventually
from lab.stage import reach
from own_cgroups import Cgroups, enter
from scene import INTERVAL, Scene

from sockwatch.observe.leaks import MANY
from sockwatch.tcp.states import State

pytestmark = pytest.mark.kernel

PORT = 8080
CLIENTS = 200
LIMIT = 60.0
OLDEST = "sockwatch_tcp_oldest_connection_age_seconds"


def reading(listener: socket.socket) -> Iterator[socket.socket]:
    """Accept for ever; each peer's stream is read to its end."""
    listener.settimeout(None)
    while True:
        peer, _ = listener.accept()
        while peer.recv(4096):
            pass
        yield peer


def leak_all(cgroup: Path) -> None:
    """A service that reads to the end of each stream and closes nothing."""
    enter(cgroup)
    held = []
    with socket.create_server(("127.0.0.1", PORT), backlog=CLIENTS) as listener:
        for peer in reading(listener):
            held.append(peer)  # noqa: PERF402  it never ends


def close_wait(namespace: Namespace) -> int:
    return len(namespace.run("ss", "-tnH", "state", "close-wait").splitlines())


def has_close_wait(namespace: Namespace, number: int) -> bool:
    return close_wait(namespace) == number


def test_the_service_that_never_closes_is_named_soon_after_the_age_limit(
    cgroups: Cgroups, namespace: Namespace, slice_name: str
) -> None:
    """I1, encode/uvicorn#1199: 7,047 CLOSE_WAIT on the port of a service behind a balancer."""
    cgroup = cgroups.make(f"{slice_name}/web.service")
    with Scene(namespace, processes=True, close_wait=LIMIT) as scene:
        server = namespace.fork(leak_all, cgroup)
        eventually(lambda: namespace.run("ss", "-tlnH"), "a listener")
        scene.watch(10)
        for _ in range(CLIENTS):
            scene.connect(PORT).close()
        eventually(partial(has_close_wait, namespace, CLIENTS), "all in CLOSE_WAIT")
        entered = scene.elapsed
        scene.watch(LIMIT - INTERVAL, lambda: silent(scene))
        seen: list[float] = []
        scene.watch(4 * INTERVAL, lambda: seen.append(scene.elapsed) if scene.stuck() else None)
        assert seen[0] - entered <= LIMIT + 2 * INTERVAL
        expected = {("inbound", f"{PORT}", "close_wait", "not_closed"): CLIENTS}
        assert scene.stuck() == scene.told() == expected
        oldest = scene.metrics().by(OLDEST, "unit", "state")
        assert oldest == {("web.service", "close_wait"): scene.elapsed - entered}

        def named() -> bool:
            (leak,) = scene.verdicts()
            return bool(leak["processes"])

        scene.until(named, "a process")
        (leak,) = scene.verdicts()
        assert (leak["unit"], leak["connections"]) == ("web.service", CLIENTS)
        [process] = leak["processes"]
        assert (process["pid"], process["connections"]) == (server.pid, CLIENTS)


def silent(scene: Scene) -> None:
    assert scene.stuck() == {}
    assert scene.leaks()["groups"] == []


def work(listener: socket.socket, number: int, *, leaks: bool) -> None:
    """Accept so many connections, read each to its end, and leak or close."""
    held = []
    for peer in islice(reading(listener), number):
        if leaks:
            held.append(peer)
        else:
            peer.close()
    signal.pause()


def test_of_five_workers_on_one_listener_the_two_that_leak_are_told(namespace: Namespace) -> None:
    """I2, rate-ukma#610: 905 CLOSE_WAIT, nearly all on two of five workers, and random hangs."""
    each = 20
    with Scene(namespace, processes=True, close_wait=LIMIT) as scene:
        listener = scene.door(PORT)
        workers = []
        for at in range(5):
            worker = namespace.fork(_leaking if at in {1, 3} else _closing, listener, each)
            workers.append(worker.pid)
            for _ in range(each):
                scene.connect(PORT).close()
            leaked = each * ((at > 0) + (at > 2))
            eventually(partial(has_close_wait, namespace, leaked), "all are served")
        scene.watch(LIMIT + INTERVAL)

        def shares() -> dict[int, int]:
            (leak,) = scene.verdicts()
            return {one["pid"]: one["connections"] for one in leak["processes"]}

        leaking = {workers[1]: each, workers[3]: each}
        scene.until(lambda: shares() == leaking, f"shares {leaking}")
        assert scene.stuck() == {("inbound", f"{PORT}", "close_wait", "not_closed"): 2 * each}


def _leaking(listener: socket.socket, number: int) -> None:
    work(listener, number, leaks=True)


def _closing(listener: socket.socket, number: int) -> None:
    work(listener, number, leaks=False)


def test_what_is_not_read_is_told_from_what_is_not_closed(namespace: Namespace) -> None:
    """I4, haproxy#136: CLOSE_WAIT with bytes that nobody reads, in sessions without timeout."""
    with Scene(namespace, close_wait=LIMIT) as scene:
        for sent, read in ((b"x", 0), (b"", 0), (b"x", 2)):
            client, server = scene.pair(PORT)
            client.send(sent)
            client.close()
            if read:
                assert server.recv(read) == sent
                assert server.recv(read) == b""
        scene.watch(LIMIT + INTERVAL)
        kinds = ("data_unread", "eof_unread", "not_closed")
        expected = {("inbound", f"{PORT}", "close_wait", kind): 1 for kind in kinds}
        assert scene.stuck() == scene.told() == expected
        assert scene.verdicts() == []


def test_a_leak_of_one_in_a_second_is_found_while_it_is_small(namespace: Namespace) -> None:
    """I6, 3proxy#1263: a reference that is not given back, at low traffic."""
    with Scene(namespace, close_wait=LIMIT) as scene:
        verdict_at: list[float] = []

        def leak_one() -> None:
            scene.closed_by_client(PORT)
            client, server = scene.pair(PORT)  # and a healthy one
            client.close()
            server.close()
            if scene.verdicts():
                verdict_at.append(scene.elapsed)

        scene.watch(LIMIT + MANY + 10, leak_one)
        assert LIMIT - 1 <= verdict_at[0] - MANY <= LIMIT + 2
        [leak] = scene.verdicts()
        assert (leak["port"], leak["cause"]) == (f"{PORT}", "eof_unread")
        assert scene.stuck().keys() == {("inbound", f"{PORT}", "close_wait", "eof_unread")}


def test_what_nobody_accepts_is_told_by_what_has_become_of_it(namespace: Namespace) -> None:
    """A worker that hangs: the kernel goes on to shake hands for it."""
    with Scene(namespace, not_accepted=10, close_wait=LIMIT) as scene:
        scene.door(PORT)
        kept = [scene.connect(PORT) for _ in range(3)]
        for _ in range(2):
            scene.connect(PORT).close()
        scene.watch(8)
        assert scene.stuck() == scene.told() == {}
        scene.watch(4)
        waiting = ("inbound", f"{PORT}", "established", "not_accepted")
        closed = ("inbound", f"{PORT}", "close_wait", "not_accepted")
        assert scene.stuck() == scene.told() == {waiting: len(kept), closed: 2}
        accepted = [scene.door(PORT).accept()[0] for _ in range(5)]
        scene.watch(1)
        assert waiting not in scene.stuck()
        for each in accepted:
            each.close()


def test_who_has_waited_before_anybody_looked_may_have_waited_longer(namespace: Namespace) -> None:
    with Scene(namespace, not_accepted=10) as scene:
        scene.door(PORT)
        early = scene.connect(PORT)
        scene.watch(5)
        late = scene.connect(PORT)
        scene.watch(15)
        bounds = {one["remote"]["port"]: one["at_least"] for one in scene.leaks()["sockets"]}
        assert bounds == {early.getsockname()[1]: True, late.getsockname()[1]: False}


def test_an_address_that_is_used_again_is_another_connection(namespace: Namespace) -> None:
    """The same two ends leak again: the age is that of the second leak."""
    with Scene(namespace, close_wait=LIMIT) as scene:
        door = scene.door(PORT)
        for _ in range(2):
            client = scene.open()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.bind(("127.0.0.1", PORT + 1))
            client.connect(("127.0.0.1", PORT))
            server, _ = door.accept()
            client.shutdown(socket.SHUT_WR)
            reach(State.CLOSE_WAIT, server)
            scene.watch(LIMIT / 2)
            oldest = scene.metrics().values(OLDEST, state="close_wait")
            assert oldest == [pytest.approx(LIMIT / 2, abs=INTERVAL)]
            client.close()
            server.close()
        assert scene.stuck() == {}


def test_a_leak_that_is_closed_at_last_is_gone_with_the_next_pass(namespace: Namespace) -> None:
    with Scene(namespace, close_wait=LIMIT) as scene:
        held = [scene.closed_by_client(PORT) for _ in range(MANY)]
        scene.watch(LIMIT + INTERVAL)
        assert len(scene.verdicts()) == 1
        for server in held:
            server.close()
        scene.watch()
        silent(scene)
        assert scene.metrics().values(OLDEST) == []
        assert os.getpid() not in {one["pid"] for one in scene.leaks()["sockets"]}


def test_a_leak_outlives_the_listener_that_its_connections_came_to(namespace: Namespace) -> None:
    """A service that hangs in its graceful end has stopped to listen first."""
    with Scene(namespace, close_wait=LIMIT) as scene:
        held = [scene.closed_by_client(PORT) for _ in range(MANY)]
        scene.watch(LIMIT + INTERVAL)
        told = scene.stuck()
        scene.door(PORT).close()
        assert namespace.run("ss", "-tlnH") == ""
        scene.watch()
        scene.census()
        assert scene.stuck() == told == {("inbound", f"{PORT}", "close_wait", "eof_unread"): MANY}
        [leak] = scene.verdicts()
        assert (leak["port"], leak["connections"]) == (f"{PORT}", len(held))
