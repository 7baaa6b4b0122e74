"""Leaks of MPTCP connections: their TCP sockets are established, and yet they are told."""

import socket
from collections import Counter

import pytest
from guards import need
from lab import Namespace
from scene import Scene

pytestmark = pytest.mark.kernel

PORT = 8443
# include/uapi/linux/in.h
IPPROTO_MPTCP = 262


@pytest.fixture(autouse=True)
def multipath() -> None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError as error:
        need(condition=False, reason=f"needs MPTCP in the kernel: {error.strerror}")


def test_a_leak_shows_once_in_its_own_state(namespace: Namespace) -> None:
    with Scene(namespace, processes=True, close_wait=60, fin_wait2=3600) as scene:
        for at in range(12):
            client, _ = scene.pair(PORT, IPPROTO_MPTCP)
            client.send(bytes(at % 2))
            client.shutdown(socket.SHUT_WR)
        plain = scene.closed_by_client(PORT)

        def in_close_wait() -> bool:
            found = scene.metrics().sum("sockwatch_mptcp_connections", state="close_wait")
            return found == 12

        scene.until(in_close_wait, "12 MPTCP connections in CLOSE_WAIT")
        assert scene.stuck() == {}
        scene.watch(61)
        scene.census()
        expected = {
            ("inbound", f"{PORT}", "close_wait", "not_closed"): 6,
            ("inbound", f"{PORT}", "close_wait", "data_unread"): 6,
            ("inbound", f"{PORT}", "close_wait", "eof_unread"): 1,
        }
        assert scene.stuck() == scene.told() == expected
        told = Counter(one["protocol"] for one in scene.leaks()["sockets"])
        assert told == {"mptcp": 12, "tcp": 1}
        sockets = scene.metrics().by("sockwatch_tcp_sockets", "state")
        assert (sockets["established",], sockets["close_wait",]) == (24, 1)
        connections = scene.metrics().by("sockwatch_tcp_connections", "direction", "state")
        assert connections["inbound", "close_wait"] == 13
        assert connections["inbound", "established"] == connections["outbound", "established"] == 0
        assert plain.fileno() >= 0


def test_a_leak_that_is_closed_is_gone(namespace: Namespace) -> None:
    with Scene(namespace, close_wait=60) as scene:
        client, server = scene.pair(PORT, IPPROTO_MPTCP)
        client.close()
        scene.watch(62)
        assert len(scene.stuck()) == 1
        server.close()
        scene.until(lambda: not scene.stuck(), "nothing stuck")
