"""However processes come and go between the steps, no owner is invented and none is missed."""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from proctree import ProcTree

from sockwatch.kernel import processes
from sockwatch.kernel.owners import REFRESH_AFTER, OwnerFinder
from sockwatch.tcp.owners import INIT, Process

PIDS: Final = st.integers(INIT, INIT + 4)
INODES: Final = st.integers(100, 107)
TICKS_PER_SECOND: Final = 100


class Comings(RuleBasedStateMachine):
    """A host that changes between any two steps, and a record of who held what and when.

    A round may begin with any call, because each comes `REFRESH_AFTER` later than the last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.tree = ProcTree(Path(self.folder.name))
        self.finder = OwnerFinder(self.tree.root)
        self.time = count()
        self.alive: dict[int, Process] = {}
        self.wanted: dict[int, int] = {}
        """Since when."""
        self.held: dict[tuple[Process, int, int], int] = {}
        """Since when, by process, descriptor and inode."""
        self.last_held: dict[tuple[Process, int], int] = {}
        self.began = [0, 0]
        """When the last two rounds began."""
        self.whole = 0
        """When the last whole round began."""
        self.between = True

    def teardown(self) -> None:
        self.finder.close()
        self.folder.cleanup()

    @initialize(inodes=st.sets(INODES))
    def want(self, inodes: set[int]) -> None:
        self.change_wanted(inodes)

    @rule(inodes=st.sets(INODES))
    def change_wanted(self, inodes: set[int]) -> None:
        now = next(self.time)
        self.wanted = {inode: self.wanted.get(inode, now) for inode in inodes}

    @rule(pid=PIDS, inodes=st.lists(INODES, max_size=6), service=st.sampled_from("ab"))
    def start(self, pid: int, inodes: list[int], service: str) -> None:
        """Start a process, in the place of the one with that id if there is one."""
        if pid in self.alive:
            self.end(pid)
        ticks = next(self.time)
        self.tree.start(pid, ticks=ticks, cgroup=f"/{service}")
        self.alive[pid] = Process(pid, "app", ticks / TICKS_PER_SECOND)
        for inode in inodes:
            self.open(pid, inode)

    @rule(pid=PIDS)
    def end(self, pid: int) -> None:
        if process := self.alive.pop(pid, None):
            self.tree.end(pid)
            for key in [key for key in self.held if key[0] == process]:
                self.let_go(key)

    @rule(pid=PIDS, inode=INODES)
    def open(self, pid: int, inode: int) -> None:
        if process := self.alive.get(pid):
            self.held[process, self.tree.open(pid, inode), inode] = next(self.time)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        self.tree.close(key[0].pid, key[1])
        self.let_go(key)

    def let_go(self, key: tuple[Process, int, int]) -> None:
        del self.held[key]
        self.last_held[key[0], key[2]] = next(self.time)

    @rule(steps=st.integers(1, 10))
    def advance(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        now, rounds = next(self.time), self.finder.rounds
        if self.between and self.wanted:
            self.began = [*self.began[1:], now]
            self.between = False
        self.finder.advance(frozenset(self.wanted), 0, now * REFRESH_AFTER)
        if self.finder.rounds > rounds:
            self.between = True
            self.whole = self.began[-1]

    @invariant()
    def no_owner_is_missed(self) -> None:
        """Who has held a wanted socket since before the last whole round is among its owners."""
        constant = {
            (process, inode)
            for (process, _, inode), since in self.held.items()
            if max(since, self.wanted.get(inode, self.whole)) < self.whole
        }
        for process, inode in constant:
            owners = self.finder.owners(inode)
            assert owners
            others = any(other.pid != INIT for other in owners.processes)
            assert process in owners.processes or (process.pid == INIT and others)

    @invariant()
    def no_owner_is_invented(self) -> None:
        """Named are only those who held the socket since the last round but one began."""
        holding = {(process, inode) for process, _, inode in self.held}
        for inode in self.wanted:
            owners = self.finder.owners(inode)
            for process in owners.processes if owners else ():
                lately = self.last_held.get((process, inode), -1) > self.began[0]
                assert lately or (process, inode) in holding

    @invariant()
    def all_are_counted_once(self) -> None:
        for inode in self.wanted:
            owners = self.finder.owners(inode)
            assert not owners or owners.count in {None, len(set(owners.processes))}


def test_owners_are_right_whatever_happens_between_two_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "BATCH", 2)  # so that small processes take several steps
    run_state_machine_as_test(
        Comings, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
