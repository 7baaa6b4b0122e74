"""Handshakes that nobody answers: the peer is named, and the age is right from the first look."""

import socket
import time
from typing import Any

import pytest
from lab import Namespace, eventually
from scene import Scene

from sockwatch.tcp.states import State

pytestmark = pytest.mark.kernel

PORT = 5432
BLACKHOLE = "192.0.2.7"
SYN = "tcp flags & (syn | ack) == syn drop"
FINAL_ACK = f"tcp dport {PORT} tcp flags & syn == 0x0 drop"
LIMIT = 0.5


@pytest.fixture
def reachable(namespace: Namespace) -> Namespace:
    """With an address that takes packets and never answers."""
    namespace.run("ip", "address", "add", f"{BLACKHOLE}/32", "dev", "lo")
    namespace.filter(f"ip daddr {BLACKHOLE} {SYN}")
    return namespace


def knock(scene: Scene) -> socket.socket:
    client = scene.open()
    client.setblocking(False)
    client.connect_ex((BLACKHOLE, PORT))
    return client


def test_a_dead_dependency_is_named_by_its_address(reachable: Namespace) -> None:
    """I18, haproxy#2301: SYN_SENT piles up toward one server."""
    with Scene(reachable, syn_sent=LIMIT) as scene:
        knocked = time.monotonic()
        clients = [knock(scene) for _ in range(5)]
        scene.watch()
        assert scene.stuck() == {}
        time.sleep(LIMIT)
        scene.watch()
        expected = {("outbound", f"{PORT}", "syn_sent", "unanswered"): 5}
        assert scene.stuck() == scene.told() == expected
        remotes = {(one["remote"]["address"], one["remote"]["port"]) for one in _sockets(scene)}
        assert remotes == {(BLACKHOLE, PORT)}
        scene.census()
        unanswered = scene.metrics().by(
            "sockwatch_destination_unanswered_connections", "destination"
        )
        assert unanswered == {(f"{BLACKHOLE}:{PORT}",): 5}
        assert scene.verdicts() == []  # the peer has to act
        assert len(clients) == 5
        assert all(one["age_seconds"] <= time.monotonic() - knocked for one in _sockets(scene))


def _sockets(scene: Scene) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = scene.leaks()["sockets"]
    return found


def test_the_first_look_of_all_knows_how_long_a_syn_has_not_been_answered(
    reachable: Namespace,
) -> None:
    """The retransmission timer tells it, so nothing of it is a lower bound."""
    with Scene(reachable, syn_sent=LIMIT) as scene:
        began = time.monotonic()
        client = knock(scene)
        time.sleep(1.5)  # beyond the first retransmission
        before = time.monotonic() - began
        scene.watch()
        [one] = _sockets(scene)
        assert one["age_seconds"] == pytest.approx(before, abs=0.1)
        assert one["at_least"] is False
        assert client.fileno() >= 0


def test_a_handshake_that_the_client_does_not_finish_is_told(namespace: Namespace) -> None:
    with Scene(namespace, syn_recv=LIMIT) as scene:
        door = scene.door(PORT)
        namespace.filter(FINAL_ACK)
        clients = [scene.connect(PORT) for _ in range(3)]

        def half_open() -> bool:
            states = scene.metrics().by("sockwatch_tcp_sockets", "state")
            return states[State.SYN_RECV.label,] == 3

        scene.until(half_open, "three half-open connections")
        assert scene.stuck() == {}
        time.sleep(LIMIT)
        scene.watch()
        expected = {("inbound", f"{PORT}", "syn_recv", "unanswered"): 3}
        assert scene.stuck() == scene.told() == expected
        assert (len(clients), door.fileno() >= 0) == (3, True)


def test_an_answer_ends_it(reachable: Namespace) -> None:
    with Scene(reachable, syn_sent=LIMIT) as scene:
        client = knock(scene)
        time.sleep(LIMIT)
        scene.watch()
        assert len(scene.stuck()) == 1
        reachable.run("nft", "flush", "ruleset")
        with scene.open() as listener:
            listener.bind((BLACKHOLE, PORT))
            listener.listen()
            eventually(lambda: "ESTAB" in reachable.run("ss", "-tn"), "an answer")
            scene.watch()
            assert scene.stuck() == {}
        assert client.fileno() >= 0
