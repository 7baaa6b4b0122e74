"""Ages that the kernel's timers tell, against a timer that is run by hand and against a kernel."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockwatch.tcp.bounds import seconds
from sockwatch.tcp.timers import TimerLaws, backoff_age, fin_wait2_age

TOLERANCE: Final = 1e-6
JIFFY_MS: Final = 4


class Shown(NamedTuple):
    """What a record says of a retransmission timer."""

    retransmits: int
    expires: int
    """ms"""


def firings(linear: int, longest: float) -> Iterator[float]:
    """When a timer fires: tcp_retransmit_timer of net/ipv4/tcp_timer.c, by the letter."""
    moment, timeout, fired = 0.0, 1.0, 0
    while True:
        moment += timeout
        yield moment
        fired += 1
        if fired > linear:
            timeout = min(timeout * 2, longest)


def shown_at(age_ms: int, linear: int = 0, longest: float = 120.0) -> Shown:
    """The record of something that was first sent so long ago."""
    for retransmits, moment in enumerate(firings(linear, longest)):
        if moment * 1000 > age_ms:
            return Shown(retransmits, round(moment * 1000) - age_ms)
    raise AssertionError("unreachable")


@given(
    age_ms=st.integers(0, 900_000),
    linear=st.integers(0, 12),
    longest=st.sampled_from([1.0, 1.5, 2.0, 30.0, 120.0]),
)
def test_the_age_is_that_of_the_timer_that_shows_it(
    age_ms: int, linear: int, longest: float
) -> None:
    shown = shown_at(age_ms, linear, longest)
    assert backoff_age(*shown, linear, longest) == pytest.approx(age_ms / 1000, abs=TOLERANCE)


# Linux 6.18, reference measurements: retransmissions so far, ms to the next, age in seconds
SYN_RECV = [((0, 1000), 0.0), ((1, 2000), 1.0), ((2, 4000), 3.0), ((3, 8000), 7.0), ((3, 0), 15.0)]
LINEAR_SYN_SENT = [((n, 1000), float(n)) for n in range(5)] + [((5, 1900), 5.1), ((6, 4000), 7.0)]


@pytest.mark.parametrize(("shown", "age"), SYN_RECV)
def test_half_open_connections_are_as_old_as_measured(shown: tuple[int, int], age: float) -> None:
    assert backoff_age(*shown) == pytest.approx(age, abs=TOLERANCE)


@pytest.mark.parametrize(("shown", "age"), LINEAR_SYN_SENT)
def test_unanswered_connections_are_as_old_as_measured(shown: tuple[int, int], age: float) -> None:
    assert backoff_age(*shown, linear=4) == pytest.approx(age, abs=TOLERANCE)


@pytest.mark.parametrize("retries", range(1, 9))
def test_the_last_timer_fires_when_the_kernel_gives_up(retries: int) -> None:
    """As `explain` says: 63 s for the 5 SYN+ACKs of a default kernel, 127 s for 6 SYNs."""
    for name in ("net.ipv4.tcp_synack_retries", "net.ipv4.tcp_syn_retries"):
        assert backoff_age(retries, 0) == seconds(name, {name: retries})


@pytest.mark.parametrize("longest_ms", [1000, 3000, 120_000])
@pytest.mark.parametrize("retries", range(1, 12))
def test_a_lowered_maximum_is_lowered_for_ages_too(retries: int, longest_ms: int) -> None:
    """Else they would be higher than they are."""
    name, values = "net.ipv4.tcp_synack_retries", {"net.ipv4.tcp_rto_max_ms": longest_ms}
    expected = seconds(name, values | {name: retries})
    assert backoff_age(retries, 0, longest=longest_ms / 1000) == expected


@given(st.integers(0, 255), st.integers(0, (1 << 31) - 1), st.integers(0, 255))
def test_no_record_gives_an_age_below_zero(retransmits: int, expires: int, linear: int) -> None:
    assert 0.0 <= backoff_age(retransmits, expires, linear) <= 255 * 120.0 + 127.0


@given(st.integers(0, 254), st.integers(0, 60))
def test_a_retransmission_never_makes_younger(retransmits: int, linear: int) -> None:
    before = backoff_age(retransmits, 0, linear)
    assert backoff_age(retransmits + 1, 0, linear) > before
    assert backoff_age(retransmits, JIFFY_MS, linear) < before


def test_the_laws_without_sysctls_are_those_of_an_old_kernel() -> None:
    laws = TimerLaws()
    assert (laws.linear_syn_timeouts, laws.fin_timeout, laws.longest_timeout) == (0, 60.0, 120.0)


@pytest.mark.parametrize(
    ("timeout", "expires", "age"),
    [
        (60.0, 60_000, 0.0),
        (60.0, 0, 60.0),
        (10.0, 4000, 6.0),
        (10.0, 60_000, 0.0),
        (61.0, 1000, 1.0),
        (90.0, 30_000, 30.0),
        (90.0, 0, 60.0),
    ],
)
def test_what_the_kernel_holds_in_fin_wait2_is_as_old_as_its_timer_has_run(
    timeout: float, expires: int, age: float
) -> None:
    assert fin_wait2_age(expires, TimerLaws(fin_timeout=timeout)) == pytest.approx(age)
