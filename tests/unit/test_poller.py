"""What a pass leaves behind, and above all what a failed one does not."""

import logging
from dataclasses import replace

import pytest
from fake_sources import (
    BUSY,
    HEALTHY,
    SICK,
    UNLIMITED,
    UNREADABLE,
    WALL,
    Bench,
    count,
    failures,
    status,
    view_of,
)

from sockwatch.config import CensusConfig, Config, CpuConfig, LabelsConfig, WatchConfig
from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.observe.snapshot import OTHER, PassKind
from sockwatch.tcp.states import Family, State

WATCH, CENSUS = PassKind.WATCH, PassKind.CENSUS


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_before_any_pass_nothing_is_known(bench: Bench) -> None:
    snapshot = bench.poller().snapshot()
    assert snapshot.namespaces == ()
    assert snapshot.taken == WALL
    for kind in PassKind:
        seen = snapshot.passes[kind]
        assert (seen.passes, seen.cpu_seconds) == (0, 0)
        assert (seen.last_success, seen.duration, seen.last_failure) == (None, None, None)
        assert seen.failures == dict.fromkeys(map(str, Cause), 0)


def test_a_census_counts_every_state(bench: Bench) -> None:
    poller = bench.after(CENSUS)
    assert {state: count(poller, state) for state in {**HEALTHY, **SICK}} == {**HEALTHY, **SICK}
    assert count(poller, State.LISTEN) == 1
    assert count(poller, State.SYN_SENT) == 0


def test_before_the_first_census_the_bulk_states_are_absent(bench: Bench) -> None:
    poller = bench.after(WATCH)
    assert [count(poller, state) for state in HEALTHY] == [None, None]
    assert count(poller, State.CLOSE_WAIT) == 3
    assert view_of(poller).unowned is None
    for states in view_of(poller).services.values():
        assert not states.keys() & HEALTHY.keys()


def test_a_watch_brings_its_states_up_to_date_and_keeps_what_the_census_counted(
    bench: Bench,
) -> None:
    poller = bench.after(CENSUS)
    bench.netlink.counts = {State.ESTABLISHED: 99, State.TIME_WAIT: 99, State.CLOSE_WAIT: 4}
    poller.step(WATCH)
    assert [count(poller, state) for state in HEALTHY] == [7, 5]
    assert count(poller, State.CLOSE_WAIT) == 4
    (states,) = view_of(poller).services.values()
    assert states == {**HEALTHY, State.CLOSE_WAIT: 4}


def test_a_pass_is_measured(bench: Bench) -> None:
    bench.netlink.duration, bench.netlink.cost = 0.25, 0.125
    poller = bench.after(CENSUS, WATCH, WATCH)
    watch, census = status(poller, WATCH), status(poller, CENSUS)
    assert (watch.passes, watch.cpu_seconds, watch.duration) == (2, 0.25, 0.25)
    assert (census.passes, census.cpu_seconds, census.duration) == (1, 0.125, 0.25)
    assert (census.last_success, watch.last_success) == (WALL + 0.25, WALL + 0.75)
    assert poller.snapshot().taken == WALL + 0.75


def test_a_census_freshens_the_watch_but_is_not_counted_as_one(bench: Bench) -> None:
    bench.netlink.duration = 0.5
    poller = bench.after(CENSUS)
    watch = status(poller, WATCH)
    assert watch.last_success == status(poller, CENSUS).last_success == WALL + 0.5
    assert (watch.passes, watch.duration) == (0, None)


def test_a_failed_pass_keeps_the_last_good_values(bench: Bench) -> None:
    poller = bench.after(CENSUS, WATCH)
    good, stamps = view_of(poller), [status(poller, kind).last_success for kind in PassKind]
    duration = status(poller, WATCH).duration
    bench.netlink.failure, bench.netlink.counts = BUSY, {}
    for kind in (WATCH, CENSUS):
        bench.time.move(1)
        assert not poller.step(kind)
        assert view_of(poller) is good
    assert [status(poller, kind).last_success for kind in PassKind] == stamps
    assert status(poller, WATCH).duration == duration
    assert good.sockets[Family.INET, State.CLOSE_WAIT] == 3


@pytest.mark.parametrize("cause", Cause)
def test_a_failed_pass_is_counted_by_its_cause(cause: Cause, bench: Bench) -> None:
    bench.psutil.refusal = UNREADABLE  # nowhere to go
    poller = bench.after(CENSUS)
    bench.netlink.failure, bench.netlink.cost = PassFailure(cause, "for a test"), 0.5
    for _ in range(5):
        assert not poller.step(WATCH)
    watch = status(poller, WATCH)
    assert failures(poller, WATCH) == {cause: 5}
    assert failures(poller, CENSUS) == {}
    assert (watch.passes, watch.cpu_seconds) == (5, 2.5)
    assert watch.last_failure == f"{cause}: for a test"
    assert status(poller, CENSUS).last_failure is None


def test_a_pass_that_fails_first_of_all_leaves_nothing_behind(bench: Bench) -> None:
    bench.netlink.failure = BUSY
    poller = bench.poller()
    assert not poller.step(CENSUS)
    snapshot = poller.snapshot()
    assert snapshot.namespaces == ()
    assert [seen.last_success for seen in snapshot.passes.values()] == [None, None]


def test_a_good_pass_ends_a_row_of_failures(bench: Bench) -> None:
    poller = bench.after(CENSUS)
    for _ in range(5):
        bench.netlink.failure = BUSY
        assert not poller.step(WATCH)
        assert not poller.step(WATCH)
        bench.netlink.works_again()
        assert poller.step(WATCH)
        assert status(poller, WATCH).last_failure is None
    assert poller.snapshot().source.name == "netlink"
    assert failures(poller, WATCH) == {"busy": 10}


def test_a_good_census_ends_the_failure_of_the_watch(bench: Bench) -> None:
    poller = bench.after(CENSUS)
    bench.netlink.failure, bench.netlink.failing = BUSY, ["watch"]
    poller.step(WATCH)
    assert status(poller, WATCH).last_failure is not None
    poller.step(CENSUS)
    assert status(poller, WATCH).last_failure is None


def test_only_the_first_failure_in_a_row_is_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.psutil.refusal = UNREADABLE
    poller = bench.after(CENSUS)
    bench.netlink.failure = BUSY
    for _ in range(10):
        poller.step(WATCH)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages == [f"watch pass failed, the last good values stay: {BUSY}"]
    bench.netlink.works_again()
    poller.step(WATCH)
    bench.netlink.failure = BUSY
    poller.step(WATCH)
    assert len(caplog.messages) == 2


def test_an_error_of_ours_is_not_taken_for_a_failed_pass(bench: Bench) -> None:
    poller = bench.after(CENSUS)
    bench.netlink.failure = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        poller.step(WATCH)


def test_another_configuration_applies_from_the_next_pass_on(bench: Bench) -> None:
    poller = bench.after(CENSUS)
    changed = replace(
        UNLIMITED,
        watch=WatchConfig(interval=2.0),
        census=CensusConfig(interval=20.0),
        labels=LabelsConfig(series_limit=1),
    )
    poller.reconfigure(changed)
    assert status(poller, WATCH).interval == 1.0
    poller.step(CENSUS)
    for kind, interval in {WATCH: 2.0, CENSUS: 20.0}.items():
        assert status(poller, kind).configured_interval == interval
        assert status(poller, kind).interval == interval


def test_another_series_limit_folds(bench: Bench) -> None:
    bench.netlink.ports = (80, 81, 82)
    poller = bench.after(CENSUS)
    assert (len(view_of(poller).services), view_of(poller).folded) == (3, 0)
    poller.reconfigure(replace(UNLIMITED, labels=LabelsConfig(series_limit=1)))
    poller.step(WATCH)
    assert view_of(poller).folded == 2
    assert [key.port for key in view_of(poller).services] == ["80", OTHER]


def test_another_budget_applies(bench: Bench) -> None:
    bench.netlink.cost = 1.5
    poller = bench.after(CENSUS)
    assert status(poller, CENSUS).interval == 15
    poller.reconfigure(replace(Config(), cpu=CpuConfig(budget=0.05)))
    poller.step(CENSUS)
    assert status(poller, CENSUS).interval == pytest.approx(30)
    assert status(poller, CENSUS).configured_interval == 15
    assert status(poller, WATCH).interval == pytest.approx(2)
