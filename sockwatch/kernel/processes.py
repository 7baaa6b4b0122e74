"""Reads processes and their descriptors from /proc.

Theory of operation. An open directory /proc/PID stays with that process: once it has ended all
that is below fails, also when another process has got its number. So what is read through one
such directory is of one process. Read are `stat`, `fd` and `cgroup` alone; `cmdline` and others
that psutil reads wait for the lock of the process's memory, which a hung process may never free.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final

from sockwatch.kernel.cgroups import Mount
from sockwatch.tcp.owners import Process

PROC: Final = Path("/proc")
BATCH: Final = 64
"""Descriptors of a process that are looked at in one go; takes about 0.2 ms."""

_PF_KTHREAD: Final = 0x0020_0000
"""`include/linux/sched.h`; a flag in field 9 of /proc/PID/stat."""
_ENDED: Final = frozenset({b"Z", b"X", b"x"})
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_READ_BYTES: Final = 4096
_LINK: Final = "socket:["


@contextmanager
def opened(path: str, directory: int | None = None) -> Iterator[int]:
    """The descriptor of a directory, relative to another.

    Raises:
        OSError: it is not there, its process has ended, or looking into it is forbidden.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def list_pids(proc: Path) -> Iterator[int]:
    """The processes of a /proc in ascending order, read bit by bit; none if it is unreadable."""
    with suppress(OSError), os.scandir(proc) as entries:
        for entry in entries:
            if entry.name.isdecimal():
                yield int(entry.name)


def read_process(directory: int) -> Process | None:
    """The process of an open /proc/PID, see `parse_stat`.

    Raises:
        OSError: it has ended, or looking at it is forbidden.
    """
    return parse_stat(_read("stat", directory))


def _read(name: str, directory: int) -> bytes:
    descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    try:
        return os.read(descriptor, _READ_BYTES)
    finally:
        os.close(descriptor)


def parse_stat(stat: bytes) -> Process | None:
    """The process of a /proc/PID/stat, `None` if it can hold no socket; total over any bytes.

    Kernel threads, zombies and what is no such line hold none. Format: proc_pid_stat(5); the
    name may itself contain spaces and parentheses.
    """
    head, _, tail = stat.rpartition(b") ")
    pid, _, name = head.partition(b" (")
    fields = tail.split()
    try:
        state, flags, started = fields[0], int(fields[6]), int(fields[19])
        if state in _ENDED or flags & _PF_KTHREAD:
            return None
        text = name.decode("utf-8", "backslashreplace")
        return Process(int(pid), text, started / _TICKS_PER_SECOND)
    except (ValueError, IndexError):
        return None


def descriptors(directory: int) -> Iterator[tuple[int, list[str]]]:
    """The open descriptors of the process of an open /proc/PID, up to `BATCH` of them at a time.

    Yields:
        The descriptor of its `fd` directory and names in it.

    Raises:
        OSError: the process has ended, or looking into it is forbidden.
    """
    with opened("fd", directory) as fds, os.scandir(fds) as entries:
        while names := [entry.name for entry in islice(entries, BATCH)]:
            yield fds, names


def sockets(fds: int, names: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Those of the descriptors that are sockets, with their inodes; closed ones are left out.

    Raises:
        OSError: looking at them is forbidden.
    """
    for name in names:
        try:
            inode = socket_inode(os.readlink(name, dir_fd=fds))
        except FileNotFoundError:
            continue
        if inode is not None:
            yield name, inode


def socket_inode(link: str) -> int | None:
    """The inode of a socket from what its descriptor links to, `None` for anything else.

    No file can pass for a socket: links to files begin with a slash.
    """
    if not link.startswith(_LINK):
        return None
    digits = link[len(_LINK) :].removesuffix("]")
    return int(digits) if digits.isdecimal() else None


def read_cgroup(directory: int) -> str | None:
    """The cgroup2 path of the process of an open /proc/PID, `None` if it has none.

    Raises:
        OSError: it has ended, or looking at it is forbidden.
    """
    for line in os.fsdecode(_read("cgroup", directory)).splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::")
    return None


def list_members(mount: Mount, cgroup: str) -> Iterator[int]:
    """The processes in a cgroup, without those further down; none if that cannot be read."""
    root = mount.root.rstrip("/")
    below = cgroup.removeprefix(root)
    if not cgroup.startswith(f"{root}/") or ".." in below.split("/"):
        return
    with suppress(OSError, ValueError), Path(f"{mount.point}{below}/cgroup.procs").open() as lines:
        yield from map(int, lines)
