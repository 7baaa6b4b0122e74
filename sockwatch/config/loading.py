"""Merging defaults, file, environment and flags into one Config, or saying all that is wrong."""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sockwatch.config import tomlfile
from sockwatch.config.layers import (
    Setting,
    chosen_file,
    from_environment,
    from_file,
    from_flags,
)
from sockwatch.config.problems import ConfigError, Layer, Origin, Problem, shown
from sockwatch.config.schema import KEYS, SECTIONS, Config, value_of
from sockwatch.config.tomlfile import TomlFile

DEFAULT_FILE = "/etc/sockwatch/sockwatch.toml"
NO_FILE = TomlFile("", {}, {})


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and, by dotted key, where each of its values comes from."""

    config: Config
    origins: Mapping[str, Origin]


def load(
    flags: argparse.Namespace | Mapping[str, Any],
    environ: Mapping[str, str],
    default_file: str = DEFAULT_FILE,
) -> Loaded:
    """Return what flags, environment, file and defaults make together; the first named wins.

    `flags` maps dotted keys and "config.file" to text, a list of texts or a bool, as `add_flags`
    makes argparse do; whatever else is in it is not looked at. Reads one file and nothing else, so
    a reload is another call. Raises ConfigError with every problem.
    """
    given = vars(flags) if isinstance(flags, argparse.Namespace) else flags
    problems: list[Problem] = []
    file = read_file(chosen_file(given, environ), default_file, problems)
    found = [*from_file(file), *from_environment(environ), *from_flags(given)]
    config = build(checked(found, problems), file.name)
    set_by = {each.key.name: each.origin for each in found if isinstance(each, Setting)}
    loaded = Loaded(config, MappingProxyType(dict.fromkeys(KEYS, Origin()) | set_by))
    if not problems:  # otherwise what would make the values fit may be among the refused ones
        problems += misfits(loaded)
    if problems:
        raise ConfigError(problems)
    return loaded


def read_file(asked: str | None, default: str, problems: list[Problem]) -> TomlFile:
    """Read the file that was asked for, or the default one, which may be absent."""
    name = default if asked is None else asked
    try:
        return tomlfile.read(name)
    except FileNotFoundError:
        if asked is not None:
            problems.append(Problem(Origin(Layer.FILE, name), "there is no such file"))
    except ConfigError as error:
        problems += error.problems
    return NO_FILE


def checked(found: Iterable[Setting | Problem], problems: list[Problem]) -> dict[str, Any]:
    """Return the last value given for each key; what is not valid joins the `problems`."""
    values = {}
    for each in found:
        if isinstance(each, Problem):
            problems.append(each)
            continue
        key, value, origin = each
        try:
            values[key.name] = key.kind.parse(value)
        except ValueError as error:
            problems.append(Problem(origin, str(error), key.name, shown(value)))
    return values


def build(values: Mapping[str, Any], file: str) -> Config:
    """Put values by dotted key over the defaults."""
    default = Config()
    sections: dict[str, Any] = {
        section: type(getattr(default, section))(
            **{leaf: values[key.name] for leaf, key in keys.items() if key.name in values}
        )
        for section, keys in SECTIONS.items()
    }
    return Config(**sections, config_file=file)


def misfits(loaded: Loaded) -> list[Problem]:
    """Find values that are valid each by itself but not together; the one set later is blamed."""
    config, origins = loaded.config, loaded.origins
    if config.census.interval >= config.watch.interval:
        return []
    census, watch = KEYS["census.interval"], KEYS["watch.interval"]
    if origins[watch.name].layer > origins[census.name].layer:
        blamed, other, rule = watch, census, "must not be above"
    else:
        blamed, other, rule = census, watch, "must not be below"
    value, limit = (shown(value_of(config, key)) for key in (blamed, other))
    what = f"{rule} {other.name}, {limit} ({origins[other.name]})"
    return [Problem(origins[blamed.name], what, blamed.name, value)]
