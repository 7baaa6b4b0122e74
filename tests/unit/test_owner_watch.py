"""Stuck connections get the names of processes as far as wished, permitted and bounded."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from marked import Entry, stuck
from proctree import ProcTree

from sockwatch.kernel.owners import MISSING, OwnerFinder
from sockwatch.observe.snapshot import Stuck
from sockwatch.poll import owners
from sockwatch.poll.owners import OFF, SEARCHING, TOO_MANY, OwnerWatch

AMPLE = 1e9
Watch = Callable[[float], OwnerWatch]


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    """A host on which one application holds sockets 5 and 6."""
    made = ProcTree(tmp_path)
    made.start(1, name="systemd", ticks=1, cgroup="/init.scope")
    made.start(70, [5, 6])
    return made


@pytest.fixture
def watching(tree: ProcTree) -> Watch:
    """Makes watches that are switched on, for which each step takes a second."""
    ticks = count()

    def make(budget: float) -> OwnerWatch:
        made = OwnerWatch(budget, lambda: OwnerFinder(tree.root, lambda: float(next(ticks))))
        made.switch(on=True)
        return made

    return make


@pytest.fixture
def watch(watching: Watch) -> OwnerWatch:
    return watching(AMPLE)


def holding(*inodes: int) -> Stuck:
    return stuck(*(Entry(inode=inode) for inode in inodes))


def pids(found: Stuck) -> dict[int, list[int]]:
    return {
        inode: [process.pid for process in who.processes] for inode, who in found.owners.items()
    }


def test_the_process_of_a_stuck_connection_is_named(watch: OwnerWatch) -> None:
    found = watch.named(holding(5, 0), 0.0)
    assert (pids(found), found.unnamed) == ({5: [70]}, None)


def test_unless_asked_nobody_is_looked_for_and_that_is_said() -> None:
    found = OwnerWatch().named(holding(5), 0.0)
    assert (pids(found), found.unnamed) == ({}, OFF)


def test_it_can_be_switched_off_and_on_again(watch: OwnerWatch) -> None:
    for on, named in ((False, {}), (False, {}), (True, {5: [70]}), (True, {5: [70]})):
        watch.switch(on=on)
        assert pids(watch.named(holding(5), 0.0)) == named


def test_what_takes_longer_goes_on_with_the_next_pass_and_that_is_said(watching: Watch) -> None:
    hurried = watching(0.0)
    first = hurried.named(holding(5), 0.0)
    assert (pids(first), first.unnamed) == ({}, SEARCHING)
    later = [hurried.named(holding(5), 0.0) for _ in range(10)]
    assert (pids(later[-1]), later[-1].unnamed) == ({5: [70]}, None)


def test_what_is_forbidden_is_said_with_what_to_do(tree: ProcTree, watch: OwnerWatch) -> None:
    tree.forbid(70)
    assert watch.named(holding(5), 0.0).unnamed == MISSING


def test_what_nobody_holds_any_more_is_no_lack_of_permission(watch: OwnerWatch) -> None:
    found = watch.named(holding(5, 99), 0.0)
    assert (pids(found), found.unnamed) == ({5: [70]}, None)


def test_beyond_a_limit_only_some_are_looked_for(
    watch: OwnerWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "WANTED_LIMIT", 3)
    found = watch.named(holding(5, 91, 92, 93, 94, 6), 0.0)
    assert (pids(found), found.unnamed) == ({5: [70]}, TOO_MANY)


def test_who_holds_a_listener_beside_is_looked_for_but_is_no_owner_of_stuck_ones(
    tree: ProcTree, watch: OwnerWatch
) -> None:
    tree.start(80, [7], cgroup="/other.service")
    found = watch.named(holding(5), 0.0, beside=[7])
    assert pids(found) == {5: [70]}


def test_who_holds_a_listener_beside_is_looked_at_first_for_what_is_stuck_later(
    tree: ProcTree, watch: OwnerWatch
) -> None:
    """The first walk through all processes has noted it; the next is not due."""
    tree.start(80, [7], cgroup="/other.service")
    assert pids(watch.named(holding(5), 0.0, beside=[7])) == {5: [70]}
    tree.open(80, 8)
    assert pids(watch.named(holding(5, 8), 1.0, beside=[7])) == {5: [70], 8: [80]}


def test_nothing_stuck_lacks_no_names(watch: OwnerWatch) -> None:
    assert watch.named(stuck(), 0.0).unnamed is None
