"""Live sockets are traced to the processes that hold them, as far as the caller is allowed to."""

import ctypes
import os
import signal
import socket
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest
from lab import Namespace, eventually
from lab.workers import work
from pyroute2 import DiagSocket

from sockwatch.kernel.owners import MISSING, OwnerFinder
from sockwatch.tcp.states import State

pytestmark = pytest.mark.kernel

ADDRESS = ("127.0.0.1", 7000)
NOBODY = 65534
SOMEBODY = 65533
AMPLE = 1e9
LEAKS = (False, True, False, False, True)

# include/uapi/linux/capability.h
LINUX_CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_READ_SEARCH = 1 << 2
CAP_SYS_PTRACE = 1 << 19


def server_inodes(namespace: Namespace, state: State) -> frozenset[int]:
    """Inodes of the server's sockets in that state, as pyroute2 decodes them."""
    with namespace.entered(), DiagSocket() as diag:
        diag.bind()
        messages = diag.get_sock_stats(family=socket.AF_INET, states=1 << state)
        found = (m["idiag_inode"] for m in messages if m["idiag_sport"] == ADDRESS[1])
        return frozenset(found) - {0}


def serve() -> None:
    """Hold a listener."""
    with socket.create_server(ADDRESS):
        signal.pause()


def serve_as(name: bytes) -> None:
    """Hold a listener under another name."""
    Path("/proc/self/comm").write_bytes(name)
    serve()


def foreign_listener(namespace: Namespace) -> tuple[int, int]:
    """A listener of a process of another user, and that process."""
    child = namespace.fork(serve, uid=SOMEBODY)
    (inode,) = eventually(lambda: server_inodes(namespace, State.LISTEN), "a listener")
    assert child.pid is not None
    return inode, child.pid


def found_pids(inode: int) -> tuple[list[int], int, str | None]:
    """Who holds a socket, how many processes were denied, and what is missing."""
    with closing(OwnerFinder()) as finder:
        finder.advance({inode}, AMPLE, 0)
        owners = finder.owners(inode)
        pids = [process.pid for process in owners.processes] if owners else []
        return pids, finder.denied, finder.missing


def found_own_pids() -> tuple[int, list[int], str | None]:
    """This process, who holds its socket, and what is missing."""
    with socket.create_server(("127.0.0.1", 0)) as own:
        pids, _, missing = found_pids(os.fstat(own.fileno()).st_ino)
        return os.getpid(), pids, missing


def found_pids_with(capabilities: int, inode: int) -> tuple[list[int], int, str | None]:
    """Who holds a socket, as a process with these capabilities alone finds out."""
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(capabilities, capabilities, 0, 0, 0, 0)
    assert ctypes.CDLL(None).capset(header, data) == 0
    return found_pids(inode)


@pytest.fixture
def workers(namespace: Namespace) -> list[int]:
    """Five that share a listener and have accepted four connections each; two of them leak."""
    with namespace.entered(), socket.create_server(ADDRESS) as listener:
        children = [namespace.fork(work, listener, 4, leaks) for leaks in LEAKS]
    with ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(closing(namespace.socket(socket.AF_INET)))
            client.connect(ADDRESS)
        eventually(lambda: len(server_inodes(namespace, State.ESTABLISHED)) == 20, "all accepted")
    eventually(lambda: len(server_inodes(namespace, State.CLOSE_WAIT)) == 8, "eight leaked")
    return [child.pid for child in children if child.pid is not None]


def test_of_five_forked_workers_the_two_that_leak_are_named(
    namespace: Namespace, workers: list[int]
) -> None:
    stuck = server_inodes(namespace, State.CLOSE_WAIT)
    (listener,) = server_inodes(namespace, State.LISTEN)
    with closing(OwnerFinder()) as finder:
        finder.advance(stuck | {listener}, AMPLE, 0)
        holders = [finder.owners(inode) for inode in stuck]
        sharers = finder.owners(listener)
    assert all(owners and owners.count == 1 for owners in holders)
    leaks = Counter(owners.processes[0].pid for owners in holders if owners)
    assert leaks == {workers[1]: 4, workers[4]: 4}
    assert sharers
    assert (sharers.count, [process.pid for process in sharers.processes]) == (5, workers)


def test_small_steps_lead_to_the_same_owners(namespace: Namespace, workers: list[int]) -> None:
    wanted = server_inodes(namespace, State.CLOSE_WAIT) | server_inodes(namespace, State.LISTEN)
    with closing(OwnerFinder()) as small, closing(OwnerFinder()) as large:
        large.advance(wanted, AMPLE, 0)
        calls = 0
        while not small.rounds:
            small.advance(wanted, 0, 0)
            calls += 1
        assert calls > len(workers)
        assert {small.owners(inode) for inode in wanted} == {
            large.owners(inode) for inode in wanted
        }


def test_a_process_is_the_one_that_psutil_knows(namespace: Namespace, workers: list[int]) -> None:
    (listener,) = server_inodes(namespace, State.LISTEN)
    with closing(OwnerFinder()) as finder:
        finder.advance({listener}, AMPLE, 0)
        owners = finder.owners(listener)
    assert owners
    for process in owners.processes:
        known = psutil.Process(process.pid)
        assert known.name().startswith(process.name)
        started = known.create_time() - psutil.boot_time()
        assert process.started == pytest.approx(started, abs=0.02)


def test_this_process_has_owners_too(namespace: Namespace) -> None:
    with closing(namespace.socket(socket.AF_INET)) as own:
        pids, _, missing = found_pids(os.fstat(own.fileno()).st_ino)
    assert (pids, missing) == ([os.getpid()], None)


def test_a_name_cannot_pass_for_other_fields(namespace: Namespace) -> None:
    child = namespace.fork(serve_as, b"x) Z 1 (\n\x1b")
    (inode,) = eventually(lambda: server_inodes(namespace, State.LISTEN), "a listener")
    with closing(OwnerFinder()) as finder:
        finder.advance({inode}, AMPLE, 0)
        owners = finder.owners(inode)
    assert owners
    names = {found.pid: found.name for found in owners.processes}
    assert names == {child.pid: "x) Z 1 (\n\x1b"}


def test_an_unprivileged_caller_sees_its_own_and_is_told_what_is_missing(
    namespace: Namespace,
) -> None:
    inode, _ = foreign_listener(namespace)
    pids, denied, missing = namespace.call(found_pids, inode, uid=NOBODY)
    assert (pids, missing) == ([], MISSING)
    assert denied > 0
    pid, pids, missing = namespace.call(found_own_pids, uid=NOBODY)
    assert (pids, missing) == ([pid], None)


@pytest.mark.parametrize(
    ("capabilities", "allowed"),
    [
        (CAP_SYS_PTRACE | CAP_DAC_READ_SEARCH, True),
        (CAP_SYS_PTRACE, False),
        (CAP_DAC_READ_SEARCH, False),
        (0, False),
    ],
)
def test_the_capabilities_that_are_asked_for_are_those_it_takes(
    namespace: Namespace, capabilities: int, allowed: bool
) -> None:
    inode, pid = foreign_listener(namespace)
    pids, denied, missing = namespace.call(found_pids_with, capabilities, inode)
    assert (pids, missing) == (([pid], None) if allowed else ([], MISSING))
    assert allowed or denied > 0
