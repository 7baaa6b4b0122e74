"""Reads sysctls from /proc/sys. What cannot be read is absent, never an error and never 0.

Those below `net` are of the network namespace of the calling thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

PROC_SYS: Final = Path("/proc/sys")


def read_integers(name: str, root: Path = PROC_SYS) -> tuple[int, ...] | None:
    """The numbers of a sysctl such as `net.ipv4.tcp_mem`, in the kernel's order and unit.

    `None` if this kernel has none of that name, the sandbox hides it, or it holds no numbers.
    """
    try:
        text = (root / name.replace(".", "/")).read_text("utf-8")
        return tuple(map(int, text.split())) or None
    except (OSError, ValueError):
        return None


def read_ranges(name: str, root: Path = PROC_SYS) -> tuple[range, ...] | None:
    """The numbers of a sysctl such as `net.ipv4.ip_local_reserved_ports`: `22,8000-8010`.

    Empty if it names none; `None` as for `read_integers`.
    """
    try:
        text = (root / name.replace(".", "/")).read_text("utf-8").strip()
        return tuple(map(_range, text.split(","))) if text else ()
    except (OSError, ValueError):
        return None


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def read_integer(name: str, root: Path = PROC_SYS) -> int | None:
    """The number of a sysctl that holds exactly one, else `None`."""
    numbers = read_integers(name, root)
    return numbers[0] if numbers is not None and len(numbers) == 1 else None


def read_all(names: Iterable[str], root: Path = PROC_SYS) -> dict[str, int | None]:
    """The number of each sysctl named, `None` for each that cannot be read."""
    return {name: read_integer(name, root) for name in names}
