"""The search through packed columns, held against a look at each connection by itself."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv6Address, ip_address
from math import inf
from random import Random
from socket import inet_ntop
from struct import Struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marked import ENTRIES, FILTERS, OWNERS, TAKEN, UNITS, Entry, packed, seen, stuck
from snapshots import listener

from sockwatch.observe.leaks import MANY, Filter, Leak, Leaks, Share
from sockwatch.observe.search import find_leaks, marked_inodes
from sockwatch.observe.snapshot import OTHER, NamespaceView, ServiceKey, StuckKey
from sockwatch.tcp.causes import Cause
from sockwatch.tcp.owners import Owners, Process
from sockwatch.tcp.states import Direction, State

EVERYTHING = Filter()
RECORD = Struct("=BBxxHH16s16s24xII")
"""struct inet_diag_msg: family, state, ports, addresses, uid, inode."""


def search(*views: NamespaceView, wanted: Filter = EVERYTHING) -> Leaks:
    found = find_leaks(views, wanted)
    assert found is not None
    return found


def leaks(*entries: Entry, wanted: Filter = EVERYTHING) -> Leaks:
    return search(seen(stuck(*entries)), wanted=wanted)


def many(number: int = MANY, entry: Entry | None = None) -> list[Entry]:
    return [entry or Entry()] * number


# As anybody would write it


def plain(address: str) -> str:
    ip = ip_address(address)
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return str(mapped or ip)


def naive_leak(entry: Entry, bounds: Iterable[float]) -> Leak:
    owners = OWNERS.get(entry.inode)
    return Leak(
        netns="",
        state=entry.state,
        cause=entry.cause,
        age=TAKEN - entry.moment,
        at_least=entry.moment in bounds,
        direction=entry.service.direction,
        local=plain(entry.local),
        local_port=entry.local_port,
        remote=plain(entry.remote),
        remote_port=entry.remote_port,
        unit=entry.service.unit,
        uid=None if entry.uid == entry.inode == 0 else entry.uid,
        inode=entry.inode,
        processes=owners.processes if owners else (),
        holders=owners.count if owners else None,
        multipath=entry.multipath,
    )


def counted_as(entry: Entry, shown: Sequence[ServiceKey], folded: int) -> ServiceKey:
    if not folded or entry.service in shown:
        return entry.service
    return ServiceKey(entry.service.direction, OTHER, OTHER)


def admitted(entry: Entry, group: ServiceKey, wanted: Filter) -> bool:
    return (
        wanted.state in {None, entry.state}
        and wanted.port in {None, entry.service.port, group.port}
        and wanted.unit in {None, entry.service.unit, group.unit}
        and TAKEN - entry.moment >= wanted.older_than
    )


@settings(deadline=None)
@given(
    entries=ENTRIES,
    wanted=FILTERS,
    bounds=st.sets(st.sampled_from([60.0, 3600.0])),
    stride=st.sampled_from([1, 4]),
    folded=st.integers(0, 1),
)
def test_whatever_is_stuck_and_wanted_it_finds_what_a_plain_loop_finds(
    entries: list[Entry], wanted: Filter, bounds: set[float], stride: int, folded: int
) -> None:
    entries.sort(key=lambda entry: entry.state)
    shown = [entry.service for entry in entries[::2]]
    found = stuck(*entries, owners=OWNERS, bounds=bounds, stride=stride)
    result = search(seen(found, services=shown, folded=folded), wanted=wanted)

    chosen = [one for one in entries if admitted(one, counted_as(one, shown, folded), wanted)]
    expected = Counter(
        StuckKey(counted_as(one, shown, folded), one.state, one.cause)
        for one in chosen
        for _ in range(stride)
    )
    assert {group[1:4]: group.connections for group in result.groups} == expected
    assert len(result.groups) == len(expected)
    for group in result.groups:
        same = [
            one
            for one in chosen
            if (counted_as(one, shown, folded), one.state, one.cause) == group[1:4]
        ]
        first = min(one.moment for one in same)
        assert (group.oldest, group.at_least) == (TAKEN - first, first in found.lower_bounds)
        assert {share.process: share.connections for share in group.shares} == held(same, stride)
    ages = sorted((one.age for one in map(bounded(found.lower_bounds), chosen)), reverse=True)
    assert [leak.age for leak in result.sockets] == ages[: wanted.limit]
    told = Counter(result.sockets)
    assert told <= Counter(map(bounded(found.lower_bounds), chosen))
    assert (result.connections, result.stride) == (len(chosen) * stride, stride)


def bounded(bounds: Iterable[float]) -> Callable[[Entry], Leak]:
    return lambda entry: naive_leak(entry, bounds)


def held(entries: Iterable[Entry], stride: int) -> Mapping[Process, int]:
    found: Counter[Process] = Counter()
    for entry in entries:
        if entry.inode in OWNERS:
            found.update(OWNERS[entry.inode].processes * stride)
    return found


# What the filter means


def test_every_field_of_a_connection_is_told() -> None:
    entry = Entry(local="2001:db8::1", remote="2001:db8::2", uid=33, inode=101, age=61.5)
    [leak] = search(seen(stuck(entry, owners=OWNERS, bounds=[61.5]), netns="blue")).sockets
    assert leak == Leak(
        netns="blue",
        state=State.CLOSE_WAIT,
        cause=Cause.NOT_CLOSED,
        age=61.5,
        at_least=True,
        direction=Direction.INBOUND,
        local="2001:db8::1",
        local_port=8080,
        remote="2001:db8::2",
        remote_port=50_000,
        unit="app.service",
        uid=33,
        inode=101,
        processes=(Process(7, "python3", 40.0),),
        holders=1,
    )


def test_the_limit_applies_to_what_is_told_one_by_one_and_not_to_totals() -> None:
    entries = [Entry(age=float(age)) for age in (70, 300, 61, 5000, 299)]
    found = leaks(*entries, wanted=Filter(limit=2))
    assert [leak.age for leak in found.sockets] == [5000, 300]
    assert [(group.connections, group.oldest) for group in found.groups] == [(5, 5000)]
    assert found.connections == 5


def test_as_many_as_the_limit_are_told_also_if_all_are_of_one_age() -> None:
    assert len(leaks(*many(40), wanted=Filter(limit=7)).sockets) == 7


@pytest.mark.parametrize(
    ("port", "expected"), [("8080", [True]), ("50000", [False]), ("1", []), (OTHER, [])]
)
def test_the_port_is_the_local_one_of_inbound_and_the_remote_one_of_outbound_connections(
    port: str, expected: list[bool]
) -> None:
    found = leaks(Entry(inbound=True), Entry(inbound=False), wanted=Filter(port=port))
    assert [leak.direction is Direction.INBOUND for leak in found.sockets] == expected


def test_a_unit_that_is_not_known_can_be_asked_for() -> None:
    entries = [Entry(cgroup=cgroup, local_port=cgroup) for cgroup in (11, 12, 13, 99)]
    found = leaks(*entries, wanted=Filter(unit=""))
    assert sorted(leak.local_port for leak in found.sockets) == [13, 99]


def test_of_age_is_what_is_as_old_as_asked() -> None:
    entries = [Entry(age=age) for age in (59.75, 60.0, 60.25)]
    assert leaks(*entries, wanted=Filter(older_than=60.0)).connections == 2


def test_what_metrics_fold_is_counted_as_other_and_told_by_its_name() -> None:
    view = seen(stuck(Entry(local_port=81), Entry()), services=[Entry().service], folded=1)
    found = search(view)
    other = ServiceKey(Direction.INBOUND, OTHER, OTHER)
    assert {group.service for group in found.groups} == {Entry().service, other}
    assert sorted(leak.local_port for leak in found.sockets) == [81, 8080]
    for wanted in (Filter(port=OTHER), Filter(unit=OTHER), Filter(port="81")):
        [leak] = search(view, wanted=wanted).sockets
        assert (leak.local_port, leak.unit) == (81, "app.service")


def test_a_request_without_cgroup_belongs_to_the_unit_that_listens() -> None:
    entry = Entry(State.SYN_RECV, Cause.UNANSWERED, cgroup=0, inode=0, uid=0)
    view = NamespaceView("", {}, None, {}, 0, (listener(8080, "web.service"),), stuck=stuck(entry))
    found = search(view, wanted=Filter(unit="web.service"))
    assert [(leak.unit, leak.uid, leak.inode) for leak in found.sockets] == [
        ("web.service", None, 0)
    ]


# How groups stand to one another


@pytest.mark.parametrize("ages", [(70.0, 80.0), (80.0, 70.0)])
def test_cgroups_of_one_unit_are_one_group(ages: tuple[float, float]) -> None:
    found = stuck(Entry(cgroup=11, age=ages[0]), Entry(cgroup=12, age=ages[1]))
    assert len(search(seen(found)).groups) == 2
    same = replace(found, units=dict.fromkeys(UNITS, "app.service"))
    assert [(one.connections, one.oldest) for one in search(seen(same)).groups] == [(2, 80)]


def test_what_an_application_lets_pile_up_comes_first_then_what_is_most() -> None:
    unanswered = Entry(State.SYN_SENT, Cause.UNANSWERED, local_port=1)
    pool, leaking = Entry(local_port=2), Entry(local_port=3)
    found = leaks(*many(50, unanswered), *many(MANY - 1, pool), *many(MANY, leaking))
    assert [(group.service.port, group.leaking) for group in found.groups] == [
        ("3", True),
        ("1", False),
        ("2", False),
    ]


@pytest.mark.parametrize("cause", Cause)
def test_a_few_are_no_leak_and_what_the_peer_has_to_answer_is_none(cause: Cause) -> None:
    [few] = leaks(*many(MANY - 1, Entry(cause=cause))).groups
    [pile] = leaks(*many(MANY, Entry(cause=cause))).groups
    assert (few.leaking, pile.leaking) == (False, cause is not Cause.UNANSWERED)


def test_of_five_workers_the_two_that_leak_are_told_apart() -> None:
    workers = [Process(pid, "worker", 1.0) for pid in range(5)]
    owners = {inode: Owners.alone(workers[1 if inode % 3 else 4]) for inode in range(1, 31)}
    found = stuck(*(Entry(inode=inode) for inode in owners), owners=owners)
    [group] = search(seen(found)).groups
    assert group.shares == (Share(workers[1], 20), Share(workers[4], 10))


def test_a_socket_that_processes_share_counts_for_each_of_them() -> None:
    found = stuck(Entry(inode=101), Entry(inode=103), owners=OWNERS)
    [group] = search(seen(found)).groups
    assert [share.connections for share in group.shares] == [2, 1]
    assert sorted(leak.holders or 0 for leak in search(seen(found)).sockets) == [1, 20]


# Over namespaces


def test_namespaces_are_searched_together_and_told_apart() -> None:
    views = [
        seen(stuck(Entry(age=70), Entry(age=300))),
        seen(None, netns="unknown"),
        seen(stuck(Entry(age=100), stride=8), netns="blue"),
    ]
    found = search(*views, wanted=Filter(limit=2))
    assert [(leak.netns, leak.age) for leak in found.sockets] == [("", 300), ("blue", 100)]
    assert {(group.netns, group.connections) for group in found.groups} == {("", 2), ("blue", 8)}
    assert found.stride == 8


def test_each_stands_for_as_many_as_it_was_sampled_from_when_it_was_read() -> None:
    """As in the pass that narrows the sample."""
    narrowed = packed([Entry(inode=101)] * 3, stride=4)
    found = replace(
        stuck(stride=4, owners=OWNERS), marked=(*packed([Entry(inode=101)] * 2), *narrowed)
    )
    [group] = search(seen(found)).groups
    assert (group.connections, group.shares[0].connections) == (14, 14)


def test_without_ages_nothing_is_known_and_that_is_not_nothing_stuck() -> None:
    assert find_leaks([seen(None)], EVERYTHING) is None
    assert find_leaks([], EVERYTHING) is None
    assert search(seen(stuck())) == Leaks((), ())


def test_only_what_a_process_holds_has_an_owner_to_look_for() -> None:
    found = stuck(Entry(inode=5), Entry(inode=0), Entry(State.SYN_SENT, inode=7))
    assert [*marked_inodes(found)] == [5, 7]


# What it takes


def decoded(entries: Sequence[Entry], records: bytes) -> int:
    """A connection at a time, as nobody should do it; how many there are."""
    groups: dict[object, list[object]] = {}
    for number, entry in enumerate(entries):
        (
            family,
            _,
            local_port,
            remote_port,
            local,
            remote,
            uid,
            inode,
        ) = RECORD.unpack_from(records, 72 * number)
        size = 4 if family == 2 else 16
        leak = Leak(
            "",
            entry.state,
            entry.cause,
            entry.age,
            at_least=False,
            direction=Direction.INBOUND,
            local=inet_ntop(family, local[:size]),
            local_port=local_port,
            remote=inet_ntop(family, remote[:size]),
            remote_port=remote_port,
            unit="",
            uid=uid,
            inode=inode,
        )
        groups.setdefault((leak.local_port, leak.cause), []).append(leak)
    return sum(map(len, groups.values()))


@pytest.mark.parametrize("ports", [[80], [80, 443]])
@pytest.mark.parametrize("oldest", [100.0, 1000.0])
@pytest.mark.parametrize(
    "wanted", [Filter(limit=100), Filter(port="80", older_than=1.0, limit=100)]
)
def test_a_search_costs_a_fraction_of_looking_at_each(
    ports: list[int], oldest: float, wanted: Filter
) -> None:
    """For 100,000: 10 to 40 ms of CPU against more than 300; an answer may take 200 ms."""
    rng = Random(1)
    some = [
        Entry(age=max(100.0, rng.random() * oldest), local_port=rng.choice(ports), inode=number + 1)
        for number in range(1000)
    ]
    found = stuck(*some, batch=250)
    found = replace(found, marked=found.marked * 20)
    records = b"".join(one.record for one in some) * 20

    def search_all() -> int:
        return search(seen(found), wanted=wanted).connections

    def decode_all() -> int:
        return decoded(some * 20, records)

    assert search_all() == 20 * sum(wanted.port in {None, str(one.local_port)} for one in some)
    assert decode_all() == 20_000
    assert cost(search_all) < cost(decode_all) / 3


def cost(work: Callable[[], object]) -> float:
    """Seconds of CPU, the least of some."""
    least = inf
    for _ in range(3):
        began = time.thread_time()
        work()
        least = min(least, time.thread_time() - began)
    return least
