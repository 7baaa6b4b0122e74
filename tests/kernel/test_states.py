"""Every TCP state, on both families, on live sockets: sockwatch counts what ss and pyroute2 count.

CLOSE is the state of sockets in no table: only bound, or dead with the descriptor open. No oracle
counts those, and sockwatch must not either. Kernels since 6.8 show the bound ones to whoever sets
bit 13 of the mask, which sockwatch never does because that walk is dear.
"""

import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Final

import pytest
from guards import need
from lab import RECIPES, Namespace, Recipe, Stage, eventually, retransmissions, tcp_state
from oracles import (
    ORACLES,
    Counted,
    netlink_counts,
    psutil_counts,
    ss_counts,
    watch_counts,
)
from pyroute2 import DiagSocket

from sockwatch.tcp.states import Family, State, Unowned

pytestmark = pytest.mark.kernel

NOBODY: Final = 65534
BOUND_INACTIVE: Final = 1 << 13  # include/net/tcp_states.h, since 6.8

READERS: Final[Mapping[str, Callable[[], Counted]]] = {"sockwatch": netlink_counts, **ORACLES}
COMBINATIONS: Final = tuple(product(Family, (state for state in State if state)))
UNLISTED: Final = tuple(recipe for recipe in RECIPES if not recipe.listed)


def name_of(value: object) -> str:
    match value:
        case Family() | State():
            return value.label
        case Recipe():
            return value.name.replace(",", "").replace(" ", "_")
        case _:
            return str(value)


def crowd_into(stage: Stage) -> None:
    """Make another number of sockets by each recipe and family, so that no mix-up goes unseen."""
    for count, (recipe, family) in enumerate(product(RECIPES, Family), start=1):
        stage.play(recipe, family, count)


@pytest.fixture(scope="module")
def crowd(laboratory: None) -> Iterator[Stage]:
    """Sockets in every state and family, and of every unowned kind, in one namespace."""
    with Namespace() as namespace, Stage(namespace) as stage:
        crowd_into(stage)
        yield stage


@pytest.fixture(scope="module")
def readings(crowd: Stage) -> Mapping[str, Counted]:
    """The crowd as each reader counts it."""
    return {name: crowd.namespace.call(read) for name, read in READERS.items()}


def test_no_two_combinations_have_the_same_number(crowd: Stage) -> None:
    """Else a reader that takes one for the other would pass."""
    counts = [crowd.sockets[key] for key in COMBINATIONS if key[1] is not State.CLOSE]
    assert len(counts) == 20
    assert all(counts)
    assert len({*counts}) == len(counts)
    assert len({*crowd.unowned.values()}) == len(Unowned)


@pytest.mark.parametrize(("family", "state"), COMBINATIONS, ids=name_of)
def test_all_readers_count_a_state_alike(
    family: Family, state: State, crowd: Stage, readings: Mapping[str, Counted]
) -> None:
    counts = {name: reading.sockets[family, state] for name, reading in readings.items()}
    assert counts == dict.fromkeys(READERS, crowd.sockets[family, state])


@pytest.mark.parametrize("kind", Unowned)
def test_all_readers_count_a_kind_of_unowned_socket_alike(
    kind: Unowned, crowd: Stage, readings: Mapping[str, Counted]
) -> None:
    counts = {name: (reading.unowned or Counter())[kind] for name, reading in readings.items()}
    assert counts == dict.fromkeys(READERS, crowd.unowned[kind])


@pytest.mark.parametrize("name", READERS)
def test_nobody_counts_what_root_counts(
    name: str, crowd: Stage, readings: Mapping[str, Counted]
) -> None:
    assert crowd.namespace.call(READERS[name], uid=NOBODY) == readings[name]


def test_a_watch_pass_counts_all_but_the_healthy_states(crowd: Stage) -> None:
    watched = crowd.namespace.call(watch_counts)
    left_out = {State.ESTABLISHED, State.TIME_WAIT}
    assert watched.sockets == Counter(
        {key: count for key, count in crowd.sockets.items() if key[1] not in left_out}
    )


@pytest.mark.parametrize("uid", [None, NOBODY])
def test_psutil_counts_the_same_and_knows_nothing_of_owners(
    uid: int | None, crowd: Stage, readings: Mapping[str, Counted]
) -> None:
    assert crowd.namespace.call(psutil_counts, uid=uid) == Counted(readings["ss"].sockets, None)


def unanswered(crowd: Stage) -> list[socket.socket]:
    """Who has sent a SYN or a FIN and waits for its acknowledgement."""
    states = {State.SYN_SENT, State.FIN_WAIT1, State.CLOSING, State.LAST_ACK}
    return [sock for sock in crowd.held if tcp_state(sock) in states]


def test_the_counts_outlast_retransmissions(crowd: Stage) -> None:
    eventually(lambda: all(map(retransmissions, unanswered(crowd))), "everybody sends again")
    seen = {name: crowd.namespace.call(read).sockets for name, read in READERS.items()}
    assert seen == dict.fromkeys(READERS, crowd.sockets)


@pytest.mark.parametrize(("recipe", "family"), [*product(RECIPES, Family)], ids=name_of)
def test_a_recipe_makes_what_it_says_and_nothing_else(
    recipe: Recipe, family: Family, namespace: Namespace
) -> None:
    with Stage(namespace) as stage:
        stage.play(recipe, family, 2)
        expected = Counted(stage.sockets, stage.unowned)
        assert {name: namespace.call(read) for name, read in READERS.items()} == dict.fromkeys(
            READERS, expected
        )


@pytest.mark.parametrize(("recipe", "family"), [*product(UNLISTED, Family)], ids=name_of)
def test_a_socket_in_no_table_is_in_state_close(
    recipe: Recipe, family: Family, namespace: Namespace
) -> None:
    with Stage(namespace) as stage:
        assert [tcp_state(sock) for sock in stage.play(recipe, family, 3)] == [State.CLOSE] * 3


def bound_inactive(family: Family) -> int:
    with DiagSocket() as diag:
        diag.bind()
        return len(diag.get_sock_stats(family=family, states=BOUND_INACTIVE))


@pytest.mark.may_skip_in_ci("an older kernel is no fault of the machine")
@pytest.mark.parametrize("family", Family, ids=name_of)
def test_a_bound_socket_is_shown_only_to_who_asks_for_it(
    family: Family, namespace: Namespace
) -> None:
    with Stage(namespace) as stage:
        (bound,) = (recipe for recipe in RECIPES if recipe.name == "bound")
        stage.play(bound, family, 3)
        assert namespace.call(netlink_counts) == namespace.call(ss_counts)
        assert not namespace.call(netlink_counts).sockets.total()
        shown = namespace.call(bound_inactive, family)
        need(shown > 0, "needs a kernel with TCP_BOUND_INACTIVE (6.8)")
        assert shown == 3


def test_a_v4_connection_of_a_dual_stack_listener_is_ipv6_at_the_server(
    namespace: Namespace,
) -> None:
    with namespace.entered():
        listener = socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True)
        client = socket.create_connection(("127.0.0.1", 7000), timeout=5)
    server, _ = listener.accept()
    with listener, client, server:
        client_end = (Family.INET, State.ESTABLISHED)
        server_end = (Family.INET6, State.ESTABLISHED)
        expected = Counter([(Family.INET6, State.LISTEN), client_end, server_end])
        seen = {name: namespace.call(read).sockets for name, read in READERS.items()}
        assert seen == dict.fromkeys(READERS, expected)
