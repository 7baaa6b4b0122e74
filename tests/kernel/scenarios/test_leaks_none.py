"""What looks like a leak and is none: seen, but never called one, or not told at all."""

from collections import deque
from itertools import chain
from socket import socket

import pytest
from lab import Namespace
from scene import Scene

pytestmark = pytest.mark.kernel

PORT = 8080
HOUR = 3600.0
FOLLOWED = "sockwatch_tcp_state_age_seconds_gcount"
OLDEST = "sockwatch_tcp_oldest_connection_age_seconds"


def test_two_idle_connections_of_a_pool_are_visible_and_no_leak(namespace: Namespace) -> None:
    """I21, wazuh#28630: an HTTP client that notices the end at its next request."""
    with Scene(namespace, interval=10, close_wait=60) as scene:
        pooled = [scene.pair(PORT) for _ in range(2)]
        for _, server in pooled:
            server.close()
        verdicts: list[object] = []
        scene.watch(HOUR, lambda: verdicts.extend(scene.verdicts()))
        assert verdicts == []
        expected = {("outbound", f"{PORT}", "close_wait", "eof_unread"): 2}
        assert scene.stuck() == scene.told() == expected
        oldest = scene.metrics().values(OLDEST)
        assert oldest == [HOUR]


def test_a_queue_of_work_that_drains_is_silent(namespace: Namespace) -> None:
    """I22, openresty#323: busy workers close twenty seconds late, five a second."""
    late, rate = 20, 5
    queue: deque[list[socket]] = deque()
    with Scene(namespace, close_wait=60) as scene:

        def second() -> None:
            assert scene.stuck() == {}
            assert scene.leaks()["groups"] == []
            queue.append([scene.closed_by_client(PORT) for _ in range(rate)])
            for server in queue.popleft() if len(queue) > late else ():
                server.close()

        scene.watch(90, second)
        metrics = scene.metrics()
        assert metrics.sum(FOLLOWED, state="close_wait") == late * rate
        (oldest,) = metrics.values(OLDEST, state="close_wait")
        assert late - 1 <= oldest <= late + 1
        for server in chain.from_iterable(queue):
            server.close()
        scene.watch(2)
        assert scene.metrics().sum(FOLLOWED, state="close_wait") == 0


def test_a_busy_healthy_host_is_silent(namespace: Namespace) -> None:
    """Everything that lasts: idle, half-open for a moment, waiting out TIME_WAIT, listening."""
    with Scene(namespace, close_wait=60, fin_wait2=60) as scene:
        kept = [scene.pair(PORT) for _ in range(20)]
        for _ in range(20):
            client, server = scene.pair(PORT)
            client.close()
            server.close()
        scene.watch(HOUR / 6)
        scene.census()
        assert len(kept) == 20
        assert scene.stuck() == scene.told() == {}
        assert scene.metrics().values("sockwatch_tracked_connections") == [0]
