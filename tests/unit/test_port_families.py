"""Metrics of listeners and destinations: named as far as labels are bounded, and no further."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshots import listener, namespace, of_namespaces, snapshot

from sockwatch.export import port_families
from sockwatch.export.families import families
from sockwatch.export.port_families import MOST_LISTENERS
from sockwatch.observe.snapshot import Destinations, DestinationUse, Listener, Snapshot

QUEUES: Final = {
    "sockwatch_listener_accept_queue_length": "queue",
    "sockwatch_listener_accept_queue_limit": "limit",
    "sockwatch_listener_accept_queue_peak": "peak",
    "sockwatch_listener_half_open_connections": "half_open",
    "sockwatch_listener_drops_total": "drops",
}
"""Metrics with the field of a Listener that each tells."""
OTHERS: Final = ("other", "other", "other", "")


def told(taken: Snapshot, name: str) -> dict[tuple[str, ...], float]:
    """Values by label values."""
    samples = (one for family in families(taken) for one in family.samples if one.name == name)
    return {tuple(one.labels.values()): one.value for one in samples}


def destinations_of(taken: Snapshot, found: Destinations | None) -> Snapshot:
    (view,) = taken.namespaces
    return replace(taken, namespaces=(replace(view, destinations=found),))


BUSY: Final = replace(
    listener(443, "nginx.service", address="::", queue=9, limit=8), peak=11, half_open=5, drops=7
)


@pytest.mark.parametrize("name", QUEUES)
def test_a_listener_is_told_by_address_port_and_unit(name: str) -> None:
    labels = ("::", "443", "nginx.service", "")
    assert told(snapshot(BUSY), name) == {labels: getattr(BUSY, QUEUES[name])}


@pytest.mark.parametrize("name", QUEUES)
def test_a_quiet_listener_is_there_at_zero(name: str) -> None:
    """Else a rate would miss the first drop, and an alert its series."""
    expected = 128 if name.endswith("limit") else 0
    assert told(snapshot(listener(80)), name) == {("0.0.0.0", "80", "", ""): expected}


@pytest.mark.parametrize("name", QUEUES)
def test_what_is_not_known_of_a_listener_is_absent(name: str) -> None:
    unknown = replace(BUSY, queue=None, limit=None, peak=None, half_open=None, drops=None)
    assert told(snapshot(unknown), name) == {}
    assert len(told(snapshot(unknown, listener(80)), name)) == 1


def test_namespaces_are_told_apart() -> None:
    two = of_namespaces(namespace(BUSY), namespace(replace(BUSY, queue=2), netns="blue"))
    assert told(two, "sockwatch_listener_accept_queue_length") == {
        ("::", "443", "nginx.service", ""): 9,
        ("::", "443", "nginx.service", "blue"): 2,
    }


# Too many listeners


@pytest.fixture
def three_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_families, "MOST_LISTENERS", 3)


def shown(taken: Snapshot, name: str = "sockwatch_listener_accept_queue_limit") -> list[str]:
    return [labels[1] for labels in told(taken, name)]


@pytest.mark.usefixtures("three_told")
def test_beyond_the_most_listeners_are_added_up() -> None:
    many = [listener(port, queue=1, limit=128) for port in (80, 22, 443, 8080, 25)]
    for name, each in (("length", 1), ("limit", 128)):
        found = told(snapshot(*many), f"sockwatch_listener_accept_queue_{name}")
        assert found.pop(OTHERS) == 2 * each
        assert {labels[1]: value for labels, value in found.items()} == dict.fromkeys(
            ("22", "25", "80"), each
        )


@pytest.mark.usefixtures("three_told")
def test_those_with_something_to_tell_are_told_apart() -> None:
    quiet = [listener(port) for port in range(1, 9)]
    loud = [
        replace(listener(8001), drops=1),
        replace(listener(8002), peak=3),
        replace(listener(8003), half_open=2),
    ]
    assert shown(snapshot(*quiet, *loud)) == ["other", "8001", "8002", "8003"]


@pytest.mark.usefixtures("three_told")
def test_what_has_dropped_once_stays_apart_whatever_the_others_do() -> None:
    """A counter that moved between label sets would look like drops."""
    dropped = replace(listener(9_000), drops=1)
    for peak in (0, 5, 500):
        busy = [replace(listener(port), queue=peak, peak=peak) for port in range(1, 9)]
        found = told(snapshot(*busy, dropped), "sockwatch_listener_drops_total")
        assert found["0.0.0.0", "9000", "", ""] == 1
        assert found[OTHERS] == 0


@pytest.mark.usefixtures("three_told")
def test_folded_listeners_are_counted_among_folded_label_sets() -> None:
    many = [listener(port) for port in range(1, 9)]
    assert told(snapshot(*many, folded=7), "sockwatch_folded_label_sets") == {(): 12}
    assert told(snapshot(*many[:3], folded=7), "sockwatch_folded_label_sets") == {(): 7}


@pytest.mark.usefixtures("three_told")
@given(
    st.lists(
        st.builds(
            lambda port, known: replace(listener(port), **known),
            st.integers(1, 30),
            st.fixed_dictionaries(
                {field: st.none() | st.integers(0, 9) for field in QUEUES.values()}
            ),
        ),
        unique_by=lambda one: one.port,
    )
)
def test_folding_loses_nothing(some: list[Listener]) -> None:
    for name, field in QUEUES.items():
        found = told(snapshot(*some), name)
        assert sum(found.values()) == sum(getattr(one, field) or 0 for one in some)
        assert len(found) <= 4


def test_a_thousand_listeners_are_told_apart() -> None:
    many = [listener(port, queue=0, limit=1) for port in range(1, 5_001)]
    found = told(snapshot(*many), "sockwatch_listener_accept_queue_limit")
    assert len(found) == MOST_LISTENERS + 1
    assert found[OTHERS] == 4_000


# Destinations


USED: Final = Destinations(
    ports=100,
    in_use_max=85,
    crowded=(
        DestinationUse("192.0.2.1", "198.51.100.7:5432", in_use=85, time_wait=80),
        DestinationUse("192.0.2.1", "[2001:db8::7]:443", in_use=20, time_wait=0),
    ),
    unanswered={"198.51.100.9:443": 3},
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sockwatch_ephemeral_ports_in_use_max", {("",): 85}),
        (
            "sockwatch_destination_ephemeral_ports_in_use",
            {("198.51.100.7:5432", ""): 85, ("[2001:db8::7]:443", ""): 20},
        ),
        ("sockwatch_destination_unanswered_connections", {("198.51.100.9:443", ""): 3}),
    ],
)
def test_destinations_are_named(name: str, expected: Mapping[tuple[str, ...], float]) -> None:
    assert told(destinations_of(snapshot(), USED), name) == expected


@pytest.mark.parametrize("found", [None, Destinations(None, 0, ())])
def test_before_a_census_nothing_is_in_use_and_after_one_nothing_may_be(
    found: Destinations | None,
) -> None:
    taken = destinations_of(snapshot(), found)
    expected = {("",): 0} if found else {}
    assert told(taken, "sockwatch_ephemeral_ports_in_use_max") == expected
    assert told(taken, "sockwatch_destination_ephemeral_ports_in_use") == {}
    assert told(taken, "sockwatch_destination_unanswered_connections") == {}
