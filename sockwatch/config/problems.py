"""Where a value comes from, what is wrong with it, and how both are shown on one line."""

import json
import re
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

MOST_SHOWN = 60  # characters of a value or a key in a message


class Layer(IntEnum):
    """The places a value can come from; a later one wins."""

    DEFAULT = 0
    FILE = 1
    ENVIRONMENT = 2
    FLAG = 3


class Origin(NamedTuple):
    """Where a value comes from: the path, variable or flag, and the line of a file if known."""

    layer: Layer = Layer.DEFAULT
    name: str = "default"
    line: int | None = None

    def __str__(self) -> str:
        return on_one_line(self.name) + (f":{self.line}" if self.line else "")


class Problem(NamedTuple):
    """One thing that is wrong; `key` and `value`, as shown, are empty if it is not about one."""

    origin: Origin
    what: str
    key: str = ""
    value: str = ""

    def __str__(self) -> str:
        if not self.value:
            return f"{self.origin}: {self.what}"
        if self.origin.layer is Layer.FILE:
            return f"{self.origin}: {self.key} = {self.value}: {self.what}"
        return f"{self.origin} = {self.value}: {self.what}"  # such an origin names the key


class ConfigError(Exception):
    """The configuration is unusable; one line per problem."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def on_one_line(text: str) -> str:
    """Return `text` itself if it can be seen, else quoted and escaped."""
    return text if text and text.isprintable() else json.dumps(text)


def literal(value: object) -> str:
    """Write a value as TOML does, on one line; a table only as "{...}"."""
    match value:
        case str():
            return json.dumps(value, ensure_ascii=not value.isprintable())
        case bool():
            return str(value).lower()
        case int() if value.bit_length() > 64:  # noqa: PLR2004 - TOML has no larger integers
            return f"{value:#x}"  # str() refuses to write thousands of digits
        case list() | tuple():
            return f"[{', '.join('[...]' if is_list(item) else literal(item) for item in value)}]"
        case dict():
            return "{...}"
        case _:
            return str(value)


def is_list(value: object) -> bool:
    """Tell whether `value` is what TOML calls an array."""
    return isinstance(value, list | tuple)


def shown(value: object) -> str:
    """`literal`, cut to a length that a message can hold."""
    return cut(literal(value))


def shown_key(*path: str) -> str:
    """Write a dotted key, with quotes where TOML needs them."""
    bare = re.compile("[A-Za-z0-9_-]+")
    return cut(".".join(part if bare.fullmatch(part) else literal(part) for part in path))


def cut(text: str) -> str:
    """Shorten `text` to what a message can hold."""
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that was probably meant, if any."""
    folded = {known.casefold(): known for known in names}
    import difflib  # noqa: PLC0415  only for who misspelt something

    close = difflib.get_close_matches(name[:MOST_SHOWN].casefold(), folded, n=1)
    return folded[close[0]] if close else None
