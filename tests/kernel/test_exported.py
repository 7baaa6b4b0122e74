"""What a daemon tells of a namespace in which there is something of everything."""

import socket
from contextlib import ExitStack
from typing import Final

import pytest
from catalogue import DESIGN
from daemon import Daemon, running
from lab import Namespace

from sockwatch.kernel.hashed import hashed_everywhere

pytestmark = pytest.mark.kernel

PORT: Final = 7001
NOBODY: Final = "192.0.2.7"
SETTINGS: Final = {"net.ipv4.ip_local_port_range": "40000 40079"}
"""So few ports that ten connections crowd a destination, so many that asking again and again does
not use them up before the kernel lends one anew (after a second, tcp_tw_reuse on loopback)."""
FLAGS: Final = (
    "--watch.interval=200ms",
    "--census.interval=500ms",
    "--cpu.budget=0",
    "--ages.close-wait=300ms",
    "--ages.syn-sent=300ms",
)
OF_THE_HOST: Final = {"sockwatch_tcp_orphan_sockets_limit", "sockwatch_tcp_memory_limit_bytes"}
"""Their sysctls exist in the initial namespace alone."""


def connect(namespace: Namespace, held: ExitStack) -> None:
    """Five connections that nobody closes, five that only the client closes, five unanswered."""
    server = held.enter_context(namespace.socket(socket.AF_INET))
    server.bind(("127.0.0.1", PORT))
    server.listen(16)
    for number in range(10):
        client = held.enter_context(namespace.socket(socket.AF_INET))
        client.connect(("127.0.0.1", PORT))
        held.enter_context(server.accept()[0])
        if number % 2:
            client.close()
    for _ in range(5):
        client = held.enter_context(namespace.socket(socket.AF_INET))
        client.setblocking(False)
        client.connect_ex((NOBODY, PORT))


def missing(daemon: Daemon) -> set[str]:
    return DESIGN.keys() - {sample.name for sample in daemon.metrics().samples}


def unseen() -> set[str]:
    """What cannot be counted where a namespace may have been left out, as by `ip netns add`."""
    return set() if hashed_everywhere() is not None else {"sockwatch_tcp_hidden_sockets"}


def test_every_metric_of_the_design_is_exported(namespace: Namespace) -> None:
    namespace.set_sysctls(SETTINGS)
    namespace.run("ip", "address", "add", f"{NOBODY}/32", "dev", "lo")
    namespace.filter(f"ip daddr {NOBODY} tcp flags & (syn | ack) == syn drop")
    with ExitStack() as held:
        connect(namespace, held)
        daemon = held.enter_context(running(*FLAGS, namespace=namespace))
        daemon.until(lambda: missing(daemon) == OF_THE_HOST | unseen(), "every metric")
