"""Ephemeral ports in use by destination, and destinations that do not answer."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_address
from socket import htons
from typing import Final

import pytest
from everything import STUCK
from hypothesis import given, settings
from hypothesis import strategies as st
from readings import listening

from sockwatch.kernel.batches import RowBatch, batches_of_rows
from sockwatch.observe.destinations import MOST_SHOWN, destinations, unanswered
from sockwatch.observe.packed import Packed
from sockwatch.observe.snapshot import Destinations, DestinationUse, Marked
from sockwatch.tcp import tally
from sockwatch.tcp.listening import PORTS, Listening
from sockwatch.tcp.records import Counts, Row
from sockwatch.tcp.states import Family, State
from sockwatch.tcp.tally import Tally

RANGE: Final = range(40_000, 40_100)
RESERVED: Final = range(40_010, 40_020)
EPHEMERAL: Final = [port for port in RANGE if port not in RESERVED]
HERE, DATABASE, CACHE = "192.0.2.1", "198.51.100.7", "198.51.100.8"
BULK: Final = (State.ESTABLISHED, State.TIME_WAIT)


def flags() -> bytes:
    flagged = bytearray(PORTS)
    for port in EPHEMERAL:
        flagged[htons(port)] = 1
    return bytes(flagged)


FLAGS: Final = flags()


def connection(
    port: int,
    to: str = DATABASE,
    remote_port: int = 5432,
    *,
    source: str = HERE,
    state: State = State.ESTABLISHED,
) -> Row:
    local, remote = ip_address(source).packed, ip_address(to).packed
    family = Family.INET if len(local) == 4 else Family.INET6
    return Row(family, state, local, port, remote, remote_port)


def connections(number: int, to: str = DATABASE, **more: object) -> list[Row]:
    """As many from the first ephemeral ports on."""
    return [connection(port, to, **more) for port in EPHEMERAL[:number]]  # type: ignore[arg-type]


def counted(rows: Iterable[Row], listeners: Sequence[Row] = ()) -> Counts:
    counter = Tally(Listening(listeners, FLAGS))
    for batch in batches_of_rows(rows):
        counter.add(batch)
    return counter.finish()


def census(
    *rows: Row, listeners: Sequence[Row] = (), ports: int | None = len(EPHEMERAL)
) -> Destinations:
    watched = [row for row in rows if row.state not in BULK]
    bulk = [row for row in rows if row.state in BULK]
    return destinations(counted(watched, listeners), counted(bulk, listeners), ports)


def crowded(found: Destinations) -> dict[str, int]:
    return {one.destination: one.in_use for one in found.crowded}


# Ports in use


def test_nobody_connects_anywhere() -> None:
    assert census() == Destinations(ports=90, in_use_max=0, crowded=())


def test_the_fullest_destination_is_told_whatever_it_uses() -> None:
    found = census(*connections(3), *connections(2, CACHE))
    assert (found.in_use_max, found.crowded) == (3, ())


def test_a_second_destination_is_not_affected_by_the_first() -> None:
    """The same port may be used toward each."""
    found = census(*connections(85), *connections(85, CACHE))
    assert found.in_use_max == 85
    assert crowded(found) == {f"{DATABASE}:5432": 85, f"{CACHE}:5432": 85}


def test_each_port_of_a_host_is_a_destination() -> None:
    found = census(*connections(30), *connections(20, remote_port=5433))
    assert crowded(found) == {f"{DATABASE}:5432": 30, f"{DATABASE}:5433": 20}


@pytest.mark.parametrize(("number", "told"), [(9, False), (10, True)])
def test_a_destination_is_told_apart_beyond_a_tenth_of_the_ports(number: int, told: bool) -> None:
    assert bool(census(*connections(number)).crowded) is told


def test_every_state_uses_a_port_up() -> None:
    states = [state for state in State if state is not State.LISTEN]
    rows = [
        connection(port, state=state) for port, state in zip(EPHEMERAL, states * 2, strict=False)
    ]
    found = census(*rows)
    assert found.in_use_max == 2 * len(states)
    [one] = found.crowded
    assert (one.in_use, one.time_wait) == (2 * len(states), 2)


def test_the_share_that_waits_out_time_wait_is_told() -> None:
    left = [row._replace(state=State.TIME_WAIT) for row in connections(60)[15:]]
    [one] = census(*connections(15), *left, *connections(5, CACHE)).crowded
    assert one == DestinationUse(HERE, f"{DATABASE}:5432", in_use=60, time_wait=45)


def test_ports_that_somebody_chose_are_not_counted() -> None:
    chosen = [connection(port) for port in (80, 1_023, 39_999, 40_100, *RESERVED)]
    assert census(*chosen).in_use_max == 0
    found = census(*chosen, *connections(30))
    assert (found.in_use_max, crowded(found)) == (30, {f"{DATABASE}:5432": 30})


def test_clients_of_a_listener_in_the_ephemeral_range_use_no_port_up() -> None:
    """As of gRPC's 50051: all have the same local port."""
    clients = [connection(EPHEMERAL[0], f"203.0.113.{n}", 1_024 + n) for n in range(1, 100)]
    door = listening(EPHEMERAL[0], HERE)
    assert census(*clients, listeners=[door]).in_use_max == 0


def test_a_mapped_address_is_that_of_ipv4() -> None:
    mapped = [connection(EPHEMERAL[0], f"::ffff:{DATABASE}", source=f"::ffff:{HERE}")]
    others = [connection(EPHEMERAL[1], "2001:db8::7", source="2001:db8::1")]
    [one] = census(*mapped, *others, *connections(20)[1:]).crowded
    assert one == DestinationUse(HERE, f"{DATABASE}:5432", in_use=20, time_wait=0)


def test_a_destination_of_ipv6_is_written_as_in_a_url() -> None:
    rows = connections(20, "2001:db8::7", source="2001:db8::1")
    [one] = census(*rows).crowded
    assert (one.source, one.destination) == ("2001:db8::1", "[2001:db8::7]:5432")


def test_of_several_source_addresses_the_fullest_counts() -> None:
    """Each has all ports to itself: together they may use more than there are."""
    rows = [
        row
        for number, source in ((70, "192.0.2.1"), (80, "192.0.2.2"), (60, "192.0.2.3"))
        for row in connections(number, source=source)
    ]
    found = census(*rows)
    assert found.in_use_max == 80
    assert found.crowded == (DestinationUse("192.0.2.2", f"{DATABASE}:5432", 80, 0),)


def test_many_source_addresses_toward_one_do_not_hide_another() -> None:
    rows = [row for n in range(1, 31) for row in connections(50, source=f"192.0.2.{n}")]
    found = census(*rows, *connections(20, CACHE))
    assert crowded(found) == {f"{DATABASE}:5432": 50, f"{CACHE}:5432": 20}


def test_at_most_twenty_destinations_are_told_apart_the_fullest_first() -> None:
    rows = [row for n in range(1, 41) for row in connections(10 + n, f"203.0.113.{n}")]
    found = census(*rows)
    assert [one.in_use for one in found.crowded] == [*range(50, 50 - MOST_SHOWN, -1)]
    assert found.in_use_max == 50


def test_which_of_equals_are_told_does_not_change_from_census_to_census() -> None:
    rows = [row for n in range(1, 41) for row in connections(50, f"203.0.113.{n}")]
    assert census(*rows).crowded == census(*reversed(rows)).crowded


def test_without_a_known_range_whatever_has_two_is_told() -> None:
    found = census(*connections(2), *connections(1, CACHE), ports=None)
    assert (found.ports, found.in_use_max) == (None, 2)
    assert crowded(found) == {f"{DATABASE}:5432": 2}


def test_a_range_of_nothing_is_survived() -> None:
    found = census(*connections(3), ports=0)
    assert (found.ports, crowded(found)) == (0, {f"{DATABASE}:5432": 3})


ROWS: Final = st.lists(
    st.builds(
        connection,
        st.sampled_from([*EPHEMERAL[:12], 80, RESERVED[0]]),
        st.sampled_from([DATABASE, CACHE]),
        st.sampled_from([443, 5432]),
        source=st.sampled_from([HERE, "192.0.2.2"]),
        state=st.sampled_from([State.ESTABLISHED, State.TIME_WAIT, State.CLOSE_WAIT]),
    ),
    unique_by=lambda row: row[2:],
    max_size=60,
)


@given(ROWS)
def test_never_more_ports_are_in_use_than_there_are(rows: list[Row]) -> None:
    """Connections differ in one of four numbers, so toward one end each port is there once."""
    found = census(*rows, ports=12)
    ephemeral = [row for row in rows if row.source_port in EPHEMERAL]
    ends = {(row.source, row.destination, row.destination_port) for row in ephemeral}
    most = max(
        (len({row.source_port for row in ephemeral if (row[2], *row[4:6]) == end}) for end in ends),
        default=0,
    )
    assert found.in_use_max == most <= 12
    assert all(one.time_wait <= one.in_use <= most for one in found.crowded)


def test_memory_is_bounded_and_the_fullest_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a crawler that connects to every host once, and to one of them far more often."""
    monkeypatch.setattr(tally, "PENDING_LIMIT", 64)
    monkeypatch.setattr(tally, "DESTINATIONS_LIMIT", 100)
    crawled = [connection(EPHEMERAL[0], f"203.0.{n >> 8}.{n & 255}") for n in range(2_000)]
    rows = connections(90)
    for at, row in enumerate(crawled):
        rows.insert(at * 2 % len(rows), row)
    counter = Tally(Listening([], FLAGS))
    for start in range(0, len(rows), 50):
        counter.add(RowBatch(State.ESTABLISHED, rows[start : start + 50]))
    counts = counter.finish()
    assert len(counts.destinations[State.ESTABLISHED]) <= 200
    found = destinations(Counts(), counts, 90)
    assert 90 - len(rows) / 100 <= found.in_use_max <= 90
    assert [*crowded(found)] == [f"{DATABASE}:5432"]


# Unanswered


def marked(*rows: Row, state: State = State.SYN_SENT, stride: int = 1) -> Marked:
    records = Packed.of(RowBatch(state, rows).records())
    none = array("Q", [0] * len(rows))
    moments = array("d", [0.0] * len(rows))
    flags = bytes(len(rows))
    return Marked(state, records, moments, none, flags, flags, stride=stride)


def waiting(*some: Marked) -> dict[str, int]:
    return unanswered(replace(STUCK, marked=some))


def test_who_does_not_answer_is_named() -> None:
    v6 = connections(4, "2001:db8::7", source="2001:db8::1")
    assert waiting(marked(*connections(3)), marked(*v6)) == {
        "[2001:db8::7]:5432": 4,
        f"{DATABASE}:5432": 3,
    }


def test_two_that_wait_are_not_told_yet() -> None:
    assert waiting(marked(*connections(2), *connections(2, CACHE))) == {}


def test_who_waits_is_added_up_over_batches_sources_and_forms_of_an_address() -> None:
    mapped = connection(EPHEMERAL[5], f"::ffff:{DATABASE}", source=f"::ffff:{HERE}")
    other = connection(EPHEMERAL[0], source="192.0.2.2")
    assert waiting(marked(mapped), marked(other), marked(*connections(1))) == {
        f"{DATABASE}:5432": 3
    }


def test_only_those_that_connect_are_unanswered() -> None:
    others = [state for state in State if state is not State.SYN_SENT]
    assert waiting(*(marked(*connections(9), state=state) for state in others)) == {}
    assert waiting() == {}


def test_of_a_sample_the_whole_is_told() -> None:
    assert waiting(marked(*connections(5), stride=4)) == {f"{DATABASE}:5432": 20}


def test_at_most_twenty_are_named_those_with_most_first() -> None:
    rows = [row for n in range(1, 31) for row in connections(2 + n, f"203.0.113.{n}")]
    found = waiting(marked(*rows))
    assert [*found.values()] == [*range(32, 32 - MOST_SHOWN, -1)]


@settings(max_examples=30)
@given(ROWS)
def test_nothing_is_told_twice_or_invented(rows: list[Row]) -> None:
    found = waiting(marked(*rows))
    assert sum(found.values()) <= len(rows)
    assert all(number >= 3 for number in found.values())
