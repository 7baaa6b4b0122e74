"""What is remembered of listeners from pass to pass: peaks, drops, half-open connections."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots import listener

from sockwatch.observe import queues
from sockwatch.observe.queues import PEAK_SECONDS, Drops, Name, Peaks, QueueMemory, name_of
from sockwatch.observe.snapshot import Listener
from sockwatch.tcp.records import Endpoint
from sockwatch.tcp.states import Family

NOW: Final = 1_000.0
NOBODY: Final[Mapping[Endpoint, int]] = {}


def dropping(port: int, dropped: Mapping[int, int], unit: str = "") -> Listener:
    """A listener whose sockets, by cookie, have dropped so many."""
    alive = {cookie: number for cookie, number in dropped.items() if number}
    return replace(listener(port, unit), dropped=alive)


class Watch:
    """Passes, a second apart unless said otherwise."""

    def __init__(self) -> None:
        self.now = NOW
        self._memory = QueueMemory()

    def see(
        self,
        *found: Listener,
        half_open: Mapping[Endpoint, int] = NOBODY,
        resent: Mapping[Endpoint, int] | None = NOBODY,
        after: float = 1.0,
    ) -> tuple[Listener, ...]:
        self.now += after
        return self._memory.complete(found, half_open, resent, self.now)

    def drops(self, *found: Listener) -> list[int | None]:
        return [one.drops for one in self.see(*found)]


# Peaks


def test_a_peak_is_the_longest_queue_of_the_last_minute() -> None:
    watch = Watch()
    lengths = (3, 9, 0, 4)
    peaks = [watch.see(listener(80, queue=length))[0].peak for length in lengths]
    assert peaks == [3, 9, 9, 9]


@pytest.mark.parametrize(("later", "peak"), [(59.9, 9), (60.1, 2)])
def test_a_peak_is_forgotten_after_a_minute(later: float, peak: int) -> None:
    watch = Watch()
    watch.see(listener(80, queue=9))
    assert watch.see(listener(80, queue=2), after=later)[0].peak == peak


def test_a_lower_peak_takes_over_when_the_higher_one_is_old() -> None:
    watch = Watch()
    for length in (9, 5, 7):
        watch.see(listener(80, queue=length), after=20.0)
    peaks = [watch.see(listener(80, queue=0), after=after)[0].peak for after in (19, 2, 38, 2)]
    assert peaks == [9, 7, 7, 0]


def test_a_peak_outlives_the_listener_for_its_minute() -> None:
    watch = Watch()
    watch.see(listener(80, queue=9))
    assert watch.see() == ()
    assert watch.see(listener(80))[0].peak == 9


def test_peaks_are_of_the_listener_not_of_its_port() -> None:
    watch = Watch()
    some = [
        listener(80, "a.service", queue=9),
        listener(80, "b.service", queue=1),
        listener(80, "a.service", address="::", queue=2),
        listener(81, "a.service"),
    ]
    watch.see(*some)
    assert [one.peak for one in watch.see(*(replace(one, queue=0) for one in some))] == [9, 1, 2, 0]


def test_a_queue_that_is_not_known_has_no_peak() -> None:
    unknown = replace(listener(80, queue=None, limit=None), peak=None)
    watch = Watch()
    assert watch.see(unknown)[0].peak is None
    watch.see(listener(80, queue=7))
    assert watch.see(unknown)[0].peak is None
    assert watch.see(listener(80))[0].peak == 7


SAMPLES: Final = st.lists(
    st.tuples(st.floats(0, 30), st.dictionaries(st.sampled_from("ab"), st.integers(0, 50))),
    max_size=30,
)


@given(SAMPLES)
def test_a_peak_is_the_maximum_over_the_window(samples: list[tuple[float, dict[str, int]]]) -> None:
    peaks, now, seen = Peaks(), 0.0, list[tuple[float, str, int]]()
    for pause, values in samples:
        now += pause
        seen += [(now, key, value) for key, value in values.items()]
        peaks.note(now, values.items())
        for key in "ab":
            recent = [v for at, one, v in seen if one == key and at > now - PEAK_SECONDS]
            assert peaks.of(key) == max(recent, default=0)


def test_memory_of_peaks_is_of_the_last_minute_alone() -> None:
    peaks = Peaks()
    for second in range(500):
        peaks.note(NOW + second, [(second, 5), ("falling", 500 - second)])
    assert len([*peaks]) == PEAK_SECONDS + 1
    assert len(peaks._seen["falling"]) == PEAK_SECONDS
    peaks.note(NOW + 1_000, [])
    assert [*peaks] == []


def test_of_a_rising_queue_the_newest_length_alone_is_kept() -> None:
    peaks = Peaks()
    for second in range(50):
        peaks.note(NOW + second, [("rising", second)])
    assert len(peaks._seen["rising"]) == 1


# Drops


def test_drops_of_a_socket_are_told_as_they_are() -> None:
    watch = Watch()
    assert [watch.drops(dropping(80, {1: n})) for n in (0, 3, 3, 10)] == [[0], [3], [3], [10]]


def test_drops_survive_the_restart_of_a_listener() -> None:
    """Another socket, another cookie, and its own count begins with nothing."""
    watch = Watch()
    steps = [{1: 10}, {}, {2: 0}, {2: 4}, {3: 0}]
    found = [watch.drops(dropping(80, step, "web.service")) for step in steps]
    assert found == [[10], [10], [10], [14], [14]]


def test_drops_survive_while_nobody_listens() -> None:
    watch = Watch()
    watch.drops(dropping(80, {1: 10}))
    for _ in range(5):
        watch.see()
    assert watch.drops(dropping(80, {2: 1})) == [11]


def test_drops_of_a_group_are_added_up_while_workers_come_and_go() -> None:
    watch = Watch()
    steps = [{1: 5, 2: 7}, {1: 6, 2: 7}, {1: 6}, {1: 6, 3: 2}, {3: 2}]
    assert [watch.drops(dropping(80, step)) for step in steps] == [[12], [13], [13], [15], [15]]


def test_a_counter_of_32_bits_that_wraps_goes_on() -> None:
    watch = Watch()
    first = 0xFFFF_FFFB
    steps = [first, 0xFFFF_FFFF, 0, 3]
    found = [watch.drops(dropping(80, {1: step}))[0] for step in steps]
    assert found == [first, first + 4, first + 4, first + 8]


def test_a_socket_that_a_dump_missed_is_not_counted_again() -> None:
    watch = Watch()
    watch.drops(dropping(80, {1: 1_000_000}))
    watch.see()
    assert watch.drops(dropping(80, {1: 1_000_002})) == [1_000_002]


def test_while_drops_are_not_known_they_are_not_told_nor_forgotten() -> None:
    """As while netlink is refused and psutil has to do."""
    unknown = replace(listener(80, queue=None, limit=None), peak=None, drops=None)
    watch = Watch()
    watch.drops(dropping(80, {1: 500}))
    assert [watch.drops(unknown) for _ in range(3)] == [[None]] * 3
    assert watch.drops(dropping(80, {1: 501})) == [501]


def test_drops_are_those_of_the_name_that_the_listener_has_now() -> None:
    """A unit may become known only after a while: what is told anew begins with what is new."""
    watch = Watch()
    watch.drops(dropping(80, {1: 500}))
    assert watch.drops(dropping(80, {1: 502}, "web.service")) == [2]
    assert watch.drops(dropping(81, {1: 502})) == [0]


STEPS: Final = st.lists(st.dictionaries(st.integers(1, 4), st.integers(0, 9), max_size=3))


@given(STEPS)
def test_the_total_never_falls_and_counts_every_drop_once(steps: list[dict[int, int]]) -> None:
    """Sockets come and go, each with a count of its own that only grows."""
    counts, drops, name = Counter[int](), Drops(), name_of(listener(80))
    for step in steps:
        counts.update(step)
        drops.note([dropping(80, {cookie: counts[cookie] for cookie in step})])
        assert drops.total(name) == counts.total()


def test_memory_of_drops_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "REMEMBERED", 10)
    drops = Drops()
    for port in range(1, 1_000):
        drops.note([dropping(port, {port: 1})])
    assert [*drops] == [Name(Family.INET, "0.0.0.0", port, "") for port in range(990, 1_000)]
    assert len(drops._by_cookie) == 10


def test_what_still_listens_is_never_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "REMEMBERED", 10)
    watch = Watch()
    many = [dropping(port, {port: 5, -port: 5}) for port in range(1, 101)]
    for _ in range(3):
        assert set(watch.drops(*many)) == {10}


# Half-open connections


def end(text: str) -> Endpoint:
    address, _, port = text.rpartition(":")
    return Endpoint(ip_address(address.strip("[]")).packed, int(port))


def half_open(*found: Listener, **others: Mapping[str, int]) -> list[int | None]:
    waiting = {end(text): number for text, number in others["at"].items()}
    return [one.half_open for one in Watch().see(*found, half_open=waiting)]


def test_a_listener_has_the_half_open_connections_that_came_to_it() -> None:
    at = {"192.0.2.1:80": 3, "192.0.2.2:80": 2, "192.0.2.1:81": 1, "192.0.2.1:82": 9}
    assert half_open(listener(80), listener(81), listener(83), at=at) == [5, 1, 0]


def test_a_specific_address_comes_before_a_wildcard() -> None:
    found = (
        listener(80),
        listener(80, address="192.0.2.1"),
        listener(80, address="::"),
        listener(80, address="2001:db8::1"),
    )
    at = {"192.0.2.1:80": 1, "192.0.2.2:80": 2, "[2001:db8::1]:80": 4, "[2001:db8::2]:80": 8}
    assert half_open(*found, at=at) == [2, 1, 8, 4]


def test_a_dual_stack_listener_takes_ipv4_where_nothing_else_does() -> None:
    at = {"192.0.2.1:80": 3, "[::1]:80": 4}
    assert half_open(listener(80, address="::"), at=at) == [7]
    assert half_open(listener(80), listener(80, address="::"), at=at) == [3, 4]


def test_a_wildcard_of_ipv4_takes_no_ipv6() -> None:
    assert half_open(listener(80), at={"[::1]:80": 4}) == [0]


def test_a_mapped_listener_is_one_of_ipv4() -> None:
    mapped = listener(80, address="::ffff:192.0.2.1")
    at = {"192.0.2.1:80": 3, "192.0.2.2:80": 1}
    assert half_open(mapped, listener(80), at=at) == [3, 1]


def test_of_two_units_on_one_address_the_first_has_them() -> None:
    """The kernel spreads them over both and does not tell how."""
    both = listener(80, "a.service"), listener(80, "b.service")
    assert half_open(*both, at={"192.0.2.1:80": 3}) == [3, 0]


def test_connections_to_a_port_that_nobody_listens_on_any_more_are_nobodys() -> None:
    assert half_open(listener(80), at={"192.0.2.1:8080": 3}) == [0]
    assert half_open(at={"192.0.2.1:8080": 3}) == []


def test_half_open_connections_are_those_of_now() -> None:
    watch = Watch()
    here = {end("192.0.2.1:80"): 3}
    counts = [
        (one.half_open, one.half_open_resent)
        for waiting, again in ((here, {}), (here, here), (NOBODY, NOBODY))
        for one in watch.see(listener(80), half_open=waiting, resent=again)
    ]
    assert counts == [(3, 0), (3, 3), (0, 0)]


def test_what_was_sent_again_may_not_be_known() -> None:
    here = {end("192.0.2.1:80"): 3}
    [one] = Watch().see(listener(80), half_open=here, resent=None)
    assert (one.half_open, one.half_open_resent) == (3, None)


@pytest.mark.parametrize(("resent", "expected"), [(NOBODY, 0), (None, None)])
def test_where_nobody_is_half_open_others_remembered_of_it_do_not_matter(
    resent: Mapping[Endpoint, int] | None, expected: int | None
) -> None:
    [one] = Watch().see(listener(80, queue=5), resent=resent)
    assert (one.peak, one.half_open, one.half_open_resent) == (5, 0, expected)


# All together


def test_of_which_there_is_nothing_to_tell_stay_as_they_are() -> None:
    found = [listener(port) for port in range(1, 50)]
    seen = Watch().see(*found)
    assert all(one is other for one, other in zip(seen, found, strict=True))


def test_listeners_keep_their_places_whatever_comes_and_goes() -> None:
    watch = Watch()
    watch.see(listener(80), listener(443, queue=5), dropping(8080, {1: 3}))
    watch.see(listener(443), listener(22))
    found = watch.see(dropping(8080, {1: 3}), listener(22), listener(80), listener(443))
    assert [(one.port, one.peak, one.drops) for one in found] == [
        (8080, 0, 3),
        (22, 0, 0),
        (80, 0, 0),
        (443, 5, 0),
    ]


def test_what_is_remembered_follows_to_another_place_among_as_many() -> None:
    watch = Watch()
    watch.see(listener(80), listener(443, queue=5))
    found = watch.see(listener(443), listener(8443))
    assert [(one.port, one.peak) for one in found] == [(443, 5), (8443, 0)]


LISTENERS: Final = st.lists(
    st.builds(
        lambda port, queue, drops: replace(
            dropping(port, {port: drops}), queue=queue, limit=queue and 8
        ),
        st.integers(1, 6),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    unique_by=name_of,
)


@settings(max_examples=50)
@given(st.lists(LISTENERS))
def test_what_is_remembered_is_the_same_in_any_order(passes: list[list[Listener]]) -> None:
    one, other = Watch(), Watch()
    for found in passes:
        backwards = other.see(*reversed(found))
        assert one.see(*found) == tuple(reversed(backwards))
