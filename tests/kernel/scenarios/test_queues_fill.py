"""Accept queues and SYN queues that fill: whose, why, and equal to what ss and nstat tell."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, NamedTuple

import pytest
from guards import need_command
from lab import Namespace, eventually
from scene import HERE, Scene

pytestmark = pytest.mark.kernel

SLOW, QUICK = 7001, 7002
ANSWERS: Final = f"tcp sport {SLOW} tcp flags & (syn | ack) == (syn | ack)"
"""The SYN+ACKs of the slow one, as they arrive at its clients."""


class Queues(NamedTuple):
    """What is known of a listener."""

    queue: float
    limit: float
    drops: float


def listen(
    namespace: Namespace,
    port: int,
    backlog: int,
    *,
    address: str = HERE,
    shared: bool = False,
    dual: bool = False,
) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = namespace.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family is socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
    made.bind((address, port))
    made.listen(backlog)
    made.settimeout(5)
    return made


@contextmanager
def clients(
    namespace: Namespace, port: int, number: int, address: str = HERE
) -> Iterator[list[socket.socket]]:
    """Clients that have begun to connect."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with ExitStack() as held:
        made = [held.enter_context(namespace.socket(family)) for _ in range(number)]
        for one in made:
            one.setblocking(False)
            one.connect_ex((address, port))
        yield made


@contextmanager
def from_a_second_ago(scene: Scene) -> Iterator[None]:
    """A pass before anything happens, so that what is counted from now on is known to be new."""
    scene.watch()
    scene.time.move(1)
    yield


def accept_all(server: socket.socket, number: int) -> None:
    for _ in range(number):
        server.accept()[0].close()


def by_ss(namespace: Namespace) -> dict[str, Queues]:
    """As `ss -tlnm` tells it, by port; a group added up."""
    found: dict[str, Queues] = {}
    for line in namespace.run("ss", "-tlnmOH").splitlines():
        _, queue, limit, local, *_ = line.split()
        drops = re.search(r",d(\d+)\)", line)
        assert drops
        port = local.rpartition(":")[2]
        before = found.get(port, Queues(0, 0, 0))
        new = (float(queue), float(limit), float(drops[1]))
        found[port] = Queues(*map(sum, zip(before, new, strict=True)))
    return found


def by_sockwatch(scene: Scene) -> dict[str, Queues]:
    metrics = scene.metrics()
    names = ("accept_queue_length", "accept_queue_limit", "drops_total")
    columns = [metrics.by(f"sockwatch_listener_{name}", "port") for name in names]
    return {port: Queues(*(column[port,] for column in columns)) for (port,) in columns[0]}


def of_listeners(scene: Scene, name: str) -> dict[tuple[str, ...], float]:
    return scene.metrics().by(f"sockwatch_listener_{name}", "address", "port")


COUNTED: Final = {
    "TcpExtListenOverflows": "listen_overflows",
    "TcpExtListenDrops": "listen_drops",
    "TcpExtTCPReqQFullDoCookies": "syn_queue_full_cookies",
    "TcpExtTCPReqQFullDrop": "syn_queue_full_drops",
    "TcpExtSyncookiesSent": "syncookies_sent",
    "TcpExtSyncookiesRecv": "syncookies_received",
    "TcpPassiveOpens": "passive_opens",
    "TcpActiveOpens": "active_opens",
}


def agree(namespace: Namespace, scene: Scene) -> bool:
    """Whether sockwatch, ss and nstat tell the same: drops go on while clients try again."""
    need_command("nstat", "iproute2")
    before = namespace.run("nstat", "-azsj")
    listed = by_ss(namespace)
    scene.watch()
    metrics = scene.metrics()
    if namespace.run("nstat", "-azsj") != before:
        return False
    assert by_sockwatch(scene) == listed
    kernel = json.loads(before)["kernel"]
    told = {name: metrics.sum(f"sockwatch_tcp_{ours}_total") for name, ours in COUNTED.items()}
    assert told == {name: kernel[name] for name in COUNTED}
    return True


def test_a_server_that_sleeps_fills_its_queue_and_nobody_elses(namespace: Namespace) -> None:
    """I11, agentmail-mcp#46: listen(8) and twenty clients."""
    with (
        listen(namespace, SLOW, 8),
        listen(namespace, QUICK, 8) as quick,
        clients(namespace, SLOW, 20),
        clients(namespace, QUICK, 5),
        Scene(namespace) as scene,
    ):
        accept_all(quick, 5)
        eventually(lambda: by_ss(namespace)[str(SLOW)].queue == 9, "nine wait")
        eventually(lambda: agree(namespace, scene), "a moment in which nobody tries again")
        found = by_sockwatch(scene)
        assert (found[str(SLOW)].queue, found[str(SLOW)].limit) == (9, 8)
        assert found[str(SLOW)].drops >= 11
        assert found[str(QUICK)] == Queues(0, 8, 0)
        drops = scene.metrics().sum("sockwatch_tcp_listen_drops_total")
        assert drops == found[str(SLOW)].drops
        looks_wrong = scene.findings()
        assert [*looks_wrong] == ["accept_queue"]
        assert looks_wrong["accept_queue"].message == f"accept queue full, 9 of 8: {HERE}:{SLOW}"


def test_a_burst_between_two_passes_shows_in_drops(namespace: Namespace) -> None:
    with listen(namespace, SLOW, 4) as slow, Scene(namespace) as scene:
        scene.watch()
        assert by_sockwatch(scene)[str(SLOW)] == Queues(0, 4, 0)
        with clients(namespace, SLOW, 12):
            eventually(lambda: by_ss(namespace)[str(SLOW)].queue == 5, "five wait")
            dropped = by_ss(namespace)[str(SLOW)].drops
            accept_all(slow, 5)
        eventually(lambda: by_ss(namespace)[str(SLOW)].queue == 0, "nobody waits")
        scene.watch()
        found = by_sockwatch(scene)[str(SLOW)]
        assert found.queue == 0
        assert found.drops >= dropped >= 7


def test_a_peak_is_there_for_a_minute_and_drops_for_ever(namespace: Namespace) -> None:
    with listen(namespace, SLOW, 4) as slow, Scene(namespace) as scene:
        with clients(namespace, SLOW, 12):
            eventually(lambda: by_ss(namespace)[str(SLOW)].queue == 5, "five wait")
            scene.watch()
            accept_all(slow, 5)
        eventually(lambda: by_ss(namespace)[str(SLOW)].queue == 0, "nobody waits")
        scene.watch(1)
        assert of_listeners(scene, "accept_queue_peak") == {(HERE, str(SLOW)): 5}
        assert "within the last minute" in scene.findings()["accept_queue"].message
        drops = by_sockwatch(scene)[str(SLOW)].drops
        scene.watch(61)
        assert of_listeners(scene, "accept_queue_peak") == {(HERE, str(SLOW)): 0}
        assert scene.findings() == {}
        assert by_sockwatch(scene)[str(SLOW)].drops >= drops > 0


def test_drops_go_on_counting_when_the_server_is_restarted(namespace: Namespace) -> None:
    def overflow(scene: Scene, clients_at_a_time: int) -> float:
        with listen(namespace, SLOW, 1), clients(namespace, SLOW, clients_at_a_time):
            eventually(lambda: by_ss(namespace)[str(SLOW)].queue == 2, "two wait")
            scene.watch()
            total = by_sockwatch(scene)[str(SLOW)].drops
            assert total >= by_ss(namespace)[str(SLOW)].drops - clients_at_a_time
        scene.watch()
        assert by_sockwatch(scene) == {}
        return total

    with Scene(namespace) as scene:
        totals = [overflow(scene, 6) for _ in range(3)]
        assert totals == sorted(totals)
        assert totals[0] >= 4
        assert totals[2] >= totals[0] + 8


def test_workers_that_share_a_port_are_one_listener(namespace: Namespace) -> None:
    with ExitStack() as held, Scene(namespace) as scene:
        for _ in range(3):
            held.enter_context(listen(namespace, SLOW, 2, shared=True))
        held.enter_context(clients(namespace, SLOW, 60))
        full = 3 * 3
        eventually(lambda: by_ss(namespace)[str(SLOW)].queue == full, "all queues are full")
        eventually(lambda: agree(namespace, scene), "a moment in which nobody tries again")
        assert by_sockwatch(scene)[str(SLOW)].limit == 6
        assert scene.findings()["accept_queue"].count == full


def test_one_worker_of_a_group_that_sleeps_is_found_while_the_others_accept(
    namespace: Namespace,
) -> None:
    with ExitStack() as held, Scene(namespace) as scene:
        _, *awake = [held.enter_context(listen(namespace, SLOW, 8, shared=True)) for _ in range(4)]

        def taken() -> bool:
            """What the others have is accepted again and again; new clients fill the one's."""
            held.enter_context(clients(namespace, SLOW, 10))
            for worker in awake:
                worker.settimeout(0)
                with suppress(BlockingIOError):
                    while True:
                        worker.accept()[0].close()
            return by_ss(namespace)[str(SLOW)].queue == 9

        eventually(taken, "nine wait for the one that sleeps")
        eventually(lambda: agree(namespace, scene), "a moment in which nobody tries again")
        assert by_sockwatch(scene)[str(SLOW)].limit == 32
        found = scene.findings()["accept_queue"]
        assert found.message == f"accept queue of 1 in 4 sockets full, 9 of 32: {HERE}:{SLOW}"


# SYN queues


def half_open(scene: Scene, number: int, *, resent: bool = False) -> bool:
    """Whether so many are half-open at the slow one; all of them sent another SYN+ACK, if asked."""
    scene.watch()
    (view,) = scene.snapshot.namespaces
    [slow] = [one for one in view.listeners if one.port == SLOW]
    return slow.half_open == number and (not resent or slow.half_open_resent == number)


def test_clients_that_do_not_answer_are_told_from_a_slow_server(namespace: Namespace) -> None:
    """I14: against listen(16), with all SYN+ACKs lost."""
    namespace.filter(f"{ANSWERS} drop")
    with (
        listen(namespace, SLOW, 16),
        listen(namespace, QUICK, 16),
        Scene(namespace, syn_sent=60, syn_recv=60) as scene,
        from_a_second_ago(scene),
        clients(namespace, SLOW, 40),
    ):
        eventually(lambda: half_open(scene, 17, resent=True), "SYN+ACKs are sent again")
        eventually(lambda: agree(namespace, scene), "a moment in which nobody tries again")
        counts = of_listeners(scene, "half_open_connections")
        assert counts == {(HERE, str(SLOW)): 17, (HERE, str(QUICK)): 0}
        assert by_sockwatch(scene)[str(SLOW)].queue == 0
        found = {kind: one for kind, one in scene.findings().items() if kind != "syn_sent"}
        assert [*found] == ["syn_flood"]
        assert (found["syn_flood"].count, found["syn_flood"].limit) == (17, 16)
        cookies = scene.metrics().sum("sockwatch_tcp_syncookies_sent_total")
        assert cookies >= 23
        assert (
            "Within 1 s the kernel has completed 0 connections and sent"
            f" {cookies:,.0f} SYN cookies, of which 0 came back"
        ) in found["syn_flood"].meaning


def test_a_flood_that_has_just_begun_is_none_of_a_small_backlog(namespace: Namespace) -> None:
    """Nothing was sent again yet, but nearly all cookies are lost."""
    namespace.filter(f"{ANSWERS} drop")
    with (
        listen(namespace, SLOW, 16),
        Scene(namespace) as scene,
        from_a_second_ago(scene),
        clients(namespace, SLOW, 60),
    ):
        assert half_open(scene, 17)
        [slow] = scene.snapshot.namespaces[0].listeners
        assert slow.half_open_resent == 0
        found = {kind: one for kind, one in scene.findings().items() if kind != "syn_sent"}
        assert [*found] == ["syn_flood"]
        assert "just begun" in found["syn_flood"].meaning


def test_a_backlog_that_is_too_small_is_no_flood_while_cookies_come_back(
    namespace: Namespace,
) -> None:
    """The last ACKs of some clients take long; the others get in by cookie meanwhile."""
    namespace.filter(f"{ANSWERS} tcp dport 50001-50017 drop")
    with (
        listen(namespace, SLOW, 16) as slow,
        Scene(namespace) as scene,
        from_a_second_ago(scene),
        ExitStack() as held,
    ):
        for port in range(50_001, 50_018):
            client = held.enter_context(namespace.socket(socket.AF_INET))
            client.bind((HERE, port))
            client.setblocking(False)
            client.connect_ex((HERE, SLOW))
        for _ in range(5):
            with clients(namespace, SLOW, 1):
                accept_all(slow, 1)
        assert half_open(scene, 17)
        found = scene.findings()
        assert [*found] == ["syn_queue"]
        assert "sent 5 SYN cookies, of which 5 came back" in found["syn_queue"].meaning
        assert "completed 5 connections" in found["syn_queue"].meaning


def test_more_clients_at_a_time_than_the_backlog_has_room_for(namespace: Namespace) -> None:
    """Those in the queue answer, only not in this very moment."""
    with listen(namespace, SLOW, 16) as slow, Scene(namespace) as scene:
        with clients(namespace, SLOW, 3):
            accept_all(slow, 3)
        namespace.filter(f"{ANSWERS} drop")
        with clients(namespace, SLOW, 19):
            assert half_open(scene, 17)
            found = scene.findings()
            assert [*found] == ["syn_queue"]
            assert (found["syn_queue"].count, found["syn_queue"].limit) == (17, 16)
            assert "backlog" in found["syn_queue"].meaning


def test_who_cannot_leave_the_syn_queue_for_a_slow_server_is_no_flood(
    namespace: Namespace,
) -> None:
    """Clients have answered, and SYN+ACKs are sent again all the same."""
    namespace.filter(f"{ANSWERS} tcp dport 50001-50005 drop")
    with listen(namespace, SLOW, 4), Scene(namespace, syn_recv=60) as scene, ExitStack() as held:
        for port in range(50_001, 50_006):
            client = held.enter_context(namespace.socket(socket.AF_INET))
            client.bind((HERE, port))
            client.setblocking(False)
            client.connect_ex((HERE, SLOW))
        eventually(lambda: half_open(scene, 5, resent=True), "SYN+ACKs are sent again")
        assert "syn_flood" in scene.findings()
        held.enter_context(clients(namespace, SLOW, 10))
        eventually(lambda: by_ss(namespace)[str(SLOW)].queue == 5, "the accept queue is full")
        namespace.run("nft", "flush", "ruleset")
        eventually(lambda: half_open(scene, 5, resent=True), "five are still half-open")
        assert [*scene.findings()] == ["accept_queue"]


def test_syns_that_are_dropped_are_counted_where_there_are_no_cookies(namespace: Namespace) -> None:
    namespace.set_sysctls({"net.ipv4.tcp_syncookies": 0})
    namespace.filter(f"{ANSWERS} drop")
    with (
        listen(namespace, SLOW, 16),
        Scene(namespace, syn_sent=60, syn_recv=60) as scene,
        from_a_second_ago(scene),
        clients(namespace, SLOW, 40),
    ):
        eventually(lambda: half_open(scene, 17, resent=True), "SYN+ACKs are sent again")
        eventually(lambda: agree(namespace, scene), "a moment in which nobody tries again")
        dropped = scene.metrics().sum("sockwatch_tcp_syn_queue_full_drops_total")
        assert dropped >= 23
        assert (
            by_sockwatch(scene)[str(SLOW)].drops >= dropped
        )  # SYNs of the 17 that came again, too
        assert f"and dropped {dropped:,.0f} SYNs for that" in scene.findings()["syn_flood"].meaning


class Door(NamedTuple):
    """A listener, with how many clients come to which address and end there."""

    address: str
    dual: bool
    comes: int
    to: str


DOORS: Final = {
    "specific first": (
        Door("0.0.0.0", False, 2, "127.0.0.2"),
        Door("127.0.0.1", False, 3, "127.0.0.1"),
    ),
    "specific first in IPv6": (
        Door("::", False, 2, "2001:db8::2"),
        Door("2001:db8::1", False, 3, "2001:db8::1"),
    ),
    "dual stack alone": (Door("::", True, 3, "127.0.0.1"),),
    "dual stack behind a specific address": (
        Door("::", True, 2, "127.0.0.2"),
        Door("127.0.0.1", False, 3, "127.0.0.1"),
    ),
    "both wildcards": (
        Door("0.0.0.0", False, 3, "127.0.0.1"),
        Door("::", True, 2, "::1"),
    ),
    "mapped": (
        Door("::ffff:127.0.0.1", True, 3, "127.0.0.1"),
        Door("0.0.0.0", False, 2, "127.0.0.2"),
    ),
}


@pytest.mark.parametrize("doors", DOORS.values(), ids=DOORS)
def test_half_open_connections_end_where_they_are_counted(
    namespace: Namespace, doors: tuple[Door, ...]
) -> None:
    """What the kernel does with them once SYN+ACKs get through is the judge."""
    for address in ("2001:db8::1/128", "2001:db8::2/128"):
        namespace.run("ip", "address", "add", address, "dev", "lo", "nodad")
    namespace.filter(f"{ANSWERS} drop")
    with ExitStack() as held, Scene(namespace) as scene:
        expected = {(door.address, str(SLOW)): door.comes for door in doors}
        for door in doors:
            listener = listen(
                namespace, SLOW, 16, address=door.address, shared=True, dual=door.dual
            )
            held.enter_context(listener)
        for door in doors:
            held.enter_context(clients(namespace, SLOW, door.comes, door.to))
        scene.watch()
        assert of_listeners(scene, "half_open_connections") == expected
        namespace.run("nft", "flush", "ruleset")
        eventually(
            lambda: sum(one.queue for one in by_ss(namespace).values()) == sum(expected.values()),
            "all handshakes end",
        )
        scene.watch()
        assert of_listeners(scene, "accept_queue_length") == expected
        assert set(of_listeners(scene, "half_open_connections").values()) == {0}
