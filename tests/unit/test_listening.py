"""Inbound or outbound: told by who listens, in either byte order."""

from itertools import product
from socket import htons

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import listener

from sockwatch.kernel.batches import batches_of_rows
from sockwatch.tcp import listening
from sockwatch.tcp.batch import Chosen
from sockwatch.tcp.listening import (
    EVERY_PORT,
    INBOUND,
    OUTBOUND_EPHEMERAL,
    OUTBOUND_FIXED,
    Listening,
    ListeningMemory,
)
from sockwatch.tcp.listening import PORTS as ALL_PORTS
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Direction, Family, State

ESTABLISHED = State.ESTABLISHED
CHOSEN = bytes(htons(at) >= 32768 for at in range(1 << 16))
"""Flags of the ports that connect() takes."""
BOTH = {Family.INET, Family.INET6}
SERVED = {
    "any IPv4 address": (listener(80), {Family.INET}),
    "one IPv4 address": (listener(80, "10.0.0.1"), {Family.INET}),
    "any address": (listener(80, "::", v6_only=False), BOTH),
    "any IPv6 address": (listener(80, "::", v6_only=True), {Family.INET6}),
    "any address, and an old kernel": (listener(80, "::"), BOTH),
    "one IPv6 address": (listener(80, "::1", v6_only=False), {Family.INET6}),
    "one mapped address": (listener(80, "::ffff:10.0.0.1", v6_only=False), BOTH),
}


@pytest.mark.parametrize("name", SERVED)
def test_which_families_a_listener_serves(name: str) -> None:
    row, families = SERVED[name]
    found = Listening([row])
    assert {
        family for family in Family if found.direction(family, 80, 0) is Direction.INBOUND
    } == families
    assert found.direction(row.family, 81, 0) is Direction.OUTBOUND


def test_listeners_add_up() -> None:
    found = Listening([listener(80), listener(81), listener(80, "::1"), listener(80)])
    everything = product(Family, range(1 << 16))
    assert [each for each in everything if inward(found, *each)] == [
        (Family.INET, 80),
        (Family.INET, 81),
        (Family.INET6, 80),
    ]


def inward(found: Listening, family: Family, port: int) -> bool:
    return found.direction(family, port, 0) is Direction.INBOUND


def test_without_listeners_all_is_outbound() -> None:
    found = Listening([])
    assert not any(inward(found, family, port) for family in Family for port in (0, 80, 65535))


PORTS = (0, 1, 80, 255, 256, 0x5000, 0xFF00, 65535)


@pytest.fixture(params=["this machine's", "network"])
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Byte orders: this machine's, and that of one whose own is the network's."""
    if request.param == "network":
        monkeypatch.setattr(listening, "htons", int)
    return str(request.param)


@pytest.mark.parametrize("port", PORTS)
def test_ports_are_looked_up_as_they_stand_in_a_record(port: int, order: str) -> None:
    found = Listening([listener(port), listener(7, "::1")])
    at = htons(port) if order != "network" else port
    assert len(found.roles) == ALL_PORTS
    assert [index for index, roles in enumerate(found.roles) if roles & 0xF] == [at]
    assert [roles for roles in found.roles if roles >> 4] == [INBOUND << 4 | (port == 7)]


def test_the_lookup_for_records_agrees_with_the_one_for_rows() -> None:
    listeners: list[Row] = [listener(port * 31 % 65536) for port in range(500)]
    found = Listening([*listeners, listener(80, "::1"), listener(81, "::")], CHOSEN)
    ends = [*product(Family, range(1 << 16))]
    (batch,) = batches_of_rows(Row(family, ESTABLISHED, b"", port, b"", 0) for family, port in ends)
    assert [*found.roles_in(batch)] == [found.role(*end, 0) for end in ends]
    assert [*found.inbound(batch)] == [inward(found, *end) for end in ends]


@pytest.mark.parametrize(
    ("local", "remote", "role"),
    [
        (8080, 40_000, INBOUND),
        (8080, 5432, OUTBOUND_FIXED),
        (40_000, 8080, OUTBOUND_EPHEMERAL),
        (40_000, 40_001, OUTBOUND_EPHEMERAL),
        (80, 40_000, INBOUND),
        (80, 5432, INBOUND),
    ],
)
@pytest.mark.parametrize("family", Family)
def test_what_came_to_a_listener_that_is_gone_is_inbound(
    local: int, remote: int, role: int, family: Family
) -> None:
    found = Listening([listener(80, "::")], CHOSEN)
    (batch,) = batches_of_rows([Row(family, ESTABLISHED, b"", local, b"", remote)])
    assert found.role(family, local, remote) == role
    assert [*found.roles_in(batch)] == [role]


def test_where_the_range_is_not_known_nobody_can_tell_who_came_to_whom() -> None:
    assert Listening([]).role(Family.INET, 8080, 40_000) == OUTBOUND_EPHEMERAL


@pytest.mark.parametrize("number", [0, 1, 2])
def test_few_connections_are_looked_up_as_many_are(number: int) -> None:
    row = Row(Family.INET, ESTABLISHED, b"", 80, b"", 0)
    (batch,) = batches_of_rows([row] * 2)
    some = Chosen(batch, [True] * number + [False] * (2 - number))
    assert [*Listening([listener(80)]).roles_in(some)] == [INBOUND] * number


# From pass to pass

ROWS = st.lists(
    st.builds(
        lambda port, address, v6_only, queue: listener(port, address, v6_only=v6_only)._replace(
            receive_queue=queue
        ),
        st.integers(80, 82),
        st.sampled_from(["0.0.0.0", "::", "::1"]),
        st.booleans(),
        st.integers(0, 1),
    ),
    max_size=3,
)
EPHEMERAL = st.sampled_from([EVERY_PORT, bytes(ALL_PORTS)])


@settings(deadline=None)
@given(st.lists(st.tuples(ROWS, EPHEMERAL), max_size=6))
def test_what_is_kept_from_the_last_pass_is_right_now(
    passes: list[tuple[list[Row], bytes]],
) -> None:
    memory = ListeningMemory()
    for rows, ephemeral in passes:
        assert memory(rows, ephemeral).roles == Listening(rows, ephemeral).roles


def test_queues_that_change_make_nothing_anew() -> None:
    memory, quiet = ListeningMemory(), [listener(80), listener(443)]
    before = memory(quiet, EVERY_PORT)
    busy = [listener(80), listener(443)._replace(receive_queue=9, cookie=77)]
    assert memory(busy, EVERY_PORT) is before
    assert memory(busy[:1], EVERY_PORT) is not before
