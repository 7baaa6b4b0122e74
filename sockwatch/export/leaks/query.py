"""Filters of stuck connections as text: parameters of a URL, and flags by the same names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from sockwatch.config.durations import format_duration, parse_duration
from sockwatch.config.problems import nearest, shown
from sockwatch.observe.leaks import Filter
from sockwatch.observe.snapshot import OTHER
from sockwatch.tcp.causes import BY_STATE
from sockwatch.tcp.states import State

LEAKS_PATH: Final = "/api/v1/leaks"
"""Where a daemon answers."""
MOST_SHOWN: Final = 10_000
"""Connections that are told one by one at most: a megabyte or four of JSON."""

_STATES: Final = {state.label: state for state in sorted({*BY_STATE, State.CLOSE_WAIT})}
_LONGEST_UNIT: Final = 255
"""Bytes of a name of a cgroup (NAME_MAX of linux/limits.h)."""
_HIGHEST_PORT: Final = 65_535
_MOST_FIELDS: Final = 16


class QueryError(ValueError):
    """A filter that is none; the message is one sentence that names the parameter."""


def parse_state(text: str) -> State:
    """The state of that label; ValueError if connections cannot be stuck in it."""
    if text not in _STATES:
        raise ValueError(f"must be one of {', '.join(_STATES)}")
    return _STATES[text]


def parse_port(text: str) -> str:
    """A port of a service, or `other`; ValueError if it is neither."""
    if text == OTHER:
        return text
    number = parse_number(text, f"a port from 1 to {_HIGHEST_PORT}, or {OTHER}", _HIGHEST_PORT)
    return str(number)


def parse_unit(text: str) -> str:
    """A unit; ValueError if there can be none of that name."""
    if len(text) > _LONGEST_UNIT:
        raise ValueError(f"must be the name of a unit, at most {_LONGEST_UNIT} characters")
    return text


def parse_age(text: str) -> float:
    """Seconds; ValueError if it is no duration."""
    try:
        return parse_duration(text)
    except ValueError:
        raise ValueError('must be a duration such as "500ms", "90s" or "1h30m"') from None


def parse_limit(text: str) -> int:
    """A number of connections; ValueError if it is none, or too large."""
    return parse_number(text, f"a whole number from 1 to {MOST_SHOWN}", MOST_SHOWN)


def parse_number(text: str, what: str, most: int) -> int:
    """A whole number from 1; ValueError says that it must be `what`."""
    if not (text.isascii() and text.isdecimal() and len(text) < len(str(most)) + 3):
        raise ValueError(f"must be {what}")
    if not 1 <= int(text) <= most:
        raise ValueError(f"must be {what}")
    return int(text)


PARAMETERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "state": parse_state,
    "port": parse_port,
    "unit": parse_unit,
    "older_than": parse_age,
    "limit": parse_limit,
}
"""How each field of a Filter is read."""


def parse_query(query: str) -> Filter:
    """The filter of a URL's query.

    Raises:
        QueryError: there is no such parameter, it is there twice, or its value is wrong.
    """
    values: dict[str, Any] = {}
    for name, text in _pairs(query):
        if name not in PARAMETERS:
            meant = nearest(name, PARAMETERS)
            hint = f"did you mean {meant}?" if meant else f"possible are {', '.join(PARAMETERS)}."
            raise QueryError(f"There is no parameter {shown(name)}; {hint}")
        if name in values:
            raise QueryError(f"The parameter {name} is given twice.")
        try:
            values[name] = PARAMETERS[name](text)
        except ValueError as error:
            raise QueryError(f"The parameter {name} {error}, not {shown(text)}.") from None
    return Filter(**values)


def _pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            query, keep_blank_values=True, errors="surrogateescape", max_num_fields=_MOST_FIELDS
        )
    except ValueError:
        raise QueryError(f"More than {_MOST_FIELDS} parameters are too many.") from None


def query_of(wanted: Filter) -> str:
    """The query that `parse_query` reads as this filter."""
    texts = {
        "state": wanted.state and wanted.state.label,
        "port": wanted.port,
        "unit": wanted.unit,
        "older_than": format_duration(wanted.older_than) if wanted.older_than else None,
        "limit": str(wanted.limit),
    }
    given = {name: text for name, text in texts.items() if text is not None}
    return urlencode(given, errors="surrogateescape")
