"""Listening sockets become what operators call a listener."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from readings import listening

from sockwatch.observe.listeners import (
    ListenerMemory,
    listeners,
    unit_by_lent_cgroup,
    unit_by_port,
)
from sockwatch.observe.snapshot import Listener
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Family

UNITS = {1: "web.service", 2: "other-web.service", 3: ""}


def unit_of(cgroup: int) -> str:
    return UNITS.get(cgroup, "")


def seen(*rows: Row) -> tuple[Listener, ...]:
    return listeners(rows, unit_of)


def test_a_socket_is_a_listener() -> None:
    (only,) = seen(listening(80, "192.0.2.1", cgroup=1, queue=3, limit=128))
    assert (only.family, only.address, only.port) == (Family.INET, "192.0.2.1", 80)
    assert (only.unit, only.sockets, only.queue, only.limit) == ("web.service", 1, 3, 128)


def test_nothing_listens() -> None:
    assert seen() == ()


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "::", "::1", "2001:db8::1"])
def test_addresses_are_written_as_people_write_them(address: str) -> None:
    (only,) = seen(listening(80, address))
    assert only.address == address
    assert only.family is (Family.INET6 if ":" in address else Family.INET)


def test_a_mapped_address_stays_what_it_is() -> None:
    (only,) = seen(listening(80, "::ffff:127.0.0.1"))
    assert (only.family, only.address) == (Family.INET6, "::ffff:127.0.0.1")


def test_what_another_unit_opened_for_it_is_the_units_own() -> None:
    rows = (listening(80, cgroup=3, inode=5), listening(81, cgroup=3, inode=6))
    first, second = listeners(rows, unit_of, {5: "activated.service"})
    assert (first.unit, first.lent, first.inodes) == ("activated.service", (3,), (5,))
    assert (second.unit, second.lent, second.inodes) == ("", (), (6,))


def test_whose_a_listener_is_may_become_known_later_and_change_with_its_socket() -> None:
    memory = ListenerMemory()
    rows = (listening(80, cgroup=3, inode=5),)
    other = (listening(80, cgroup=3, inode=6),)
    units = [
        memory(found, unit_of, adopted)[0].unit
        for found, adopted in (
            (rows, {}),
            (rows, {5: "activated.service"}),
            (other, {5: "activated.service"}),
            (other, {6: "next.service"}),
        )
    ]
    assert units == ["", "activated.service", "", "next.service"]


def test_sockets_that_share_an_address_are_one_listener() -> None:
    """SO_REUSEPORT: each has an accept queue of its own, clients are spread over all of them."""
    workers = [listening(80, cgroup=1, queue=queue, limit=128) for queue in (3, 0, 129)]
    (group,) = seen(*workers)
    assert (group.sockets, group.queue, group.limit) == (3, 132, 384)


def test_what_differs_in_address_port_or_unit_is_apart() -> None:
    found = seen(
        listening(80, "0.0.0.0", cgroup=1),
        listening(80, "::", cgroup=1),
        listening(80, "127.0.0.1", cgroup=1),
        listening(81, "0.0.0.0", cgroup=1),
        listening(80, "0.0.0.0", cgroup=2),
    )
    assert [one.sockets for one in found] == [1] * 5
    assert len({(one.address, one.port, one.unit) for one in found}) == 5


def test_two_cgroups_of_one_unit_are_one_listener() -> None:
    UNITS[7] = "web.service"
    (group,) = seen(listening(80, cgroup=1), listening(80, cgroup=7))
    assert (group.unit, group.sockets) == ("web.service", 2)
    del UNITS[7]


def test_unix_sockets_of_unknown_cgroup_have_no_unit() -> None:
    (only,) = seen(listening(80, cgroup=None))
    assert only.unit == ""


@pytest.mark.parametrize(("queue", "limit"), [(None, None), (None, 128), (0, None)])
def test_an_unknown_queue_stays_unknown(queue: int | None, limit: int | None) -> None:
    (only,) = seen(listening(80, queue=queue, limit=limit))
    assert (only.queue, only.limit) == (queue, limit)


def test_of_a_group_those_are_full_whose_own_queue_is() -> None:
    queues = ((8, 8), (9, 8), (7, 8), (0, 8), (1, 0), (0, 0), (None, None))
    (group,) = seen(*(listening(80, queue=queue, limit=limit) for queue, limit in queues))
    assert (group.sockets, group.full) == (7, 2)


def test_a_sum_of_which_a_part_is_unknown_is_unknown() -> None:
    (group,) = seen(listening(80, queue=2, limit=128), listening(80, queue=None, limit=None))
    assert (group.sockets, group.queue, group.limit) == (2, None, None)


ROWS = st.lists(
    st.builds(
        listening,
        st.sampled_from([22, 80, 443]),
        st.sampled_from(["0.0.0.0", "127.0.0.1", "::", "::1"]),
        cgroup=st.sampled_from([None, 0, 1, 2]),
        queue=st.integers(0, 200),
        limit=st.integers(0, 4096),
    ),
    max_size=20,
)


@given(ROWS, st.randoms(use_true_random=False))
def test_no_order_of_sockets_changes_the_listeners(rows: list[Row], random: object) -> None:
    """Else the page would jump about, and nothing would be found again."""
    expected = seen(*rows)
    shuffled = rows.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert seen(*shuffled) == expected
    assert [one.port for one in expected] == sorted(one.port for one in expected)


@given(ROWS)
def test_no_socket_and_no_queue_is_lost(rows: list[Row]) -> None:
    found = seen(*rows)
    assert sum(one.sockets for one in found) == len(rows)
    assert sum(one.queue or 0 for one in found) == sum(row.receive_queue or 0 for row in rows)
    assert sum(one.limit or 0 for one in found) == sum(row.send_queue or 0 for row in rows)


@given(st.lists(st.tuples(ROWS, st.sampled_from(["web.service", "renamed.service"])), max_size=6))
def test_memory_never_shows(passes: list[tuple[list[Row], str]]) -> None:
    """A unit may become known only after its listener, without any change of the sockets."""
    remembered = ListenerMemory()
    for rows, name in passes:

        def named(cgroup: int, name: str = name) -> str:
            return name if cgroup == 1 else ""

        for _ in range(2):
            assert remembered(tuple(rows), named) == listeners(rows, named)


def test_what_has_not_changed_is_not_made_anew() -> None:
    remembered = ListenerMemory()
    first = remembered((listening(80, cgroup=1),), unit_of)
    assert remembered((listening(80, cgroup=1),), unit_of) is first
    assert remembered((listening(80, cgroup=1, queue=1),), unit_of) is not first


CHANGE = st.sampled_from(
    [
        lambda row, value: row._replace(receive_queue=value),
        lambda row, value: row._replace(send_queue=value),
        lambda row, value: row._replace(drops=value),
        lambda row, value: row._replace(cookie=value),
        lambda row, value: row._replace(cgroup=value),
        lambda row, value: row._replace(source_port=value),
    ]
)
CHANGES = st.lists(st.tuples(st.integers(0, 19), CHANGE, st.integers(0, 3)), max_size=10)


@given(ROWS, st.lists(CHANGES, max_size=6))
def test_memory_never_shows_when_single_sockets_change(
    rows: list[Row], passes: list[list[tuple[int, Callable[[Row, int], Row], int]]]
) -> None:
    remembered = ListenerMemory()
    for changes in [[], *passes]:
        for at, change, value in changes:
            if at < len(rows):
                rows[at] = change(rows[at], value)
        assert remembered(tuple(rows), unit_of) == ListenerMemory()(rows, unit_of)


def test_of_many_listeners_only_those_are_made_anew_that_have_changed() -> None:
    remembered = ListenerMemory()
    rows = [listening(port, cgroup=1) for port in (80, 22, 443, 443)]
    before = remembered(tuple(rows), unit_of)
    rows[3] = rows[3]._replace(receive_queue=5)
    after = remembered(tuple(rows), unit_of)
    assert [one is other for one, other in zip(before, after, strict=True)] == [True, True, False]
    assert (after[2].port, after[2].queue, after[2].sockets) == (443, 5, 2)


def test_drops_are_told_by_socket_and_only_of_those_that_have_any() -> None:
    rows = [
        listening(80)._replace(cookie=cookie, drops=drops)
        for cookie, drops in ((1, 4), (2, 0), (3, 7))
    ]
    (group,) = seen(*rows)
    assert (group.dropped, group.drops) == ({1: 4, 3: 7}, 0)


def test_drops_of_which_a_part_is_unknown_are_unknown() -> None:
    rows = [
        listening(80)._replace(cookie=cookie, drops=drops) for cookie, drops in ((1, 4), (2, None))
    ]
    (group,) = seen(*rows)
    assert group.drops is None


def test_a_listener_begins_with_nothing() -> None:
    (only,) = seen(listening(80)._replace(cookie=1, drops=0))
    assert (only.peak, only.half_open, only.half_open_resent, only.drops) == (0, 0, 0, 0)


def test_a_source_without_queues_knows_no_peak_and_nothing_sent_again() -> None:
    (only,) = seen(listening(80, queue=None, limit=None))
    assert (only.peak, only.half_open, only.half_open_resent, only.drops) == (None, 0, None, None)


def test_a_port_with_one_unit_belongs_to_it() -> None:
    found = seen(
        listening(80, "0.0.0.0", cgroup=1),
        listening(80, "::", cgroup=1),
        listening(443, cgroup=2),
    )
    assert unit_by_port(found) == {80: "web.service", 443: "other-web.service"}


def test_a_port_with_several_units_belongs_to_none() -> None:
    known_and_unknown = seen(listening(80, cgroup=1), listening(80, "::1", cgroup=None))
    two = seen(listening(80, "127.0.0.1", cgroup=1), listening(80, "127.0.0.2", cgroup=2))
    assert unit_by_port(known_and_unknown) == unit_by_port(two) == {}


def test_a_lent_cgroup_stands_for_the_unit_of_its_port() -> None:
    rows = (
        listening(80, cgroup=3, inode=5),
        listening(80, "::1", cgroup=3, inode=6),
        listening(81, cgroup=3, inode=7),
        listening(81, "::1", cgroup=3, inode=8),
        listening(82, cgroup=1, inode=9),
    )
    adopted = {5: "a.service", 6: "a.service", 7: "b.service", 8: "c.service"}
    found = listeners(rows, unit_of, adopted)
    assert unit_by_lent_cgroup(found) == {(80, 3): "a.service"}
