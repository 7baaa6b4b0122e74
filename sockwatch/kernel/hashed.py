"""Counts the TCP sockets that are in the kernel's tables, over all network namespaces.

Theory of operation. Each namespace tells for itself how many sockets it has in its tables (the
`inuse` of sockstat and sockstat6), and /proc shows the files of a namespace below every process
in it, to anybody. The inode of such a file is one per namespace, so a look at each process finds
every namespace that has one, without a privilege and without entering it.

The sum is worth something only if no namespace is left out. So all processes of the host must be
visible: this one is in its initial PID namespace, /proc shows process 1, and nothing is denied.
And each namespace that is mounted (as `ip netns`, Docker and CNI do) must be one of those found,
which takes the right to look at its processes; on a host without such mounts it takes none.

What cannot be found is a namespace that only a descriptor or a socket keeps; that is for moments,
except in test benches.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from sockwatch.kernel.counters import named_values

PROC: Final = Path("/proc")

_PID_INIT: Final = 0xEFFFFFFC  # PROC_PID_INIT_INO of include/linux/proc_ns.h
_FIRST: Final = "1"
_MOUNTED: Final = re.compile(r" net:\[(\d+)\] ")


def hashed_everywhere(proc: Path = PROC) -> int | None:
    """TCP sockets in the tables of all network namespaces: full ones, listeners included.

    `None` if a namespace may have been left out. Takes about 10 us per process.
    """
    try:
        if (proc / "self/ns/pid").stat().st_ino != _PID_INIT:
            return None
        members = _members(proc)
        if _FIRST not in members.values() or not _mounted(proc) <= _identities(proc, members):
            return None
        return sum(_hashed(proc / pid / "net") for pid in members.values())
    except (OSError, ValueError, KeyError):
        return None


def _members(proc: Path) -> dict[int, str]:
    """A process of each namespace, the oldest one: it is the likeliest to stay.

    Raises:
        OSError: a process is there but must not be looked at.
    """
    pids = sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal())
    found: dict[int, str] = {}
    for pid in map(str, pids):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            found.setdefault((proc / pid / "net/sockstat").stat().st_ino, pid)
    return found


def _mounted(proc: Path) -> set[int]:
    """Namespaces that are kept by a mount, with a process in them or without."""
    text = (proc / "self/mountinfo").read_text("utf-8", "replace")
    return set(map(int, _MOUNTED.findall(text)))


def _identities(proc: Path, members: dict[int, str]) -> set[int]:
    """The namespaces found, as mounts name them; those that must not be looked at are left out."""
    found = set()
    for pid in members.values():
        with suppress(OSError):
            found.add((proc / pid / "ns/net").stat().st_ino)
    return found


def _hashed(net: Path) -> int:
    """Sockets in the tables of one namespace; a kernel without IPv6 has no sockstat6."""
    with suppress(FileNotFoundError):
        return _inuse(net / "sockstat6", "TCP6") + _inuse(net / "sockstat", "TCP")
    return _inuse(net / "sockstat", "TCP")


def _inuse(path: Path, group: str) -> int:
    return named_values(path.read_text("utf-8"), group)["inuse"]
