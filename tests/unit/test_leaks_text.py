"""Stuck connections as text: the verdict first, tables that fit, nothing hostile let through."""

from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from marked import ENTRIES, OWNERS, Entry, seen, stuck
from snapshots import of_namespaces

from sockwatch.export.document import Host
from sockwatch.export.leaks.answer import Answer, Look
from sockwatch.export.leaks.answering import answer
from sockwatch.export.leaks.groups import GROUPS, SHARES
from sockwatch.export.leaks.text import leaks_text
from sockwatch.export.leaks.words import words
from sockwatch.export.report.page import Page
from sockwatch.export.terminal import Style, display_width
from sockwatch.observe.leaks import MANY, Filter
from sockwatch.tcp.causes import BY_STATE, BY_UNREAD, Cause
from sockwatch.tcp.owners import Owners, Process
from sockwatch.tcp.states import State

HOST: Final = Host("web-7", "6.18.44")
LOOK: Final = Look(2.0, "no daemon answers at http://127.0.0.1:10077 (Connection refused)")
LONGEST: Final = "2a02:8108:8ac0:1234:5c9e:9d7e:1234:abcd"
"""An address that takes all columns that an address can."""


def answered(
    *entries: Entry, wanted: Filter | None = None, look: Look | None = None, **details: object
) -> Answer:
    found = stuck(*entries, **details)  # type: ignore[arg-type]
    return answer(of_namespaces(seen(found)), wanted or Filter(limit=20), HOST, look)


def text(told: Answer, width: int = 100, *, coloured: bool = False) -> str:
    return leaks_text(told, Page(Style(coloured), width), UTC)


def lines(told: Answer, width: int = 100) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in text(told, width).splitlines()]


def flowing(told: Answer, width: int = 100) -> str:
    """The text without regard to where lines end."""
    return " ".join(text(told, width).split())


def leaking(entry: Entry | None = None, number: int = MANY) -> list[Entry]:
    return [entry or Entry()] * number


def test_a_leak_as_a_whole() -> None:
    entries = [*leaking(Entry(age=7900.0, inode=101), 21), Entry(age=61.0, inode=101)]
    told = answered(*entries, wanted=Filter(limit=2), owners=OWNERS, bounds=[7900.0])
    assert text(told, 80) == (
        "web-7, 2026-01-01 00:00:00 UTC\n"
        "\n"
        "app.service leaks 22 connections of inbound port 8080, the oldest for at least 2\n"
        "h 11 min.\n"
        "  The peer has closed and app.service has read that, but does not close. No\n"
        "  timer ends that: only app.service can, with close() or by its own end.\n"
        "\n"
        "22 stuck\n"
        "  number        oldest  state       why                   service\n"
        "      22  > 2 h 11 min  close_wait  end read, not closed  inbound port 8080,\n"
        "                                                          app.service\n"
        "                                                          22 of python3[7]\n"
        "\n"
        "Connections, oldest first: close_wait, end read, not closed, python3[7],\n"
        "app.service\n"
        "           age  local           remote\n"
        "  > 2 h 11 min  192.0.2.1:8080  198.51.100.7:50000\n"
        "  > 2 h 11 min  192.0.2.1:8080  198.51.100.7:50000\n"
        "  and 20 more, see --limit\n"
        "  > at least, as nobody saw it enter the state"
    )


def test_the_readme_shows_what_would_be_told() -> None:
    workers = [Process(4711, "app", 40.0), Process(4713, "app", 40.2)]
    owners = {1000 + at: Owners.alone(workers[at % 3 == 0]) for at in range(398)}
    leaked = Entry(local="198.51.100.7", remote_port=40_000)
    unanswered = Entry(State.SYN_SENT, Cause.UNANSWERED, inbound=False, remote_port=5432)
    entries = [
        leaked._replace(age=5231.0 - 13 * at, remote=f"203.0.113.{at % 250}", inode=1000 + at)
        for at in range(398)
    ] + [unanswered._replace(age=38.0, remote="10.0.0.9", inode=at) for at in range(5)]
    told = answered(*entries, wanted=Filter(limit=3), owners=owners, bounds=[5231.0])
    sample = text(replace(told, hidden=3), 100)
    readme = Path(__file__).parents[2].joinpath("README.md").read_text()
    assert f"$ sockwatch leaks --limit=3\n{sample}\n```" in readme


# The verdict


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (Entry(cause=Cause.NOT_CLOSED), "app.service has read that, but does not close."),
        (Entry(cause=Cause.EOF_UNREAD), "app.service has not noticed, as it does not read."),
        (Entry(cause=Cause.DATA_UNREAD), "app.service has not even read the data before that."),
        (Entry(cause=Cause.NOT_ACCEPTED), "app.service does not call accept()."),
        (Entry(State.FIN_WAIT2, Cause.HALF_CLOSED), "shut down halfway by app.service"),
        (Entry(State.SYN_SENT, Cause.UNANSWERED), "it is down, overloaded or behind a filter."),
        (Entry(State.SYN_RECV, Cause.UNANSWERED), "begun a handshake and does not finish it."),
        (Entry(State.LAST_ACK, Cause.UNANSWERED), "the peer does not acknowledge that."),
    ],
)
def test_each_cause_says_what_has_happened_and_who_has_to_act(entry: Entry, said: str) -> None:
    assert said in flowing(answered(*leaking(entry)))


def test_every_cause_in_every_state_has_words_of_its_own() -> None:
    kinds = {(State.CLOSE_WAIT, cause) for cause in BY_UNREAD} | set(BY_STATE.items())
    told = {words(cause, state) for state, cause in kinds}
    gone = {words(Cause.UNANSWERED, state) for state in (State.FIN_WAIT1, State.CLOSING)}
    assert len(gone) == 1
    assert len(told) == len(kinds) - 2
    assert all(one.short and one.happened and one.act for one in told)
    assert max(len(one.short) for one in told) <= 20


@pytest.mark.parametrize(
    ("number", "state", "said"),
    [
        (1, State.CLOSE_WAIT, "1 connection is stuck in close_wait: inbound port 8080"),
        (2, State.CLOSE_WAIT, "2 connections are stuck in close_wait: inbound port 8080"),
        (MANY - 1, State.FIN_WAIT2, "19 connections are stuck in fin_wait2"),
        (MANY, State.CLOSE_WAIT, "app.service leaks 20 connections of inbound port 8080"),
        (1200, State.CLOSE_WAIT, "app.service leaks 1,200 connections"),
    ],
)
def test_a_few_are_stuck_and_many_leak(number: int, state: State, said: str) -> None:
    told = flowing(answered(*leaking(Entry(state), number)))
    assert said in told
    assert ("leaks" in told) is (number >= MANY)
    assert ("idle ones of a pool" in told) is (number < MANY and state is State.CLOSE_WAIT)


def test_what_a_peer_does_not_answer_leaks_nowhere() -> None:
    told = flowing(answered(*leaking(Entry(State.SYN_SENT, Cause.UNANSWERED, inbound=False))))
    assert "20 connections not answered: outbound port 50000, app.service" in told
    assert "leak" not in told


@pytest.mark.parametrize(
    ("inodes", "subject"),
    [
        ([101], "python3[7] leaks 20"),
        ([100], "The application leaks 20"),
        ([101, 102], "The application leaks 20"),
    ],
)
def test_without_a_unit_a_single_process_is_named(inodes: list[int], subject: str) -> None:
    entries = [Entry(cgroup=13, inode=inodes[at % len(inodes)]) for at in range(MANY)]
    assert subject in flowing(answered(*entries, owners=OWNERS))


def test_the_gravest_are_said_first_and_a_few_of_them_only() -> None:
    entries = [
        entry for port in range(1, 6) for entry in leaking(Entry(local_port=port), MANY + port)
    ]
    told = text(answered(*entries))
    assert told.count(" leaks ") == 3
    assert told.index("leaks 25 ") < told.index("leaks 24 ") < told.index("leaks 23 ")


def test_nothing_stuck_is_one_sentence() -> None:
    assert text(answered()) == "web-7, 2026-01-01 00:00:00 UTC\n\nNothing is stuck."


def test_not_known_is_not_nothing() -> None:
    told = text(answer(of_namespaces(seen(None)), Filter(), HOST))
    assert "It is not known which connections are stuck." in told
    assert "Nothing" not in told
    assert "ages are not known from netlink" in told


def test_what_was_asked_for_is_said() -> None:
    wanted = Filter(State.CLOSE_WAIT, "8080", "", 300.0)
    said = "UTC, only close_wait, only port 8080, only without unit, only older than 300 s Nothing"
    assert said in flowing(answered(wanted=wanted))


# Without a daemon


def test_a_look_of_our_own_says_so_in_a_dim_line_and_is_not_sure() -> None:
    told = answered(*leaking(), look=LOOK)
    assert "Looked for 2 s, as no daemon answers at http://127.0.0.1:10077" in flowing(told)
    assert "app.service may leak 20 connections" in flowing(told)
    coloured = text(told, coloured=True).splitlines()
    assert coloured[1].startswith("\x1b[2mLooked for 2 s")


def test_a_look_that_tells_nothing_promises_nothing() -> None:
    told = flowing(answer(of_namespaces(seen(None)), Filter(), HOST, LOOK))
    assert "Looked for 2 s, as no daemon answers" in told
    assert "is told" not in told
    assert "It is not known which connections are stuck." in told


# Tables


def test_processes_are_told_below_their_group() -> None:
    owners = {inode: Owners.alone(Process(inode, "w", 1.0)) for inode in range(1, SHARES + 4)}
    told = lines(answered(*(Entry(inode=inode) for inode in owners), owners=owners))
    at = told.index(["1", "of", "w[1]"])
    assert told[at + SHARES - 1 : at + SHARES + 1] == [
        ["1", "of", f"w[{SHARES}]"],
        ["and", "3", "more", "processes"],
    ]


def test_of_very_many_groups_the_rest_is_added_up() -> None:
    told = flowing(answered(*(Entry(local_port=port) for port in range(1, GROUPS + 6))))
    assert "25 stuck" in told
    assert "and 5 more (5 connections)" in told


def test_sampled_numbers_are_called_estimates() -> None:
    assert "one of 8 connections is followed" in flowing(answered(Entry(), stride=8))
    assert "estimate" not in flowing(answered(Entry()))


def test_what_all_have_in_common_is_said_once_and_the_rest_in_columns() -> None:
    entries = [Entry(), Entry(State.FIN_WAIT2, Cause.HALF_CLOSED, age=90.0, inode=0)]
    told = lines(answered(*entries, owners=OWNERS))
    assert ["Connections,", "oldest", "first:", "app.service"] in told
    assert ["age", "state", "why", "local", "remote", "process"] in told
    assert told[-1] == [
        "90",
        "s",
        "fin_wait2",
        "half-closed",
        "192.0.2.1:8080",
        "198.51.100.7:50000",
        "none",
    ]


def test_mptcp_is_told_beside_the_state() -> None:
    told = text(answered(Entry(multipath=True), Entry(State.FIN_WAIT2, Cause.HALF_CLOSED)))
    assert "close_wait (mptcp)" in told
    assert "fin_wait2 (mptcp)" not in told


def test_a_connection_alone_has_all_columns() -> None:
    told = lines(answered(Entry(inode=103), owners=OWNERS), 140)
    assert ["age", "state", "why", "local", "remote", "process", "unit"] in told
    assert told[-1][-3:] == ["python3[7]", "+19", "app.service"]


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (140, [["age", "state", "why", "local", "remote", "process", "unit"]]),
        (100, [["age", "state", "local", "process"], ["why", "remote", "unit"]]),
        (60, [["age", "local"], ["state", "remote"], ["why", "process"], ["unit"]]),
    ],
)
def test_the_narrower_the_terminal_the_more_lines_a_connection_has(
    width: int, columns: list[list[str]]
) -> None:
    entries = [
        Entry(inode=101, cgroup=11),
        Entry(State.FIN_WAIT2, Cause.HALF_CLOSED, inode=102, cgroup=12),
    ]
    told = lines(answered(*entries, owners=OWNERS), width)
    at = told.index(columns[0])
    assert told[at : at + len(columns)] == columns


@pytest.mark.parametrize("width", [80, 120, 160])
def test_long_names_are_cut_in_the_middle(width: int) -> None:
    unit = f"docker-{'0123456789abcdef' * 4}.scope"
    entries = [Entry(), Entry(State.FIN_WAIT2, Cause.HALF_CLOSED, cgroup=12)]
    found = replace(stuck(*entries), units={11: unit, 12: "app.service"})
    told = text(answer(of_namespaces(seen(found)), Filter(), HOST), width)
    _, tables = told.split("2 stuck")
    assert tables.count("docker-") == tables.count(".scope") == 2
    assert max(map(len, tables.splitlines())) <= width


def test_a_process_is_told_by_its_id_whatever_it_calls_itself() -> None:
    owners = {100: Owners.alone(Process(31_337, "\u202e" * 15, 1.0))}
    assert "31337]" in text(answered(Entry(age=7900.0), bounds=[7900.0], owners=owners), 70)


@settings(deadline=None)
@given(ENTRIES, st.integers(70, 200), st.none() | st.just(LOOK))
@example([Entry(age=0.0), Entry(inode=102, age=3600.0)], 70, None)
@example([Entry(cause=Cause.EOF_UNREAD), Entry(multipath=True)], 70, None)
def test_no_line_is_wider_than_the_terminal(
    entries: list[Entry], width: int, look: Look | None
) -> None:
    longest = [entry._replace(local=LONGEST, remote=LONGEST) for entry in entries[:1]]
    told = answered(*entries, *longest, look=look, owners=OWNERS, bounds=[3600.0])
    assert [line for line in text(told, width).splitlines() if display_width(line) > width] == []


@settings(deadline=None)
@given(st.text() | st.sampled_from(["\x1b]0;x\x07", "a\nb", "\u202e", "x" * 300]), st.text())
def test_no_name_reaches_the_terminal_unescaped(unit: str, name: str) -> None:
    owners = {101: Owners.alone(Process(7, name, 1.0))}
    taken = of_namespaces(
        seen(
            replace(
                stuck(*leaking(Entry(inode=101)), owners=owners, unnamed=name), units={11: unit}
            ),
            netns=unit,
        )
    )
    told = text(answer(taken, Filter(unit=unit), Host(name, unit), Look(2.0, name)))
    assert all(char.isprintable() or char == "\n" for char in told)
    assert told.count("\n") < 60


# What is not told


def test_what_is_missing_and_why_stands_at_the_end() -> None:
    told = text(answered(Entry(), unnamed="process names need CAP_SYS_PTRACE"))
    assert told.endswith("\n\nNot told here\n  process names need CAP_SYS_PTRACE")


@pytest.mark.parametrize(("hidden", "said"), [(0, False), (3, True), (None, False)])
def test_hidden_sockets_are_explained_where_there_are_any(hidden: int | None, said: bool) -> None:
    told = flowing(replace(answered(), hidden=hidden))
    assert ("3 sockets of this host are in no table, hence not in this list" in told) is said
    assert ("/proc/PID/fd" in told) is said


# Colour


def test_leaks_are_red_others_yellow_and_no_colour_is_no_colour() -> None:
    told = answered(*leaking(), Entry(State.SYN_SENT, Cause.UNANSWERED, cgroup=12))
    coloured = text(told, coloured=True)
    assert "\x1b[31mapp.service leaks 20" in coloured
    assert "\x1b[33m1 connection is stuck in syn_sent" in coloured
    assert "\x1b" not in text(told)
    assert text(answered(), coloured=True).endswith("\x1b[32mNothing is stuck.\x1b[0m")
