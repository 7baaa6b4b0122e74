"""Reading a YAML file strictly: every key is known and given once, every value is of its kind.

It works on YAML's nodes, not on objects made of them: nodes know their lines, keep the text of what
looks like a number, and show a key that is given twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Union

import yaml

from sockwatch.config import ConfigError, Layer, Origin, Problem
from sockwatch.config.problems import nearest, shown, shown_key
from sockwatch.config.tomlfile import read_text, unusable

KeyPath = tuple[str, ...]

NULL: Final = "tag:yaml.org,2002:null"
NOT_KEYS: Final = "must be keys with values, written `key: value`"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value.

    Args:
        parse: makes a node's value, or raises ValueError with the rule that was broken.
        secret: whether messages must not show the value.
    """

    parse: Callable[[yaml.Node], Any]
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Names:
    """Any keys, within a rule.

    Args:
        check: raises ValueError with the rule that a name breaks.
        kind: of every value.
    """

    check: Callable[[str], None]
    kind: Kind


Schema = Mapping[str, Union[Kind, Names, "Schema"]]


@dataclass(slots=True)
class Document:
    """What a file says: values by key, sections as mappings; and what is wrong with it."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, path: KeyPath, what: str, value: str = "") -> None:
        """Note what is wrong with a key, or with the file if the path is empty."""
        key = shown_key(*path)
        self._note(path, what if value or not path else f"{key}: {what}", key, value)

    def unknown(self, path: KeyPath, hint: str) -> None:
        """Note a key that does not exist."""
        key = shown_key(*path)
        self._note(path, f"unknown key {key}; {hint}", key)

    def _note(self, path: KeyPath, what: str, key: str, value: str = "") -> None:
        origin = Origin(Layer.FILE, self.name, self.lines.get(path))
        self.problems.append(Problem(origin, what, key, value))


def read(name: str, schema: Schema) -> Document:
    """Read a file; the problems of its keys are in the document.

    Raises:
        ConfigError: the file cannot be read, or is no YAML.
    """
    document = Document(name)
    root = _compose(name)
    if root is not None:
        document.values = _Walk(document, schema).section((), root, schema)
    return document


def scalar(node: yaml.Node, rule: str) -> str:
    """The text of a value that is no list and no mapping; nothing at all is an empty text."""
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError(rule)  # noqa: TRY004  a rule, for a person
    return "" if node.tag == NULL else str(node.value)


def _compose(name: str) -> yaml.Node | None:
    try:
        root: yaml.Node | None = yaml.compose(read_text(name), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise unusable(name, "there is no such file") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise _no_yaml(name, error) from error
    return root


def _no_yaml(name: str, error: Exception) -> ConfigError:
    """Say why, but quote nothing: it may be a secret."""
    what, line = "it has characters that YAML does not allow", None
    if isinstance(error, RecursionError):
        what = "nested too deeply"
    elif isinstance(error, yaml.MarkedYAMLError):
        what = error.problem or "cannot be understood"
        line = error.problem_mark.line + 1 if error.problem_mark else None
    return unusable(name, f"not valid YAML: {what}", line)


class _Walk:
    """Goes through the nodes of a file and its schema side by side."""

    def __init__(self, document: Document, schema: Schema) -> None:
        self._document = document
        self._known = dict(_leaves(schema, ()))

    def section(self, path: KeyPath, node: yaml.Node, schema: Schema | Names) -> dict[str, Any]:
        """The values of a mapping; what is not valid is left out."""
        found: dict[str, Any] = {}
        if node.tag == NULL:
            return found
        if not isinstance(node, yaml.MappingNode):
            self._document.wrong(path, NOT_KEYS)
            return found
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            here = (*path, name)
            twice = here in self._document.lines
            self._document.lines[here] = key.start_mark.line + 1
            if twice:
                self._document.wrong(here, "is given twice")
                continue
            if not isinstance(schema, Names) and name not in schema:
                self._document.unknown(here, self._meant(here, schema))
                continue
            try:
                found[name] = self._value(here, value, schema)
            except ValueError as error:
                self._document.wrong(here, str(error), _shown(value, schema, name))
        return found

    def _value(self, path: KeyPath, node: yaml.Node, schema: Schema | Names) -> object:
        if isinstance(schema, Names):
            schema.check(path[-1])
            return schema.kind.parse(node)
        kind = schema[path[-1]]
        return kind.parse(node) if isinstance(kind, Kind) else self.section(path, node, kind)

    def _meant(self, path: KeyPath, here: Schema) -> str:
        """Which key was meant: one of this section, one of another, or any of this section."""
        above, name = path[:-1], path[-1]
        if near := nearest(name, here):
            return f"did you mean {shown_key(*above, near)}?"
        if name in self._known:
            return f"did you mean {shown_key(*self._known[name])}?"
        return f"possible: {', '.join(here)}"


def _leaves(schema: Schema, above: KeyPath) -> Iterator[tuple[str, KeyPath]]:
    """Every key of every section, with its path."""
    for name, kind in schema.items():
        yield name, (*above, name)
        if isinstance(kind, Mapping):
            yield from _leaves(kind, (*above, name))


def _shown(node: yaml.Node, schema: Schema | Names, name: str) -> str:
    """A value for a message; nothing if it is secret, or is more than one."""
    kind = schema.kind if isinstance(schema, Names) else schema[name]
    secret = not isinstance(kind, Kind) or kind.secret
    return "" if secret or not isinstance(node, yaml.ScalarNode) else shown(node.value)
