"""What the daemon says of itself: ready once a watch has succeeded, and while that is not old."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from snapshots import good_pass, snapshot

from sockwatch.daemon import Board
from sockwatch.export.exposition import Exposition
from sockwatch.export.formats import Format
from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.observe.snapshot import PassKind, Snapshot
from sockwatch.poll.records import PassRecord

WATCH, CENSUS = PassKind.WATCH, PassKind.CENSUS
BUSY = PassFailure(Cause.BUSY, "receiving a socket dump: EBUSY")
INTERVAL = 2.0
PATIENCE = 3 * INTERVAL + 5
"""Seconds without a good watch after which the figures are stale."""


class Host:
    """Passes as the poll thread records them, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.records = {kind: PassRecord() for kind in PassKind}
        self.board = Board(self.snapshot(), Exposition())
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr("sockwatch.daemon.time", clock)

    def snapshot(self) -> Snapshot:
        passes = {kind: record.status(1.0, INTERVAL) for kind, record in self.records.items()}
        return replace(snapshot(), passes=passes)

    def watch(self, after: float = 0.0) -> None:
        self.now += after
        self.records[WATCH].succeeded(1e9 + self.now, 0.001, 0.001)
        self.board.post(self.snapshot())

    def census(self) -> None:
        self.records[CENSUS].succeeded(1e9 + self.now, 0.001, 0.001)
        self.records[WATCH].included(1e9 + self.now)
        self.board.post(self.snapshot())

    def fails(self, kind: PassKind, after: float = 0.0) -> None:
        self.now += after
        self.records[kind].failed(BUSY, 0.001)
        self.board.post(self.snapshot())

    def is_ready(self) -> bool:
        return self.board.ready()[0]

    @property
    def reason(self) -> str:
        return self.board.ready()[1]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_it_is_not_ready_before_the_first_pass(host: Host) -> None:
    assert host.board.ready() == (False, "No pass over the kernel has succeeded yet.")


def test_a_census_or_a_watch_makes_it_ready(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Host(monkeypatch)
    host.census()
    other.watch()
    assert host.is_ready()
    assert other.is_ready()


@pytest.mark.parametrize("kind", PassKind)
def test_a_first_pass_that_fails_does_not_make_it_ready(kind: PassKind, host: Host) -> None:
    """The census comes first: when it failed, no watch has failed, but none has succeeded."""
    host.fails(kind)
    assert not host.is_ready()
    host.watch()
    assert host.is_ready()


def test_it_stays_ready_for_a_few_failures_and_no_longer(host: Host) -> None:
    host.watch()
    for _ in range(5):
        host.fails(WATCH, after=INTERVAL)
        assert host.is_ready()
    host.fails(WATCH, after=PATIENCE - 5 * INTERVAL + 1)
    assert not host.is_ready()
    assert host.reason == f"The last good pass ended 12 s ago (busy: {BUSY})."


def test_failures_of_the_census_do_not_keep_it_ready(host: Host) -> None:
    host.watch()
    for _ in range(4):
        host.fails(CENSUS, after=PATIENCE / 3)
    assert not host.is_ready()


def test_failures_of_the_census_alone_do_not_make_it_stale(host: Host) -> None:
    host.census()
    for _ in range(20):
        host.watch(after=INTERVAL)
        host.fails(CENSUS)
        assert host.is_ready()


def test_a_pass_that_does_not_end_makes_it_stale(host: Host) -> None:
    host.watch()
    host.now += PATIENCE
    assert host.is_ready()
    host.now += 1
    assert not host.is_ready()
    assert "the one under way does not end" in host.reason


def test_it_is_ready_again_after_the_next_good_watch(host: Host) -> None:
    host.watch()
    host.fails(WATCH, after=60)
    assert not host.is_ready()
    host.watch()
    assert host.is_ready()


def test_a_wall_clock_that_is_set_changes_nothing(host: Host) -> None:
    host.watch()
    for step in (1e6, -2e6):
        host.records[WATCH].succeeded(1e9 + host.now + step, 0.001, 0.001)
        host.board.post(host.snapshot())
        host.now += PATIENCE - 1
        assert host.is_ready()
        host.now += 2
        assert not host.is_ready()


def test_what_is_posted_is_what_is_served(host: Host) -> None:
    posted = replace(snapshot(), passes={kind: good_pass() for kind in PassKind})
    host.board.post(posted)
    assert host.board.snapshot() is posted
    assert b"sockwatch_tcp_sockets{" in host.board.render(Format.TEXT_0_0_4)
