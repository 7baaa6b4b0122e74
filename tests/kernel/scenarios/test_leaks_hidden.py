"""Connections that died and whose descriptors stay open: in no table, and yet not left out."""

import pytest
from guards import need
from lab import Namespace, eventually
from lab.stage import reset
from scene import Scene

from sockwatch.export.leaks.text import leaks_text
from sockwatch.export.report.page import Page
from sockwatch.kernel.hashed import hashed_everywhere
from sockwatch.poll.figures import REFRESH

pytestmark = pytest.mark.kernel

PORT = 8080
DEAD = 300
OTHERS = 100
"""Sockets that others on this host may open or close meanwhile."""
HIDDEN = "sockwatch_tcp_hidden_sockets"


def test_descriptors_of_connections_that_were_reset_are_told_by_their_number(
    namespace: Namespace,
) -> None:
    """Kernel sockets leak as much as in CLOSE_WAIT, but every table of sockets is empty."""
    namespace.start("sleep", "60")  # else nothing in /proc shows the namespace
    eventually(namespace.processes, "a process inside")
    need(hashed_everywhere() is not None, "needs to see every process of the host")
    with Scene(namespace, interval=REFRESH) as scene:
        scene.watch()
        before = scene.leaks()["hidden"]
        held = []
        for _ in range(DEAD):
            client, server = scene.pair(PORT)
            reset(server)
            held.append(client)

        def told() -> bool:
            scene.watch(REFRESH)
            return bool(abs(scene.leaks()["hidden"] - before - DEAD) <= OTHERS)

        eventually(told, f"{DEAD} hidden sockets")
        assert scene.metrics().values(HIDDEN) == [scene.leaks()["hidden"]]
        assert scene.stuck() == scene.told() == {}
        text = leaks_text(scene.answer(), Page())
        assert "Nothing is stuck." in text
        assert "sockets of this host are in no table" in text
        assert len(held) == DEAD
