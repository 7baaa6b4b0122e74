"""From which source the Poller reads as time goes by."""

from dataclasses import replace

import pytest
from fake_sources import (
    BUSY,
    REFUSED,
    UNAVAILABLE,
    UNLIMITED,
    UNREADABLE,
    WALL,
    Bench,
    count,
    failures,
    status,
    view_of,
)

from sockwatch.config import SourceConfig
from sockwatch.kernel.failures import PassFailure
from sockwatch.observe.snapshot import PassKind
from sockwatch.poll import NoSource
from sockwatch.poll import poller as poller_module
from sockwatch.poll.sources import Makers
from sockwatch.tcp.states import State

WATCH, CENSUS = PassKind.WATCH, PassKind.CENSUS


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_source_is_chosen_before_the_first_pass(bench: Bench) -> None:
    bench.netlink.refusal = REFUSED
    source = bench.poller().snapshot().source
    assert source.name == "psutil"
    assert source.reason == f"netlink does not work ({REFUSED})"
    assert source.since == WALL


def test_without_any_source_there_is_no_poller(bench: Bench) -> None:
    bench.netlink.refusal, bench.psutil.refusal = REFUSED, UNREADABLE
    with pytest.raises(NoSource, match=r"netlink .*EPERM.*; psutil .*EACCES"):
        bench.poller()


@pytest.mark.parametrize("failure", [REFUSED, UNAVAILABLE])
def test_a_source_that_is_refused_is_left_at_once_and_the_pass_is_done(
    failure: PassFailure, bench: Bench
) -> None:
    poller = bench.after(CENSUS)
    bench.time.move(100)
    bench.netlink.failure = bench.netlink.refusal = failure
    bench.psutil.counts = {State.CLOSE_WAIT: 11}
    assert poller.step(WATCH)
    source = poller.snapshot().source
    assert (source.name, source.since) == ("psutil", WALL + 100)
    assert str(failure) in source.reason
    assert count(poller, State.CLOSE_WAIT) == 11
    assert failures(poller, WATCH) == {failure.cause: 1}
    assert status(poller, WATCH).last_failure is None
    assert bench.netlink.left_open == 0


def test_a_source_is_left_after_three_failures_in_a_row_of_either_pass(bench: Bench) -> None:
    poller = bench.after(CENSUS)
    bench.netlink.failure = BUSY
    assert not poller.step(WATCH)
    assert not poller.step(CENSUS)
    assert poller.snapshot().source.name == "netlink"
    assert poller.step(WATCH)
    source = poller.snapshot().source
    assert source.name == "psutil"
    assert source.reason == f"netlink does not work (busy: {BUSY})"


def test_psutil_is_left_for_netlink_as_well(bench: Bench) -> None:
    bench.netlink.refusal = REFUSED
    poller = bench.after(CENSUS)
    bench.netlink.works_again()
    bench.psutil.failure = bench.psutil.refusal = UNREADABLE
    assert poller.step(WATCH)
    assert poller.snapshot().source.name == "netlink"


def test_with_nowhere_to_go_a_source_is_tried_again_and_works_again(bench: Bench) -> None:
    poller = bench.after(CENSUS)
    bench.netlink.failure = bench.netlink.refusal = REFUSED
    bench.psutil.refusal = UNREADABLE
    for _ in range(4):
        assert not poller.step(WATCH)
    assert poller.snapshot().source.name == "netlink"
    assert "; psutil does not work" in poller.snapshot().source.reason
    bench.netlink.works_again()
    assert poller.step(WATCH)


def test_netlink_is_used_again_once_it_works_but_not_before_the_recheck(bench: Bench) -> None:
    bench.netlink.refusal = REFUSED
    poller = bench.after(CENSUS)
    bench.netlink.works_again()
    asked = bench.netlink.asked["probe"]
    bench.time.move(59.9)
    assert poller.step(WATCH)
    assert poller.snapshot().source.name == "psutil"
    assert bench.netlink.asked["probe"] == asked
    bench.time.move(0.1)
    assert poller.step(WATCH)
    source = poller.snapshot().source
    assert (source.name, source.reason) == ("netlink", "netlink is preferred and works")
    assert source.since == WALL + 60
    assert bench.netlink.asked["watch"] == 1


def test_netlink_is_asked_once_per_recheck_and_psutil_never(bench: Bench) -> None:
    bench.netlink.refusal = REFUSED
    poller = bench.after(CENSUS)
    asked, psutil_asked = bench.netlink.asked["probe"], bench.psutil.asked["probe"]
    for _ in range(600):
        bench.time.move(1)
        assert poller.step(WATCH)
    assert bench.netlink.asked["probe"] - asked == 10
    assert bench.psutil.asked["probe"] == psutil_asked
    assert poller.snapshot().source.since == WALL


def test_the_recheck_leaves_a_preferred_source_in_use_alone(bench: Bench) -> None:
    poller = bench.after(CENSUS)
    before = bench.netlink.asked["probe"]
    for _ in range(5):
        bench.time.move(60)
        poller.step(WATCH)
    assert bench.netlink.asked["probe"] == before
    assert not bench.psutil.asked


def test_what_psutil_cannot_know_is_absent(bench: Bench) -> None:
    bench.netlink.refusal = REFUSED
    poller = bench.after(CENSUS, WATCH)
    assert view_of(poller).unowned is None
    assert [one.queue for one in view_of(poller).listeners] == [None]


def test_what_only_one_of_both_sources_knows_is_absent_until_both_parts_come_from_it(
    bench: Bench,
) -> None:
    """The kinds of unowned sockets are sums over what a watch and what a census counted."""
    poller = bench.after(CENSUS)
    assert view_of(poller).unowned is not None
    bench.netlink.failure = bench.netlink.refusal = REFUSED
    poller.step(WATCH)
    assert view_of(poller).unowned is None
    poller.step(CENSUS)
    bench.netlink.works_again()
    bench.time.move(60)
    poller.step(WATCH)
    assert poller.snapshot().source.name == "netlink"
    assert view_of(poller).unowned is None
    poller.step(CENSUS)
    assert view_of(poller).unowned is not None


def test_another_recheck_applies(bench: Bench) -> None:
    bench.netlink.refusal = REFUSED
    poller = bench.after(CENSUS)
    bench.netlink.works_again()
    bench.time.move(5)
    poller.reconfigure(replace(UNLIMITED, source=SourceConfig(recheck=5)))
    poller.step(WATCH)
    assert poller.snapshot().source.name == "netlink"


def test_another_preferred_source_is_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def makers(prefer: str) -> Makers:
        return bench.candidates() if prefer == "netlink" else [*reversed(bench.candidates())]

    monkeypatch.setattr(poller_module, "makers", makers)
    poller = bench.after(CENSUS)
    for prefer in ("psutil", "netlink"):
        bench.time.move(1)
        poller.reconfigure(replace(UNLIMITED, source=SourceConfig(prefer=prefer)))
        poller.step(WATCH)
        source = poller.snapshot().source
        assert (source.name, source.since) == (prefer, bench.time.wall)
        assert source.reason == f"{prefer} is preferred and works"


def test_ages_do_not_follow_a_wall_clock_that_is_set(bench: Bench) -> None:
    """Intervals and rechecks are on the monotonic clock."""
    bench.netlink.refusal = REFUSED
    poller = bench.after(CENSUS)
    bench.netlink.works_again()
    bench.time.wall += 1e6
    poller.step(WATCH)
    assert poller.snapshot().source.name == "psutil"
    bench.time.wall -= 2e6
    bench.time.monotonic += 60
    poller.step(WATCH)
    assert poller.snapshot().source.name == "netlink"
