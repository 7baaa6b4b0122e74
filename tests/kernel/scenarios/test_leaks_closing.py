"""Connections that this host has closed, or half of them, and whose peers do not go on."""

import socket
import time

import pytest
from lab import Namespace
from lab.stage import reach
from scene import Scene

from sockwatch.observe.leaks import MANY
from sockwatch.tcp.states import State

pytestmark = pytest.mark.kernel

PORT = 8080


def fill(sender: socket.socket) -> None:
    """Send until the peer, which does not read, takes no more."""
    sender.setblocking(False)
    try:
        while True:
            sender.send(bytes(65536))
    except BlockingIOError:
        pass


def test_what_is_written_to_nobody_and_closed_becomes_orphans(namespace: Namespace) -> None:
    """I15, telemt#677: scanners that do not read leave tens of thousands of FIN_WAIT1."""
    with Scene(namespace, fin_wait1=30) as scene:
        silent_peers = []
        for _ in range(MANY):
            client, server = scene.pair(PORT)
            fill(server)
            server.close()
            silent_peers.append(client)
        scene.watch()
        scene.census()
        kinds = scene.metrics().by("sockwatch_tcp_unowned_sockets", "kind")
        assert kinds == {("orphan",): MANY, ("half_open",): 0, ("not_accepted",): 0, ("mini",): 0}
        sockets = scene.metrics().by("sockwatch_tcp_sockets", "state")
        assert sockets["fin_wait1",] == MANY
        assert scene.stuck() == {}
        scene.watch(31)
        expected = {("inbound", f"{PORT}", "fin_wait1", "unanswered"): MANY}
        assert scene.stuck() == scene.told() == expected
        assert {one["inode"] for one in scene.leaks()["sockets"]} == {0}
        assert scene.verdicts() == []  # it is the peer who has to act
        assert len(silent_peers) == MANY


def test_half_closed_connections_that_a_process_holds_are_told(namespace: Namespace) -> None:
    """I16, tinyproxy#600: FIN_WAIT2 at who closed first, CLOSE_WAIT at the other side."""
    with Scene(namespace, fin_wait2=120, close_wait=86_400) as scene:
        held = []
        for _ in range(MANY):
            client, server = scene.pair(PORT)
            server.shutdown(socket.SHUT_WR)
            reach(State.FIN_WAIT2, server)
            held.append((client, server))
        scene.watch(119)
        assert scene.stuck() == {}
        scene.watch(2)
        expected = {("inbound", f"{PORT}", "fin_wait2", "half_closed"): MANY}
        assert scene.stuck() == scene.told() == expected
        [leak] = scene.verdicts()
        assert (leak["state"], leak["connections"]) == ("fin_wait2", MANY)
        assert len(held) == MANY


def test_half_closed_connections_that_the_kernel_alone_holds_are_silent(
    namespace: Namespace,
) -> None:
    """I16: they are gone after tcp_fin_timeout, whatever the peer does."""
    with Scene(namespace, fin_wait2=1, close_wait=86_400) as scene:
        peers = []
        for _ in range(11):
            client, server = scene.pair(PORT)
            server.close()
            reach(State.CLOSE_WAIT, client)
            peers.append(client)
        scene.watch(300)
        sockets = scene.metrics().by("sockwatch_tcp_sockets", "state")
        assert (sockets["fin_wait2",], sockets["close_wait",]) == (11, 11)
        assert scene.stuck() == scene.told() == {}


@pytest.mark.parametrize("timeout", [60, 61])
def test_how_long_the_kernel_has_held_them_is_known_from_the_first_look(
    namespace: Namespace, timeout: int
) -> None:
    """Beyond a minute the kernel keeps them as full sockets first."""
    namespace.set_sysctls({"net.ipv4.tcp_fin_timeout": timeout})
    with Scene(namespace, close_wait=86_400) as scene:
        client, server = scene.pair(PORT)
        closed = time.monotonic()
        server.close()
        reach(State.CLOSE_WAIT, client)
        time.sleep(1.5)
        scene.watch()
        age = time.monotonic() - closed
        held = scene.metrics().by("sockwatch_tcp_kernel_held_oldest_age_seconds", "state")
        assert held == {("fin_wait2",): pytest.approx(age, abs=0.3)}


def test_an_answer_that_never_comes_is_told_in_every_step_of_closing(namespace: Namespace) -> None:
    """The last ACK of one side is lost, and both FINs of two that close at once."""
    with Scene(namespace, last_ack=30, close_wait=86_400, fin_wait1=86_400) as scene:
        namespace.filter(f"tcp sport {PORT} tcp flags & fin == fin drop")
        client, server = scene.pair(PORT)
        client.shutdown(socket.SHUT_WR)
        reach(State.CLOSE_WAIT, server)
        server.shutdown(socket.SHUT_WR)
        scene.watch(31)
        assert (
            scene.stuck() == scene.told() == {("inbound", f"{PORT}", "last_ack", "unanswered"): 1}
        )
