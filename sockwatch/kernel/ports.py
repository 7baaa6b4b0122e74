"""The ports that connect() takes by itself."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from socket import htons

from sockwatch.kernel.sysctls import PROC_SYS, read_integers, read_ranges
from sockwatch.tcp.listening import EVERY_PORT, PORTS


def ephemeral_flags(root: Path = PROC_SYS) -> bytes:
    """Which ports are in `ip_local_port_range` and not in `ip_local_reserved_ports`.

    Returns:
        65,536 flags, indexed by a port in network byte order read natively; all are set if the
        range is not known.
    """
    chosen = read_integers("net.ipv4.ip_local_port_range", root)
    reserved = read_ranges("net.ipv4.ip_local_reserved_ports", root) or ()
    if chosen is None or len(chosen) != 2:  # noqa: PLR2004  the first and the last
        return EVERY_PORT
    return _flags(chosen[0], chosen[1], reserved)


@lru_cache(maxsize=16)
def _flags(first: int, last: int, reserved: tuple[range, ...]) -> bytes:
    chosen = {*range(first, min(last + 1, PORTS))}.difference(*reserved)
    flags = bytearray(PORTS)
    for port in chosen:
        flags[htons(port)] = 1
    return bytes(flags)
