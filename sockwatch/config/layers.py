"""What the file, the environment and the flags set: values by key, not yet checked."""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from sockwatch.config.problems import Layer, Origin, Problem, nearest, shown, shown_key
from sockwatch.config.schema import KEYS, SECTIONS, Key
from sockwatch.config.tomlfile import TomlFile

FILE_KEY = "config.file"
PREFIX = "SOCKWATCH_"
FILE_VARIABLE = "SOCKWATCH_CONFIG_FILE"
VARIABLES: Mapping[str, Key] = MappingProxyType({key.variable: key for key in KEYS.values()})
# Kubernetes describes the services of a namespace to its pods in variables such as these; one that
# is named sockwatch must not keep sockwatch from starting.
SERVICE_LINK = re.compile(
    r"SOCKWATCH_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT\w*|PORT_[0-9]+_(?:TCP|UDP|SCTP)\w*)=.*"
    r"|SOCKWATCH_(?:\w+_)?PORT=(?:tcp|udp|sctp)://.*",
    re.ASCII | re.DOTALL,
)


class Setting(NamedTuple):
    """A value that was given for a key, as TOML gives it, and where."""

    key: Key
    value: object
    origin: Origin


def chosen_file(flags: Mapping[str, Any], environ: Mapping[str, str]) -> str | None:
    """Return the file that was asked for, if any."""
    flag: str | None = flags.get(FILE_KEY)
    return environ.get(FILE_VARIABLE) if flag is None else flag


def from_file(file: TomlFile) -> Iterator[Setting | Problem]:
    """Yield what a file sets, and a problem for each section or key that does not exist."""
    for section, table in file.tables.items():
        if section not in SECTIONS:
            yield unknown_section(file, section, table)
        elif isinstance(table, dict):
            yield from from_section(file, section, table)
        else:
            what = f"must be a section, written [{section}]"
            yield Problem(file.origin(section), what, section, shown(table))


def from_section(
    file: TomlFile, section: str, table: Mapping[str, object]
) -> Iterator[Setting | Problem]:
    """Yield what one section of a file sets."""
    for leaf, value in table.items():
        origin = file.origin(section, leaf)
        if key := SECTIONS[section].get(leaf):
            yield Setting(key, value, origin)
        else:
            name = shown_key(section, leaf)
            yield Problem(origin, f"unknown key {name}; {meant_instead(section, leaf)}", name)


def unknown_section(file: TomlFile, name: str, value: object) -> Problem:
    """Describe a section that does not exist, or a key that stands outside of all sections."""
    key = shown_key(name)
    if not isinstance(value, dict):
        what = f"key {key} outside of all sections; {meant_instead('', name)}"
    elif meant := nearest(name, SECTIONS):
        what = f"unknown section [{key}]; did you mean [{meant}]?"
    else:
        what = f"unknown section [{key}]; possible: {', '.join(SECTIONS)}"
    return Problem(file.origin(name), what, key)


def meant_instead(section: str, leaf: str) -> str:
    """Say which key was meant: one of this section, one of another, or any of this section."""
    here = SECTIONS.get(section, {})
    if near := nearest(leaf, here):
        return f"did you mean {section}.{near}?"
    anywhere = nearest(leaf, [key.leaf for key in KEYS.values()])
    if names := [key.name for key in KEYS.values() if key.leaf == anywhere]:
        return f"did you mean {' or '.join(names)}?"
    names = [key.name for key in here.values()] or [f"[{name}]" for name in SECTIONS]
    return f"possible: {', '.join(names)}"


def from_environment(environ: Mapping[str, str]) -> Iterator[Setting | Problem]:
    """Yield what the environment sets, and a problem for each variable that looks like ours."""
    for name, text in sorted(environ.items()):
        origin = Origin(Layer.ENVIRONMENT, name)
        if key := VARIABLES.get(name):
            yield Setting(key, key.kind.from_text(text), origin)
        elif is_meant_for_us(name, text):
            known = (variable.removeprefix(PREFIX) for variable in (*VARIABLES, FILE_VARIABLE))
            meant = nearest(name.removeprefix(PREFIX), known)
            hint = f"; did you mean {PREFIX}{meant}?" if meant else ""
            yield Problem(origin, f"unknown environment variable{hint}")


def is_meant_for_us(name: str, text: str) -> bool:
    """Tell whether somebody set a variable for sockwatch to read."""
    ours = name.startswith(PREFIX) and name != FILE_VARIABLE
    return ours and not SERVICE_LINK.fullmatch(f"{name}={text}")


def from_flags(flags: Mapping[str, Any]) -> Iterator[Setting]:
    """Yield what the command line sets; a flag given several times is a list."""
    for key in KEYS.values():
        value = flags.get(key.name)
        if value is None:
            continue
        text = ",".join(value) if isinstance(value, list) else value
        read = key.kind.from_text(text) if isinstance(text, str) else text
        yield Setting(key, read, Origin(Layer.FLAG, key.flags[0]))
