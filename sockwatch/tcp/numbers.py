"""What the kernel counts and limits, by its own names, on the way to those who make sense of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Groups = Mapping[str, Mapping[str, int]]
"""Values by group and name as /proc has them, such as `["TcpExt"]["ListenDrops"]`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the kernel is set to; what could not be read is left out or `None`."""

    sysctls: Mapping[str, tuple[int, ...]]
    """By name as sysctl(8) has it, in the kernel's order and unit."""
    reserved_ports: tuple[range, ...] | None
    """Ports that connect() does not choose by itself."""
    page_bytes: int
    """What `net.ipv4.tcp_mem` counts in."""
    memory_unit_bytes: int | None
    """What `mem` of sockstat counts in."""
