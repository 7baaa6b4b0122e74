"""From a socket's cgroup id to the systemd unit or container that made it.

Theory of operation. INET_DIAG_CGROUP_ID of a socket is the inode number of a directory of the
cgroup2 file system, also where that is mounted beside version 1 (hybrid). One walk over the
directories therefore names all sockets, without privilege. A cgroup is always older than its
sockets, so an id that a walk begun later does not find is of a removed cgroup, or outside of
what this mount shows: it will not appear, and is not looked for again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from sys import intern
from typing import Final, NamedTuple
from zlib import crc32

UNIT_LENGTH: Final = 128
"""Longest unit name given out, in characters; a longer one is cut and ends in its CRC-32."""
REFRESH_AFTER: Final = 10.0
"""Seconds between walks at least."""
PAUSE_PER_DIRECTORY: Final = 0.001
"""Seconds; walking and naming one takes about 10 us, so walks take about 1 % of a core at most."""
DIRECTORIES_LIMIT: Final = 100_000
DEPTH_LIMIT: Final = 64
GONE_LIMIT: Final = 10_000
"""Removed cgroups whose names, or namelessness, are remembered."""

MOUNTINFO: Final = Path("/proc/self/mountinfo")

_SHORT_ID: Final = 12  # characters of a container id, as `docker ps` shows it
_LEAF_LINKS: Final = 2  # of a kernfs directory without children (fs/kernfs/inode.c)

_CONTAINER: Final = re.compile(
    # docker-<id>.scope, cri-containerd-<id>.scope, libpod-<id>, slice:cri-containerd:<id>, <id>
    r"(?:.*:)?(?:(?P<runtime>[^:]+)[-:])?(?P<id>[0-9a-f]{64})(?:\.scope)?"
)
_POD: Final = re.compile(
    # pod<uid>, kubepods-burstable-pod<uid with _>.slice; static pods have a uid without dashes
    r"(?:.*-)?pod(?P<uid>[0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12})(?:\.slice)?(?::.*)?"
)
_MACHINE: Final = re.compile(
    # systemd-nspawn and libvirt; LXC and LXD
    r"machine-.+\.scope|systemd-nspawn@.+\.service|lxc\.payload\..+"
)
_UNIT: Final = re.compile(r".+\.(?:service|scope)")
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


def unit_of(path: str) -> str:
    r"""The name of the unit or container that a cgroup path belongs to, empty if none.

    Total over any string. A container is named after its runtime and the first 12 digits of
    its id (`docker-0123456789ab`), or after its pod (`pod-<uid>/0123456789ab`), whatever units
    run inside it; of containers within containers it is the innermost. Elsewhere it is the
    innermost `*.service` or `*.scope`, so that what a user runs has its own name and not that of
    `user@1000.service`. Names stay as systemctl shows them, `\x2d` included.
    """
    container = machine = unit = pod = ""
    parent = "container"
    for part in path.split("/"):
        if match := _POD.fullmatch(part):
            container = pod = "pod-" + match["uid"].replace("_", "-")
        if match := _CONTAINER.fullmatch(part):
            short = match["id"][:_SHORT_ID]
            container = f"{pod}/{short}" if pod else f"{match['runtime'] or parent}-{short}"
        elif part and part not in {".", ".."}:
            parent = part
        if _MACHINE.fullmatch(part):
            machine = part
        elif _UNIT.fullmatch(part) and not (unit and part == "init.scope"):
            unit = part
    return _bounded(container or machine or unit)


def _bounded(name: str) -> str:
    r"""The name as text that UTF-8 can carry (`\xff`), and not too long for a label."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if len(text) <= UNIT_LENGTH:
        return text
    return f"{text[: UNIT_LENGTH - 9]}~{crc32(text.encode()):08x}"


class Mount(NamedTuple):
    """Where a cgroup2 file system is mounted, and which part of it."""

    point: str
    root: str
    """The cgroup that the mount point shows; `/..` is above this process's namespace."""


def find_mount(mountinfo: Path = MOUNTINFO) -> Mount | None:
    """The mount that shows most of the cgroup2 hierarchy, `None` if there is none.

    Format: proc_pid_mountinfo(5). A host's hierarchy mounted into a container has a root such
    as `/../..`, and shows more than the container's own with its root `/`.
    """
    try:
        lines = os.fsdecode(mountinfo.read_bytes()).splitlines()
    except OSError:
        return None
    return max(_cgroup2_mounts(lines), key=_breadth, default=None)


def _cgroup2_mounts(lines: Iterable[str]) -> Iterator[Mount]:
    for line in lines:
        mount, _, source = line.partition(" - ")
        match mount.split(" "):
            case [_, _, _, root, point, *_] if source.startswith("cgroup2 "):
                yield Mount(_unescaped(point), _unescaped(root))


def _unescaped(field: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), field)


def _breadth(mount: Mount) -> tuple[int, int]:
    steps = [step for step in mount.root.split("/") if step]
    above = steps.count("..")
    return above, above - len(steps)


class Directory(NamedTuple):
    """A cgroup directory, relative to the mount point."""

    path: str
    inode: int
    is_leaf: bool


def walk(mount: Mount, limit: int = DIRECTORIES_LIMIT) -> Iterator[tuple[int, str]]:
    """Ids and paths of the cgroups that a mount shows, level by level.

    At most `limit` of them, and `DEPTH_LIMIT` levels. Follows no link; directories that vanish
    or cannot be read are left out.
    """
    root = mount.root.rstrip("/")
    level = list(_itself(mount.point))
    for _ in range(DEPTH_LIMIT):
        yield from ((directory.inode, root + directory.path) for directory in level)
        limit -= len(level)
        inner = (directory.path for directory in level if not directory.is_leaf)
        below = chain.from_iterable(_children(mount.point, path) for path in inner)
        level = list(islice(below, limit))
        if not level:
            return


def _itself(point: str) -> Iterator[Directory]:
    with suppress(OSError):
        yield Directory("", Path(point).stat().st_ino, is_leaf=False)


def _children(point: str, path: str) -> Iterator[Directory]:
    with suppress(OSError), os.scandir(point + path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _child(entry, path)


def _child(entry: os.DirEntry[str], path: str) -> Iterator[Directory]:
    # Reading a directory costs twenty times what asking for its number of links does.
    with suppress(OSError):
        facts = entry.stat(follow_symlinks=False)
        yield Directory(f"{path}/{entry.name}", facts.st_ino, facts.st_nlink == _LEAF_LINKS)


class UnitResolver:
    """Names cgroup ids, and walks the mount again only for ids that are new.

    For one thread. Without a cgroup2 mount every name is empty.
    """

    def __init__(self, mountinfo: Path = MOUNTINFO, refresh_after: float = REFRESH_AFTER) -> None:
        self._mount = find_mount(mountinfo)
        self._refresh_after = refresh_after
        self._next_walk = float("-inf")
        self._names: dict[int, str] = {}
        self._gone: dict[int, str] = {}

    def unit(self, cgroup_id: int, now: float) -> str:
        """The unit or container of a cgroup id, empty if unknown; see `unit_of`.

        Args:
            cgroup_id: INET_DIAG_CGROUP_ID, or 0 for a socket that has none.
            now: monotonic time in seconds. A new id that comes too soon after the last walk
                (`refresh_after`, or longer where there are very many cgroups) stays unknown
                until the next one.
        """
        name = self._known(cgroup_id)
        if name is None and self._mount and now >= self._next_walk:
            self._refresh(self._mount)
            pause = PAUSE_PER_DIRECTORY * len(self._names)
            self._next_walk = now + max(self._refresh_after, pause)
            name = self._names.get(cgroup_id)
            if name is None:
                self._remember(cgroup_id, "")
        return name or ""

    def _known(self, cgroup_id: int) -> str | None:
        if cgroup_id == 0:
            return ""
        name = self._names.get(cgroup_id)
        if name is None and (name := self._gone.pop(cgroup_id, None)) is not None:
            self._gone[cgroup_id] = name  # last asked for, last forgotten
        return name

    def _refresh(self, mount: Mount) -> None:
        before = self._names
        self._names = {inode: intern(unit_of(path)) for inode, path in walk(mount)}
        for cgroup_id in before.keys() - self._names.keys():
            self._remember(cgroup_id, before[cgroup_id])

    def _remember(self, cgroup_id: int, name: str) -> None:
        self._gone[cgroup_id] = name
        if len(self._gone) > GONE_LIMIT:
            del self._gone[next(iter(self._gone))]
