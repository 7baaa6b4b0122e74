"""From what the kernel counts and limits to figures: nothing is invented, nothing negative."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockwatch.observe.figures import (
    ABORTS,
    COUNTERS,
    Figures,
    HostFigures,
    ephemeral_ports,
    figures,
    hidden_sockets,
    host_figures,
    lately,
)
from sockwatch.tcp.numbers import Groups, Limits

PAGE: Final = 65_536
GROUPS: Final[Groups] = {
    "Tcp": {"ActiveOpens": 1, "PassiveOpens": 2, "AttemptFails": 3, "EstabResets": 4},
    "TcpExt": {
        "ListenOverflows": 5,
        "ListenDrops": 6,
        "TCPReqQFullDrop": 7,
        "TCPReqQFullDoCookies": 8,
        "SyncookiesSent": 9,
        "SyncookiesRecv": 10,
        "SyncookiesFailed": 11,
        "TCPSynRetrans": 12,
        "TCPTimeWaitOverflow": 0,
        "TCPAbortOnClose": 14,
        "TCPAbortOnData": 15,
        "TCPAbortOnMemory": 16,
        "TCPAbortOnTimeout": 17,
        "TCPAbortOnLinger": 18,
    },
    "TCP": {"inuse": 70, "orphan": 19, "tw": 20, "alloc": 100, "mem": 21},
}
LIMITS: Final = Limits(
    sysctls={
        "net.core.somaxconn": (4096,),
        "net.ipv4.ip_local_port_range": (40_000, 40_099),
        "net.ipv4.tcp_max_orphans": (65_536,),
        "net.ipv4.tcp_max_syn_backlog": (1024,),
        "net.ipv4.tcp_max_tw_buckets": (131_072,),
        "net.ipv4.tcp_mem": (10, 20, 30),
    },
    reserved_ports=(range(40_010, 40_020),),
    page_bytes=PAGE,
    memory_unit_bytes=4096,
)
NO_LIMITS: Final = Limits({}, None, PAGE, None)


def test_everything_that_was_read_is_told() -> None:
    host = host_figures(GROUPS, LIMITS, 5)
    assert host == HostFigures(
        orphans=19,
        orphan_limit=65_536,
        memory=21 * 4096,
        memory_limits={"low": 10 * PAGE, "pressure": 20 * PAGE, "high": 30 * PAGE},
        hidden=5,
    )
    assert figures(GROUPS, LIMITS, host) == Figures(
        counters={
            "active_opens": 1,
            "passive_opens": 2,
            "attempt_fails": 3,
            "established_resets": 4,
            "listen_overflows": 5,
            "listen_drops": 6,
            "syn_queue_full_drops": 7,
            "syn_queue_full_cookies": 8,
            "syncookies_sent": 9,
            "syncookies_received": 10,
            "syncookies_failed": 11,
            "syn_retransmissions": 12,
            "time_wait_overflows": 0,
        },
        aborts={"close": 14, "data": 15, "memory": 16, "timeout": 17, "linger": 18},
        time_wait=20,
        time_wait_limit=131_072,
        ephemeral_ports=90,
        somaxconn=4096,
        max_syn_backlog=1024,
        host=host,
    )


def test_what_was_not_read_is_absent_and_not_zero() -> None:
    assert figures({}, NO_LIMITS) == Figures({}, {}, None, None, None, None, None, None)
    assert host_figures({}, NO_LIMITS, None) == HostFigures(None, None, None, {}, None)


@pytest.mark.parametrize("table", [COUNTERS, ABORTS], ids=["counters", "aborts"])
def test_a_group_that_was_not_read_takes_nothing_else_with_it(
    table: dict[str, tuple[str, str]],
) -> None:
    for missing in ("Tcp", "TcpExt", "TCP"):
        told = figures({name: GROUPS[name] for name in GROUPS.keys() - {missing}}, LIMITS)
        expected = {name for name, (group, _) in table.items() if group != missing}
        assert {*told.counters, *told.aborts} & table.keys() == expected
        assert (told.time_wait is None) is (missing == "TCP")
        assert told.somaxconn == 4096


def test_a_counter_that_this_kernel_does_not_have_is_absent() -> None:
    extended = {name: n for name, n in GROUPS["TcpExt"].items() if name != "TCPTimeWaitOverflow"}
    told = figures({**GROUPS, "TcpExt": extended}, LIMITS).counters
    assert told.keys() == COUNTERS.keys() - {"time_wait_overflows"}


def test_a_negative_counter_is_absent() -> None:
    told = figures({"Tcp": {"ActiveOpens": -1, "PassiveOpens": 0}}, LIMITS).counters
    assert told == {"passive_opens": 0}


def test_a_counter_may_be_as_large_as_the_kernel_counts() -> None:
    told = figures({"Tcp": {"ActiveOpens": 2**32 - 1, "PassiveOpens": 2**64 - 1}}, LIMITS).counters
    assert told == {"active_opens": 2**32 - 1, "passive_opens": 2**64 - 1}


def test_usage_that_dips_below_zero_is_zero() -> None:
    groups = {"TCP": {"orphan": -2, "tw": -1, "mem": -3}}
    host = host_figures(groups, LIMITS, None)
    assert (host.orphans, host.memory, figures(groups, LIMITS).time_wait) == (0, 0, 0)


def test_memory_in_an_unknown_unit_is_absent_and_its_limits_are_not() -> None:
    limits = Limits(LIMITS.sysctls, None, PAGE, None)
    host = host_figures(GROUPS, limits, None)
    assert host.memory is None
    assert host.memory_limits["high"] == 30 * PAGE


@pytest.mark.parametrize("mem", [(), (1, 2), (1, 2, 3, 4)])
def test_memory_limits_that_are_not_three_are_absent(mem: tuple[int, ...]) -> None:
    limits = Limits({"net.ipv4.tcp_mem": mem}, None, PAGE, 4096)
    assert host_figures(GROUPS, limits, None).memory_limits == {}


def test_what_was_counted_lately_is_what_was_added() -> None:
    """What is new, gone or has gone back says nothing of how much was added."""
    before = {"kept": 5, "more": 5, "back": 5, "gone": 5}
    now = {"kept": 5, "more": 8, "back": 4, "new": 9}
    assert lately(2.5, before, now) == (2.5, {"kept": 0, "more": 3})


# Ephemeral ports


@pytest.mark.parametrize(
    ("chosen", "reserved", "ports"),
    [
        ((32_768, 60_999), (), 28_232),
        ((40_000, 40_000), (), 1),
        ((40_000, 40_099), (range(40_010, 40_020), range(40_050, 40_051)), 89),
        ((40_000, 40_099), (range(8080, 8081), range(50_000, 50_010)), 100),
        ((40_000, 40_099), (range(39_990, 40_010), range(40_090, 41_000)), 80),
        ((40_000, 40_099), (range(65_536),), 0),
        (None, (), None),
        ((40_000,), (), None),
        ((40_000, 40_099), None, None),
    ],
)
def test_ephemeral_ports_are_the_range_less_reserved_ones(
    chosen: tuple[int, ...] | None, reserved: tuple[range, ...] | None, ports: int | None
) -> None:
    assert ephemeral_ports(chosen, reserved) == ports


@given(
    st.tuples(st.integers(1, 65_535), st.integers(0, 2000)),
    st.lists(st.integers(0, 65_535), unique=True, max_size=200),
)
def test_every_port_is_ephemeral_or_not(start: tuple[int, int], reserved: list[int]) -> None:
    first, last = start[0], min(sum(start), 65_535)
    ports = set(range(first, last + 1)) - set(reserved)
    ranges = [range(port, port + 1) for port in reserved]
    assert ephemeral_ports((first, last), ranges) == len(ports)


# Hidden sockets


@pytest.mark.parametrize(
    ("groups", "hashed", "hidden"),
    [
        (GROUPS, 70, 30),
        (GROUPS, 100, 0),
        (GROUPS, 101, 0),
        (GROUPS, None, None),
        ({}, 70, None),
        ({"TCP": {"inuse": 70}}, 70, None),
    ],
)
def test_hidden_sockets_are_those_beyond_the_tables(
    groups: Groups, hashed: int | None, hidden: int | None
) -> None:
    assert hidden_sockets(groups, hashed) == hidden
