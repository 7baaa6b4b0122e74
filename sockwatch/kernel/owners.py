"""Finds the processes that hold sockets, a little at each call.

Theory of operation. No table of the kernel leads from a socket to its processes; only the links
in /proc/*/fd lead the other way. Two ways through them share each call's time evenly. A *round*
visits every process, reads every link and replaces what was known; it is taken up now and then.
A *search* starts as soon as there is a wanted socket without owner, but visits only processes
that hold wanted ones, and others of their cgroups, and skips the descriptors known from before;
so the newest socket of a leaking service is found at once. Both are generators that stop after
every batch of descriptors, with the directories open that they are reading.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator
from enum import Enum, auto
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

from sockwatch.kernel.cgroups import find_mount
from sockwatch.kernel.processes import (
    PROC,
    descriptors,
    list_members,
    list_pids,
    opened,
    read_cgroup,
    read_process,
    sockets,
)
from sockwatch.kernel.sightings import Holder, Sightings, each_once, likely_order
from sockwatch.tcp.owners import INIT, Owners, Process

REFRESH_AFTER: Final = 30.0
"""Seconds from one round to the next while there is nothing new to find."""
PAUSE: Final = 10.0
"""Seconds from one round to the next at least."""
MISSING: Final = (
    "process names of other users' sockets need CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH: "
    "see the drop-in 10-processes.conf"
)

Steps = Generator[None, None, None]
"""Work that can be left after each step."""
Look = Callable[[Process, int], Steps]
"""Looks through the descriptors of a process, given its open directory."""


class _Way(Enum):
    ROUND = auto()
    SEARCH = auto()


class OwnerFinder:
    """The owners of the sockets that are wanted at the time. For one thread.

    The processes are those of the pid namespace that /proc shows, this one included.
    """

    def __init__(self, proc: Path = PROC, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; nothing is looked for yet.

        Args:
            proc: where procfs is mounted.
            clock: seconds, for the budget of each call.
        """
        self._proc = proc
        self._clock = clock
        self._mount = find_mount(proc / "self" / "mountinfo")
        self._wanted: frozenset[int] = frozenset()
        self._asked: dict[_Way, frozenset[int]] = dict.fromkeys(_Way, frozenset())
        self._under_way: dict[_Way, Steps] = {}
        self._sightings = Sightings()
        self._holders: dict[int, Holder] = {}
        self._now = 0.0
        self._ended: float | None = None
        self._rounds = self._denied = 0
        self._hidden = self._incomplete = False

    @property
    def rounds(self) -> int:
        """How many rounds are complete. Before the first, a socket's owner may yet be found."""
        return self._rounds

    @property
    def denied(self) -> int:
        """Processes that the last complete round was not allowed to look into."""
        return self._denied

    @property
    def missing(self) -> str | None:
        """What keeps wanted sockets from having an owner, and what to do; `None` if nothing."""
        return MISSING if self._incomplete and (self._denied or self._hidden) else None

    def owners(self, inode: int) -> Owners | None:
        """Who holds a wanted socket, `None` if that is not known (yet)."""
        return self._sightings.owners(inode)

    def cgroup(self, process: Process) -> str | None:
        """The cgroup2 path of a process that holds wanted sockets, `None` if it is not known."""
        holder = self._holder(process)
        return holder.cgroup if holder else None

    def close(self) -> None:
        """Close the directories that are being read."""
        while self._under_way:
            self._under_way.popitem()[1].close()

    def advance(self, wanted: Collection[int], budget: float, now: float) -> None:
        """Look further.

        Args:
            wanted: inodes of the sockets whose owners are wanted, without 0; best the same
                frozenset again while it does not change.
            budget: seconds that this may take. One step of work is done in any case, and the
                last that began within them is finished, which takes 2 ms at worst.
            now: monotonic time in seconds.
        """
        deadline = self._clock() + budget
        self._wanted, self._now = frozenset(wanted), now
        self._begin_what_is_due()
        while self._under_way:
            self._step()
            if self._clock() >= deadline:
                break

    def _begin_what_is_due(self) -> None:
        unseen = self._sightings.unseen(self._wanted)
        if self._is_round_due(unseen):
            self._begin(_Way.ROUND, self._round())
        if _Way.SEARCH not in self._under_way and unseen - self._asked[_Way.SEARCH]:
            self._begin(_Way.SEARCH, self._search(set(unseen)))

    def _is_round_due(self, unseen: frozenset[int]) -> bool:
        if _Way.ROUND in self._under_way or not self._wanted:
            return False
        news = unseen - self._asked[_Way.ROUND]
        return self._ended is None or self._now - self._ended >= (PAUSE if news else REFRESH_AFTER)

    def _begin(self, way: _Way, steps: Steps) -> None:
        self._asked[way] = self._wanted
        self._under_way[way] = steps

    def _step(self) -> None:
        """Do one step of the way whose turn it is; the other one's turn is next."""
        way = next(iter(self._under_way))
        steps = self._under_way.pop(way)
        for _ in steps:
            self._under_way[way] = steps
            break

    def _likely(self) -> Iterator[int]:
        pids, cgroups = likely_order(self._holders.values())
        yield from pids
        if self._mount:
            for cgroup in cgroups:
                yield from list_members(self._mount, cgroup)

    def _round(self) -> Steps:
        self._sightings.begin_round()
        denied, pid = 0, 0
        for pid in each_once(chain(self._likely(), list_pids(self._proc))):
            denied += yield from self._visit(pid, self._look_at_all)
        self._sightings.end_round()
        self._rounds, self._ended = self._rounds + 1, self._now
        self._denied, self._hidden = denied, pid != INIT
        asked = self._asked[_Way.ROUND] & self._wanted
        self._incomplete = bool(self._sightings.unseen(asked))

    def _search(self, sought: set[int]) -> Steps:
        for pid in each_once(self._likely()):
            yield from self._visit(pid, partial(self._look_for, sought))
            if not sought:
                return

    def _visit(self, pid: int, look: Look) -> Generator[None, None, bool]:
        """Look through one process; True if that is forbidden."""
        yield
        try:
            with opened(f"{self._proc}/{pid}") as directory:
                if process := read_process(directory):
                    yield from look(process, directory)
                    return False
        except OSError as error:
            self._holders.pop(pid, None)
            return not isinstance(error, FileNotFoundError | ProcessLookupError)
        self._holders.pop(pid, None)
        return False

    def _look_at_all(self, process: Process, directory: int) -> Steps:
        seen: set[int] = set()
        known: dict[str, int] = {}
        size = 0
        for fds, names in descriptors(directory):
            size += len(names)
            for name, inode in sockets(fds, names):
                if inode in self._wanted and inode not in seen:
                    seen.add(inode)
                    if self._sightings.in_round(inode, process):
                        known[name] = inode
            yield
        self._holders.pop(process.pid, None)
        if seen:
            self._holders[process.pid] = Holder(process, size, read_cgroup(directory), known)

    def _look_for(self, sought: set[int], process: Process, directory: int) -> Steps:
        """Give each socket sought to this process if it holds it, and seek it no longer."""
        holder = self._holder(process)
        known = holder.known if holder else {}
        found: dict[str, int] = {}
        size = 0
        for fds, names in descriptors(directory):
            size += len(names)
            unknown = [name for name in names if known.get(name) not in self._wanted]
            for name, inode in sockets(fds, unknown):
                if inode in sought:
                    sought.remove(inode)
                    found[name] = inode
                    self._sightings.in_search(inode, process)
            yield
            if not sought:
                break
        if found:
            self._remember(Holder(process, size, read_cgroup(directory), found))

    def _holder(self, process: Process) -> Holder | None:
        holder = self._holders.get(process.pid)
        return holder if holder and holder.process.started == process.started else None

    def _remember(self, found: Holder) -> None:
        holder = self._holder(found.process)
        if holder:
            holder.known.update(found.known)
        else:
            self._holders[found.process.pid] = found
