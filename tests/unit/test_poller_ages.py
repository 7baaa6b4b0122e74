"""What a Poller remembers of ages when it begins, while it runs and when it ends."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from fake_kernel import FakeKernel, listing
from fake_sources import UNLIMITED, Time

from sockwatch.config import AgesConfig
from sockwatch.kernel.netlink import NetlinkSource
from sockwatch.observe.snapshot import PassKind, Stuck
from sockwatch.poll import Bell, Poller
from sockwatch.poll.state_file import SAVE_AFTER, AgeFile
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Family, State

HERE = "this boot"
LOOPBACK = b"\x7f\0\0\1"
CONFIG = replace(UNLIMITED, ages=AgesConfig(close_wait=60))
WATCH = PassKind.WATCH


def close_wait(cookie: int) -> Row:
    return Row(
        Family.INET,
        State.CLOSE_WAIT,
        LOOPBACK,
        80,
        LOOPBACK,
        1000 + cookie,
        timer=0,
        retransmits=0,
        expires=0,
        receive_queue=1,
        send_queue=0,
        uid=0,
        inode=100 + cookie,
        cookie=cookie,
        cgroup=1,
    )


class Machine:
    """Its sockets and its clock outlive the daemon."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ages"
        self.time = Time()
        self.rows: list[Row] = []
        self.damaged = False

    def answer(self, states: int, sequence: int) -> Iterable[bytes]:
        return [b"damaged"] if self.damaged else listing(self.rows)(states, sequence)

    def poller(self, where: str = HERE) -> Poller:
        return Poller(
            CONFIG,
            candidates=[lambda: NetlinkSource(lambda: FakeKernel(self.answer))],
            clocks=self.time.clocks(),
            ages=AgeFile(self.path, where),
        )

    def watched(self, poller: Poller, seconds: int = 0) -> Stuck:
        """What is known after passes, a second apart."""
        for _ in range(seconds):
            poller.step(WATCH)
            self.time.move(1)
        poller.step(WATCH)
        (view,) = poller.snapshot().namespaces
        assert view.stuck is not None
        return view.stuck


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def ages(stuck: Stuck) -> dict[float, int]:
    return dict(stuck.ages[State.CLOSE_WAIT])


def at_least(stuck: Stuck) -> set[float]:
    """Ages that are lower bounds."""
    return {stuck.taken - moment for moment in stuck.lower_bounds}


def test_ages_go_on_after_a_stop(machine: Machine) -> None:
    machine.rows = [close_wait(1)]
    with closing(machine.poller()) as poller:
        machine.watched(poller, 50)
    machine.time.move(2)
    stuck = machine.watched(machine.poller())
    assert ages(stuck) == {52.0: 1}
    machine.time.move(8)
    assert sum(machine.watched(machine.poller()).connections.values()) == 1


def test_ages_go_on_after_a_crash(machine: Machine) -> None:
    """Nobody closes the first; its last save is of the first pass."""
    machine.rows = [close_wait(1)]
    machine.watched(machine.poller(), 50)
    assert ages(machine.watched(machine.poller(), 5)) == {55.0: 1}


def test_what_came_after_the_last_save_is_at_least_as_old_as_the_restart(machine: Machine) -> None:
    machine.rows = [close_wait(1)]
    first = machine.poller()
    machine.watched(first, 10)
    machine.rows.append(close_wait(2))
    assert ages(machine.watched(first, 10)) == {20.0: 1, 10.0: 1}
    stuck = machine.watched(machine.poller(), 5)
    assert ages(stuck) == {25.0: 1, 5.0: 1}
    assert at_least(stuck) == {25.0, 5.0}


def test_after_a_short_stop_newcomers_have_their_whole_age(machine: Machine) -> None:
    with closing(machine.poller()) as poller:
        machine.watched(poller, 10)
    machine.time.move(2)
    machine.rows = [close_wait(3)]
    stuck = machine.watched(machine.poller(), 4)
    assert (ages(stuck), at_least(stuck)) == ({4.0: 1}, set())


def test_after_a_long_stop_newcomers_may_be_older(machine: Machine) -> None:
    with closing(machine.poller()) as poller:
        machine.watched(poller, 10)
    machine.time.move(100)
    machine.rows = [close_wait(3)]
    stuck = machine.watched(machine.poller(), 4)
    assert (ages(stuck), at_least(stuck)) == ({4.0: 1}, {4.0})


def test_after_a_reboot_ages_begin_anew(machine: Machine) -> None:
    machine.rows = [close_wait(1)]
    with closing(machine.poller()) as poller:
        machine.watched(poller, 50)
    stuck = machine.watched(machine.poller("another boot"), 3)
    assert (ages(stuck), at_least(stuck)) == ({3.0: 1}, {3.0})


# While it runs


@pytest.mark.parametrize("step", [-86_400.0, 3_600.0])
def test_a_step_of_the_wall_clock_makes_nobody_older_or_younger(
    machine: Machine, step: float
) -> None:
    machine.rows = [close_wait(1)]
    poller = machine.poller()
    machine.watched(poller, 30)
    machine.time.wall += step
    machine.rows.append(close_wait(2))
    stuck = machine.watched(poller, 30)
    assert (ages(stuck), at_least(stuck)) == ({60.0: 1, 30.0: 1}, {60.0})


def test_passes_that_fail_take_no_age_away(machine: Machine) -> None:
    """And what comes up while two of them fail is as old as the first that succeeds."""
    machine.rows = [close_wait(1)]
    poller = machine.poller()
    machine.watched(poller, 10)
    machine.damaged = True
    machine.watched(poller, 2)
    machine.damaged = False
    machine.rows.append(close_wait(2))
    stuck = machine.watched(poller, 5)
    assert (ages(stuck), at_least(stuck)) == ({17.0: 1, 5.0: 1}, {17.0})


def test_what_comes_up_while_no_pass_is_made_may_be_older(machine: Machine) -> None:
    """As if the daemon had been stopped for a while (SIGSTOP, a frozen cgroup, a busy host)."""
    machine.rows = [close_wait(1)]
    poller = machine.poller()
    machine.watched(poller, 10)
    machine.time.move(100)
    machine.rows.append(close_wait(2))
    stuck = machine.watched(poller, 5)
    assert (ages(stuck), at_least(stuck)) == ({115.0: 1, 5.0: 1}, {115.0, 5.0})


def test_the_time_that_a_host_sleeps_is_no_time_to_close_in(machine: Machine) -> None:
    """CLOCK_MONOTONIC stands still while the host is suspended, and so do its applications."""
    machine.rows = [close_wait(1)]
    poller = machine.poller()
    machine.watched(poller, 30)
    machine.time.wall += 8 * 3600
    stuck = machine.watched(poller, 1)
    assert (ages(stuck), sum(stuck.connections.values())) == ({31.0: 1}, 0)


def test_a_dump_that_misses_a_connection_once_does_not_end_it(machine: Machine) -> None:
    """Twice does, and an address that is used again is another connection."""
    machine.rows = [close_wait(1)]
    poller = machine.poller()
    machine.watched(poller, 10)
    for missed, age in ((1, 12.0), (2, 0.0)):
        machine.rows = []
        for _ in range(missed):
            machine.time.move(1)
            machine.watched(poller)
        machine.time.move(1)
        machine.rows = [close_wait(1)]
        assert ages(machine.watched(poller)) == {age: 1}
    machine.rows = [close_wait(1)._replace(cookie=2)]
    machine.time.move(1)
    assert ages(machine.watched(poller)) == {0.0: 1}


# What is kept


def test_what_was_written_before_is_replaced(machine: Machine) -> None:
    machine.rows = [close_wait(1)]
    with closing(machine.poller()) as poller:
        machine.watched(poller)
    machine.rows = []
    with closing(machine.poller()) as poller:
        machine.watched(poller, 3)
    machine.rows = [close_wait(1)]  # as if it were back
    assert ages(machine.watched(machine.poller(), 2)) == {2.0: 1}


def test_only_good_passes_are_saved(machine: Machine) -> None:
    machine.rows = [close_wait(1)]
    poller = machine.poller()
    machine.watched(poller)
    machine.path.unlink()
    machine.time.move(SAVE_AFTER)
    machine.damaged = True
    assert not poller.step(WATCH)
    assert not machine.path.exists()
    machine.damaged = False
    assert poller.step(WATCH)
    assert machine.path.exists()


def test_a_poller_that_ends_before_its_first_pass_leaves_the_file_as_it_was(
    machine: Machine,
) -> None:
    machine.rows = [close_wait(1)]
    with closing(machine.poller()) as poller:
        machine.watched(poller, 50)
    bell = Bell()
    bell.stop()
    machine.poller().run(bell, publish=lambda _: None)
    assert ages(machine.watched(machine.poller())) == {50.0: 1}
