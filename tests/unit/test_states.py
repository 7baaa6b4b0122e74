"""State names and numbers: total over whatever a kernel may say."""

import socket

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockwatch.tcp.states import Family, State

# include/net/tcp_states.h
KERNEL_STATES = {
    1: "established",
    2: "syn_sent",
    3: "syn_recv",
    4: "fin_wait1",
    5: "fin_wait2",
    6: "time_wait",
    7: "close",
    8: "close_wait",
    9: "last_ack",
    10: "listen",
    11: "closing",
    12: "syn_recv",  # TCP_NEW_SYN_RECV
    13: "unknown",  # TCP_BOUND_INACTIVE
}


@pytest.mark.parametrize(("number", "label"), KERNEL_STATES.items())
def test_states_are_numbered_as_in_the_kernel(number: int, label: str) -> None:
    assert State.of(number).label == label


@given(st.integers())
def test_every_other_number_is_an_unknown_state(number: int) -> None:
    assert (State.of(number) is State.UNKNOWN) == (number not in range(1, 13))


def test_the_labels_are_those_of_the_metric_catalogue() -> None:
    catalogue = (
        "established syn_sent syn_recv fin_wait1 fin_wait2 time_wait close close_wait last_ack"
        " listen closing unknown"
    )
    assert {state.label for state in State} == {*catalogue.split()}


def test_psutil_spells_states_as_we_do() -> None:
    spelled = {name.removeprefix("CONN_") for name in dir(psutil) if name.startswith("CONN_")}
    assert spelled - {"NONE"} == {state.name for state in State} - {"UNKNOWN"}


def test_families_are_numbered_as_in_the_kernel() -> None:
    assert {family.label: family.value for family in Family} == {
        "ipv4": socket.AF_INET,
        "ipv6": socket.AF_INET6,
    }
