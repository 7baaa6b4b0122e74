"""Reading back what `leaks_document` wrote, from somebody who may not be sockwatch at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sockwatch.export.host import Host
from sockwatch.export.leaks.answer import Answer, Look
from sockwatch.observe.leaks import Filter, Group, Leak, Leaks, Share
from sockwatch.observe.snapshot import ServiceKey
from sockwatch.tcp.causes import Cause
from sockwatch.tcp.owners import Process
from sockwatch.tcp.states import Direction, State

_STATES: Final = {state.label: state for state in State}
_LATEST: Final = 200e9
"""Seconds; a Unix time from which on `datetime` would give up soon."""


class NotAnAnswer(ValueError):
    """A document that `leaks_document` would not write; says what is wrong with it."""


def read_answer(document: object) -> Answer:
    """The answer that a document tells; what else is in it is left out.

    Raises:
        NotAnAnswer: it does not tell any.
    """
    if not isinstance(document, dict):
        raise NotAnAnswer("its answer is no JSON object")
    try:
        return _answer(document)
    except KeyError as error:
        raise NotAnAnswer(f"its answer has no {error}") from error
    except (TypeError, ValueError) as error:
        raise NotAnAnswer(f"in its answer {error}") from error


def _answer(document: Any) -> Answer:  # noqa: ANN401  whatever JSON can be; likewise below
    look = document["look"]
    return Answer(
        host=Host(_text(document["host"]["name"]), _text(document["host"]["kernel"])),
        taken=_number(document["taken_seconds"]),
        wanted=_filter(document["filter"]),
        leaks=None if document["connections"] is None else _leaks(document),
        hidden=_count_or_none(document["hidden"]),
        missing=tuple(map(_text, _list(document["missing"]))),
        look=None if look is None else Look(_number(look["seconds"]), _text(look["why"])),
        version=_text(document["version"]),
    )


def _leaks(document: Any) -> Leaks:  # noqa: ANN401
    return Leaks(
        groups=tuple(map(_group, _list(document["groups"]))),
        sockets=tuple(map(_leak, _list(document["sockets"]))),
        stride=_count(document["stride"]),
    )


def _filter(document: Any) -> Filter:  # noqa: ANN401
    state, port, unit = (document[name] for name in ("state", "port", "unit"))
    return Filter(
        state=None if state is None else _STATES[state],
        port=None if port is None else _text(port),
        unit=None if unit is None else _text(unit),
        older_than=_number(document["older_than_seconds"]),
        limit=_count(document["limit"]),
    )


def _group(document: Any) -> Group:  # noqa: ANN401
    return Group(
        netns=_text(document["netns"]),
        service=ServiceKey(
            Direction(document["direction"]), _text(document["port"]), _text(document["unit"])
        ),
        state=_STATES[document["state"]],
        cause=Cause(document["cause"]),
        connections=_count(document["connections"]),
        oldest=_number(document["oldest_seconds"]),
        at_least=bool(document["at_least"]),
        shares=tuple(
            Share(_process(one), _count(one["connections"])) for one in _list(document["processes"])
        ),
    )


def _leak(document: Any) -> Leak:  # noqa: ANN401
    uid, local, remote = document["uid"], document["local"], document["remote"]
    return Leak(
        netns=_text(document["netns"]),
        state=_STATES[document["state"]],
        cause=Cause(document["cause"]),
        age=_number(document["age_seconds"]),
        at_least=bool(document["at_least"]),
        direction=Direction(document["direction"]),
        local=_text(local["address"]),
        local_port=_count(local["port"]),
        remote=_text(remote["address"]),
        remote_port=_count(remote["port"]),
        unit=_text(document["unit"]),
        uid=_count_or_none(uid),
        inode=_count(document["inode"]),
        processes=tuple(map(_process, _list(document["processes"]))),
        holders=_count_or_none(document["holders"]),
        multipath=document.get("protocol") == "mptcp",  # earlier versions told of TCP only
    )


def _process(document: Mapping[str, Any]) -> Process:
    return Process(
        _count(document["pid"]), _text(document["name"]), _number(document["started_seconds"])
    )


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r} is no number of something")
    return value


def _count_or_none(value: object) -> int | None:
    return None if value is None else _count(value)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        raise TypeError(f"{value!r} is no number of seconds")
    return float(value)
