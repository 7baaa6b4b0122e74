"""The kernel's counters and limits as kernels of several generations write them.

The fixtures are made by hand: the columns are those of each release, the wanted values the same
everywhere, and every other value is one that no wanted counter has.
"""

import logging
import os
import shutil
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockwatch.kernel.counters import (
    SYSCTLS,
    Counters,
    memory_unit,
    named_values,
    paired_lines,
    read_limits,
)
from sockwatch.observe.figures import ABORTS, COUNTERS

FIXTURES: Final = Path(__file__).parent / "fixtures/proc"
GENERATIONS: Final = ("4.18", "5.4", "5.15", "6.1", "6.18")
WANTED: Final = {
    ("Tcp", "ActiveOpens"): 70001,
    ("Tcp", "PassiveOpens"): 51234,
    ("Tcp", "AttemptFails"): 42,
    ("Tcp", "EstabResets"): 317,
    ("TcpExt", "ListenOverflows"): 23,
    ("TcpExt", "ListenDrops"): 29,
    ("TcpExt", "TCPReqQFullDrop"): 3,
    ("TcpExt", "TCPReqQFullDoCookies"): 19,
    ("TcpExt", "SyncookiesSent"): 20,
    ("TcpExt", "SyncookiesRecv"): 7,
    ("TcpExt", "SyncookiesFailed"): 2,
    ("TcpExt", "TCPSynRetrans"): 611,
    ("TcpExt", "TCPTimeWaitOverflow"): 13,
    ("TcpExt", "TCPAbortOnClose"): 88,
    ("TcpExt", "TCPAbortOnData"): 5,
    ("TcpExt", "TCPAbortOnMemory"): 1,
    ("TcpExt", "TCPAbortOnTimeout"): 17,
    ("TcpExt", "TCPAbortOnLinger"): 4,
}
SOCKSTAT: Final = {"inuse": 871, "orphan": 12, "tw": 4021, "alloc": 1004, "mem": 913}
FILES: Final = {"Tcp": "snmp", "TcpExt": "netstat", "TCP": "sockstat"}

each_generation = pytest.mark.parametrize("generation", GENERATIONS)
each_file = pytest.mark.parametrize(("group", "name"), FILES.items())


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A folder of files of the newest generation, to be damaged."""
    return Path(shutil.copytree(FIXTURES / "6.18/net", tmp_path / "net"))


@each_generation
def test_every_wanted_counter_is_found_by_its_name(generation: str) -> None:
    groups = Counters(FIXTURES / generation / "net").read()
    assert {(group, name): groups[group][name] for group, name in WANTED} == WANTED
    assert groups["TCP"] == SOCKSTAT


def test_the_counters_wanted_here_are_those_that_are_exported() -> None:
    assert WANTED.keys() == {*COUNTERS.values(), *ABORTS.values()}


def test_generations_differ_in_the_places_of_columns() -> None:
    """Else the fixtures would prove nothing about names."""
    places = {
        generation: [*Counters(FIXTURES / generation / "net").read()["TcpExt"]].index(name)
        for generation, name in (("6.1", "ListenDrops"), ("6.18", "ListenDrops"))
    }
    sizes = {len(Counters(FIXTURES / one / "net").read()["TcpExt"]) for one in GENERATIONS}
    assert places["6.1"] != places["6.18"]
    assert len(sizes) == 4  # 5.15 and 6.1 have the same


def test_a_counter_that_the_kernel_does_not_have_is_absent(net: Path) -> None:
    text = (net / "netstat").read_text().replace("TCPTimeWaitOverflow", "TCPSomethingElse")
    (net / "netstat").write_text(text)
    extended = Counters(net).read()["TcpExt"]
    assert "TCPTimeWaitOverflow" not in extended
    assert extended["ListenDrops"] == 29


@each_file
def test_a_file_that_is_missing_leaves_out_its_group_alone(
    net: Path, group: str, name: str
) -> None:
    (net / name).unlink()
    assert Counters(net).read().keys() == FILES.keys() - {group}


@each_file
def test_a_file_that_is_not_understood_leaves_out_its_group_alone(
    net: Path, group: str, name: str
) -> None:
    (net / name).write_bytes((net / name).read_bytes() + b"\xff")
    assert Counters(net).read().keys() == FILES.keys() - {group}


def test_a_host_without_proc_has_no_counters(tmp_path: Path) -> None:
    assert Counters(tmp_path / "absent").read() == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Udp: InErrors\nUdp: 1\n",
        "Tcp: InErrs OutRsts\n",
        "Tcp: InErrs OutRsts\nTcp: 1\n",
        "Tcp: InErrs\nTcp: 1 2\n",
        "Tcp: InErrs OutRsts\nTcp: 1 x\n",
        "Tcp: InErrs OutRsts\nTcp: 1 2\nTcp: 1 2\n",
    ],
)
def test_names_and_numbers_that_do_not_match_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        paired_lines(text, "Tcp")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "UDP: inuse 1\n",
        "TCP6: inuse 1\n",
        "TCP: inuse\n",
        "TCP: inuse 1 orphan\n",
        "TCP: inuse x\n",
        "TCP: inuse 1\nTCP: inuse 2\n",
    ],
)
def test_a_line_that_is_not_of_names_and_numbers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        named_values(text, "TCP")


def test_a_group_is_not_taken_for_one_whose_name_begins_alike() -> None:
    text = "TcpExt: InErrs\nTcpExt: 1\nTcp: InErrs\nTcp: 2\n"
    assert paired_lines(text, "Tcp") == {"InErrs": 2}


@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9]+", fullmatch=True), st.integers()))
def test_any_names_and_numbers_come_back(values: dict[str, int]) -> None:
    names, numbers = " ".join(values), " ".join(map(str, values.values()))
    pairs = " ".join(f"{name} {number}" for name, number in values.items())
    assert paired_lines(f"Tcp: {names}\nTcp: {numbers}\n", "Tcp") == values
    assert named_values(f"TCP: {pairs}\n", "TCP") == values


def test_an_unreadable_file_is_logged_once_until_it_was_readable(
    net: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counters, text = Counters(net), (net / "netstat").read_text()
    for _ in range(2):
        (net / "netstat").unlink()
        counters.read()
        counters.read()
        (net / "netstat").write_text(text)
        assert "TcpExt" in counters.read()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert f"{net / 'netstat'} cannot be read, its figures are absent: " in caplog.text


@each_generation
def test_limits_are_read(generation: str) -> None:
    limits = read_limits(FIXTURES / generation / "sys")
    assert limits.sysctls == {
        "net.core.somaxconn": (128,) if generation == "4.18" else (4096,),
        "net.ipv4.ip_local_port_range": (32768, 60999),
        "net.ipv4.tcp_max_orphans": (65536,),
        "net.ipv4.tcp_max_syn_backlog": (1024,),
        "net.ipv4.tcp_max_tw_buckets": (131072,),
        "net.ipv4.tcp_mem": (188463, 251284, 376926),
    }
    assert limits.reserved_ports is not None
    assert limits.page_bytes == os.sysconf("SC_PAGE_SIZE")


def test_limits_that_are_not_there_are_absent(tmp_path: Path) -> None:
    """As in every network namespace but the initial one, which alone has those of the host."""
    sysctls = Path(shutil.copytree(FIXTURES / "6.18/sys", tmp_path / "sys"))
    (sysctls / "net/ipv4/tcp_mem").unlink()
    (sysctls / "net/ipv4/tcp_max_orphans").unlink()
    limits = read_limits(sysctls)
    absent = {"net.ipv4.tcp_mem", "net.ipv4.tcp_max_orphans"}
    assert limits.sysctls.keys() == {*SYSCTLS} - absent
    assert read_limits(tmp_path / "absent").sysctls == {}
    assert read_limits(tmp_path / "absent").reserved_ports is None


@pytest.mark.parametrize(
    ("page", "release", "unit"),
    [
        (4096, "4.18.0-553.el8_10.x86_64", 4096),
        (4096, "6.18.44", 4096),
        (4096, "custom", 4096),
        (65536, "4.18.0-553.el8_10.aarch64", None),
        (65536, "5.14.0-503.el9.aarch64+64k", None),
        (65536, "6.1.0-44-arm64", 65536),
        (16384, "10.0", 16384),
        (65536, "custom", None),
    ],
)
def test_the_unit_of_memory_is_known_or_absent(page: int, release: str, unit: int | None) -> None:
    assert memory_unit(page, release) == unit
