"""Causes: the product's table, and as many of them as there are reasons."""

import pytest

from sockwatch.config import AgesConfig
from sockwatch.poll.host import age_limits
from sockwatch.tcp.causes import ALL, BY_STATE, BY_UNREAD, Cause
from sockwatch.tcp.states import State

CAUSES = {
    State.SYN_SENT: Cause.UNANSWERED,
    State.SYN_RECV: Cause.UNANSWERED,
    State.ESTABLISHED: Cause.NOT_ACCEPTED,
    State.FIN_WAIT1: Cause.UNANSWERED,
    State.FIN_WAIT2: Cause.HALF_CLOSED,
    State.LAST_ACK: Cause.UNANSWERED,
    State.CLOSING: Cause.UNANSWERED,
}


def test_every_watched_state_has_a_cause() -> None:
    watched = age_limits(AgesConfig())
    assert {*BY_STATE, State.CLOSE_WAIT} == {*watched}
    assert BY_STATE == CAUSES


@pytest.mark.parametrize(
    ("unread", "cause"),
    [(0, Cause.NOT_CLOSED), (1, Cause.EOF_UNREAD), (2, Cause.DATA_UNREAD)],
)
def test_the_receive_queue_tells_what_the_application_has_left_undone(
    unread: int, cause: Cause
) -> None:
    """The FIN counts as one byte; everything longer is like the last."""
    assert BY_UNREAD[unread] is cause
    assert len(BY_UNREAD) == 3


def test_every_cause_has_one_number() -> None:
    """And unread bytes are numbers of theirs."""
    assert sorted(ALL) == sorted(Cause)
    assert ALL[: len(BY_UNREAD)] == BY_UNREAD


def test_causes_are_spelled_as_labels() -> None:
    assert {cause.value for cause in Cause} == {
        "not_closed",
        "eof_unread",
        "data_unread",
        "not_accepted",
        "half_closed",
        "unanswered",
    }
