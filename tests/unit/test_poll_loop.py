"""The poll thread keeps its schedule, tells that it lives, stops when told, and dies of errors."""

import time
from collections import Counter
from dataclasses import replace
from queue import Queue
from threading import Event, Thread

import pytest
from fake_sources import (
    BUSY,
    REFUSED,
    UNLIMITED,
    UNREADABLE,
    WALL,
    Bench,
    FakeNetlink,
    Time,
    status,
)

from sockwatch.config import CensusConfig, Config, WatchConfig
from sockwatch.observe.snapshot import PassKind, Snapshot
from sockwatch.poll import Bell, NoSource, Poller, look_once
from sockwatch.poll import poller as poller_module
from sockwatch.poll.poller import NAP, SECOND_LOOK
from sockwatch.tcp.records import Reading, Row
from sockwatch.tcp.states import Family, State

WATCH, CENSUS = PassKind.WATCH, PassKind.CENSUS


@pytest.fixture
def bench() -> Bench:
    return Bench()


class Fast(Bell):
    """Moves the clock instead of waiting, and stops when the time of the test is over."""

    def __init__(self, time: Time, seconds: float) -> None:
        super().__init__()
        self._time = time
        self._end = time.monotonic + seconds
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self._time.move(seconds)
        if self._time.monotonic > self._end:
            self.stop()


def run(bench: Bench, seconds: float) -> tuple[list[Snapshot], list[str], list[float]]:
    """Snapshots published, what happened in which order, and how long was waited each time."""
    bell, snapshots, events = Fast(bench.time, seconds), list[Snapshot](), list[str]()

    def publish(snapshot: Snapshot) -> None:
        snapshots.append(snapshot)
        events.append("publish")

    bench.poller().run(bell, publish, lambda: events.append("alive"))
    return snapshots, events, bell.waits


def test_it_looks_at_once_and_then_by_its_schedule(bench: Bench) -> None:
    snapshots, _, _ = run(bench, 29.5)
    assert len(snapshots) == 30
    assert bench.netlink.asked == {"probe": 1, "census": 2, "watch": 28}
    assert [shot.taken - WALL for shot in snapshots] == [*range(30)]


def test_a_snapshot_is_published_also_after_a_failed_pass(bench: Bench) -> None:
    bench.psutil.refusal = UNREADABLE
    bench.netlink.failure = BUSY
    snapshots, _, _ = run(bench, 3.5)
    assert [shot.passes[CENSUS].failures["busy"] for shot in snapshots] == [1, 1, 1, 1]
    assert [shot.passes[WATCH].failures["busy"] for shot in snapshots] == [0, 1, 2, 3]


def test_a_published_snapshot_never_changes(bench: Bench) -> None:
    snapshots, _, _ = run(bench, 2.5)
    first, *_, last = snapshots
    assert (first.passes[CENSUS].passes, first.passes[WATCH].passes) == (1, 0)
    assert last.passes[WATCH].passes == 2
    assert first.namespaces[0].sockets is not last.namespaces[0].sockets


def test_it_gives_a_sign_of_life_after_each_pass_and_between_passes(bench: Bench) -> None:
    """By it the watchdog knows that no pass hangs, however rare passes are."""
    bench.config = replace(
        UNLIMITED, watch=WatchConfig(interval=60), census=CensusConfig(interval=600)
    )
    _, events, waits = run(bench, 120)
    assert events[:2] == ["publish", "alive"]
    assert events.count("alive") == len(waits) + events.count("publish")
    assert max(waits) == NAP
    assert events.count("publish") == 3


def test_it_does_not_wake_up_without_need(bench: Bench) -> None:
    _, _, waits = run(bench, 60)
    assert len(waits) <= 61


def test_it_stops_at_once_while_it_waits(bench: Bench) -> None:
    bell, published = Bell(), Event()
    poller = Poller(UNLIMITED, candidates=bench.candidates())
    thread = Thread(target=poller.run, args=(bell, lambda _: published.set()))
    thread.start()
    assert published.wait(5)
    bell.stop()
    thread.join(0.5)
    assert not thread.is_alive()


def test_it_adopts_another_configuration_at_once_while_it_waits(bench: Bench) -> None:
    seldom = replace(UNLIMITED, watch=WatchConfig(interval=60), census=CensusConfig(interval=60))
    bell, published = Bell(), Queue[Snapshot]()
    poller = Poller(seldom, candidates=bench.candidates())
    thread = Thread(target=poller.run, args=(bell, published.put))
    thread.start()
    assert published.get(timeout=5).passes[WATCH].interval == 60
    poller.reconfigure(UNLIMITED)
    bell.ring()
    assert published.get(timeout=NAP / 2).passes[WATCH].interval == UNLIMITED.watch.interval
    bell.stop()
    thread.join(5)


def test_the_same_configuration_again_makes_no_pass_due(bench: Bench) -> None:
    """SIGHUP may come as often as it likes: nobody has a budget for that."""
    poller = bench.poller()

    class Storm(Fast):
        def wait(self, seconds: float) -> None:
            poller.reconfigure(replace(UNLIMITED, watch=WatchConfig(), census=CensusConfig()))
            super().wait(min(seconds, 0.1))

    poller.run(Storm(bench.time, 29.5), lambda _: None)
    assert bench.netlink.asked == {"probe": 1, "census": 2, "watch": 28}


def test_it_does_not_begin_when_it_is_stopped_already(bench: Bench) -> None:
    bell = Bell()
    bell.stop()
    bench.poller().run(bell, lambda _: pytest.fail("published"))
    assert bench.netlink.asked == {"probe": 1}


def test_an_error_of_ours_ends_the_loop_and_nothing_more_is_published(bench: Bench) -> None:
    bench.netlink.failure, bench.netlink.failing = ZeroDivisionError(), ["watch"]
    snapshots: list[Snapshot] = []
    with pytest.raises(ZeroDivisionError):
        bench.poller().run(Fast(bench.time, 60), snapshots.append)
    assert len(snapshots) == 1


class Helped(FakeNetlink):
    """A source that lets another thread do its work."""

    def watch(self, _follower: object = None) -> Reading:
        helper = Thread(target=work, args=(0.1,))
        helper.start()
        helper.join()
        return super().watch()


def work(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_only_the_cpu_time_of_the_poll_thread_is_held_against_the_budget(bench: Bench) -> None:
    """Scrapes are served and rendered by other threads meanwhile."""
    poller = Poller(UNLIMITED, candidates=[lambda: Helped(bench.netlink)])
    assert poller.step(WATCH)
    assert status(poller, WATCH).cpu_seconds < 0.05
    duration = status(poller, WATCH).duration
    assert duration is not None
    assert duration >= 0.1


@pytest.fixture
def only_candidates(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller_module, "makers", lambda _: bench.candidates())


@pytest.mark.usefixtures("only_candidates")
def test_one_look_is_a_census_and_leaves_nothing_open(bench: Bench) -> None:
    (seen,) = look_once(Config()).namespaces
    assert seen.sockets[Family.INET, State.ESTABLISHED] == 7
    assert bench.netlink.asked == {"probe": 1, "census": 1}
    assert bench.netlink.left_open == 0


def door(queue: int, limit: int) -> Row:
    return Row(Family.INET, State.LISTEN, bytes(4), 80, bytes(4), 0)._replace(
        receive_queue=queue, send_queue=limit, drops=0
    )


@pytest.mark.usefixtures("only_candidates")
@pytest.mark.parametrize(
    ("queues", "looks"), [((7,), 1), ((8,), 1), ((9,), 2), ((0, 9), 2), ((8, 8), 1)], ids=str
)
def test_a_full_queue_is_looked_at_again_after_a_second(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, queues: tuple[int, ...], looks: int
) -> None:
    slept: list[float] = []
    doors = tuple(door(queue, 8) for queue in queues)
    monkeypatch.setattr(bench.netlink, "listeners", lambda: doors)
    (seen,) = look_once(Config(), slept.append).namespaces
    assert slept == [SECOND_LOOK] * (looks - 1)
    assert bench.netlink.asked == Counter({"probe": 1, "census": 1, "watch": looks - 1})
    assert seen.figures is not None
    assert (seen.figures.lately is not None) is (looks > 1)


@pytest.mark.usefixtures("only_candidates")
def test_a_second_look_that_fails_leaves_the_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.netlink, "listeners", lambda: (door(9, 8),))
    bench.netlink.failure, bench.netlink.failing = BUSY, ("watch",)
    taken = look_once(Config(), lambda _: None)
    assert taken.passes[WATCH].last_failure is None
    (seen,) = taken.namespaces
    assert seen.sockets[Family.INET, State.ESTABLISHED] == 7


@pytest.mark.usefixtures("only_candidates")
def test_one_look_goes_to_the_other_source_if_it_must(bench: Bench) -> None:
    bench.netlink.failure = REFUSED
    assert look_once(Config()).source.name == "psutil"


@pytest.mark.usefixtures("only_candidates")
def test_one_look_that_fails_says_why(bench: Bench) -> None:
    bench.netlink.failure = BUSY
    with pytest.raises(NoSource, match="busy: receiving a socket dump: EBUSY"):
        look_once(Config())
    assert bench.netlink.left_open == 0


def test_a_poller_that_has_stopped_leaves_nothing_open(bench: Bench) -> None:
    run(bench, 3)
    assert bench.netlink.left_open == 0
