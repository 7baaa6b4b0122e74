"""Counting: the bulk path counts what the general path counts, and both count right."""

from collections import Counter
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import LISTENED, listener, mixed_dumps, rows, uniform_datagrams
from recorded import load
from replies import (
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

from sockwatch.kernel import tally
from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.rows import read_dump, read_rows
from sockwatch.kernel.tally import count_rows, plain_address, tally_dump, thin, unowned_kind
from sockwatch.tcp.listening import Listening
from sockwatch.tcp.records import Counts, Destination, Row, ServicePort
from sockwatch.tcp.states import Direction, Family, State, Unowned

UNHURRIED = settings(deadline=None)
INBOUND, OUTBOUND = Direction.INBOUND, Direction.OUTBOUND
ESTABLISHED, TIME_WAIT = State.ESTABLISHED, State.TIME_WAIT
BULK: Final = [ESTABLISHED, TIME_WAIT]

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


def counted(rows: Sequence[Row], listeners: Sequence[Row]) -> Counts:
    counts = Counts()
    count_rows(rows, Listening(listeners), counts)
    return counts


def tallied(datagrams: Sequence[bytes], state: State, listeners: Sequence[Row]) -> Counts:
    counts = Counts()
    tally_dump(dump_of(datagrams), state, Listening(listeners), counts)
    return counts


def by_rows(datagrams: Sequence[bytes], state: State, listeners: Sequence[Row]) -> Counts:
    settled = [row._replace(state=state) for row in read_dump(dump_of(datagrams))]
    return counted(settled, listeners)


@pytest.fixture
def general_rows(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """The rows that the bulk path has left to the general one."""
    left: list[Row] = []

    def spy(datagram: memoryview, sequence: int) -> tuple[list[Row], bool]:
        found, complete = read_rows(datagram, sequence)
        left.extend(found)
        return found, complete

    monkeypatch.setattr(tally, "read_rows", spy)
    return left


# Both paths alike


@pytest.mark.parametrize("state", BULK)
@settings(UNHURRIED, max_examples=200)
@given(st.data(), st.sampled_from([*LISTENERS.values()]))
def test_the_bulk_path_counts_what_the_general_path_counts(
    state: State, data: st.DataObject, listeners: Sequence[Row]
) -> None:
    datagrams = data.draw(mixed_dumps(state))
    assert tallied(datagrams, state, listeners) == by_rows(datagrams, state, listeners)


@pytest.mark.parametrize("state", BULK)
@settings(UNHURRIED, max_examples=30)
@given(st.data())
def test_small_bounds_change_no_count_of_services(state: State, data: st.DataObject) -> None:
    """With the pending keys folded all the time, and few destinations followed."""
    listeners = LISTENERS["both"]
    datagrams = data.draw(mixed_dumps(state))
    expected = by_rows(datagrams, state, listeners)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally, "PENDING_LIMIT", 2)
        patch.setattr(tally, "DESTINATIONS_LIMIT", 3)
        found = tallied(datagrams, state, listeners)
    assert (found.services, found.sockets) == (expected.services, expected.sockets)
    assert found.unowned == expected.unowned
    assert len(found.destinations) <= 6
    assert found.destinations <= expected.destinations


@pytest.mark.parametrize("reader", ["root", "nobody"])
@pytest.mark.parametrize("state", BULK)
def test_a_recorded_dump_is_counted_alike(
    state: State, reader: str, general_rows: list[Row]
) -> None:
    recording = load(f"linux-6.18-{reader}-{state.label}")
    listeners = load(f"linux-6.18-{reader}-listeners").rows
    found = Counts()
    tally_dump(dump_of(recording.datagrams, recording.sequence), state, Listening(listeners), found)
    assert found == counted(recording.rows, listeners)
    assert found.sockets.total() == len(recording.rows)
    assert not general_rows


@pytest.mark.parametrize("state", BULK)
@UNHURRIED
@given(st.data())
def test_no_record_of_a_uniform_dump_is_looked_at_by_itself(
    state: State, data: st.DataObject
) -> None:
    datagrams = [*data.draw(st.lists(uniform_datagrams(state), max_size=3)), done()]

    def spy(datagram: memoryview, sequence: int) -> tuple[list[Row], bool]:
        assert bytes(datagram) == done()
        return [], True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally, "read_rows", spy)
        tallied(datagrams, state, LISTENERS["both"])


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
    ]


def address(text: str) -> bytes:
    return ip_address(text).packed


EXPECTED = Counts(
    sockets=Counter({(Family.INET, ESTABLISHED): 5, (Family.INET6, ESTABLISHED): 3}),
    services=Counter(
        {
            ServicePort(INBOUND, 80, 1 << 33, ESTABLISHED): 2,
            ServicePort(INBOUND, 80, 7, ESTABLISHED): 2,
            ServicePort(OUTBOUND, 443, 8, ESTABLISHED): 1,
            ServicePort(OUTBOUND, 443, 9, ESTABLISHED): 2,
            ServicePort(OUTBOUND, 80, 8, ESTABLISHED): 1,
        }
    ),
    destinations=Counter(
        {
            Destination(address("10.0.0.1"), address("10.0.0.2"), 443): 3,
            Destination(address("::1"), address("::1"), 80): 1,
        }
    ),
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
    assert tallied(datagrams, ESTABLISHED, LISTENERS["both"]) == EXPECTED
    assert not general_rows


@pytest.mark.parametrize("generation", GENERATIONS)
def test_minis_have_no_owner_and_no_cgroup(generation: str, general_rows: list[Row]) -> None:
    minis = [
        connection(SERVER, CLIENT, TIME_WAIT),
        connection(("::ffff:10.0.0.1", 50002), ("::ffff:10.0.0.2", 443), TIME_WAIT),
    ]
    datagrams = whole_dump(minis, GENERATIONS[generation], mark=True)
    found = tallied(datagrams, TIME_WAIT, LISTENERS["both"])
    assert found.unowned == {Unowned.MINI: 2}
    assert found.services == {
        ServicePort(INBOUND, 80, 0, TIME_WAIT): 1,
        ServicePort(OUTBOUND, 443, 0, TIME_WAIT): 1,
    }
    assert [*found.destinations] == [Destination(address("10.0.0.1"), address("10.0.0.2"), 443)]
    assert not general_rows


@pytest.mark.parametrize(
    "odd",
    [
        record(ACCEPTED, more=attribute(99, b"new!")),
        record(ACCEPTED, mark=True),
        record(ACCEPTED, GENERATIONS["5.4"]),
        record(ACCEPTED, state=State.CLOSE_WAIT),
        record(ACCEPTED, state=13),
    ],
    ids=["unknown attribute", "mark", "other length", "other state", "unknown state"],
)
def test_one_odd_record_in_the_middle_is_counted_as_all_others(
    odd: bytes, general_rows: list[Row]
) -> None:
    usual = record(ACCEPTED)
    datagrams = [usual, usual + odd + usual, usual + done()]
    found = tallied(datagrams, ESTABLISHED, LISTENERS["both"])
    assert found.sockets == Counter({(Family.INET, ESTABLISHED): 5})
    assert found.services.total() == 5
    assert len(general_rows) == 4


def test_a_socket_that_moved_on_counts_as_what_it_was_asked_as() -> None:
    """No other dump of the pass has it."""
    moved_on = record(ACCEPTED, state=State.LAST_ACK)
    found = tallied([moved_on, done()], ESTABLISHED, LISTENERS["both"])
    assert found.services == {ServicePort(INBOUND, 80, 5, ESTABLISHED): 1}


def test_an_empty_dump_counts_nothing() -> None:
    assert tallied([done()], ESTABLISHED, LISTENERS["both"]) == Counts()


def test_counts_of_several_dumps_add_up() -> None:
    counts, listening = Counts(), Listening(LISTENERS["both"])
    for state in BULK:
        datagrams = whole_dump([connection(SERVER, CLIENT, state)])
        tally_dump(dump_of(datagrams), state, listening, counts)
    assert counts.sockets == Counter((Family.INET, state) for state in BULK)
    assert counts.services.total() == 2


def test_a_source_that_knows_no_owners_is_not_told_of_any() -> None:
    counts = Counts(unowned=None)
    row = connection(SERVER, CLIENT, inode=0)
    tally_dump(dump_of(whole_dump([row])), ESTABLISHED, Listening([]), counts)
    count_rows([row], Listening([]), counts)
    assert counts.unowned is None
    assert counts.sockets.total() == 2


def test_ports_are_not_taken_for_each_others_bytes_swapped(general_rows: list[Row]) -> None:
    """Listened on 80 alone; 0x5000 is 80 read with the wrong end first."""
    rows = [connection(("10.0.0.1", port), CLIENT) for port in (80, 0x5000)]
    found = tallied(whole_dump(rows), ESTABLISHED, LISTENERS["ipv4"])
    assert found.services == {
        ServicePort(INBOUND, 80, 0, ESTABLISHED): 1,
        ServicePort(OUTBOUND, 40000, 0, ESTABLISHED): 1,
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
        tallied([*good, *last], ESTABLISHED, [])
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
    (State.ESTABLISHED, None, None): None,
}


@pytest.mark.parametrize(("record", "kind"), UNOWNED.items(), ids=str)
def test_why_nobody_holds_a_socket(
    record: tuple[State, int | None, int | None], kind: Unowned | None
) -> None:
    assert unowned_kind(*record) is kind


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


# Bounds

KEYS = [Destination(bytes([number]), b"", 1) for number in range(40)]
BATCHES = st.lists(st.dictionaries(st.sampled_from(KEYS), st.integers(1, 50)), max_size=12)


@UNHURRIED
@given(BATCHES, st.integers(1, 12))
def test_what_is_thinned_out_is_too_low_by_a_bounded_part(
    batches: list[dict[Destination, int]], limit: int
) -> None:
    exact: Counter[Destination] = Counter()
    thinned: Counter[Destination] = Counter()
    for batch in batches:
        exact.update(batch)
        thinned.update(batch)
        thin(thinned, limit)
        assert len(thinned) <= 2 * limit
        assert all(number > 0 for number in thinned.values())
        for key in KEYS:
            assert 0 <= exact[key] - thinned[key] <= exact.total() / limit


@given(st.dictionaries(st.sampled_from(KEYS), st.integers(1, 50)))
def test_few_keys_are_counted_exactly(batch: dict[Destination, int]) -> None:
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
    found = tallied(whole_dump(mixture, size=1000), ESTABLISHED, [])
    assert found.services == {ServicePort(OUTBOUND, 443, 0, ESTABLISHED): 1200}
    assert len(found.destinations) <= 40
    (heaviest, number) = found.destinations.most_common(1)[0]
    assert heaviest.destination == address("10.9.9.9")
    assert 300 - 1200 / 20 <= number <= 300
