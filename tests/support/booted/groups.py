"""Control groups of our own for a machine, so that none shares that of another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from lab.processes import eventually

_SYSTEMD: Final = ("cgroup2", "name=systemd")
"""The hierarchies that systemd-nspawn works in: either or both are there."""


def own_groups(name: str) -> list[Path]:
    """Make a group below ours in each hierarchy that systemd-nspawn works in."""
    groups = [mount / path.lstrip("/") / name for mount, path in _places()]
    for group in groups:
        group.mkdir(exist_ok=True)
    return groups


def remove_group(group: Path) -> None:
    """Remove a group whose processes have been killed, once they are gone."""
    for folder, _, _ in os.walk(group, topdown=False):
        eventually(partial(_removed, Path(folder)), f"removal of {folder}")


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # busy: its processes are still ending
        return False
    return True


def _places() -> Iterator[tuple[Path, str]]:
    """Where each hierarchy is mounted, and which group of it we are in."""
    mounts = dict(_mounts())
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kind, path = line.split(":", 2)
        mount = mounts.get(kind or "cgroup2")
        if mount:
            yield mount, path


def _mounts() -> Iterator[tuple[str, Path]]:
    """Format: proc_pid_mountinfo(5)."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, source = line.partition(" - ")
        kind, _, options = source.split(" ", 2)
        point = Path(place.split(" ")[4])
        if kind == "cgroup2":
            yield kind, point
        elif kind == "cgroup" and "name=systemd" in options.split(","):
            yield "name=systemd", point
