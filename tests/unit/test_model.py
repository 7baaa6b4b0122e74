"""The model is total, agrees with itself, and its bounds are the kernel's."""

from collections import Counter
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockwatch.tcp.bounds import BOUNDS, RTO_MAX, seconds
from sockwatch.tcp.model import CLOSING, MODEL, OPENING, Phase, Standing, Step, phase_of
from sockwatch.tcp.states import State

IPV4 = "net.ipv4.tcp_"
STEPS = {step.label: step for step in (*OPENING, *CLOSING)}

# As the design gives it, by state.
PHASES = {
    State.LISTEN: Phase.LISTEN,
    State.SYN_SENT: Phase.OPENING,
    State.SYN_RECV: Phase.OPENING,
    State.ESTABLISHED: Phase.ESTABLISHED,
    State.FIN_WAIT1: Phase.CLOSING_ACTIVE,
    State.FIN_WAIT2: Phase.CLOSING_ACTIVE,
    State.CLOSE_WAIT: Phase.CLOSING_PASSIVE,
    State.LAST_ACK: Phase.CLOSING_PASSIVE,
    State.CLOSING: Phase.CLOSING_ACTIVE,
    State.TIME_WAIT: Phase.CLOSING_ACTIVE,
    State.CLOSE: Phase.CLOSED,
    State.UNKNOWN: Phase.CLOSED,
}


def named(standing: Standing) -> str:
    held = {None: "", True: " kernel", False: " owned"}[standing.kernel_held]
    return standing.state.label + held


def row_of(state: State) -> Standing:
    return next(standing for standing in MODEL if standing.state is state)


def sysctl(**values: int | None) -> dict[str, int | None]:
    return {IPV4 + name: value for name, value in values.items()}


def test_every_state_has_one_row_and_fin_wait2_one_for_each_holder() -> None:
    rows = Counter(standing.state for standing in MODEL)
    assert rows == Counter(State) + Counter([State.FIN_WAIT2])
    held = [standing.kernel_held for standing in MODEL if standing.state is State.FIN_WAIT2]
    assert held == [False, True]
    others = {one.kernel_held for one in MODEL if one.state is not State.FIN_WAIT2}
    assert others == {None}


@pytest.mark.parametrize("state", State)
def test_each_state_is_in_the_phase_of_the_design(state: State) -> None:
    assert phase_of(state) is PHASES[state]


@pytest.mark.parametrize("number", range(14))
def test_each_number_the_kernel_reports_has_a_phase(number: int) -> None:
    state = State.of(number)
    assert (phase_of(state) is Phase.CLOSED) == (state in {State.CLOSE, State.UNKNOWN})


@given(st.integers())
def test_any_number_has_a_phase(number: int) -> None:
    assert phase_of(State.of(number)) in Phase


def test_rows_are_in_the_order_of_a_connections_life() -> None:
    phases = [phase for phase, _ in groupby(standing.phase for standing in MODEL)]
    assert phases[:3] == [Phase.LISTEN, Phase.OPENING, Phase.ESTABLISHED]
    assert phases[-1] is Phase.CLOSED


@pytest.mark.parametrize("standing", [one for one in MODEL if one.step], ids=named)
def test_a_row_stands_where_its_step_leads(standing: Standing) -> None:
    step = STEPS[standing.step]
    closing_at_once = standing.state is State.CLOSING and standing.step == "close 3 of 4"
    assert standing.state in {step.first, step.second} or closing_at_once


@pytest.mark.parametrize(
    ("side", "states"),
    [
        ("client", {State.SYN_SENT}),
        ("server", {State.LISTEN, State.SYN_RECV}),
        ("first closer", {State.FIN_WAIT1, State.FIN_WAIT2, State.TIME_WAIT}),
        ("second closer", {State.CLOSE_WAIT, State.LAST_ACK}),
        ("either", {State.ESTABLISHED}),
        ("both", {State.CLOSING}),
        ("", {State.CLOSE, State.UNKNOWN}),
    ],
)
def test_a_side_stands_in_its_own_states(side: str, states: set[State]) -> None:
    assert {standing.state for standing in MODEL if standing.side == side} == states


@pytest.mark.parametrize(("word", "steps"), [("open", OPENING), ("close", CLOSING)])
def test_steps_are_numbered_through(word: str, steps: tuple[Step, ...]) -> None:
    count = {"open": 3, "close": 4}[word]
    assert [step.label for step in steps] == [f"{word} {n + 1} of {count}" for n in range(count)]


def test_in_each_step_one_side_at_least_moves_on() -> None:
    for steps in (OPENING, CLOSING):
        places = [(step.first, step.second) for step in steps]
        assert len(set(places)) == len(places)
    assert OPENING[-1].first is OPENING[-1].second is State.ESTABLISHED


def test_who_must_act_is_named_wherever_a_connection_is() -> None:
    for standing in MODEL:
        assert bool(standing.waits_on) == (standing.phase is not Phase.CLOSED)
        assert standing.meaning.endswith(".")


def test_nothing_but_the_application_ends_what_has_no_bound() -> None:
    endless = {named(one) for one in MODEL if not one.bounded and one.phase is not Phase.CLOSED}
    assert endless == {"listen", "established", "fin_wait2 owned", "close_wait"}
    assert row_of(State.CLOSE_WAIT).waits_on == "the local application"
    assert row_of(State.CLOSE_WAIT).sysctls == ()


def test_every_sysctl_of_the_model_is_explained_and_none_besides() -> None:
    assert {name for standing in MODEL for name in standing.sysctls} == BOUNDS.keys()


def test_bounded_states_name_a_sysctl_with_a_time_or_a_time() -> None:
    everything = dict.fromkeys(BOUNDS, 1)
    for standing in (one for one in MODEL if one.bounded):
        times = [seconds(name, everything) for name in standing.sysctls]
        assert any(times) or standing.bounded_by == "60 s"


@pytest.mark.parametrize(
    ("retries", "linear", "expected"),
    [
        (1, 4, 3),  # measured on 6.18: 3.05 s
        (2, 4, 7),  # measured: 7.12 s
        (3, 4, 19),  # measured: 19.45 s
        (6, 4, 131),
        (6, 0, 127),
        (6, None, 127),  # before 6.5
        (2, None, 7),
        (8, None, 367),  # two more, at the longest interval
    ],
)
def test_connect_gives_up_when_the_kernel_does(
    retries: int, linear: int | None, expected: int
) -> None:
    values = sysctl(syn_retries=retries, syn_linear_timeouts=linear)
    assert seconds(IPV4 + "syn_retries", values) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("synack_retries", 5, 63),
        ("synack_retries", 3, 15),
        ("retries2", 15, 924.6),  # Documentation/networking/ip-sysctl.rst
        ("orphan_retries", 0, 102.2),
        ("orphan_retries", 8, 102.2),
        ("orphan_retries", 1, 0.6),
        ("fin_timeout", 60, 60),
    ],
)
def test_times_are_those_of_the_kernel(name: str, value: int, expected: float) -> None:
    assert seconds(IPV4 + name, sysctl(**{name: value})) == pytest.approx(expected)


def test_the_longest_interval_of_this_host_counts() -> None:
    values = sysctl(synack_retries=5) | {RTO_MAX: 4000}
    assert seconds(IPV4 + "synack_retries", values) == 1 + 2 + 4 + 4 + 4 + 4


def test_keepalive_takes_three_sysctls_to_tell() -> None:
    values = sysctl(keepalive_time=7200, keepalive_intvl=75, keepalive_probes=9)
    assert seconds(IPV4 + "keepalive_time", values) == 7875
    del values[IPV4 + "keepalive_probes"]
    assert seconds(IPV4 + "keepalive_time", values) is None


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_an_unreadable_sysctl_has_no_time(name: str) -> None:
    assert seconds(name, {}) is None
    assert seconds(name, {name: None}) is None


def test_a_sysctl_that_is_not_about_time_has_none() -> None:
    assert seconds("net.core.somaxconn", {"net.core.somaxconn": 4096}) is None
    assert seconds("kernel.pid_max", {"kernel.pid_max": 4096}) is None
