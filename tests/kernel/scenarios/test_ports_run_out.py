"""Source ports that run out toward one destination, and dependencies that do not answer."""

import errno
import socket
import time
from contextlib import ExitStack
from typing import Final

import pytest
from lab import Namespace
from lab.stage import reach
from scene import HERE, Scene

from sockwatch.export.document import Host
from sockwatch.export.report.page import Page
from sockwatch.export.report.text import report
from sockwatch.tcp.states import State

pytestmark = pytest.mark.kernel

RANGE: Final = "40000 40099"
PORTS: Final = 100
FIRST, SECOND = 7001, 7002
BLACKHOLE: Final = "192.0.2.7"
LIMIT: Final = 0.5
"""Seconds that a SYN may go unanswered."""
TAKEN_OVER: Final = 1.1
"""Seconds after which connect() may take the port of a connection in TIME_WAIT: more than one."""


@pytest.fixture
def narrow(namespace: Namespace) -> Namespace:
    """With 100 ephemeral ports, none of which is taken while it is in TIME_WAIT."""
    namespace.set_sysctls({"net.ipv4.ip_local_port_range": RANGE, "net.ipv4.tcp_tw_reuse": 0})
    return namespace


def end(port: int) -> tuple[str, ...]:
    return (f"{HERE}:{port}",)


def most(scene: Scene) -> float:
    """The ports in use toward the fullest destination."""
    scene.census()
    [value] = scene.metrics().values("sockwatch_ephemeral_ports_in_use_max")
    return value


def in_use(scene: Scene) -> dict[tuple[str, ...], float]:
    return scene.metrics().by("sockwatch_destination_ephemeral_ports_in_use", "destination")


def headroom(scene: Scene) -> float:
    used = most(scene)
    [ports] = scene.metrics().values("sockwatch_ephemeral_ports")
    return ports - used


def crowded(scene: Scene) -> list[tuple[int, int]]:
    """Ports in use toward each destination that is told apart, and those in TIME_WAIT."""
    (view,) = scene.snapshot.namespaces
    return (
        [(use.in_use, use.time_wait) for use in view.destinations.crowded]
        if view.destinations
        else []
    )


def churn(scene: Scene, port: int, times: int) -> None:
    """Connections that the client closes at once, which leaves TIME_WAIT at its end."""
    for _ in range(times):
        client, server = scene.pair(port)
        client.shutdown(socket.SHUT_WR)
        reach(State.FIN_WAIT2, client)
        server.close()
        reach(State.CLOSE, client)  # the mini has taken its place
        client.close()


def text_of(scene: Scene) -> str:
    snapshot = scene.snapshot
    return report(snapshot, [*scene.findings().values()], Host("lab", "6.18"), Page())


def test_a_second_destination_has_all_ports_to_itself(narrow: Namespace) -> None:
    """I8, community.haproxy#557: what counts is the use toward one destination, not of the host."""
    with Scene(narrow) as scene:
        held = [scene.pair(FIRST) for _ in range(85)]
        assert most(scene) == 85
        assert in_use(scene) == {end(FIRST): 85}
        held += [scene.pair(SECOND) for _ in range(85)]
        assert most(scene) == 85
        assert in_use(scene) == {end(FIRST): 85, end(SECOND): 85}
        assert scene.metrics().values("sockwatch_ephemeral_ports") == [PORTS]
        local = {client.getsockname()[1] for client, _ in held}
        assert local <= {*range(40_000, 40_100)}
        assert len(local) < 2 * 85  # the kernel has used ports for both


def test_the_one_that_is_exhausted_is_named_and_the_other_still_works(narrow: Namespace) -> None:
    with Scene(narrow) as scene:
        for _ in range(PORTS):
            scene.pair(FIRST)
        with pytest.raises(OSError, match="Cannot assign requested address") as refused:
            scene.connect(FIRST)
        assert refused.value.errno == errno.EADDRNOTAVAIL
        scene.pair(SECOND)
        assert most(scene) == PORTS
        found = scene.findings()["ephemeral_ports"]
        assert (found.count, found.limit) == (PORTS, PORTS)
        assert found.destination == f"{HERE}:{FIRST}"
        assert "EADDRNOTAVAIL" in found.meaning


def test_up_to_half_of_the_ports_nothing_is_found(narrow: Namespace) -> None:
    with Scene(narrow) as scene:
        for _ in range(PORTS // 2):
            scene.pair(FIRST)
        assert most(scene) == PORTS // 2
        assert scene.findings() == {}
        scene.pair(FIRST)
        scene.census()
        assert [*scene.findings()] == ["ephemeral_ports"]


def test_churn_whose_ports_may_be_taken_over_stays_at_half_of_them(narrow: Namespace) -> None:
    narrow.set_sysctls({"net.ipv4.tcp_tw_reuse": 2})
    with Scene(narrow) as scene:
        churn(scene, FIRST, PORTS // 2)
        time.sleep(TAKEN_OVER)
        churn(scene, FIRST, PORTS // 2)
        assert most(scene) == PORTS // 2
        assert scene.findings() == {}


def test_a_wider_range_counts_from_the_next_census_on(narrow: Namespace) -> None:
    """More in use than there are would be nonsense just when somebody looks whether it helps."""
    with Scene(narrow) as scene:
        for _ in range(PORTS):
            scene.pair(FIRST)
        assert headroom(scene) == 0
        narrow.set_sysctls({"net.ipv4.ip_local_port_range": "40000 40299"})
        for _ in range(10):
            scene.pair(FIRST)
        scene.time.move(1)
        assert headroom(scene) == 2 * PORTS - 10
        assert scene.findings() == {}


def test_reserved_ports_are_no_room_and_chosen_ports_take_none(narrow: Namespace) -> None:
    narrow.set_sysctls({"net.ipv4.ip_local_reserved_ports": "40010-40019,40050"})
    with Scene(narrow) as scene:
        for _ in range(20):
            scene.pair(FIRST)
        for port in (999, 40_015, 39_999):
            client = scene.open()
            client.bind((HERE, port))
            client.connect((HERE, FIRST))
        assert most(scene) == 20
        assert scene.metrics().values("sockwatch_ephemeral_ports") == [PORTS - 11]


def test_a_mapped_address_uses_up_the_same_ports(narrow: Namespace) -> None:
    with Scene(narrow) as scene, ExitStack() as held:
        for _ in range(10):
            scene.pair(FIRST)
        for _ in range(5):
            client = held.enter_context(narrow.socket(socket.AF_INET6))
            client.connect((f"::ffff:{HERE}", FIRST))
        assert most(scene) == 15
        assert in_use(scene) == {end(FIRST): 15}


def test_churn_leaves_time_wait_and_headroom_falls(narrow: Namespace) -> None:
    """I10, Cloudflare 2022: a minute of short connections holds as many ports."""
    with Scene(narrow) as scene:
        for _ in range(20):
            scene.pair(FIRST)
        rooms = [headroom(scene)]
        for _ in range(2):
            churn(scene, FIRST, 30)
            rooms.append(headroom(scene))
        assert rooms == [80, 50, 20]
        found = scene.findings()["ephemeral_ports"]
        assert (found.count, found.limit) == (80, PORTS)
        assert "60 of them are in time_wait" in found.meaning
        assert crowded(scene) == [(80, 60)]
        counted = scene.metrics().by("sockwatch_tcp_connections", "direction", "port", "state")
        outbound = ("outbound", str(FIRST))
        assert counted[(*outbound, "time_wait")] == 60
        assert counted[(*outbound, "established")] == 20
        assert "80         60   80%  ################...." in text_of(scene)
        narrow.run("ss", "--kill", "--tcp", "state", "time-wait")
        assert headroom(scene) == 80
        assert scene.findings() == {}


def test_ports_in_use_are_those_of_one_moment(narrow: Namespace) -> None:
    """What a watch pass sees since must not be added to what the census saw before."""
    with Scene(narrow) as scene:
        pairs = [scene.pair(FIRST) for _ in range(60)]
        assert most(scene) == 60
        for client, server in pairs:
            server.close()
            reach(State.CLOSE_WAIT, client)
        scene.watch(3)
        assert scene.metrics().values("sockwatch_ephemeral_ports_in_use_max") == [60]
        assert most(scene) == 60


def test_a_dead_dependency_is_found_by_name(narrow: Namespace) -> None:
    """I18, haproxy#2301, with the name in what looks wrong."""
    narrow.run("ip", "address", "add", f"{BLACKHOLE}/32", "dev", "lo")
    narrow.filter(f"ip daddr {BLACKHOLE} tcp flags & (syn | ack) == syn drop")
    with Scene(narrow, syn_sent=LIMIT) as scene:
        for port in [5432] * 27 + [5433] * 2:
            client = scene.open()
            client.setblocking(False)
            client.connect_ex((BLACKHOLE, port))
        scene.census()
        assert [*scene.findings()] == ["syn_sent"]  # not for long enough to blame anybody
        time.sleep(LIMIT)
        scene.watch()
        found = scene.findings()
        assert [*found] == ["unanswered"]
        assert found["unanswered"].message == f"27 connections unanswered: {BLACKHOLE}:5432"
        assert f"no answer from {BLACKHOLE}:5432: 27 connections" in text_of(scene)
        unanswered = scene.metrics().by(
            "sockwatch_destination_unanswered_connections", "destination"
        )
        assert unanswered == {(f"{BLACKHOLE}:5432",): 27}
