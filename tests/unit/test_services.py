"""Connections by service: whose they are, and how many services are told apart."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots import listener

from sockwatch.observe import services as services_module
from sockwatch.observe.ranking import Ranking, Services
from sockwatch.observe.services import Namer, ServiceMemory, told_apart
from sockwatch.observe.snapshot import OTHER, Listener, ServiceKey
from sockwatch.tcp.records import ServicePort
from sockwatch.tcp.states import Direction, State

INBOUND, OUTBOUND = Direction
UNITS = {1: "web.service", 2: "db.service", 3: "batch.service", 4: "web.service"}


def unit_of(cgroup: int) -> str:
    return UNITS.get(cgroup, "")


def found(
    counted: Mapping[ServicePort, int], listening: Iterable[Listener] = ()
) -> dict[ServiceKey, dict[State, int]]:
    named, _ = told_apart(counted, {}, tuple(listening), unit_of, limit=1_000)
    return {key: dict(states) for key, states in named.items()}


def fold(found: Services, limit: int, shown: Iterable[ServiceKey] = ()) -> tuple[Services, int]:
    return Ranking(found).fold({}, limit, dict.fromkeys(shown))


def inbound(port: int | str, unit: str = "") -> ServiceKey:
    return ServiceKey(INBOUND, str(port), unit)


def outbound(port: int | str, unit: str = "") -> ServiceKey:
    return ServiceKey(OUTBOUND, str(port), unit)


def test_connections_are_counted_by_direction_port_and_unit() -> None:
    counted = {
        ServicePort(INBOUND, 80, 1, State.ESTABLISHED): 5,
        ServicePort(INBOUND, 80, 1, State.CLOSE_WAIT): 2,
        ServicePort(OUTBOUND, 80, 1, State.ESTABLISHED): 3,
        ServicePort(OUTBOUND, 5432, 2, State.SYN_SENT): 1,
    }
    assert found(counted) == {
        inbound(80, "web.service"): {State.ESTABLISHED: 5, State.CLOSE_WAIT: 2},
        outbound(80, "web.service"): {State.ESTABLISHED: 3},
        outbound(5432, "db.service"): {State.SYN_SENT: 1},
    }


def test_cgroups_of_one_unit_are_added_up() -> None:
    counted = {ServicePort(OUTBOUND, 443, cgroup, State.ESTABLISHED): cgroup for cgroup in (1, 4)}
    assert found(counted) == {outbound(443, "web.service"): {State.ESTABLISHED: 5}}


def test_connections_of_a_listener_that_was_opened_for_a_unit_are_the_units() -> None:
    """They carry the cgroup of who opened it, here 3; on other ports that is that one's own."""
    activated = replace(listener(80, "activated.service"), lent=(3,))
    counted = {
        ServicePort(INBOUND, 80, 3, State.ESTABLISHED): 5,
        ServicePort(INBOUND, 80, 0, State.TIME_WAIT): 2,
        ServicePort(INBOUND, 80, 1, State.ESTABLISHED): 1,
        ServicePort(INBOUND, 81, 3, State.ESTABLISHED): 1,
        ServicePort(OUTBOUND, 80, 3, State.ESTABLISHED): 1,
    }
    assert found(counted, [activated]) == {
        inbound(80, "activated.service"): {State.ESTABLISHED: 5, State.TIME_WAIT: 2},
        inbound(80, "web.service"): {State.ESTABLISHED: 1},
        inbound(81, "batch.service"): {State.ESTABLISHED: 1},
        outbound(80, "batch.service"): {State.ESTABLISHED: 1},
    }


def test_a_listener_without_connections_is_a_service_too() -> None:
    """So that its series begin before its first connection, and last after the last."""
    assert found({}, [listener(80, "web.service"), listener(22)]) == {
        inbound(80, "web.service"): {},
        inbound(22): {},
    }


def test_what_carries_no_cgroup_belongs_to_the_only_unit_that_listens_on_its_port() -> None:
    counted = {
        ServicePort(INBOUND, 80, 0, State.SYN_RECV): 4,
        ServicePort(INBOUND, 80, 0, State.TIME_WAIT): 9,
        ServicePort(INBOUND, 80, 1, State.ESTABLISHED): 1,
    }
    both_families = [listener(80, "web.service"), listener(80, "web.service", address="::")]
    assert found(counted, both_families) == {
        inbound(80, "web.service"): {
            State.SYN_RECV: 4,
            State.TIME_WAIT: 9,
            State.ESTABLISHED: 1,
        }
    }


def test_what_could_be_of_several_units_is_of_none() -> None:
    counted = {ServicePort(INBOUND, 80, 0, State.TIME_WAIT): 9}
    two = [
        listener(80, "web.service", address="127.0.0.1"),
        listener(80, "db.service", address="127.0.0.2"),
    ]
    assert found(counted, two)[inbound(80)] == {State.TIME_WAIT: 9}


def test_what_goes_out_without_a_cgroup_has_no_unit() -> None:
    """The port is one of another host: who listens on it here has nothing to do with it."""
    counted = {ServicePort(OUTBOUND, 80, 0, State.TIME_WAIT): 9}
    assert found(counted, [listener(80, "web.service")]) == {
        inbound(80, "web.service"): {},
        outbound(80): {State.TIME_WAIT: 9},
    }


def test_a_cgroup_without_a_name_is_not_given_to_the_listener() -> None:
    """It has a unit, just not a known one: most likely another than that of the listener."""
    counted = {ServicePort(INBOUND, 80, 99, State.ESTABLISHED): 2}
    assert found(counted, [listener(80, "web.service")])[inbound(80)] == {State.ESTABLISHED: 2}


def test_connections_whose_listener_is_gone_keep_their_service() -> None:
    counted = {ServicePort(INBOUND, 80, 1, State.CLOSE_WAIT): 2}
    assert found(counted) == {inbound(80, "web.service"): {State.CLOSE_WAIT: 2}}


def some(number: int, **states: int) -> dict[ServiceKey, Counter[State]]:
    """So many services with the same connections."""
    counts = Counter({State[name.upper()]: count for name, count in states.items()})
    return {outbound(port): Counter(counts) for port in range(1, number + 1)}


def test_within_the_limit_nothing_is_folded() -> None:
    all_of_them = some(3, established=1)
    assert fold(all_of_them, 3) == (all_of_them, 0)


def test_beyond_the_limit_the_others_are_added_up() -> None:
    kept, folded = fold(some(5, established=2, time_wait=1), 3)
    assert folded == 2
    assert len(kept) == 4
    assert kept[outbound(OTHER, OTHER)] == {State.ESTABLISHED: 4, State.TIME_WAIT: 2}


def test_there_is_one_other_for_each_direction_that_needs_it() -> None:
    many = some(3, established=9) | {inbound(port): Counter() for port in (1, 2)}
    kept, folded = fold(many, 1)
    assert folded == 4
    others = {key for key in kept if key.port == OTHER}
    assert others == {inbound(OTHER, OTHER), outbound(OTHER, OTHER)}
    assert kept[inbound(OTHER, OTHER)] == {}


def test_services_with_trouble_are_kept_before_large_ones() -> None:
    large = some(10, established=1000, time_wait=1000)
    small = {inbound(80, "sick.service"): Counter({State.CLOSE_WAIT: 1})}
    kept, _ = fold(large | small, 1)
    assert inbound(80, "sick.service") in kept


def test_of_services_with_trouble_that_with_most_of_it_is_kept() -> None:
    large = {outbound(443): Counter({State.CLOSE_WAIT: 1, State.ESTABLISHED: 1000})}
    small = {inbound(80): Counter({State.CLOSE_WAIT: 2})}
    kept, _ = fold(large | small, 1)
    assert set(kept) == {inbound(80), outbound(OTHER, OTHER)}


def test_large_services_are_kept_before_small_ones() -> None:
    sized = {outbound(port): Counter({State.ESTABLISHED: port}) for port in range(1, 101)}
    kept, folded = fold(sized, 10)
    assert set(kept) == {*map(outbound, range(91, 101)), outbound(OTHER, OTHER)}
    assert folded == 90


def test_what_is_shown_already_is_kept_before_what_is_larger() -> None:
    """Else label sets would come and go with every small change."""
    before, _ = fold(some(20, established=5), 10)
    grown = some(20, established=5)
    for key in grown.keys() - before.keys():
        grown[key][State.ESTABLISHED] = 6
    after, _ = fold(grown, 10, before.keys())
    assert set(after) == set(before)


def test_trouble_gets_in_whatever_is_shown() -> None:
    before, _ = fold(some(20, established=5), 10)
    changed = some(20, established=5)
    (newcomer, *_) = changed.keys() - before.keys()
    changed[newcomer][State.SYN_SENT] = 1
    after, _ = fold(changed, 10, before.keys())
    assert newcomer in after
    assert len(set(after) - set(before)) == 1


@pytest.mark.parametrize("limit", [1, 10])
def test_folding_what_is_folded_already_changes_nothing(limit: int) -> None:
    once, _ = fold(some(20, established=5), limit)
    again, _ = fold(some(20, established=5), limit, once.keys())
    assert again == once
    assert list(again) == list(once)


KEYS = st.builds(
    ServiceKey,
    st.sampled_from(Direction),
    st.integers(1, 40).map(str),
    st.sampled_from(["", "a.service", "b.service"]),
)
COUNTS = st.dictionaries(st.sampled_from(State), st.integers(1, 10**6)).map(Counter)
SERVICES = st.dictionaries(KEYS, COUNTS, max_size=60)


def totals(of: Services) -> Counter[tuple[Direction, State]]:
    result: Counter[tuple[Direction, State]] = Counter()
    for key, states in of.items():
        result.update({(key.direction, state): count for state, count in states.items()})
    return result


@given(SERVICES, st.integers(1, 20), st.frozensets(KEYS))
def test_folding_loses_no_connection_and_keeps_to_the_limit(
    all_of_them: dict[ServiceKey, Counter[State]], limit: int, shown: frozenset[ServiceKey]
) -> None:
    before = {key: Counter(states) for key, states in all_of_them.items()}
    kept, folded = fold(all_of_them, limit, shown)
    assert totals(kept) == totals(all_of_them)
    assert folded == max(0, len(all_of_them) - limit)
    own = {key for key in kept if key.port != OTHER}
    assert len(own) == len(all_of_them) - folded
    assert len(kept) - len(own) <= 2
    assert {key: kept[key] for key in own} == {key: before[key] for key in own}
    assert all_of_them == before, "what was counted belongs to the reading, which is kept"


@given(SERVICES, st.integers(1, 20))
def test_without_a_change_the_same_services_are_shown(
    all_of_them: dict[ServiceKey, Counter[State]], limit: int
) -> None:
    shown: frozenset[ServiceKey] = frozenset()
    seen = set()
    for _ in range(3):
        kept, _ = fold(all_of_them, limit, shown)
        shown = frozenset(kept)
        seen.add(shown)
    assert len(seen) == 1


# From pass to pass

PORTS = st.builds(
    ServicePort,
    st.sampled_from(Direction),
    st.integers(1, 6),
    st.integers(0, 3),
    st.sampled_from(State),
)
HEALTHY = (State.ESTABLISHED, State.TIME_WAIT)
NUMBERS = st.integers(1, 99)
BULK = st.dictionaries(PORTS.filter(lambda port: port.state in HEALTHY), NUMBERS, max_size=20)
WATCHED = st.dictionaries(PORTS.filter(lambda port: port.state not in HEALTHY), NUMBERS, max_size=6)
LISTENING = st.lists(
    st.builds(
        lambda port, unit, queue, lent: replace(listener(port, unit, queue=queue), lent=lent),
        st.integers(1, 6),
        st.sampled_from(["", "web.service", "db.service"]),
        st.integers(0, 3),
        st.sampled_from([(), (3,)]),
    ),
    max_size=4,
)


class Pass(NamedTuple):
    """What a pass sees; without `bulk` it is a watch, without listeners they are as before."""

    watched: dict[ServicePort, int]
    bulk: dict[ServicePort, int] | None
    listening: list[Listener] | None
    unit: str
    """The name of the first cgroup."""

    def unit_of(self, cgroup: int) -> str:
        return self.unit if cgroup == 1 else unit_of(cgroup)


PASSES = st.lists(
    st.builds(
        Pass,
        WATCHED,
        st.none() | BULK,
        st.none() | LISTENING,
        st.sampled_from(["web.service", "new.service"]),
    ),
    max_size=6,
)


def dullness(
    key: ServiceKey, states: Mapping[State, int], shown: frozenset[ServiceKey]
) -> tuple[bool, int, bool, bool, int]:
    """The less of it, the rather a service is told apart."""
    total = sum(states.values())
    trouble = total - sum(states.get(state, 0) for state in HEALTHY)
    left_over = key.direction is OUTBOUND and states.keys() == {State.TIME_WAIT}
    return left_over, -trouble, not states, key not in shown, -total


@settings(deadline=None)
@given(PASSES, st.integers(1, 12))
def test_what_is_kept_of_the_last_pass_is_right_now(passes: list[Pass], limit: int) -> None:
    memory, bulk, doors = ServiceMemory(), dict[ServicePort, int](), list[Listener]()
    shown = frozenset[ServiceKey]()
    for seen in passes:
        bulk = bulk if seen.bulk is None else seen.bulk
        doors = doors if seen.listening is None else seen.listening
        kept, folded = memory(seen.watched, bulk, doors, seen.unit_of, limit)
        whole, _ = told_apart(seen.watched, bulk, doors, seen.unit_of, 1_000)
        apart = {key: states for key, states in kept.items() if key.port != OTHER}
        assert apart == {key: whole[key] for key in apart}
        assert totals(kept) == totals(whole)
        assert folded == len(whole) - len(apart)
        every = sorted(dullness(key, states, shown) for key, states in whole.items())
        assert sorted(dullness(key, whole[key], shown) for key in apart) == every[:limit]
        shown = frozenset(kept)


def test_what_a_census_counted_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[tuple[int, int]] = []

    class Noting(Namer):
        def __call__(self, direction: Direction, port: int, cgroup: int) -> ServiceKey:
            named.append((port, cgroup))
            return super().__call__(direction, port, cgroup)

    monkeypatch.setattr(services_module, "Namer", Noting)
    memory, doors = ServiceMemory(), [listener(80, "web.service")]
    bulk = {ServicePort(OUTBOUND, port, 1, State.ESTABLISHED): 1 for port in range(1, 100)}
    sick = {ServicePort(INBOUND, 80, 1, State.CLOSE_WAIT): 1}
    for _ in range(3):
        memory(sick, bulk, doors, unit_of, 10)
        doors = [replace(doors[0], queue=3)]
    assert sorted(named) == sorted([(port.port, 1) for port in bulk] + [(80, 1)] * 3)
    memory({}, dict(bulk), doors, unit_of, 10)
    assert len(named) == len(bulk) + 3
