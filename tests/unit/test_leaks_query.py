"""Filters as they stand in a URL: read as they were meant, or refused in one sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockwatch.export.leaks.query import MOST_SHOWN, QueryError, parse_query, query_of
from sockwatch.observe.leaks import SHOWN, Filter
from sockwatch.observe.snapshot import OTHER
from sockwatch.tcp.causes import BY_STATE
from sockwatch.tcp.states import State

WATCHED = [*BY_STATE, State.CLOSE_WAIT]
FILTERS = st.builds(
    Filter,
    state=st.none() | st.sampled_from(WATCHED),
    port=st.none() | st.just(OTHER) | st.integers(1, 65_535).map(str),
    unit=st.none() | st.text(max_size=255),
    older_than=st.integers(0, 10**9).map(lambda milliseconds: milliseconds / 1000),
    limit=st.integers(1, MOST_SHOWN),
)


@given(FILTERS)
def test_what_is_written_is_read_again(wanted: Filter) -> None:
    assert parse_query(query_of(wanted)) == wanted


def test_nothing_asked_is_everything_as_far_as_usual() -> None:
    assert parse_query("") == Filter(limit=SHOWN)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("state=close_wait", Filter(state=State.CLOSE_WAIT)),
        ("state=established", Filter(state=State.ESTABLISHED)),
        ("port=8080", Filter(port="8080")),
        ("port=080", Filter(port="80")),
        ("port=other&unit=other", Filter(port=OTHER, unit=OTHER)),
        ("unit=app.service", Filter(unit="app.service")),
        ("unit=", Filter(unit="")),
        ("unit=a+b%26c", Filter(unit="a b&c")),
        ("unit=%ff", Filter(unit="\udcff")),
        ("older_than=5m", Filter(older_than=300.0)),
        ("older_than=1h30m", Filter(older_than=5400.0)),
        ("limit=1", Filter(limit=1)),
        ("limit=10000", Filter(limit=10_000)),
    ],
)
def test_each_parameter(query: str, expected: Filter) -> None:
    assert parse_query(query) == expected


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("state=time_wait", 'state must be one of established, syn_sent, .*, not "time_wait"'),
        ("state=CLOSE_WAIT", "state must be one of"),
        ("state=", "state must be one of"),
        ("port=0", "port must be a port from 1 to 65535, or other"),
        ("port=65536", "port must be"),
        ("port=http", 'port must be .*, not "http"'),
        ("port=%d9%a2", "port must be"),
        ("port=+80", "port must be"),
        ("port=" + "9" * 1000, "port must be"),
        ("unit=" + "u" * 256, "unit must be the name of a unit, at most 255 characters"),
        ("older_than=5", "older_than must be a duration"),
        ("older_than=-5s", "older_than must be a duration"),
        ("limit=0", "limit must be a whole number from 1 to 10000"),
        ("limit=10001", "limit must be"),
        ("limit=1e3", "limit must be"),
        ("prot=80", 'no parameter "prot"; did you mean port?'),
        ("=x", "no parameter"),
        ("verbose", "no parameter"),
        ("port=80&port=81", "port is given twice"),
        ("&".join(["port=1"] * 100), "parameters are too many"),
        ("%1b%5b2J=1", r"no parameter \"\\u001b\[2J\""),
    ],
)
def test_what_is_wrong_is_one_sentence_that_names_it(query: str, named: str) -> None:
    with pytest.raises(QueryError, match=named) as refused:
        parse_query(query)
    assert str(refused.value).isprintable()
    assert str(refused.value)[-1] in ".?"
    assert len(str(refused.value)) < 400


@given(st.text() | st.from_regex(r"(state|port|unit|older_than|limit)=.*", fullmatch=True))
def test_any_text_is_a_filter_or_refused(query: str) -> None:
    said = ""
    try:
        parse_query(query)
    except QueryError as error:
        said = str(error)
    assert said.isprintable()
