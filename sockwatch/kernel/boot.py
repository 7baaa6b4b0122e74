"""What has to stay the same for cookies and monotonic moments to keep their meaning."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACES: Final = Path("/proc/thread-self/ns")


def identity() -> str:
    """The boot, and the namespaces of network and time that the calling thread is in.

    Cookies begin anew with each boot, and before Linux 5.4 in each network namespace; clocks in
    each boot and time namespace.

    Raises:
        OSError: the system does not tell.
    """
    names = [_BOOT_ID.read_text("utf-8").strip(), str((_NAMESPACES / "net").readlink())]
    with suppress(FileNotFoundError):  # before Linux 5.6 there are no time namespaces
        names.append(str((_NAMESPACES / "time").readlink()))
    return " ".join(names)
