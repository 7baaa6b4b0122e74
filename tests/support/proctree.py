"""A /proc of one's own: directories with the files that processes are read from, and cgroups."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

PF_KTHREAD: Final = 0x0020_0000  # include/linux/sched.h


class ProcTree:
    """Processes come and go by `start` and `end`, their descriptors by `open` and `close`."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "proc"
        self._cgroups = folder / "cgroups"
        self._next_fd: dict[int, int] = {}
        (self.root / "self").mkdir(parents=True)
        (self.root / "self/mountinfo").write_text(
            f"25 22 0:22 / {self._cgroups} rw - cgroup2 cgroup2 rw\n"
        )
        (self.root / "meminfo").write_text("")

    def start(
        self,
        pid: int,
        inodes: Iterable[int] = (),
        *,
        name: str = "app",
        ticks: int = 1000,
        cgroup: str = "/app.service",
        state: str = "S",
        flags: int = 0,
    ) -> None:
        """A process that started `ticks` hundredths of a second after boot and holds sockets."""
        folder = self._folder(pid)
        (folder / "fd").mkdir(parents=True)
        numbers = f"0 0 0 0 -1 {flags} " + "0 " * 12 + f"{ticks} 0 0\n"
        (folder / "stat").write_text(f"{pid} ({name}) {state} {numbers}")
        (folder / "cgroup").write_text(f"1:cpu:/\n0::{cgroup}\n")
        members = Path(f"{self._cgroups}{cgroup}/cgroup.procs")
        members.parent.mkdir(parents=True, exist_ok=True)
        with members.open("a") as lines:
            lines.write(f"{pid}\n")
        self._next_fd[pid] = 0
        for inode in inodes:
            self.open(pid, inode)

    def end(self, pid: int) -> None:
        for members in self._cgroups.rglob("cgroup.procs"):
            left = (line for line in members.read_text().splitlines() if line != f"{pid}")
            members.write_text("".join(f"{line}\n" for line in left))
        shutil.rmtree(self._folder(pid))

    def open(self, pid: int, inode: int) -> int:
        """A new descriptor of the socket; its number."""
        return self.link(pid, f"socket:[{inode}]")

    def link(self, pid: int, target: str) -> int:
        fd = self._next_fd[pid]
        self._next_fd[pid] += 1
        (self._folder(pid) / f"fd/{fd}").symlink_to(target)
        return fd

    def close(self, pid: int, fd: int) -> None:
        (self._folder(pid) / f"fd/{fd}").unlink()

    def forbid(self, pid: int) -> None:
        """Make it an error to look into the process, whoever runs the test."""
        shutil.rmtree(self._folder(pid) / "fd")
        (self._folder(pid) / "fd").write_text("")

    def _folder(self, pid: int) -> Path:
        return self.root / f"{pid}"
