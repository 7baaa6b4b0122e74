"""Sockets in the tables of every namespace, and those in none, on a live kernel.

What is counted is of the whole host, where others have sockets too: there are enough of the
test's own to stand out, and a try that somebody disturbed is repeated.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import Final

import pytest
from guards import need
from lab import Namespace, Stage, eventually
from lab.stage import reset

from sockwatch.kernel.counters import Counters
from sockwatch.kernel.hashed import hashed_everywhere
from sockwatch.observe.figures import hidden_sockets
from sockwatch.tcp.states import Family

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.may_skip_in_ci("a container does not see the processes of its host"),
]

MANY: Final = 400
OTHERS: Final = 100
"""Sockets that others may open or close meanwhile."""
PORT: Final = 7100


@pytest.fixture(autouse=True)
def whole_host(laboratory: None) -> None:
    need(hashed_everywhere() is not None, "needs to see every process of the host")


def hashed() -> int:
    known = hashed_everywhere()
    assert known is not None
    return known


def hidden() -> int:
    known = hidden_sockets(Counters().read(), hashed_everywhere())
    assert known is not None
    return known


@contextmanager
def listeners(namespace: Namespace) -> Iterator[None]:
    with ExitStack() as opened:
        for _ in range(MANY):
            sock = opened.enter_context(closing(namespace.socket(socket.AF_INET)))
            sock.listen()
        yield


@contextmanager
def dead(namespace: Namespace) -> Iterator[None]:
    """Clients whose servers have reset them, and that nobody has closed."""
    with Stage(namespace) as stage:
        for _ in range(MANY):
            _, server = stage.pair(Family.INET, PORT)
            reset(server)
        yield


@contextmanager
def only_made(namespace: Namespace) -> Iterator[None]:
    with ExitStack() as opened:
        for _ in range(MANY):
            opened.enter_context(closing(namespace.socket(socket.AF_INET6)))
        yield


@contextmanager
def only_bound(namespace: Namespace) -> Iterator[None]:
    with Stage(namespace) as stage:
        for _ in range(MANY):
            stage.bind(Family.INET6)
        yield


Make = Callable[[Namespace], AbstractContextManager[None]]


def adds(measure: Callable[[], int], make: Make, expected: int) -> None:
    """Whether the sockets that are made add so many to what is measured."""

    def close_enough() -> bool:
        with Namespace() as namespace:
            namespace.start("sleep", "60")  # else nothing in /proc shows the namespace
            eventually(namespace.processes, "a process inside")
            before = measure()
            with make(namespace):
                return abs(measure() - before - expected) <= OTHERS

    eventually(close_enough, f"{expected} more", timeout=20)


def test_sockets_of_another_namespace_are_in_its_tables(laboratory: None) -> None:
    adds(hashed, listeners, MANY)


def test_sockets_in_tables_are_not_hidden_wherever_they_are(laboratory: None) -> None:
    adds(hidden, listeners, 0)


@pytest.mark.parametrize("make", [dead, only_made, only_bound])
def test_sockets_in_no_table_are_hidden(make: Make) -> None:
    adds(hidden, make, MANY)


@pytest.mark.parametrize("make", [dead, only_made, only_bound])
def test_sockets_in_no_table_are_in_no_table(make: Make) -> None:
    adds(hashed, make, 0)
