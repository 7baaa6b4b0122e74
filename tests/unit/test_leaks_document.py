"""Stuck connections as JSON: keys that stay, and what is read back is what was written."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_figures import FIGURES
from marked import ENTRIES, FILTERS, OWNERS, Entry, seen, stuck
from snapshots import NETLINK, PSUTIL, TAKEN, of_namespaces, snapshot

from sockwatch import __version__
from sockwatch.export.document import Host
from sockwatch.export.leaks import document as module
from sockwatch.export.leaks.answer import Answer, Look
from sockwatch.export.leaks.answering import UNCOUNTED, answer
from sockwatch.export.leaks.document import leaks_document
from sockwatch.export.leaks.reading import NotAnAnswer, read_answer
from sockwatch.export.leaks.text import leaks_text
from sockwatch.export.report.page import Page
from sockwatch.observe.leaks import Filter
from sockwatch.observe.snapshot import PassKind
from sockwatch.tcp.states import State

HOST: Final = Host("web-7", "6.18.44")
LEAKING: Final = answer(
    of_namespaces(
        seen(stuck(*[Entry(inode=101, age=61.5)] * 22, owners=OWNERS, bounds=[61.5])),
        source=NETLINK,
    ),
    Filter(state=State.CLOSE_WAIT, older_than=60.0, limit=1),
    HOST,
)


def test_a_leak() -> None:
    process = {"pid": 7, "name": "python3", "started_seconds": 40.0}
    service = {"netns": "", "direction": "inbound", "unit": "app.service"}
    kind = {"state": "close_wait", "cause": "not_closed", "at_least": True}
    assert leaks_document(LEAKING) == {
        "version": __version__,
        "host": {"name": "web-7", "kernel": "6.18.44"},
        "taken_seconds": TAKEN,
        "look": None,
        "filter": {
            "state": "close_wait",
            "port": None,
            "unit": None,
            "older_than_seconds": 60.0,
            "limit": 1,
        },
        "connections": 22,
        "stride": 1,
        "groups": [
            {
                **service,
                **kind,
                "port": "8080",
                "connections": 22,
                "oldest_seconds": 61.5,
                "leaking": True,
                "processes": [process | {"connections": 22}],
            }
        ],
        "sockets": [
            {
                **service,
                **kind,
                "protocol": "tcp",
                "age_seconds": 61.5,
                "local": {"address": "192.0.2.1", "port": 8080},
                "remote": {"address": "198.51.100.7", "port": 50_000},
                "uid": 1000,
                "inode": 101,
                "processes": [process],
                "holders": 1,
            }
        ],
        "hidden": None,
        "missing": [],
    }


def test_mptcp_is_told_from_tcp() -> None:
    """No list of TCP sockets shows such a connection in its state."""
    taken = of_namespaces(seen(stuck(Entry(age=70), Entry(age=80, multipath=True))))
    told = leaks_document(answer(taken, Filter(), HOST))
    assert [one["protocol"] for one in told["sockets"]] == ["mptcp", "tcp"]
    assert leaks_document(read_answer(told)) == told


def test_an_answer_of_before_there_was_mptcp_is_of_tcp() -> None:
    told = leaks_document(LEAKING)
    del told["sockets"][0]["protocol"]
    assert read_answer(told) == LEAKING


def test_ages_that_are_not_known_are_null_and_the_reason_is_told() -> None:
    told = leaks_document(answer(snapshot(source=PSUTIL), Filter(), HOST))
    assert (told["connections"], told["groups"], told["sockets"]) == (None, [], [])
    assert told["missing"] == [f"ages are not known from psutil: {PSUTIL.reason}"]


def test_before_the_first_pass_that_is_the_reason() -> None:
    told = leaks_document(answer(of_namespaces(), Filter(), HOST))
    assert told["connections"] is None
    assert told["missing"] == ["no pass over the kernel's sockets has succeeded yet"]


def test_what_is_missing_is_told_once() -> None:
    watch = replace(snapshot().passes[PassKind.CENSUS], last_failure="busy: EBUSY")
    views = [seen(stuck(unnamed="owners.processes is off"), netns=name) for name in ("", "blue")]
    taken = replace(of_namespaces(*views), passes={PassKind.WATCH: watch})
    assert answer(taken, Filter(), HOST).missing == (
        "the newest watch pass failed, so all is older (busy: EBUSY)",
        "owners.processes is off",
    )


@pytest.mark.parametrize(("older_than", "told"), [(2.0, 0), (2.5, 1)])
def test_a_look_of_our_own_knows_of_nothing_that_is_older_than_itself(
    older_than: float, told: int
) -> None:
    found = answer(
        of_namespaces(seen(stuck())), Filter(older_than=older_than), HOST, Look(2.0, "no daemon")
    )
    assert len(found.missing) == told


def test_hidden_sockets_are_those_of_the_host() -> None:
    own = replace(seen(stuck()), figures=FIGURES)
    taken = of_namespaces(own, seen(stuck(), netns="blue"))
    assert FIGURES.host is not None
    told = answer(taken, Filter(), HOST)
    assert (told.hidden, told.missing) == (FIGURES.host.hidden, ())


def test_that_hidden_sockets_are_not_counted_is_told() -> None:
    """Else a host on which only they leak would seem to be fine."""
    assert FIGURES.host is not None
    blind = replace(FIGURES, host=replace(FIGURES.host, hidden=None))
    told = answer(of_namespaces(replace(seen(stuck()), figures=blind)), Filter(), HOST)
    assert (told.hidden, told.missing) == (None, (UNCOUNTED,))


def keys_in(value: object) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(keys_in, value))
    if isinstance(value, dict):
        return set(value).union(*map(keys_in, value.values()))
    return set()


def test_every_key_is_documented() -> None:
    words = set(re.findall(r"\w+", module.__doc__ or ""))
    looked = replace(LEAKING, look=Look(2.0, "no daemon"))
    assert keys_in(leaks_document(looked)) <= words


NAMES = st.text() | st.sampled_from(["app.service", "a\udcffb", "\x1b[2J"])
ANSWERS = st.builds(
    answer,
    st.builds(
        of_namespaces,
        ENTRIES.map(lambda entries: seen(stuck(*entries, owners=OWNERS, bounds=[60.0], stride=2))),
        st.sampled_from([seen(None, netns="dark"), seen(stuck(Entry()), netns="blue")]),
    ),
    FILTERS,
    st.builds(Host, NAMES, NAMES),
    st.none() | st.builds(Look, st.floats(0, 10), NAMES),
)


@settings(deadline=None)
@given(ANSWERS)
def test_what_is_read_back_is_what_was_written(written: Answer) -> None:
    assert read_answer(json.loads(json.dumps(leaks_document(written)))) == written


def test_keys_of_a_later_version_are_left_out() -> None:
    told = leaks_document(LEAKING)
    told["new"] = told["groups"][0]["new"] = told["sockets"][0]["new"] = {"any": "thing"}
    assert read_answer(told) == LEAKING


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value of a document stands."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    yield from (place for key, one in items for place in places(one, (*path, key)))
    if isinstance(value, list):
        yield from (place for at, one in enumerate(value) for place in places(one, (*path, at)))


STRANGE: Final[list[object]] = [
    *(None, -1, 1.5, 1e300, True, 10**400, float("nan"), float("inf")),
    *("", "x", [], {}, [1], [[]], {"a": 1}),
]


@settings(deadline=None)
@given(st.sampled_from([*places(leaks_document(LEAKING))]), st.sampled_from(STRANGE))
def test_a_strange_value_anywhere_is_refused_or_harmless(
    place: tuple[Any, ...], strange: object
) -> None:
    told = json.loads(json.dumps(leaks_document(LEAKING)))
    told = within = {"": told}
    for key in ("", *place[:-1]) if place else ():
        within = within[key]
    within[place[-1] if place else ""] = strange
    try:
        found = read_answer(told[""])
    except NotAnAnswer:
        return
    assert leaks_text(found, Page())


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_what_is_no_answer_is_refused(document: object) -> None:
    with pytest.raises(NotAnAnswer):
        read_answer(document)
