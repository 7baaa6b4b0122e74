"""Ages by cookie and state: right or a lower bound, whatever passes miss, fail or leave out."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from math import sqrt
from typing import Final, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sockwatch.observe.ages import AgePass, Generation
from sockwatch.tcp.states import State

UNHURRIED = settings(deadline=None)
CLOSE_WAIT, LAST_ACK, FIN_WAIT2 = State.CLOSE_WAIT, State.LAST_ACK, State.FIN_WAIT2
PLENTY: Final = 1_000_000
HIGHEST: Final = (1 << 64) - 1
"""The first cookie of those that the kernel hands out downwards."""

Seen = Mapping[State, Iterable[int]]


class Passed(NamedTuple):
    """What came of a pass."""

    moments: dict[tuple[State, int], float]
    generation: Generation


def watch(
    previous: Generation,
    now: float,
    seen: Seen,
    *,
    limit: int = PLENTY,
    resumed: bool = False,
    batch: int = 250,
) -> Passed:
    """One pass, as whoever reads batches makes it."""
    ages = AgePass(previous, now, limit, resumed)
    moments: dict[tuple[State, int], float] = {}
    for state, cookies in seen.items():
        rest = [*cookies]
        while rest:
            some, rest = rest[:batch], rest[batch:]
            mask = ages.followed(some)
            some = (
                some if mask is None else [c for c, taken in zip(some, mask, strict=True) if taken]
            )
            found = zip(some, ages.moments(state, some), strict=True)
            moments |= {(state, cookie): moment for cookie, moment in found}
    return Passed(moments, ages.finish())


def watched(*passes: Sequence[int], resumed: int = 0) -> Passed:
    """CLOSE_WAIT cookies seen in passes at 0, 1, 2...; that of number `resumed` is after a gap."""
    last = Passed({}, Generation())
    for now, cookies in enumerate(passes):
        seen = {CLOSE_WAIT: cookies}
        last = watch(last.generation, float(now), seen, resumed=now == resumed)
    return last


def moments_of(passed: Passed) -> dict[int, float]:
    return {cookie: moment for (_, cookie), moment in passed.moments.items()}


def bounds_of(passed: Passed) -> set[int]:
    """The cookies whose age is a lower bound."""
    starts = passed.generation.starts
    return {cookie for cookie, moment in moments_of(passed).items() if moment in starts}


# What is remembered


def test_an_age_counts_from_the_first_sight() -> None:
    assert moments_of(watched([1], [1, 2], [1, 2, 3])) == {1: 0, 2: 1, 3: 2}


def test_one_absence_is_not_death() -> None:
    assert moments_of(watched([1], [], [1])) == {1: 0}
    assert moments_of(watched([1], [], [1], [], [1])) == {1: 0}


def test_two_absences_are_death() -> None:
    assert moments_of(watched([1], [], [], [1])) == {1: 3}


def test_an_absence_is_forgiven_but_not_saved_up() -> None:
    """Each sight allows for one absence."""
    assert moments_of(watched([1], [], [1], [], [], [1])) == {1: 5}


def test_another_state_is_another_age() -> None:
    first = watch(Generation(), 0, {CLOSE_WAIT: [1]})
    moved = watch(first.generation, 1, {LAST_ACK: [1]})
    assert moved.moments == {(LAST_ACK, 1): 1}
    assert watch(moved.generation, 2, {LAST_ACK: [1]}).moments == {(LAST_ACK, 1): 1}


def test_a_socket_that_one_pass_sees_in_two_states_has_two_ages() -> None:
    """It moved on while the dump went on."""
    first = watch(Generation(), 0, {CLOSE_WAIT: [1]})
    both = watch(first.generation, 1, {CLOSE_WAIT: [1], LAST_ACK: [1]})
    assert both.moments == {(CLOSE_WAIT, 1): 0, (LAST_ACK, 1): 1}
    assert watch(both.generation, 2, {LAST_ACK: [1]}).moments == {(LAST_ACK, 1): 1}


def test_a_socket_that_one_pass_sees_twice_has_one_age() -> None:
    passed = watched([1], [1, 1, 2, 2], [1, 2])
    assert moments_of(passed) == {1: 0, 2: 1}
    assert len(passed.generation) == 2


def test_a_moment_of_zero_is_a_moment() -> None:
    """The clock may begin there."""
    assert moments_of(watched([1], [1])) == {1: 0}


@pytest.mark.parametrize("cookie", [1, 1 << 32, HIGHEST - 1, HIGHEST])
def test_cookies_may_be_as_large_as_they_come(cookie: int) -> None:
    assert moments_of(watched([cookie], [], [cookie])) == {cookie: 0}


def test_a_pass_that_is_dropped_leaves_no_trace() -> None:
    before = watch(
        Generation(), 0, {CLOSE_WAIT: range(100), LAST_ACK: [7]}, resumed=True
    ).generation
    copy = deepcopy(before)
    watch(before, 1, {CLOSE_WAIT: range(50, 300), FIN_WAIT2: [7]}, limit=20, resumed=True)
    assert before == copy
    assert watch(before, 2, {CLOSE_WAIT: [5]}).moments == {(CLOSE_WAIT, 5): 0}


def test_dropped_passes_are_no_absences() -> None:
    generation = watch(Generation(), 0, {CLOSE_WAIT: [1]}).generation
    for now in range(1, 9):
        watch(generation, now, {})
    assert watch(generation, 9, {CLOSE_WAIT: [1]}).moments == {(CLOSE_WAIT, 1): 0}


def test_what_two_passes_have_not_seen_is_forgotten() -> None:
    passed = watched([*range(1000)], [], [])
    assert passed.generation == Generation()


def test_only_who_is_missed_is_remembered_as_missed() -> None:
    """Memory for two generations of everybody would be twice as much."""
    first = watch(Generation(), 0, {CLOSE_WAIT: range(1, 101)}, limit=100)
    fewer = watch(first.generation, 1, {CLOSE_WAIT: range(3, 101)}, limit=100)
    assert fewer.generation.missed == {CLOSE_WAIT: {1: 0, 2: 0}}
    crowd = watch(first.generation, 1, {CLOSE_WAIT: range(1, 1001)}, limit=100)
    assert crowd.generation.missed == {}


def test_the_number_followed_is_that_of_the_newest_pass() -> None:
    passed = watch(Generation(), 0, {CLOSE_WAIT: [1, 2], LAST_ACK: [1]})
    assert len(passed.generation) == 3
    assert len(watch(passed.generation, 1, {}).generation) == 0


# What is known of it


def test_what_a_first_pass_sees_may_be_older() -> None:
    assert bounds_of(watched([1], [1, 2])) == {1}


def test_what_the_first_pass_after_a_gap_sees_may_be_older() -> None:
    """But not what had been seen before the gap."""
    assert bounds_of(watched([], [1], [1, 2], [1, 2, 3], resumed=2)) == {2}


def test_without_a_gap_nothing_is_a_lower_bound() -> None:
    assert bounds_of(watched([1], [1, 2], resumed=-1)) == set()


def test_an_absence_makes_no_lower_bound_exact() -> None:
    """Also if no other socket counts from the same moment."""
    assert bounds_of(watched([1], [2], [1, 2])) == {1}
    assert bounds_of(watched([1], [], [1], [], [1])) == {1}


def test_moments_that_nobody_counts_from_are_forgotten() -> None:
    assert watched([1], [2]).generation.starts == {0}
    assert watched([1], [2], [2]).generation.starts == frozenset()


def test_the_moments_remembered_do_not_grow_with_the_gaps() -> None:
    generation = Generation()
    for now in range(200):
        seen = {CLOSE_WAIT: range(now, now + 3)}
        generation = watch(generation, now, seen, resumed=True).generation
        assert len(generation.starts) <= 4


# Against a host whose history is known


class Host(NamedTuple):
    """When sockets enter and leave a state, and what a series of passes does with them."""

    lives: list[tuple[float, float]]
    """From when to when each is in CLOSE_WAIT; its cookie is its position."""
    passes: list[tuple[float, bool, frozenset[int]]]
    """Seconds since the last one, whether it succeeds, and whom its dump misses."""


GAP: Final = 3.0


@st.composite
def hosts(draw: st.DrawFn) -> Host:
    moment = st.integers(0, 40).map(float)
    lives = draw(st.lists(st.tuples(moment, moment), min_size=1, max_size=6))
    missed = st.frozensets(st.integers(0, len(lives) - 1), max_size=2)
    steps = st.tuples(st.sampled_from([0.5, 1.0, 1.5, 7.0]), st.booleans(), missed)
    return Host(lives, draw(st.lists(steps, min_size=1, max_size=25)))


@settings(UNHURRIED, max_examples=300)
@given(hosts())
def test_no_age_is_higher_than_it_is_and_none_is_forgotten(host: Host) -> None:
    generation, now, last = Generation(), 0.0, None
    sights: dict[int, list[int]] = {}
    good: list[float] = []
    for step, succeeds, missed in host.passes:
        now += step
        alive = {c for c, (begin, end) in enumerate(host.lives) if begin <= now <= end}
        resumed = last is None or now - last > GAP
        passed = watch(generation, now, {CLOSE_WAIT: sorted(alive - missed)}, resumed=resumed)
        if not succeeds:
            continue
        good.append(now)
        for cookie, moment in moments_of(passed).items():
            sights.setdefault(cookie, []).append(len(good) - 1)
            assert moment == good[first_of_run(sights[cookie])]
            assert moment >= host.lives[cookie][0]
        generation, last = passed.generation, now


def first_of_run(sights: Sequence[int]) -> int:
    """The first pass of the newest run that has no two absences in a row."""
    first = sights[-1]
    for sight in reversed(sights):
        if first - sight > 2:
            break
        first = sight
    return first


@settings(UNHURRIED, max_examples=300)
@given(hosts())
def test_what_is_not_a_lower_bound_is_exact_to_the_interval(host: Host) -> None:
    """Where no dump misses a connection before one has shown it."""
    generation, now, last = Generation(), 0.0, None
    seen: set[int] = set()
    for step, succeeds, missed in host.passes:
        now += step
        if not succeeds:
            continue
        alive = {c for c, (begin, end) in enumerate(host.lives) if begin <= now <= end}
        shown = alive - (missed & seen)
        resumed = last is None or now - last > GAP
        passed = watch(generation, now, {CLOSE_WAIT: sorted(shown)}, resumed=resumed)
        assert bounds_of(passed) - seen == (shown - seen if resumed else set())
        for cookie in shown - seen - bounds_of(passed):
            assert last is not None
            assert last < host.lives[cookie][0] <= moments_of(passed)[cookie] == now
        seen |= shown
        generation, last = passed.generation, now


# Samples


def steady(cookies: Iterable[int], limit: int, passes: int = 80) -> list[Generation]:
    """The generations of as many passes over the same sockets."""
    population, generations = [*cookies], [Generation()]
    for now in range(passes):
        passed = watch(generations[-1], now, {CLOSE_WAIT: population}, limit=limit)
        generations.append(passed.generation)
    return generations[1:]


def sample(cookies: Iterable[int], stride: int) -> set[int]:
    population = [*cookies]
    mask = AgePass(Generation(stride=stride), 0, PLENTY, resumed=False).followed(population)
    if mask is None:
        return {*population}
    return {cookie for cookie, taken in zip(population, mask, strict=True) if taken}


@UNHURRIED
@given(
    st.lists(st.sets(st.integers(0, HIGHEST), max_size=60), max_size=6),
    st.integers(1, 20),
)
def test_no_more_than_the_limit_is_remembered(populations: list[set[int]], limit: int) -> None:
    """Whatever comes, in whatever states, the newest and those that are missed each."""
    generation = Generation()
    for now, cookies in enumerate(populations):
        seen = {CLOSE_WAIT: cookies, LAST_ACK: [c for c in cookies if c % 3], FIN_WAIT2: [0]}
        generation = watch(generation, now, seen, limit=limit, resumed=now % 3 == 0).generation
        assert len(generation) <= limit
        assert sum(map(len, generation.missed.values())) <= limit
        assert len(generation.starts) <= 2 * limit


@pytest.mark.parametrize("limit", [1, 2])
def test_sockets_that_cannot_be_told_apart_do_not_stop_a_pass(limit: int) -> None:
    """No kernel gives the cookie 0; a broken record may."""
    states = {state: [0] for state in (CLOSE_WAIT, LAST_ACK, FIN_WAIT2)}
    assert len(watch(Generation(), 0, states, limit=limit).generation) <= limit


def test_below_the_limit_everybody_is_followed() -> None:
    for generation in steady(range(1, 101), limit=100, passes=3):
        assert (len(generation), generation.stride, generation.widened) == (100, 1, False)


@UNHURRIED
@given(st.sets(st.integers(0, HIGHEST)), st.integers(0, 20), st.integers(0, 20))
def test_a_sample_is_the_same_every_time_and_a_part_of_every_larger_one(
    cookies: set[int], one: int, other: int
) -> None:
    few, many = sorted((1 << one, 1 << other), reverse=True)
    assert sample(cookies, few) == sample(sorted(cookies), few) <= sample(cookies, many)


STEPS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 10, 16, 64, 100, 128, 1000, 1024, 4096)


@pytest.mark.parametrize("stride", [2, 4, 16, 128])
@pytest.mark.parametrize("step", STEPS)
def test_every_regular_part_of_the_sockets_is_sampled_alike(step: int, stride: int) -> None:
    """As of an application that connects to its services in turn, cookies being given in order.

    Sampled at random, three standard deviations would be exceeded by one in 370.
    """
    number = 20_000
    for first in (1, 2, 3, 1_000_000, HIGHEST - number * step):
        taken = len(sample(range(first, first + number * step, step), stride))
        assert abs(taken * stride - number) < 3 * sqrt(number * stride)


def test_the_first_and_the_last_half_of_the_cookies_are_sampled_alike() -> None:
    taken = sample(range(1, 40_001), 16)
    assert abs(sum(cookie <= 20_000 for cookie in taken) - len(taken) / 2) < 3 * sqrt(
        len(taken) / 4
    )


@pytest.mark.parametrize("number", [101, 150, 199, 200, 201, 399, 1600, 5000])
def test_the_sample_is_as_large_as_the_limit_allows_and_settles(number: int) -> None:
    generations = steady(range(7, 7 + number), limit=100, passes=20)
    assert all(len(generation) <= 100 for generation in generations)
    settled = generations[10:]
    assert {(each.stride, each.widened) for each in settled} == {(settled[0].stride, False)}
    assert len(settled[0]) > 15
    assert abs(len(settled[0]) * settled[0].stride - number) < 4 * sqrt(number * settled[0].stride)


def test_the_sample_is_widened_with_room_to_spare_only() -> None:
    """Between a quarter of the limit and the limit it stays as it is, from wherever it comes."""
    crowd, limit = range(1, 16_001), 1000
    narrow = steady(crowd, limit, passes=5)[-1]
    assert limit / 3 < len(narrow) <= limit
    for share, widens in ((0.45, False), (0.3, False), (0.2, True), (0.1, True)):
        rest = range(1, round(limit * narrow.stride * share))
        passed = watch(narrow, 9, {CLOSE_WAIT: rest}, limit=limit).generation
        assert passed.widened == widens, share
        assert passed.stride == (narrow.stride // 2 if widens else narrow.stride)


@pytest.mark.parametrize("rest", [40, 150, 500, 2000])
def test_the_sample_follows_a_crowd_down(rest: int) -> None:
    """To a part of what is left that makes use of the limit."""
    generation = steady(range(1, 16_001), limit=100, passes=3)[-1]
    for now in range(10, 30):
        generation = watch(generation, now, {CLOSE_WAIT: range(1, rest)}, limit=100).generation
    assert min(rest - 1, 26) <= len(generation) <= 100
    assert not generation.widened


def test_after_a_crowd_everybody_is_followed_again() -> None:
    generation = steady(range(1, 4001), limit=100, passes=3)[-1]
    strides = []
    for now in range(10, 30):
        generation = watch(generation, now, {CLOSE_WAIT: range(1, 41)}, limit=100).generation
        strides.append(generation.stride)
    assert strides == sorted(strides, reverse=True)
    assert strides[-1] == 1
    assert len(generation) == 40


def test_who_comes_into_the_sample_late_has_a_lower_bound() -> None:
    """And who was in it keeps his age, and newcomers afterwards have theirs."""
    generation = steady(range(1, 401), limit=100, passes=3)[-1]
    before = set(generation.since[CLOSE_WAIT])
    passed = Passed({}, generation)
    for now in range(10, 16):
        passed = watch(passed.generation, now, {CLOSE_WAIT: range(1, 41)}, limit=100)
    assert (passed.generation.stride, passed.generation.widened) == (1, False)
    assert bounds_of(passed) == {*range(1, 41)} - before
    late = watch(passed.generation, 16, {CLOSE_WAIT: range(1, 43)}, limit=100)
    assert bounds_of(late) == {*range(1, 41)} - before
    for cookie in before & {*range(1, 41)}:
        assert moments_of(late)[cookie] == 0


def test_who_stays_in_the_sample_keeps_his_age_when_it_narrows() -> None:
    first = watch(Generation(), 0, {CLOSE_WAIT: range(1, 101)}, limit=100)
    crowd = watch(first.generation, 1, {CLOSE_WAIT: range(1, 1001)}, limit=100)
    assert crowd.generation.stride > 1
    after = watch(crowd.generation, 2, {CLOSE_WAIT: range(1, 1001)}, limit=100)
    assert {cookie for cookie, moment in moments_of(after).items() if moment == 0} == sample(
        range(1, 101), crowd.generation.stride
    )


def test_one_absence_is_not_death_in_a_sample_either() -> None:
    generation = steady(range(1, 1001), limit=100, passes=3)[-1]
    gone = watch(generation, 4, {CLOSE_WAIT: range(1, 500)}, limit=100).generation
    back = watch(gone, 5, {CLOSE_WAIT: range(1, 1001)}, limit=100)
    assert {*moments_of(back).values()} == {0}


@pytest.mark.parametrize("crowd", [1_000, 20_000])
def test_a_crowd_is_never_remembered_whole(crowd: int) -> None:
    """Not even while the first pass that meets it goes on."""
    ages, limit, batch = AgePass(Generation(), 0, 100, resumed=True), 100, 50
    for first in range(1, crowd, batch):
        cookies = [*range(first, first + batch)]
        mask = ages.followed(cookies) or [True] * batch
        ages.moments(CLOSE_WAIT, [c for c, taken in zip(cookies, mask, strict=True) if taken])
        assert sum(map(len, ages._since.values())) <= 2 * limit + batch
    assert limit / 4 <= len(ages.finish()) <= limit
