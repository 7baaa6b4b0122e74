"""Tells as JSON what a process may do: run in the place of the daemon, within its sandbox."""

import ctypes
import json
import mmap
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

# include/uapi/linux/sched.h
CLONE_NEWNET: Final = 0x40000000
CLONE_NEWNS: Final = 0x00020000

LIBC: Final = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    """Call a function of libc, raising OSError if it fails."""
    if getattr(LIBC, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def enter(namespace: str) -> None:
    """Put this process into a network namespace."""
    with Path(namespace).open("rb") as handle:
        call("setns", handle.fileno(), CLONE_NEWNET)


def writable_code() -> None:
    """Map memory that is both writable and executable."""
    access = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    mmap.mmap(-1, 4096, prot=access).close()


ATTEMPTS: Final[dict[str, Callable[[], object]]] = {
    "open an IP socket": lambda: socket.socket(socket.AF_INET).close(),
    "open a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4).close(),
    "open a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "see other users' processes": lambda: Path("/proc/1").stat(),
    "see what root's processes hold": lambda: [
        link.readlink() for link in Path("/proc/1/fd").iterdir()
    ],
    "read root's files": lambda: Path("/etc/shadow").read_bytes(),
    "see homes": lambda: Path("/root/.profile").read_bytes(),
    "write its state": lambda: Path("/var/lib/sockwatch/probe").touch(),
    "write elsewhere": lambda: Path("/var/lib/probe").touch(),
    "change programs": lambda: Path("/usr/bin/probe").touch(),
    "change the kernel's settings": lambda: Path("/proc/sys/kernel/hostname").write_text("x"),
    "mount": lambda: call("mount", b"none", b"/mnt", b"tmpfs", 0, None),
    "make namespaces": lambda: call("unshare", CLONE_NEWNS),
    "run what it wrote": writable_code,
    "become root": lambda: os.setuid(0),
    "raise its priority": lambda: os.nice(-5),
    # Last, as there is no way back.
    "enter a network namespace": lambda: enter("/run/netns/blue"),
}


def possible(attempt: Callable[[], object]) -> bool:
    """Whether an attempt succeeds."""
    try:
        attempt()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    json.dump([name for name, attempt in ATTEMPTS.items() if possible(attempt)], sys.stdout)
