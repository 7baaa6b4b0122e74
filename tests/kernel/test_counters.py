"""The kernel's counters and limits: equal to nstat's and /proc's, and moved by what they count."""

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import pytest
from guards import need_command
from lab import RECIPES, Namespace, Stage, eventually, vanish
from lab.stage import TCP_REPAIR, reach, reset

from sockwatch.kernel.counters import Counters, read_limits
from sockwatch.observe.figures import (
    ABORTS,
    COUNTERS,
    MEMORY_LEVELS,
    Figures,
    figures,
    host_figures,
)
from sockwatch.tcp.states import Family, State

pytestmark = pytest.mark.kernel

PORT: Final = 7100
LOOPBACK: Final = "127.0.0.1"
NOBODY: Final = 65534

# include/uapi/linux/tcp.h
TCP_LINGER2: Final = 8
TCP_USER_TIMEOUT: Final = 18


def read(namespace: Namespace) -> Figures:
    with namespace.entered():
        groups, limits = Counters().read(), read_limits()
    return figures(groups, limits, host_figures(groups, limits, None))


def counted(namespace: Namespace) -> dict[str, int]:
    """All counters, those of aborts as `abort_<reason>`."""
    known = read(namespace)
    aborts = {f"abort_{reason}": number for reason, number in known.aborts.items()}
    return {**known.counters, **aborts}


Stimulus = Callable[[Namespace, ExitStack], object]


def moved(namespace: Namespace, stimulus: Stimulus) -> dict[str, int]:
    """What the stimulus adds to the counters, those left out that it does not move."""
    before = counted(namespace)
    with ExitStack() as opened:
        with namespace.entered():
            stimulus(namespace, opened)
        after = counted(namespace)
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def listen(opened: ExitStack, backlog: int = 8) -> socket.socket:
    server = opened.enter_context(closing(socket.create_server((LOOPBACK, PORT), backlog=backlog)))
    server.settimeout(5)
    return server


def knock(opened: ExitStack) -> socket.socket:
    """A client that has begun to connect."""
    client = opened.enter_context(closing(socket.socket()))
    client.setblocking(False)
    client.connect_ex((LOOPBACK, PORT))
    return client


def pair(opened: ExitStack, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Both ends of an accepted connection: client, server."""
    client = knock(opened)
    accepted, _ = server.accept()
    opened.enter_context(closing(accepted))
    return client, accepted


def wait_until(namespace: Namespace, name: str, number: int) -> None:
    """Wait for a counter that the kernel moves in its own time."""
    eventually(lambda: counted(namespace)[name] >= number, f"{name} at {number}")


# Equal to other readers


@pytest.fixture
def busy(namespace: Namespace) -> Iterator[Namespace]:
    """A namespace in which most counters have moved."""
    with Stage(namespace) as stage:
        for recipe in RECIPES:
            for family in Family:
                stage.play(recipe, family, 1)
        yield namespace


def test_counters_are_those_of_nstat(busy: Namespace) -> None:
    need_command("nstat", "iproute2")
    before, told, after = (
        counted(busy),
        json.loads(busy.run("nstat", "-azsj"))["kernel"],
        counted(busy),
    )
    names = {name: "".join(kernel) for name, kernel in COUNTERS.items()} | {
        f"abort_{reason}": "".join(kernel) for reason, kernel in ABORTS.items()
    }
    assert before.keys() == names.keys()
    for name, kernel in names.items():
        assert before[name] <= told[kernel] <= after[name]
    assert sum(after.values()) - sum(before.values()) < 10  # retransmissions
    assert before["active_opens"] >= len(RECIPES)


def test_a_namespace_counts_for_itself(busy: Namespace) -> None:
    with Namespace() as other:
        assert counted(busy)["passive_opens"] > 0
        assert set(counted(other).values()) == {0}


def test_another_namespace_is_read_in_a_thread_that_entered_it(busy: Namespace) -> None:
    """/proc/net and /proc/self/net would be those of the process, which has stayed outside."""
    with ThreadPoolExecutor(1) as threads, Namespace() as other:
        inside = [threads.submit(counted, one).result(10) for one in (busy, other)]
    assert inside[0]["passive_opens"] > 0
    assert set(inside[1].values()) == {0}


def test_limits_are_those_of_the_namespace(laboratory: None) -> None:
    limits: dict[str, int | str] = {
        "net.core.somaxconn": 77,
        "net.ipv4.tcp_max_syn_backlog": 66,
        "net.ipv4.tcp_max_tw_buckets": 55,
        "net.ipv4.ip_local_port_range": "40000 40099",
        "net.ipv4.ip_local_reserved_ports": "40010-40019,40050,50000",
    }
    with Namespace(sysctls=limits) as namespace:
        known = read(namespace)
    assert (known.somaxconn, known.max_syn_backlog, known.time_wait_limit) == (77, 66, 55)
    assert known.ephemeral_ports == 89


def test_limits_of_the_host_are_known_in_its_own_namespace_only(namespace: Namespace) -> None:
    inside = read(namespace).host
    assert inside is not None
    assert (inside.orphan_limit, inside.memory_limits) == (None, {})
    assert inside.orphans is not None
    if Path("/proc/sys/net/ipv4/tcp_mem").exists():
        limits = read_limits()
        outside = host_figures(Counters().read(), limits, None)
        pages = Path("/proc/sys/net/ipv4/tcp_mem").read_text().split()
        assert [outside.memory_limits[level] for level in MEMORY_LEVELS] == [
            int(number) * limits.page_bytes for number in pages
        ]


def test_as_many_ports_are_ephemeral_as_connect_finds(laboratory: None) -> None:
    sysctls = {
        "net.ipv4.ip_local_port_range": "40000 40009",
        "net.ipv4.ip_local_reserved_ports": "39990-40001,40005",
    }
    with Namespace(sysctls=sysctls) as namespace, ExitStack() as opened:
        with namespace.entered():
            listen(opened, backlog=64)
            for _ in range(7):
                opened.enter_context(socket.create_connection((LOOPBACK, PORT), timeout=5))
            with pytest.raises(OSError, match="Cannot assign requested address"):
                socket.create_connection((LOOPBACK, PORT), timeout=5)
        assert read(namespace).ephemeral_ports == 7


def test_an_unprivileged_reader_knows_as_much(busy: Namespace) -> None:
    with busy.entered():
        limits = read_limits()
    assert busy.call(Counters().read, uid=NOBODY).keys() == {"Tcp", "TcpExt", "TCP"}
    assert busy.call(read_limits, uid=NOBODY) == limits


def test_time_wait_and_orphans_are_those_on_the_stage(namespace: Namespace) -> None:
    minis = [one for one in RECIPES if one.name in {"time_wait", "fin_wait2, mini"}]
    with Stage(namespace) as stage:
        for recipe in minis:
            for family in Family:
                stage.play(recipe, family, 3)
        assert read(namespace).time_wait == 12


# Moved by what they count


def an_accepted_connection(namespace: Namespace, opened: ExitStack) -> None:
    pair(opened, listen(opened))


def a_refused_connect(namespace: Namespace, opened: ExitStack) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, PORT), timeout=5)


def a_full_accept_queue(namespace: Namespace, opened: ExitStack) -> None:
    """Two are accepted by the kernel at a backlog of 1; the SYN of the third is dropped."""
    listen(opened, backlog=1)
    for _ in range(2):
        reach(State.ESTABLISHED, knock(opened))
    knock(opened)


def a_full_syn_queue(namespace: Namespace, opened: ExitStack) -> None:
    """Last ACKs are dropped: three half-open ones fit at a backlog of 2, the fourth SYN not."""
    namespace.filter(f"tcp dport {PORT} tcp flags & syn == 0x0 drop")
    listen(opened, backlog=2)
    for _ in range(4):
        knock(opened)


def a_full_syn_queue_without_cookies(namespace: Namespace, opened: ExitStack) -> None:
    namespace.set_sysctls({"net.ipv4.tcp_syncookies": 0})
    a_full_syn_queue(namespace, opened)


def a_connection_by_cookie(namespace: Namespace, opened: ExitStack) -> None:
    """With 2 every SYN is answered with a cookie, and counted as if the queue were full."""
    namespace.set_sysctls({"net.ipv4.tcp_syncookies": 2})
    an_accepted_connection(namespace, opened)


def an_ack_that_is_no_cookie(namespace: Namespace, opened: ExitStack) -> None:
    """Shortly after a cookie was sent; the segment comes from a connection that never was."""
    a_connection_by_cookie(namespace, opened)
    stranger = opened.enter_context(closing(socket.socket()))
    stranger.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    stranger.connect((LOOPBACK, PORT))
    stranger.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)  # sends a window probe
    stranger.close()


def an_unanswered_syn(namespace: Namespace, opened: ExitStack) -> None:
    namespace.filter(f"tcp dport {PORT} drop")
    knock(opened)
    wait_until(namespace, "syn_retransmissions", 1)


def a_close_with_data_unread(namespace: Namespace, opened: ExitStack) -> None:
    client, server = pair(opened, listen(opened))
    client.send(b"unread")
    eventually(lambda: server.recv(1, socket.MSG_PEEK), "data arrived")
    server.close()


def a_close_with_linger_0(namespace: Namespace, opened: ExitStack) -> None:
    _, server = pair(opened, listen(opened))
    reset(server)


def a_peer_that_never_answers(namespace: Namespace, opened: ExitStack) -> None:
    client, _ = pair(opened, listen(opened))
    namespace.filter(f"tcp dport {PORT} drop")
    client.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 100)
    client.send(b"lost")
    wait_until(namespace, "abort_timeout", 1)


def a_close_that_will_not_linger_in_fin_wait2(namespace: Namespace, opened: ExitStack) -> None:
    client, server = pair(opened, listen(opened))
    client.setsockopt(socket.IPPROTO_TCP, TCP_LINGER2, -1)
    client.shutdown(socket.SHUT_WR)
    reach(State.FIN_WAIT2, client)
    vanish(server)
    client.close()


def more_time_wait_than_allowed(namespace: Namespace, opened: ExitStack) -> None:
    namespace.set_sysctls({"net.ipv4.tcp_max_tw_buckets": 1})
    server = listen(opened)
    for _ in range(2):
        client, accepted = pair(opened, server)
        client.shutdown(socket.SHUT_WR)
        accepted.close()
        reach(State.CLOSE, client)


OPENED: Final = {"active_opens": 1, "passive_opens": 1}
BY_COOKIE: Final = OPENED | {
    "syn_queue_full_cookies": 1,
    "syncookies_sent": 1,
    "syncookies_received": 1,
}
STIMULI: Final[dict[Stimulus, dict[str, int]]] = {
    an_accepted_connection: OPENED,
    a_refused_connect: {"active_opens": 1, "attempt_fails": 1},
    a_full_accept_queue: {
        "active_opens": 3,
        "passive_opens": 2,
        "listen_overflows": 1,
        "listen_drops": 1,
    },
    a_full_syn_queue: {"active_opens": 4, "syn_queue_full_cookies": 1, "syncookies_sent": 1},
    a_full_syn_queue_without_cookies: {
        "active_opens": 4,
        "syn_queue_full_drops": 1,
        "listen_drops": 1,
    },
    a_connection_by_cookie: BY_COOKIE,
    an_ack_that_is_no_cookie: BY_COOKIE | {"syncookies_failed": 1, "established_resets": 1},
    an_unanswered_syn: {"active_opens": 1, "syn_retransmissions": 1},
    a_close_with_data_unread: OPENED | {"abort_close": 1, "established_resets": 2},
    a_close_with_linger_0: OPENED | {"abort_data": 1, "established_resets": 2},
    a_peer_that_never_answers: OPENED | {"abort_timeout": 1, "established_resets": 1},
    a_close_that_will_not_linger_in_fin_wait2: OPENED
    | {"abort_linger": 1, "established_resets": 1},  # the latter by the end that vanishes
    more_time_wait_than_allowed: {
        "active_opens": 2,
        "passive_opens": 2,
        "time_wait_overflows": 1,
    },
}
NOT_PROVOKED: Final = {"abort_memory"}
"""Takes more orphans than the whole host may have, or all its memory for TCP."""


@pytest.mark.parametrize(
    ("stimulus", "expected"), STIMULI.items(), ids=lambda one: getattr(one, "__name__", "")
)
def test_a_stimulus_moves_its_counters_and_no_other(
    namespace: Namespace, stimulus: Stimulus, expected: dict[str, int]
) -> None:
    assert moved(namespace, stimulus) == expected


def test_every_counter_is_provoked() -> None:
    provoked = set().union(*STIMULI.values())
    assert provoked | NOT_PROVOKED == {*COUNTERS, *(f"abort_{reason}" for reason in ABORTS)}
