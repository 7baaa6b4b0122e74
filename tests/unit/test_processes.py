"""Processes are read as /proc describes them, whatever they call themselves."""

import os
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proctree import ProcTree

from sockwatch.kernel.cgroups import Mount
from sockwatch.kernel.processes import (
    BATCH,
    PROC,
    descriptors,
    list_members,
    list_pids,
    opened,
    parse_stat,
    read_cgroup,
    read_process,
    socket_inode,
    sockets,
)
from sockwatch.tcp.owners import Process

TAIL = b"S 1 1 1 0 -1 4194560 " + b"0 " * 12 + b"12345 52944896 5000 18446744073709551615 1\n"


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"nginx", "nginx"),
        (b"", ""),
        (b"tmux: server", "tmux: server"),
        (b"a) Z 1 (b", "a) Z 1 (b"),
        (b"(sd-pam)", "(sd-pam)"),
        (b") ", ") "),
        (b"a\nb 1 (c)", "a\nb 1 (c)"),
        (b"\x1b[2J", "\x1b[2J"),
        ("grün".encode(), "grün"),
        (b"cut \xe2\x82", r"cut \xe2\x82"),
    ],
)
def test_a_process_has_the_name_it_chose_as_text(name: bytes, expected: str) -> None:
    process = parse_stat(b"42 (" + name + b") " + TAIL)
    assert process == Process(42, expected, 12345 / os.sysconf("SC_CLK_TCK"))
    process.name.encode("utf-8")


@pytest.mark.parametrize(
    "tail",
    [
        TAIL.replace(b"S", b"Z", 1),
        TAIL.replace(b"S", b"X", 1),
        TAIL.replace(b"4194560", b"2129984"),  # kthreadd
        TAIL[:30],
        b"",
    ],
    ids=["zombie", "dead", "kernel thread", "cut", "empty"],
)
def test_what_can_hold_no_socket_is_no_process(tail: bytes) -> None:
    assert parse_stat(b"42 (app) " + TAIL)
    assert parse_stat(b"42 (app) " + tail) is None


@given(st.binary())
def test_no_stat_line_is_too_odd(stat: bytes) -> None:
    assert parse_stat(stat) is None or b")" in stat


@pytest.mark.parametrize(
    ("link", "inode"),
    [
        ("socket:[1]", 1),
        ("socket:[4294967295]", 4294967295),
        ("socket:[]", None),
        ("socket:[-1]", None),
        ("socket:[x]", None),
        ("pipe:[7]", None),
        ("anon_inode:[eventpoll]", None),
        ("/srv/socket:[7]", None),
        ("/memfd:socket:[7] (deleted)", None),
        ("", None),
    ],
)
def test_only_the_kernel_s_own_links_are_sockets(link: str, inode: int | None) -> None:
    assert socket_inode(link) == inode


def test_this_process_is_read_as_psutil_reads_it() -> None:
    with opened("/proc/self") as directory:
        process = read_process(directory)
    oracle = psutil.Process()
    assert process
    assert process.pid == os.getpid()
    assert process.name == Path("/proc/self/comm").read_text().rstrip("\n")
    assert process.started == pytest.approx(oracle.create_time() - psutil.boot_time(), abs=0.02)


def test_processes_are_listed_and_nothing_else(tree: ProcTree) -> None:
    for pid in (30, 4):
        tree.start(pid)
    assert sorted(list_pids(tree.root)) == [4, 30]
    assert list(list_pids(tree.root / "missing")) == []
    assert {1, os.getpid()} <= set(list_pids(PROC))


def test_descriptors_come_in_batches(tree: ProcTree) -> None:
    tree.start(4, range(1, 2 * BATCH + 1))
    tree.link(4, "/dev/null")
    with opened(f"{tree.root}/4") as directory:
        batches = [(names, list(sockets(fds, names))) for fds, names in descriptors(directory)]
    assert [len(names) for names, _ in batches] == [BATCH, BATCH, 1]
    found = [pair for _, pairs in batches for pair in pairs]
    assert sorted(found) == sorted((f"{inode - 1}", inode) for inode in range(1, 2 * BATCH + 1))


def test_a_descriptor_that_was_closed_meanwhile_is_left_out(tree: ProcTree) -> None:
    tree.start(4, [11, 12])
    with opened(f"{tree.root}/4/fd") as fds:
        assert list(sockets(fds, ["0", "7", "1"])) == [("0", 11), ("1", 12)]


def test_an_open_directory_stays_with_its_process(tree: ProcTree) -> None:
    tree.start(4)
    with opened(f"{tree.root}/4") as directory:
        tree.end(4)
        tree.start(4, name="other")
        with pytest.raises(FileNotFoundError):
            read_process(directory)
        with pytest.raises(FileNotFoundError):
            next(descriptors(directory))


def test_the_cgroup_is_that_of_version_2(tree: ProcTree) -> None:
    tree.start(4, cgroup="/a.slice/b:c.service")
    with opened(f"{tree.root}/4") as directory:
        assert read_cgroup(directory) == "/a.slice/b:c.service"
        (tree.root / "4/cgroup").write_text("12:cpu,cpuacct:/\n1:name=systemd:/\n")
        assert read_cgroup(directory) is None


@pytest.mark.parametrize(
    ("root", "cgroup", "members"),
    [
        ("/", "/app.service", [4, 5]),
        ("/", "/", [9]),
        ("/../..", "/../../app.service", [4, 5]),
        ("/app.slice", "/app.slice/app.service", [4, 5]),
        ("/app", "/app.service", []),
        ("/", "/../outside", []),
        ("/", "/gone.service", []),
        ("/", "/threaded", []),
    ],
)
def test_members_of_a_cgroup_are_those_that_the_mount_shows(
    tmp_path: Path, root: str, cgroup: str, members: list[int]
) -> None:
    files = {"m": "9\n", "m/app.service": "4\n5\n", "outside": "6\n", "m/threaded": "no number\n"}
    for folder, lines in files.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "cgroup.procs").write_text(lines)
    assert list(list_members(Mount(str(tmp_path / "m"), root), cgroup)) == members
