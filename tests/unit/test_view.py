"""A view of a namespace: the newest watch and the newest census, put together."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from readings import BULK, connected, listening, reading

from sockwatch.observe.snapshot import OTHER, NamespaceView, ServiceKey
from sockwatch.observe.view import view
from sockwatch.tcp.records import Reading, Row
from sockwatch.tcp.states import Direction, Family, State, Unowned

UNITS = {1: "web.service", 2: "db.service"}


def seen(of: Reading, bulk: Reading | None = None, limit: int = 1000) -> NamespaceView:
    counted = (bulk or of).bulk
    return view(of, counted, lambda cgroup: UNITS.get(cgroup, ""), limit)


def services(of: NamespaceView) -> dict[ServiceKey, dict[State, int]]:
    return {key: dict(states) for key, states in of.services.items()}


def inbound(port: int, unit: str = "") -> ServiceKey:
    return ServiceKey(Direction.INBOUND, str(port), unit)


def outbound(port: int, unit: str = "") -> ServiceKey:
    return ServiceKey(Direction.OUTBOUND, str(port), unit)


def test_an_idle_host_has_a_zero_for_every_family_and_state() -> None:
    empty = seen(reading())
    assert empty.sockets == dict.fromkeys(product(Family, State), 0)
    assert empty.unowned == dict.fromkeys(Unowned, 0)
    assert (empty.services, empty.folded, empty.listeners) == ({}, 0, ())


def test_before_the_first_census_its_states_are_absent_and_the_others_complete() -> None:
    partial = seen(reading(connected(State.ESTABLISHED, 80, 50000), census=False))
    watched = [state for state in State if state not in BULK]
    assert partial.sockets == dict.fromkeys(product(Family, watched), 0)
    assert partial.unowned is None
    assert partial.services == {}


def test_every_socket_is_counted_by_family_and_state() -> None:
    rows = [listening(80), listening(81), listening(80, "::")]
    for number, state in enumerate(State):
        if state is not State.LISTEN:
            rows += [connected(state, 80, 50000)] * number
            rows += [connected(state, 80, 50000, address="::1")] * (number + 20)
    counted = seen(reading(*rows)).sockets
    for number, state in enumerate(State):
        expected = (2, 1) if state is State.LISTEN else (number, number + 20)
        assert tuple(counted[family, state] for family in Family) == expected


MULTIPATH = (
    State.ESTABLISHED,
    State.FIN_WAIT1,
    State.FIN_WAIT2,
    State.CLOSE_WAIT,
    State.LAST_ACK,
    State.CLOSING,
)


def with_multipath(closing: int, established: int) -> Reading:
    found = reading()
    found.watched.multipath = Counter({(Family.INET6, State.CLOSE_WAIT): closing})
    assert found.bulk is not None
    found.bulk.multipath = Counter({(Family.INET, State.ESTABLISHED): established})
    return found


def test_mptcp_connections_have_a_zero_for_every_family_and_state_they_count_in() -> None:
    counted = seen(with_multipath(3, 0), with_multipath(0, 4)).multipath
    assert counted == dict.fromkeys(product(Family, MULTIPATH), 0) | {
        (Family.INET6, State.CLOSE_WAIT): 3,
        (Family.INET, State.ESTABLISHED): 4,
    }


def test_before_the_first_census_established_mptcp_connections_are_absent() -> None:
    counted = view(with_multipath(3, 4), None, lambda _: "", 10).multipath
    assert counted is not None
    assert {state for _, state in counted} == {*MULTIPATH[1:]}
    assert sum(counted.values()) == 3


def test_without_mptcp_in_the_kernel_nothing_is_said_of_it() -> None:
    assert seen(reading()).multipath is None


def test_the_newest_watch_and_an_older_census_are_put_together() -> None:
    census = reading(
        listening(80),
        connected(State.ESTABLISHED, 80, 50000),
        connected(State.CLOSE_WAIT, 80, 50001),
        unowned={Unowned.ORPHAN: 5},
        unowned_bulk={Unowned.MINI: 2, Unowned.NOT_ACCEPTED: 1},
    )
    watch = reading(
        listening(80),
        connected(State.LAST_ACK, 80, 50001),
        census=False,
        unowned={Unowned.ORPHAN: 1, Unowned.MINI: 3},
    )
    both = seen(watch, census)
    assert {key: count for key, count in both.sockets.items() if count} == {
        (Family.INET, State.LISTEN): 1,
        (Family.INET, State.ESTABLISHED): 1,
        (Family.INET, State.LAST_ACK): 1,
    }
    assert both.unowned == {
        Unowned.HALF_OPEN: 0,
        Unowned.NOT_ACCEPTED: 1,
        Unowned.ORPHAN: 1,
        Unowned.MINI: 5,
    }
    assert services(both) == {inbound(80): {State.ESTABLISHED: 1, State.LAST_ACK: 1}}


def test_without_owners_in_either_part_nothing_is_said_of_unowned_sockets() -> None:
    assert seen(reading(unowned=None)).unowned is None
    assert seen(reading(unowned_bulk=None)).unowned is None


def test_putting_together_leaves_the_readings_as_they_are() -> None:
    """The counts of a census are used again after every watch until the next census."""
    census = reading(listening(80), *[connected(State.ESTABLISHED, 80, 5000)] * 3)
    watch = reading(listening(80), connected(State.CLOSE_WAIT, 80, 5000), census=False)
    first = seen(watch, census)
    assert seen(watch, census) == first
    assert census.bulk is not None
    assert census.bulk.sockets == {(Family.INET, State.ESTABLISHED): 3}
    assert census.watched.sockets == Counter()


@pytest.mark.parametrize(
    ("listener", "served"),
    [
        (listening(80), {"127.0.0.1"}),
        (listening(80, "192.0.2.9"), {"127.0.0.1"}),
        (listening(80, "::", v6_only=False), {"127.0.0.1", "::1"}),
        (listening(80, "::", v6_only=None), {"127.0.0.1", "::1"}),
        (listening(80, "::", v6_only=True), {"::1"}),
        (listening(80, "::1", v6_only=False), {"::1"}),
        (listening(80, "::ffff:127.0.0.1"), {"127.0.0.1", "::1"}),
    ],
    ids=["any4", "one4", "dual stack", "unknown", "v6 only", "one6", "mapped"],
)
def test_a_connection_is_inbound_where_a_listener_could_have_accepted_it(
    listener: Row, served: set[str]
) -> None:
    for address in ("127.0.0.1", "::1"):
        row = connected(State.ESTABLISHED, 80, 50000, address=address)
        other = [key for key in services(seen(reading(listener, row))) if key != inbound(80)]
        assert other == ([] if address in served else [outbound(50000)])


def test_both_ends_of_a_local_connection_are_two_services() -> None:
    rows = [
        listening(80, cgroup=1),
        connected(State.ESTABLISHED, 80, 50000, cgroup=1),
        connected(State.ESTABLISHED, 50000, 80, cgroup=2),
    ]
    assert services(seen(reading(*rows))) == {
        inbound(80, "web.service"): {State.ESTABLISHED: 1},
        outbound(80, "db.service"): {State.ESTABLISHED: 1},
    }


def test_minis_belong_to_the_only_unit_of_their_port() -> None:
    rows = [
        listening(80, cgroup=1),
        connected(State.TIME_WAIT, 80, 50000),
        connected(State.SYN_RECV, 80, 50001),
    ]
    assert services(seen(reading(*rows))) == {
        inbound(80, "web.service"): {State.TIME_WAIT: 1, State.SYN_RECV: 1}
    }


def test_beyond_the_limit_services_are_folded_and_counted() -> None:
    rows = [connected(State.ESTABLISHED, 50000, port) for port in range(1, 31)]
    folded = seen(reading(*rows), limit=10)
    assert folded.folded == 20
    assert len(folded.services) == 11
    other = ServiceKey(Direction.OUTBOUND, OTHER, OTHER)
    assert folded.services[other] == {State.ESTABLISHED: 20}


CONNECTIONS = st.lists(
    st.builds(
        connected,
        st.sampled_from([state for state in State if state is not State.LISTEN]),
        st.sampled_from([80, 443, 50000, 50001]),
        st.sampled_from([80, 5432, 50000]),
        address=st.sampled_from(["127.0.0.1", "::1"]),
        cgroup=st.sampled_from([None, 0, 1, 2, 99]),
    ),
    max_size=40,
)
LISTENERS = st.lists(
    st.builds(
        listening,
        st.sampled_from([80, 443]),
        st.sampled_from(["0.0.0.0", "::", "127.0.0.1"]),
        cgroup=st.sampled_from([None, 1, 2]),
    ),
    max_size=5,
)


@given(CONNECTIONS, LISTENERS, st.integers(1, 8))
def test_services_add_up_to_the_totals(
    connections: list[Row], listeners: list[Row], limit: int
) -> None:
    """`sum()` over either metric means the same."""
    found = seen(reading(*connections, *listeners), limit=limit)
    by_state: Counter[State] = Counter()
    for states in found.services.values():
        by_state.update(states)
    totals = Counter({state: sum(found.sockets[f, state] for f in Family) for state in State})
    totals[State.LISTEN] -= len(listeners)
    assert +by_state == +totals
    assert sum(one.sockets for one in found.listeners) == len(listeners)
