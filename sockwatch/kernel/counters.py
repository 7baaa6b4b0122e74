"""Reads the kernel's counters and limits from /proc, by the names that it gives them.

All are of the network namespace of the calling thread, except what the kernel has once for the
host: in sockstat `orphan`, `alloc` and `mem`, and the sysctls `tcp_max_orphans` and `tcp_mem`,
which exist in its initial namespace only.

Columns come and go with releases of the kernel, so none is found by its place. What cannot be
read or understood is left out together with its group, and logged once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from sockwatch.kernel.sysctls import PROC_SYS, read_integers, read_ranges
from sockwatch.tcp.numbers import Groups, Limits

log = logging.getLogger(__name__)

NET: Final = Path("/proc/thread-self/net")
"""/proc/net is that of the process, in whatever namespace its threads are."""

SYSCTLS: Final = (
    "net.core.somaxconn",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_max_orphans",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_max_tw_buckets",
    "net.ipv4.tcp_mem",
)
RESERVED_PORTS: Final = "net.ipv4.ip_local_reserved_ports"

_MEM_QUANTUM: Final = 4096  # SK_MEM_QUANTUM of include/net/sock.h, until 6.0
_PAGES_SINCE: Final = 6


def paired_lines(text: str, group: str) -> dict[str, int]:
    """The values of one group of snmp or netstat: a line of names, then a line of numbers.

    Raises:
        ValueError: the two lines are not there or do not match.
    """
    names, values = _lines(text, group)
    return dict(zip(names, map(int, values), strict=True))


def named_values(text: str, group: str) -> dict[str, int]:
    """The values of one line of sockstat or sockstat6: names and numbers in turn.

    Raises:
        ValueError: there is no such line, or a name without a number.
    """
    [words] = _lines(text, group)
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def _lines(text: str, group: str) -> Iterator[list[str]]:
    head = f"{group}: "
    return (line.split()[1:] for line in text.splitlines() if line.startswith(head))


_FILES: Final[Mapping[str, tuple[str, Callable[[str, str], dict[str, int]]]]] = {
    "Tcp": ("snmp", paired_lines),
    "TcpExt": ("netstat", paired_lines),
    "TCP": ("sockstat", named_values),
}
"""Where each group is and how it is written."""


class Counters:
    """Reads the counters again and again, and remembers what it has complained about.

    Args:
        net: where snmp, netstat and sockstat are, by default those of the calling thread.
    """

    def __init__(self, net: Path = NET) -> None:
        self._net = net
        self._unread: set[str] = set()

    def read(self) -> Groups:
        """The groups that can be read now."""
        return dict(self._groups())

    def _groups(self) -> Iterator[tuple[str, dict[str, int]]]:
        for group, (name, parse) in _FILES.items():
            try:
                values = parse((self._net / name).read_text("utf-8"), group)
            except (OSError, ValueError) as error:
                self._complain(name, error)
                continue
            self._unread.discard(name)
            yield group, values

    def _complain(self, name: str, error: Exception) -> None:
        if name not in self._unread:
            self._unread.add(name)
            log.warning("%s cannot be read, its figures are absent: %s", self._net / name, error)


def read_limits(root: Path = PROC_SYS) -> Limits:
    """The sysctls that can be read now."""
    found = {name: read_integers(name, root) for name in SYSCTLS}
    page = os.sysconf("SC_PAGE_SIZE")
    return Limits(
        sysctls={name: values for name, values in found.items() if values is not None},
        reserved_ports=read_ranges(RESERVED_PORTS, root),
        page_bytes=page,
        memory_unit_bytes=memory_unit(page, os.uname().release),
    )


def memory_unit(page_bytes: int, release: str) -> int | None:
    """Bytes that `mem` of sockstat counts in, `None` where the release does not tell.

    Until 6.0 these were 4096, however large the pages, and distributions have taken the change
    into older releases: where pages are larger, those leave it open.
    """
    major = release.partition(".")[0]
    in_pages = major.isdecimal() and int(major) >= _PAGES_SINCE
    return page_bytes if in_pages or page_bytes == _MEM_QUANTUM else None
