"""Passes come when they are due, never in bursts, and never dearer than the budget for long."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sockwatch.observe.snapshot import PassKind
from sockwatch.poll.schedule import Schedule

WATCH, CENSUS = PassKind.WATCH, PassKind.CENSUS
INTERVALS = {WATCH: 1.0, CENSUS: 15.0}
BUDGET = 0.02
UNLIMITED = 0.0
LAG = 1 / 0.3
"""So many costs of one pass are out before the average has taken in that passes became dear."""

CostOf = Callable[[PassKind], float]


class Timeline:
    """Runs what is due, on a clock that stands still while nothing is waited for."""

    def __init__(self, budget: float = UNLIMITED, start: float = 1000.0) -> None:
        self.schedule = Schedule(INTERVALS, budget)
        self.now = start
        self.spent = {WATCH: 0.0, CENSUS: 0.0}

    def pass_(self, cost: float = 0.0) -> tuple[PassKind, float]:
        """Wait for the next pass, which takes `cost` seconds; its kind, and how long that took."""
        kind, delay = self.schedule.next(self.now)
        assert delay >= 0
        self.now += delay
        self.now += cost
        self.spent[kind] += cost
        self.schedule.finished(kind, self.now, cost)
        return kind, delay

    def until(
        self, end: float, cost_of: CostOf = lambda _: 0.0
    ) -> Iterator[tuple[PassKind, float]]:
        """All passes that begin before `end`, with the time when each did."""
        while self.now + self.schedule.next(self.now)[1] < end:
            kind, _ = self.schedule.next(self.now)
            cost = cost_of(kind)
            self.pass_(cost)
            yield kind, self.now - cost


def at_rest(budget: float = BUDGET) -> Timeline:
    """A timeline whose first passes of both kinds are over and were free."""
    timeline = Timeline(budget)
    assert [timeline.pass_()[0] for _ in range(2)] == [CENSUS, WATCH]
    return timeline


def test_the_first_pass_is_a_census_at_once() -> None:
    assert Schedule(INTERVALS, UNLIMITED).next(123.0) == (CENSUS, 0.0)


def test_a_pass_stays_due_until_it_is_done() -> None:
    schedule = Schedule(INTERVALS, UNLIMITED)
    assert [schedule.next(now) for now in (0.0, 1.0, 99.0)] == [(CENSUS, 0.0)] * 3


def test_a_census_counts_as_a_watch() -> None:
    timeline = Timeline()
    timeline.pass_()
    assert timeline.pass_() == (WATCH, 1.0)


def test_fourteen_watches_go_between_two_censuses() -> None:
    timeline = Timeline()
    passes = [*timeline.until(timeline.now + 60.5)]
    assert [kind for kind, _ in passes] == [CENSUS, *[WATCH] * 14] * 4 + [CENSUS]
    assert [at - 1000 for _, at in passes] == [*range(61)]


def test_a_census_goes_before_a_watch_that_is_due_at_the_same_time() -> None:
    schedule = Schedule({WATCH: 5.0, CENSUS: 5.0}, UNLIMITED)
    for now in (0.0, 5.0, 10.0):
        assert schedule.next(now) == (CENSUS, 0.0)
        schedule.finished(CENSUS, now, 0.0)


def test_the_interval_begins_when_a_pass_has_ended() -> None:
    """Else passes that take longer than their interval would run without a pause."""
    timeline = Timeline()
    timeline.pass_(cost=40.0)
    assert timeline.pass_(cost=7.0) == (WATCH, 1.0)
    assert timeline.pass_() == (WATCH, 1.0)


@pytest.mark.parametrize("slept", [60.0, 86_400.0, 1e9])
def test_there_is_no_burst_after_a_long_sleep(slept: float) -> None:
    timeline = at_rest()
    timeline.now += slept
    assert [timeline.pass_() for _ in range(3)] == [(CENSUS, 0.0), (WATCH, 1.0), (WATCH, 1.0)]


def test_a_sleep_during_a_pass_is_not_made_up_for() -> None:
    timeline = at_rest()
    kind, delay = timeline.schedule.next(timeline.now)
    timeline.now += delay + 3600
    timeline.schedule.finished(kind, timeline.now, 0.001)
    assert [timeline.pass_()[0] for _ in range(2)] == [CENSUS, WATCH]
    assert timeline.pass_() == (WATCH, 1.0)


def test_within_the_budget_intervals_are_the_configured_ones() -> None:
    timeline = Timeline(BUDGET)
    for _, _ in timeline.until(timeline.now + 60, lambda _: 0.01):
        assert {kind: timeline.schedule.interval(kind) for kind in PassKind} == INTERVALS


@pytest.mark.parametrize("dear", PassKind)
def test_dear_passes_of_either_kind_stretch_both_intervals_alike(dear: PassKind) -> None:
    timeline = Timeline(BUDGET)
    [*timeline.until(timeline.now + 3600, lambda kind: 1.0 * (kind is dear))]
    stretch = 1.0 / INTERVALS[dear] / BUDGET
    assert timeline.schedule.stretch == pytest.approx(stretch)
    for kind, interval in INTERVALS.items():
        assert timeline.schedule.interval(kind) == pytest.approx(interval * stretch)


def test_one_dear_pass_among_cheap_ones_stretches_at_once_but_only_in_part() -> None:
    timeline = at_rest()
    assert timeline.pass_(cost=0.2)[0] is WATCH
    assert timeline.schedule.interval(WATCH) == pytest.approx(0.3 * 0.2 / BUDGET)
    assert timeline.schedule.interval(CENSUS) == pytest.approx(15 * 0.3 * 0.2 / BUDGET)


def test_no_budget_means_no_limit() -> None:
    timeline = Timeline(UNLIMITED)
    kinds = Counter(kind for kind, _ in timeline.until(timeline.now + 300, lambda _: 0.5))
    assert timeline.schedule.stretch == 1.0
    assert kinds[WATCH] > 180


def test_small_variations_of_the_cost_leave_the_intervals_alone() -> None:
    timeline = Timeline(BUDGET)
    [*timeline.until(timeline.now + 3600, lambda _: 0.1)]
    seen = set()
    for number in range(200):
        timeline.pass_(cost=0.1 if number % 2 else 0.095)
        seen.add(timeline.schedule.stretch)
    assert len(seen) == 1


@pytest.mark.parametrize("load", [0.022, 0.03, 0.5, 10.0])
def test_when_the_load_is_gone_the_configured_intervals_return(load: float) -> None:
    timeline = Timeline(BUDGET)
    [*timeline.until(timeline.now + 3600, lambda _: load)]
    assert timeline.schedule.stretch > 1
    busy = timeline.schedule.interval(CENSUS)
    [*timeline.until(timeline.now + 60 * busy, lambda _: 0.001)]
    assert timeline.schedule.stretch == 1.0
    assert timeline.pass_()[1] <= 1.0


def test_a_census_does_not_wait_out_the_interval_of_a_load_that_is_gone() -> None:
    """Else the bulk states stay away for as long as the worst moment stretched the interval."""
    timeline = at_rest()
    timeline.pass_(cost=10.0)
    ended = next(timeline.now for kind, _ in timeline.until(1e6) if kind is CENSUS)
    stretched = timeline.schedule.interval(CENSUS)
    assert stretched > 300
    census_at = next(at for kind, at in timeline.until(1e6) if kind is CENSUS)
    assert census_at - ended < stretched / 2


def test_a_census_waits_longer_when_watches_become_dear_meanwhile() -> None:
    timeline = at_rest()
    censused = timeline.now - 1.0
    assert timeline.pass_(cost=0.5)[0] is WATCH
    interval = timeline.schedule.interval(CENSUS)
    census_at = next(at for kind, at in timeline.until(1e6, lambda _: 0.5) if kind is CENSUS)
    assert census_at - censused >= interval


def test_another_configuration_takes_effect_at_once() -> None:
    timeline = at_rest(UNLIMITED)
    timeline.schedule.reconfigure({WATCH: 7.0, CENSUS: 70.0}, UNLIMITED)
    assert [timeline.pass_() for _ in range(2)] == [(CENSUS, 0.0), (WATCH, 7.0)]
    assert timeline.schedule.interval(CENSUS) == 70.0


def test_another_budget_stretches_by_what_passes_cost_so_far() -> None:
    timeline = Timeline(UNLIMITED)
    [*timeline.until(timeline.now + 60, lambda _: 0.03)]
    needed = (0.03 / 1.0 + 0.03 / 15.0) / BUDGET
    timeline.schedule.reconfigure(INTERVALS, BUDGET)
    assert timeline.schedule.stretch == pytest.approx(needed)
    timeline.schedule.reconfigure(INTERVALS, 2 * BUDGET)
    assert timeline.schedule.stretch == 1.0


@pytest.mark.parametrize("load", [0.02, 0.022, 0.5])
def test_without_a_budget_any_longer_nothing_stays_stretched(load: float) -> None:
    timeline = Timeline(BUDGET)
    [*timeline.until(timeline.now + 60, lambda _: load)]
    assert timeline.schedule.stretch > 1
    timeline.schedule.reconfigure(INTERVALS, UNLIMITED)
    assert timeline.schedule.stretch == 1.0


COSTS = st.one_of(
    st.floats(0, 0.05),
    st.floats(0, 20),
    st.sampled_from([0.0, 1e-9, 0.02, 5.0]),
)
SPELLS = st.lists(st.tuples(COSTS, st.integers(1, 40)), min_size=1, max_size=8)
"""Costs of one pass, each for so many passes."""


@given(SPELLS, st.sampled_from([UNLIMITED, 1e-6, BUDGET, 1.0]))
@example([(20.0, 40), (0.0, 40)], BUDGET)
def test_no_sequence_of_costs_gives_a_negative_or_endless_delay(
    spells: list[tuple[float, int]], budget: float
) -> None:
    timeline = Timeline(budget)
    dearest = max(cost for cost, _ in spells)
    longest = 15 * max(1, (dearest + dearest / 15) / budget) if budget else 15.0
    for cost, times in spells:
        for _ in range(times):
            _, delay = timeline.pass_(cost)
            assert 0 <= delay <= longest * (1 + 1e-9)
            assert timeline.schedule.stretch >= 1


@given(SPELLS)
def test_each_kind_of_pass_stays_within_the_budget_but_for_the_lag_of_the_average(
    spells: list[tuple[float, int]],
) -> None:
    timeline = Timeline(BUDGET)
    began, dearest = timeline.now, max(cost for cost, _ in spells)
    for cost, times in spells:
        for _ in range(times):
            timeline.pass_(cost)
            allowed = BUDGET * (timeline.now - began) + (1 + LAG) * dearest
            for spent in timeline.spent.values():
                assert spent <= allowed * (1 + 1e-9) + 1e-9


@given(watch=COSTS, census=COSTS, budget=st.floats(0.001, 1))
def test_steady_costs_of_both_kinds_together_stay_within_the_budget(
    watch: float, census: float, budget: float
) -> None:
    timeline = Timeline(budget)
    for _ in range(200):
        timeline.pass_({WATCH: watch, CENSUS: census}[timeline.schedule.next(timeline.now)[0]])
    allowed = budget * (timeline.now - 1000) + watch + census
    assert sum(timeline.spent.values()) <= allowed * (1 + 1e-9) + 1e-9
