"""Stuck connections in words: what leaks, what has happened, and who has to act."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from sockwatch.export.names import owner, service_name
from sockwatch.export.terminal import duration, printable
from sockwatch.observe.leaks import MANY, Group
from sockwatch.tcp.causes import Cause
from sockwatch.tcp.owners import Process
from sockwatch.tcp.states import State


class Words(NamedTuple):
    """How a cause is told; `{who}` is whose connections they are."""

    short: str
    """For a column."""
    happened: str
    """What has happened to each connection."""
    act: str
    """Who can end it, and what does not."""


_ONLY_CLOSE: Final = "No timer ends that: only {who} can, with close() or by its own end."
_GONE: Final = Words(
    "FIN not answered",
    "It is closed on this side, and the peer does not acknowledge that.",
    "The peer has vanished or does not read. The kernel gives up by itself, after minutes.",
)
_BY_CAUSE: Final[Mapping[Cause, Words]] = {
    Cause.NOT_CLOSED: Words(
        "end read, not closed",
        "The peer has closed and {who} has read that, but does not close.",
        _ONLY_CLOSE,
    ),
    Cause.EOF_UNREAD: Words(
        "end not read",
        "The peer has closed and {who} has not noticed, as it does not read.",
        _ONLY_CLOSE,
    ),
    Cause.DATA_UNREAD: Words(
        "data not read",
        "The peer has closed and {who} has not even read the data before that.",
        f"It hangs, is overloaded, or has forgotten the connection. {_ONLY_CLOSE}",
    ),
    Cause.NOT_ACCEPTED: Words(
        "not accepted",
        "The handshake is done and {who} does not call accept().",
        "It hangs, or cannot keep up. Its clients wait for an answer that nobody writes.",
    ),
    Cause.HALF_CLOSED: Words(
        "half-closed",
        "It was shut down halfway by {who}, and the peer does not close its half.",
        "No timer ends that while {who} holds it: it has to call close().",
    ),
}
_UNANSWERED: Final[Mapping[State, Words]] = {
    State.SYN_SENT: Words(
        "SYN not answered",
        "The other side does not answer: it is down, overloaded or behind a filter.",
        "connect() fails after minutes, unless {who} sets a shorter time.",
    ),
    State.SYN_RECV: Words(
        "SYN+ACK not answered",
        "The client has begun a handshake and does not finish it.",
        "Packets get lost, or it is a SYN flood; or the accept queue is full, because {who} does "
        "not call accept().",
    ),
    State.FIN_WAIT1: _GONE,
    State.LAST_ACK: _GONE,
    State.CLOSING: _GONE,
}
_UNKNOWN: Final = Words("no answer", "The peer does not answer.", "")


def words(cause: Cause, state: State) -> Words:
    """How a cause is told."""
    return _BY_CAUSE.get(cause) or _UNANSWERED.get(state, _UNKNOWN)


class Verdict(NamedTuple):
    """What is said of a group, safe to print."""

    headline: str
    meaning: str


def verdict(group: Group, *, sure: bool) -> Verdict:
    """What leaks, or only stands there, and who has to act.

    Args:
        group: whose connections.
        sure: whether they are over the age limit of their state.
    """
    told, who = words(group.cause, group.state), holder(group)
    where, number = service_name(group.service), _number(group)
    happened, act = told.happened.format(who=who), told.act.format(who=who)
    if group.leaking:
        verb = "leaks" if sure else "may leak"
        subject = who.removeprefix("the application") or "The application"
        where = service_name(group.service._replace(unit=""))
        return Verdict(f"{subject} {verb} {number} of {_rest(where, group)}", f"{happened} {act}")
    if group.connections >= MANY:
        return Verdict(f"{number} not answered: {_rest(where, group)}", f"{happened} {act}")
    verb = "is" if group.connections == 1 else "are"
    few = "So few may be idle ones of a pool." if group.state is State.CLOSE_WAIT else ""
    headline = f"{number} {verb} stuck in {group.state.label}: {_rest(where, group)}"
    return Verdict(headline, f"{happened} {few}".rstrip())


def _number(group: Group) -> str:
    return f"{group.connections:,} connection" + "s" * (group.connections != 1)


def _rest(where: str, group: Group) -> str:
    """Where, and since when."""
    netns = f" in netns {printable(group.netns)}" if group.netns else ""
    time = ("at least " if group.at_least else "") + duration(group.oldest)
    since = f"for {time}" if group.connections == 1 else f"the oldest for {time}"
    return f"{where}{netns}, {since}."


def holder(group: Group) -> str:
    """Whose connections these are, within a sentence: a unit, else a process if it is only one."""
    if len(group.shares) == 1 and not group.service.unit:
        return process_name(group.shares[0].process)
    return owner(group.service.unit)


def since(age: float, *, at_least: bool) -> str:
    """How long a connection has been in its state, in few columns."""
    return f"> {duration(age)}" if at_least else duration(age)


def process_name(process: Process) -> str:
    """A process, safe to print."""
    return f"{printable(process.name)}[{process.pid}]"
