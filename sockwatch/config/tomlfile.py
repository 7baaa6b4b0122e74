"""Reading a TOML file: its tables, the line of each key, and what can be wrong with it."""

import codecs
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sockwatch.config.problems import ConfigError, Layer, Origin, Problem

LARGEST_FILE = 64 * 1024
LONGEST_STATEMENT = 200  # lines that are looked at for the end of one value
DEEPEST = 2  # a section and a key

KeyPath = tuple[str, ...]


class TomlFile(NamedTuple):
    """What a file says, and on which lines its sections and keys stand."""

    name: str
    tables: Mapping[str, Any]
    lines: Mapping[KeyPath, int]

    def origin(self, *path: str) -> Origin:
        """Say where the section or key stands; without a line if that is not certain."""
        return Origin(Layer.FILE, self.name, self.lines.get(path))


def read(name: str) -> TomlFile:
    """Read the file `name`; FileNotFoundError if it is absent, else ConfigError."""
    text = read_text(name)
    return TomlFile(name, parse(name, text), dict(key_lines(text)))


def read_text(name: str) -> str:
    """Read the file `name` as UTF-8; FileNotFoundError if it is absent, else ConfigError."""
    try:
        with open(name, "rb", opener=at_once) as file:
            raw = file.read(LARGEST_FILE + 1)
            spent = not raw and stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise unusable(name, f"cannot be read: {getattr(error, 'strerror', error)}") from error
    if spent:  # which is no wish for defaults: a pipe gives once only what was written to it
        raise unusable(name, "is a pipe with nothing in it: give a file, which can be read again")
    if len(raw) > LARGEST_FILE:
        raise unusable(name, f"is larger than {LARGEST_FILE} bytes: not a configuration file")
    return decode(name, raw)


def at_once(name: str, flags: int) -> int:
    """Open a file as `open` does, but without waiting for somebody to write where it is a pipe."""
    descriptor = os.open(name, flags | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor


def unusable(name: str, what: str, line: int | None = None) -> ConfigError:
    """Return the error for a file that cannot be used as a whole."""
    return ConfigError([Problem(Origin(Layer.FILE, name, line), what)])


def decode(name: str, raw: bytes) -> str:
    """Return the text of a file, without the mark that some editors put at its beginning."""
    try:
        return raw.removeprefix(codecs.BOM_UTF8).decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        what = f"is not UTF-8: byte {error.object[error.start]:#04x}"
        raise unusable(name, what, line) from error


def parse(name: str, text: str) -> dict[str, Any]:
    """Return the tables of a file, or raise ConfigError with the line and what is wrong there."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
        what = str(error)[: where.start()] if where else str(error)
        column = f" (column {where[2]})" if where else ""
        line = int(where[1]) if where else None
        raise unusable(name, f"not valid TOML: {what}{column}", line) from error
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else "number too long"
        raise unusable(name, f"not valid TOML: {what}") from error


def statements(text: str) -> Iterator[tuple[int, list[str], dict[str, Any]]]:
    """Yield the first line's number, the lines and the meaning of each statement of valid TOML.

    A statement of TOML ends at the end of a line, and a parser that reads from left to right
    accepts no shorter piece of it. So the lines up to the first that parse by themselves are one
    statement, and no grammar of our own is needed to see through strings and arrays of many lines.
    """
    first = 1
    lines: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        lines.append(line)
        try:
            meaning = tomllib.loads("\n".join(lines))
        except (ValueError, RecursionError):
            if len(lines) > LONGEST_STATEMENT:
                return
            continue
        yield first, lines, meaning
        first, lines = number + 1, []


def key_lines(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Yield sections and keys of valid TOML with the line that first names them."""
    header: KeyPath = ()
    seen: set[KeyPath] = set()
    for number, lines, meaning in statements(text):
        if len(lines) > 1 and "{" in lines[0]:
            continue  # a table over several lines: its keys may stand on any of them
        paths = list(paths_in(meaning, ()))
        if lines[0].lstrip().startswith("["):
            header = paths[-1]
            named = [header[:1], header]
        else:
            named = [(header + path)[:DEEPEST] for path in paths]
        for path in named:
            if path not in seen:
                seen.add(path)
                yield path, number


def paths_in(table: Mapping[str, Any], above: KeyPath) -> Iterator[KeyPath]:
    """Yield the path of each table and value, down to a section's keys."""
    for name, value in table.items():
        yield (*above, name)
        if isinstance(value, dict) and len(above) + 1 < DEEPEST:
            yield from paths_in(value, (*above, name))
