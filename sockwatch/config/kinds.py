"""The kinds of values a key can have: how each is written, checked and shown.

A kind's `parse` takes what TOML gives and raises ValueError with the rule that was broken. Text
from flags and the environment goes through `from_text` first, which turns what it understands into
what TOML would have given and leaves the rest for `parse` to refuse: there is one rule per kind.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeVar

from sockwatch.config.addresses import Address, parse_address
from sockwatch.config.durations import format_duration, parse_duration
from sockwatch.config.problems import literal, nearest, shown

T = TypeVar("T")

NUMBER = re.compile(r"[+-]?[0-9]{1,15}(?:\.[0-9]{1,15})?")
URL_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+/?")
RESERVED_PATHS = ("/", "/api", "/-/healthy", "/-/ready")
LONGEST_FILE_NAME = 255  # NAME_MAX, linux/limits.h


class Form(Enum):
    """How a kind is given as a flag: once, several times, or as --flag and --no-flag."""

    ONE = auto()
    MANY = auto()
    SWITCH = auto()


def itself(value: object) -> object:
    """Return `value`: for kinds that are written as they are."""
    return value


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One kind of value; see the module for what the functions do."""

    parse: Callable[[object], T]
    metavar: str
    form: Form = Form.ONE
    from_text: Callable[[str], object] = itself
    to_toml: Callable[[T], object] = itself


def duration(lowest: str, highest: str) -> Kind[float]:
    """Seconds, written as a duration."""
    low, high = parse_duration(lowest), parse_duration(highest)
    rule = f'must be a duration from {lowest} to {highest}, such as "500ms", "15s" or "1h30m"'

    def parse(value: object) -> float:
        try:
            seconds = parse_duration(value) if isinstance(value, str) else -1
        except ValueError:
            raise ValueError(rule) from None
        if not low <= seconds <= high:
            raise ValueError(rule)
        return seconds

    return Kind(parse, "DURATION", to_toml=format_duration)


def number_of(text: str) -> object:
    """Return the number that `text` is in TOML's plain notation, or `text`."""
    if not NUMBER.fullmatch(text):
        return text
    return float(text) if "." in text else int(text)


def whole(lowest: int, highest: int) -> Kind[int]:
    """A whole number."""

    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise ValueError(f"must be a whole number from {lowest} to {highest}")
        return value

    return Kind(parse, "NUMBER", from_text=number_of)


def share() -> Kind[float]:
    """A part of one."""

    def parse(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            raise ValueError("must be a number from 0 to 1")  # nan, too, is in no range
        return float(value)

    return Kind(parse, "NUMBER", from_text=number_of)


def switch() -> Kind[bool]:
    """On or off."""

    def parse(value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")  # noqa: TRY004 - a rule, for a person
        return value

    words: dict[str, object] = {"true": True, "false": False}
    return Kind(parse, "", Form.SWITCH, from_text=lambda text: words.get(text, text))


def choice(*names: str) -> Kind[str]:
    """One of a few words."""
    *most, last = map(literal, names)
    rule = f"must be {', '.join(most)} or {last}"

    def parse(value: object) -> str:
        if isinstance(value, str) and value in names:
            return value
        meant = nearest(value, names) if isinstance(value, str) else None
        raise ValueError(rule + (f'; did you mean "{meant}"?' if meant else ""))

    return Kind(parse, "|".join(names))


def file_name() -> Kind[str]:
    """A path in the file system, or nothing."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or "\0" in value:
            raise ValueError('must be the path of a file, or "" for none')
        return value

    return Kind(parse, "FILE")


def url_path() -> Kind[str]:
    """A path of the HTTP server that is free to choose."""
    taken = f"must not be or lie below what serves something else: {', '.join(RESERVED_PATHS)}"

    def parse(value: object) -> str:
        if not isinstance(value, str) or not value.startswith("/"):
            raise ValueError('must be a path that starts with "/", such as "/metrics"')
        if value in RESERVED_PATHS or value.startswith(("/api/", "/-/")):
            raise ValueError(taken)
        if not URL_PATH.fullmatch(value) or {".", ".."} & set(value.split("/")):
            raise ValueError('must be a plain path without query or escapes, such as "/metrics"')
        return value

    return Kind(parse, "PATH")


def addresses() -> Kind[tuple[Address, ...]]:
    """Where to listen: at least one address."""

    def parse(value: object) -> tuple[Address, ...]:
        texts = strings(value, 'must be a list of addresses, such as ["127.0.0.1:10077"]')
        if not texts:
            raise ValueError("must have at least one address")
        return distinct(map(parse_address, texts))

    return Kind(parse, "ADDRESS", Form.MANY, from_text=split, to_toml=as_strings)


def namespaces() -> Kind[tuple[str, ...]]:
    """Network namespaces by their names below /run/netns."""

    def parse(value: object) -> tuple[str, ...]:
        names = strings(value, 'must be a list of names, or ["all"]')
        for name in names:
            if "/" in name or "\0" in name or name in {"", ".", ".."} or too_long(name):
                raise ValueError(f"{shown(name)} cannot be the name of a network namespace")
        if "all" in names and len(names) > 1:
            raise ValueError('must be ["all"] alone, or names without "all"')
        return distinct(names)

    return Kind(parse, "NAME", Form.MANY, from_text=split, to_toml=as_strings)


def too_long(name: str) -> bool:
    """Tell whether the kernel would refuse `name` for a file, whatever is in it."""
    return len(name.encode(errors="surrogateescape")) > LONGEST_FILE_NAME


def split(text: str) -> list[str]:
    """Split at commas; nothing gives an empty list."""
    return [part.strip() for part in text.split(",")] if text.strip() else []


def as_strings(values: Sequence[object]) -> list[str]:
    """Write each of a list as text."""
    return list(map(str, values))


def strings(value: object, rule: str) -> list[str]:
    """Return `value` if it is a list of strings, or raise ValueError with the `rule`."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(rule)
    return value


def distinct(values: Iterable[T]) -> tuple[T, ...]:
    """Return the values, or raise ValueError for the first that is there twice."""
    seen: dict[T, None] = {}
    for value in values:
        if value in seen:
            raise ValueError(f"{shown(str(value))} is listed twice")
        seen[value] = None
    return tuple(seen)
