"""cgroup2 directories of a test's own, removed when no process is left in them."""

from __future__ import annotations

import os
from pathlib import Path

from lab import eventually

from sockwatch.kernel.cgroups import find_mount


def writable() -> bool:
    """Whether this process may make cgroups."""
    mount = find_mount()
    return mount is not None and os.access(mount.point, os.W_OK)


def enter(cgroup: Path) -> None:
    """Put this process into a cgroup."""
    (cgroup / "cgroup.procs").write_text(str(os.getpid()), "ascii")


class Cgroups:
    """Makes them below the root of the hierarchy."""

    def __init__(self) -> None:
        mount = find_mount()
        assert mount is not None
        self._root = Path(mount.point)
        self._made: list[Path] = []

    def make(self, path: str) -> Path:
        folder = self._root
        for name in path.split("/"):
            folder /= name
            if not folder.exists():
                folder.mkdir()
                self._made.append(folder)
        return folder

    def remove(self) -> None:
        while self._made:
            eventually(self._removed_last, f"removing {self._made[-1]}")

    def _removed_last(self) -> bool:
        try:
            self._made[-1].rmdir()
        except OSError:
            return False
        self._made.pop()
        return True
