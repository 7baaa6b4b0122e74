"""What a test needs from the machine, asked before it starts.

A need that is not met skips the test with its reason; `tests/conftest.py` turns the skip into a
failure under CI=true, where the machine is expected to have everything.
"""

import os
import shutil
import socket
from pathlib import Path

import pytest

# include/uapi/linux/netlink.h
NETLINK_SOCK_DIAG = 4


def need(condition: bool, reason: str) -> None:
    """Skip the test, or the module when called at its top, unless the condition holds."""
    if not condition:
        pytest.skip(reason, allow_module_level=True)


def need_root() -> None:
    need(os.geteuid() == 0, "needs root")


def need_command(name: str, package: str) -> str:
    """Return the path of a program; the package is the Debian one that carries it."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    need(path is not None, f"needs {name} (Debian package {package})")
    return str(path)


def need_kernel_diag() -> None:
    """Need a kernel that lets this process open a sock_diag socket."""
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG).close()
    except OSError as error:
        need(condition=False, reason=f"needs NETLINK_SOCK_DIAG: {error.strerror}")


def need_namespaces() -> None:
    """Need to be allowed to make network namespaces."""
    need_root()
    need(Path("/proc/self/ns/net").exists(), "needs a kernel with network namespaces")
