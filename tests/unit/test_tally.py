"""Counting: columns of bytes, columns of rows and single rows are counted alike, and right."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from socket import ntohs
from struct import pack
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mixtures import LISTENED, listener, mixed_dumps, rows, uniform_datagrams
from naive import naive_counts, raw_destination
from recorded import load
from replies import (
    CGROUP_ID,
    GENERATIONS,
    attribute,
    done,
    dump_of,
    error,
    overrun,
    packed,
    record,
    whole_dump,
)

from sockwatch.kernel import batches as kernel_batches
from sockwatch.kernel.batches import batches, batches_of_rows
from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.rows import read_dump, read_rows
from sockwatch.kernel.wire import Kind, check_message
from sockwatch.tcp import tally
from sockwatch.tcp.batch import Batch
from sockwatch.tcp.listening import Listening
from sockwatch.tcp.records import (
    Counts,
    Destination,
    Endpoint,
    RawDestination,
    Row,
    ServicePort,
)
from sockwatch.tcp.states import Direction, Family, State, Unowned
from sockwatch.tcp.tally import Tally, destination, plain_address, thin

UNHURRIED = settings(deadline=None)
INBOUND, OUTBOUND = Direction.INBOUND, Direction.OUTBOUND
ESTABLISHED, TIME_WAIT = State.ESTABLISHED, State.TIME_WAIT
BULK: Final = [ESTABLISHED, TIME_WAIT]

EPHEMERAL: Final = bytes(ntohs(index) >= 32768 for index in range(1 << 16))
"""Flags of the upper half of the ports, indexed as records have them."""
LISTENERS: Final[Mapping[str, Sequence[Row]]] = {
    "nobody": [],
    "ipv4": [listener(LISTENED)],
    "ipv6 only": [listener(LISTENED, "::", v6_only=True)],
    "both": [listener(LISTENED, "::", v6_only=False), listener(0x5000), listener(1)],
}


def connection(
    local: tuple[str, int],
    remote: tuple[str, int],
    state: State = ESTABLISHED,
    inode: int = 1,
    cgroup: int | None = None,
) -> Row:
    source, destination = ip_address(local[0]).packed, ip_address(remote[0]).packed
    family = Family.INET if len(source) == 4 else Family.INET6
    timer = 3 if state is TIME_WAIT else 0
    row = Row(family, state, source, local[1], destination, remote[1], timer=timer)
    return row._replace(inode=0 if state is TIME_WAIT else inode, cgroup=cgroup)


def total(some: Iterable[Batch], listeners: Sequence[Row]) -> Counts:
    counter = Tally(Listening(listeners, EPHEMERAL))
    for batch in some:
        counter.add(batch)
    return counter.finish()


def counted(rows: Sequence[Row], listeners: Sequence[Row]) -> Counts:
    return total(batches_of_rows(rows), listeners)


def tallied(datagrams: Sequence[bytes], listeners: Sequence[Row]) -> Counts:
    return total(batches(dump_of(datagrams)), listeners)


def by_rows(datagrams: Sequence[bytes], listeners: Sequence[Row]) -> Counts:
    return total(batches_of_rows(read_dump(dump_of(datagrams))), listeners)


def one_by_one(datagrams: Sequence[bytes], listeners: Sequence[Row]) -> Counts:
    return naive_counts(read_dump(dump_of(datagrams)), Listening(listeners, EPHEMERAL))


@pytest.fixture
def general_rows(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """The rows that the bulk path has left to the general one."""
    left: list[Row] = []

    def spy(datagram: memoryview, sequence: int) -> tuple[list[Row], bool]:
        found, complete = read_rows(datagram, sequence)
        left.extend(found)
        return found, complete

    monkeypatch.setattr(kernel_batches, "read_rows", spy)
    return left


# Both paths alike


@pytest.mark.parametrize("state", BULK)
@settings(UNHURRIED, max_examples=200)
@given(st.data(), st.sampled_from([*LISTENERS.values()]))
def test_the_bulk_path_counts_what_the_general_path_counts(
    state: State, data: st.DataObject, listeners: Sequence[Row]
) -> None:
    datagrams = data.draw(mixed_dumps(state))
    found = tallied(datagrams, listeners)
    assert found == by_rows(datagrams, listeners)
    assert found == one_by_one(datagrams, listeners)


@settings(UNHURRIED, max_examples=100)
@given(st.lists(rows(), max_size=12), st.sampled_from([*LISTENERS.values()]))
def test_sockets_of_all_states_are_counted_as_one_by_one(
    described: list[Row], listeners: Sequence[Row]
) -> None:
    expected = naive_counts(described, Listening(listeners, EPHEMERAL))
    assert counted(described, listeners) == expected
    assert total(batches(dump_of(whole_dump(described))), listeners) == expected


@pytest.mark.parametrize("state", BULK)
@settings(UNHURRIED, max_examples=30)
@given(st.data())
def test_small_bounds_change_no_count_of_services(state: State, data: st.DataObject) -> None:
    """With the pending keys folded all the time, and few destinations followed."""
    listeners = LISTENERS["both"]
    datagrams = data.draw(mixed_dumps(state))
    expected = by_rows(datagrams, listeners)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally, "PENDING_LIMIT", 2)
        patch.setattr(tally, "DESTINATIONS_LIMIT", 3)
        found = tallied(datagrams, listeners)
    assert (found.services, found.sockets) == (expected.services, expected.sockets)
    assert found.unowned == expected.unowned
    for each, kept in found.destinations.items():
        assert len(kept) <= 6
        assert kept <= expected.destinations[each]


@pytest.mark.parametrize("reader", ["root", "nobody"])
@pytest.mark.parametrize("state", BULK)
def test_a_recorded_dump_is_counted_alike(
    state: State, reader: str, general_rows: list[Row]
) -> None:
    recording = load(f"linux-6.18-{reader}-{state.label}")
    listeners = load(f"linux-6.18-{reader}-listeners").rows
    dump = dump_of(recording.datagrams, recording.sequence)
    found = total(batches(dump), listeners)
    assert found == counted(recording.rows, listeners)
    assert found == naive_counts(recording.rows, Listening(listeners))
    assert found.sockets.total() == len(recording.rows)
    assert not general_rows


@pytest.mark.parametrize("state", BULK)
@UNHURRIED
@given(st.data())
def test_no_record_of_a_uniform_dump_is_looked_at_by_itself(
    state: State, data: st.DataObject
) -> None:
    datagrams = [*data.draw(st.lists(uniform_datagrams(state), max_size=3)), done()]

    def no_rows(datagram: memoryview, sequence: int) -> tuple[list[Row], bool]:
        raise AssertionError("read row by row")

    def no_record(datagram: memoryview, at: int, sequence: int) -> tuple[int, Kind]:
        assert bytes(datagram[at:]) == done()
        return check_message(datagram, at, sequence)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_batches, "read_rows", no_rows)
        patch.setattr(kernel_batches, "check_message", no_record)
        tallied(datagrams, LISTENERS["both"])


# Right

CLIENT = ("10.0.0.7", 40000)
SERVER = ("10.0.0.1", 80)
ACCEPTED = connection(SERVER, CLIENT, cgroup=5)


def established_of_every_kind() -> list[Row]:
    return [
        connection(SERVER, CLIENT, cgroup=1 << 33),
        connection(SERVER, ("10.0.0.8", 40000), cgroup=1 << 33),
        connection(SERVER, CLIENT, cgroup=7, inode=0),
        connection(("10.0.0.1", 50000), ("10.0.0.2", 443), cgroup=8),
        connection(("10.0.0.1", 50001), ("10.0.0.2", 443), cgroup=9),
        connection(("::ffff:10.0.0.1", 50002), ("::ffff:10.0.0.2", 443), cgroup=9),
        connection(("::1", 80), ("::1", 40000), cgroup=7),
        connection(("::1", 40000), ("::1", 80), cgroup=8),
        connection(("10.0.0.1", 1023), ("10.0.0.2", 443), cgroup=8),  # bound to a port of its own
    ]


def address(text: str) -> bytes:
    return ip_address(text).packed


def reached(source: str, destination: str, port: int) -> RawDestination:
    return raw_destination(address(source), address(destination), port)


EXPECTED = Counts(
    sockets=Counter({(Family.INET, ESTABLISHED): 6, (Family.INET6, ESTABLISHED): 3}),
    services=Counter(
        {
            ServicePort(INBOUND, 80, 1 << 33, ESTABLISHED): 2,
            ServicePort(INBOUND, 80, 7, ESTABLISHED): 2,
            ServicePort(OUTBOUND, 443, 8, ESTABLISHED): 2,
            ServicePort(OUTBOUND, 443, 9, ESTABLISHED): 2,
            ServicePort(OUTBOUND, 80, 8, ESTABLISHED): 1,
        }
    ),
    destinations={
        ESTABLISHED: Counter(
            {reached("10.0.0.1", "10.0.0.2", 443): 3, reached("::1", "::1", 80): 1},
        )
    },
    unowned=Counter({Unowned.NOT_ACCEPTED: 1}),
)


def test_rows_are_counted_by_service_and_destination() -> None:
    assert counted(established_of_every_kind(), LISTENERS["both"]) == EXPECTED


@pytest.mark.parametrize("mark", [True, False], ids=["privileged", "unprivileged"])
@pytest.mark.parametrize("size", [1, 400, 32_364])
def test_columns_are_counted_by_service_and_destination(
    size: int, mark: bool, general_rows: list[Row]
) -> None:
    datagrams = whole_dump(established_of_every_kind(), mark=mark, size=size)
    assert tallied(datagrams, LISTENERS["both"]) == EXPECTED
    assert not general_rows


@pytest.mark.parametrize("generation", GENERATIONS)
def test_minis_have_no_owner_and_no_cgroup(generation: str, general_rows: list[Row]) -> None:
    minis = [
        connection(SERVER, CLIENT, TIME_WAIT),
        connection(("::ffff:10.0.0.1", 50002), ("::ffff:10.0.0.2", 443), TIME_WAIT),
    ]
    datagrams = whole_dump(minis, GENERATIONS[generation], mark=True)
    found = tallied(datagrams, LISTENERS["both"])
    assert found.unowned == {Unowned.MINI: 2}
    assert found.services == {
        ServicePort(INBOUND, 80, 0, TIME_WAIT): 1,
        ServicePort(OUTBOUND, 443, 0, TIME_WAIT): 1,
    }
    assert found.destinations == {TIME_WAIT: {reached("10.0.0.1", "10.0.0.2", 443): 1}}
    assert not general_rows


@pytest.mark.parametrize(
    ("odd", "state"),
    [
        (record(ACCEPTED, more=attribute(99, b"new!")), ESTABLISHED),
        (record(ACCEPTED, mark=True), ESTABLISHED),
        (record(ACCEPTED, GENERATIONS["5.4"]), ESTABLISHED),
        (record(ACCEPTED, state=State.CLOSE_WAIT), State.CLOSE_WAIT),
        (record(ACCEPTED, state=13), State.UNKNOWN),
    ],
    ids=["unknown attribute", "mark", "other length", "other state", "unknown state"],
)
def test_one_odd_record_in_the_middle_is_counted_as_all_others(
    odd: bytes, state: State, general_rows: list[Row]
) -> None:
    usual = record(ACCEPTED)
    datagrams = [usual, usual + odd + usual, usual + done()]
    found = tallied(datagrams, LISTENERS["both"])
    states = Counter([*[ESTABLISHED] * 4, state])
    assert found.sockets == {(Family.INET, state): number for state, number in states.items()}
    assert found.services.total() == 5
    assert {(service.direction, service.port) for service in found.services} == {(INBOUND, 80)}
    assert not general_rows


def test_records_as_long_with_other_attributes_are_counted_as_all_others(
    general_rows: list[Row],
) -> None:
    """What no table can hold; the rest of their datagram is no slower for it."""
    bare = GENERATIONS["4.18"]
    alike = [
        record(ACCEPTED, bare, more=attribute(number, pack("=Q", 5))) for number in (CGROUP_ID, 99)
    ]
    found = tallied([record(ACCEPTED, mark=True) * 7 + b"".join(alike), done()], [])
    assert found.services == {
        ServicePort(INBOUND, 80, 5, ESTABLISHED): 8,
        ServicePort(INBOUND, 80, 0, ESTABLISHED): 1,
    }
    assert len(general_rows) == 2


def test_an_empty_dump_counts_nothing() -> None:
    assert tallied([done()], LISTENERS["both"]) == Counts()


def test_counts_of_several_dumps_add_up() -> None:
    counter = Tally(Listening(LISTENERS["both"]))
    for state in [*BULK, *BULK]:
        for batch in batches(dump_of(whole_dump([connection(SERVER, CLIENT, state)]))):
            counter.add(batch)
    counts = counter.finish()
    assert counts.sockets == Counter({(Family.INET, state): 2 for state in BULK})
    assert counts.services == {ServicePort(INBOUND, 80, 0, state): 2 for state in BULK}


def test_a_source_that_knows_no_owners_is_not_told_of_any() -> None:
    counter = Tally(Listening([]), unowned=False)
    row = connection(SERVER, CLIENT, inode=0)
    for some in (batches(dump_of(whole_dump([row]))), batches_of_rows([row])):
        for batch in some:
            counter.add(batch)
    counts = counter.finish()
    assert counts.unowned is None
    assert counts.sockets.total() == 2


def test_ports_are_not_taken_for_each_others_bytes_swapped(general_rows: list[Row]) -> None:
    """Listened on 80 alone; 0x5000 is 80 read with the wrong end first."""
    rows = [connection(("10.0.0.1", port), ("10.0.0.9", 5432)) for port in (80, 0x5000)]
    found = tallied(whole_dump(rows), LISTENERS["ipv4"])
    assert found.services == {
        ServicePort(INBOUND, 80, 0, ESTABLISHED): 1,
        ServicePort(OUTBOUND, 5432, 0, ESTABLISHED): 1,
    }
    assert not general_rows


# Failures


@pytest.mark.parametrize(
    ("last", "cause"),
    [
        ([], Cause.TRUNCATED),
        ([done(errno=-2)], Cause.UNAVAILABLE),
        ([error(-105)], Cause.OVERRUN),
        ([error(-16)], Cause.BUSY),
        ([error(-22)], Cause.KERNEL_ERROR),
        ([overrun()], Cause.OVERRUN),
        ([record(connection(SERVER, CLIENT), sequence=1), done()], Cause.OUT_OF_SEQUENCE),
        ([record(connection(SERVER, CLIENT))[:-1], done()], Cause.TRUNCATED),
    ],
    ids=["no end", "end with an error", "ENOBUFS", "EBUSY", "EINVAL", "overrun", "foreign", "cut"],
)
def test_a_dump_that_fails_at_last_has_failed(last: list[bytes], cause: Cause) -> None:
    good = packed(record(connection(SERVER, CLIENT)) for _ in range(3))
    with pytest.raises(PassFailure) as caught:
        tallied([*good, *last], [])
    assert caught.value.cause is cause


# Owners


UNOWNED = {
    (State.SYN_RECV, 1, 0): Unowned.HALF_OPEN,
    (State.ESTABLISHED, 0, 0): Unowned.NOT_ACCEPTED,
    (State.CLOSE_WAIT, 0, 0): Unowned.NOT_ACCEPTED,
    (State.FIN_WAIT1, 1, 0): Unowned.ORPHAN,
    (State.FIN_WAIT2, 2, 0): Unowned.ORPHAN,
    (State.FIN_WAIT2, 3, 0): Unowned.MINI,
    (State.TIME_WAIT, 3, 0): Unowned.MINI,
    (State.LAST_ACK, 1, 0): Unowned.ORPHAN,
    (State.CLOSING, 1, 0): Unowned.ORPHAN,
    (State.SYN_SENT, 1, 0): Unowned.ORPHAN,
    (State.CLOSE, 0, 0): None,
    (State.LISTEN, 0, 0): None,
    (State.UNKNOWN, 0, 0): None,
    (State.FIN_WAIT2, 0, 4711): None,
    (State.ESTABLISHED, 0, 4711): None,
}


def with_owner(state: State, timer: int | None, inode: int | None) -> Row:
    row = connection(SERVER, CLIENT)
    return row._replace(state=state, timer=timer, inode=inode)


@pytest.mark.parametrize(("holder", "kind"), UNOWNED.items(), ids=str)
def test_why_nobody_holds_a_socket(
    holder: tuple[State, int | None, int | None], kind: Unowned | None
) -> None:
    rows, expected = [with_owner(*holder)], Counter([kind] if kind else [])
    for some in (batches_of_rows(rows), batches(dump_of(whole_dump(rows)))):
        assert total(some, []).unowned == expected


def test_sockets_are_sorted_by_why_nobody_holds_them() -> None:
    everything = [with_owner(*holder) for holder in UNOWNED] * 2
    expected = Counter([kind for kind in UNOWNED.values() if kind] * 2)
    assert counted(everything, []).unowned == expected
    assert total(batches(dump_of(whole_dump(everything))), []).unowned == expected


@UNHURRIED
@given(rows())
def test_a_socket_with_an_owner_is_never_unowned(row: Row) -> None:
    found = counted([row], [])
    assert found.unowned is not None
    assert found.unowned.total() <= (row.inode == 0)


def test_only_mapped_addresses_are_reduced() -> None:
    for text, plain in {
        "::ffff:10.0.0.1": "10.0.0.1",
        "::10.0.0.1": "::10.0.0.1",
        "10.0.0.1": "10.0.0.1",
        "::1": "::1",
    }.items():
        assert plain_address(address(text)) == address(plain)


@pytest.mark.parametrize(
    ("source", "remote", "plain"),
    [
        ("10.0.0.1", "10.0.0.2", ("10.0.0.1", "10.0.0.2")),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", ("10.0.0.1", "10.0.0.2")),
        ("::1", "2001:db8::2", ("::1", "2001:db8::2")),
        ("::1", "::ffff:10.0.0.2", ("::1", "10.0.0.2")),
    ],
)
def test_a_key_stands_for_a_destination(source: str, remote: str, plain: tuple[str, str]) -> None:
    found = counted([connection((source, 40000), (remote, 443))], [])
    [raw] = found.destinations[ESTABLISHED]
    assert destination(raw) == Destination(address(plain[0]), address(plain[1]), 443)


def test_a_destination_has_one_key_whatever_else_is_in_its_datagram() -> None:
    """Of a datagram that is IPv4 throughout fewer columns are read."""
    inet = connection(("10.0.0.1", 40000), ("10.0.0.2", 443))
    mapped = connection(("::ffff:10.0.0.1", 40001), ("::ffff:10.0.0.2", 443))
    inet6 = connection(("::1", 40002), ("::1", 443))
    datagrams = [record(inet) * 2, record(inet) + record(inet6), record(mapped), done()]
    assert tallied(datagrams, []).destinations == {
        ESTABLISHED: {reached("10.0.0.1", "10.0.0.2", 443): 4, reached("::1", "::1", 443): 1}
    }


# Half-open


def knocking(port: int, retransmits: int, local: str = "10.0.0.1") -> Row:
    row = connection((local, port), CLIENT, State.SYN_RECV)
    return row._replace(timer=1, retransmits=retransmits, inode=0)


def test_half_open_connections_are_counted_by_where_they_came_to() -> None:
    rows = [
        *(knocking(80, again) for again in (0, 0, 1, 5)),
        knocking(80, 2, "::ffff:10.0.0.1"),
        knocking(80, 0, "::1"),
        knocking(443, 0),
        connection(("10.0.0.1", 80), CLIENT),
    ]
    here, home = (Endpoint(address(text), 80) for text in ("10.0.0.1", "::1"))
    other = Endpoint(address("10.0.0.1"), 443)
    for some in (batches_of_rows(rows), batches(dump_of(whole_dump(rows)))):
        found = total(some, LISTENERS["both"])
        assert found.half_open == {here: 5, home: 1, other: 1}
        assert found.resent == {here: 3}


def test_what_knows_no_timers_does_not_tell_what_was_sent_again() -> None:
    counter = Tally(Listening([]), unowned=False)
    for batch in batches_of_rows([knocking(80, 0)]):
        counter.add(batch)
    counts = counter.finish()
    assert counts.half_open.total() == 1
    assert counts.resent is None


# Bounds

KEYS: Final = [*range(40)]
BATCHES: Final = st.lists(st.dictionaries(st.sampled_from(KEYS), st.integers(1, 50)), max_size=12)


@UNHURRIED
@given(BATCHES, st.integers(1, 12))
@example([dict.fromkeys(KEYS[:2], 10), *[{KEYS[2]: 9, KEYS[3]: 1, KEYS[4]: 1}] * 11], 2)
def test_what_is_thinned_out_is_too_low_by_a_bounded_part(
    batches: list[dict[int, int]], limit: int
) -> None:
    """Also of a key that is always a little lighter than those that stay."""
    exact: Counter[int] = Counter()
    thinned: Counter[int] = Counter()
    for batch in batches:
        exact.update(batch)
        thinned.update(batch)
        thin(thinned, limit)
        assert len(thinned) <= 2 * limit
        assert all(number > 0 for number in thinned.values())
        for key in KEYS:
            assert 0 <= exact[key] - thinned[key] <= exact.total() / limit


@given(st.dictionaries(st.sampled_from(KEYS), st.integers(1, 50)))
def test_few_keys_are_counted_exactly(batch: dict[int, int]) -> None:
    thinned = Counter(batch)
    thin(thinned, max(len(batch), 1))
    assert thinned == batch


def test_the_heaviest_destination_survives_any_number_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tally, "PENDING_LIMIT", 50)
    monkeypatch.setattr(tally, "DESTINATIONS_LIMIT", 20)
    crowd = [connection(("10.0.0.1", 50000), (f"10.1.{i >> 8}.{i & 255}", 443)) for i in range(900)]
    heavy = [connection(("10.0.0.1", 50000), ("10.9.9.9", 443))] * 300
    mixture = [row for pair in zip(crowd[:300], heavy, strict=True) for row in pair] + crowd[300:]
    found = tallied(whole_dump(mixture, size=1000), [])
    assert found.services == {ServicePort(OUTBOUND, 443, 0, ESTABLISHED): 1200}
    [kept] = found.destinations.values()
    assert len(kept) <= 40
    [(heaviest, number)] = kept.most_common(1)
    assert destination(heaviest).destination == address("10.9.9.9")
    assert 300 - 1200 / 20 <= number <= 300
