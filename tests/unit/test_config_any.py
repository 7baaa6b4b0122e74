"""Whatever is given, the configuration loads or says what is wrong; nothing else happens."""

import math
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sockwatch.config import KEYS, SECTIONS, Config, ConfigError, load
from sockwatch.config.layers import from_file
from sockwatch.config.loading import build, checked
from sockwatch.config.problems import Problem
from sockwatch.config.tomlfile import TomlFile

LEAVES = sorted({key.leaf for key in KEYS.values()})
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.dates(),
    st.datetimes(),
    st.sampled_from(["1s", "all", "netlink", "/m", ":1", math.nan, "\ud800"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
TABLES = st.dictionaries(
    st.one_of(st.sampled_from(list(SECTIONS)), st.text(max_size=8)),
    st.one_of(st.dictionaries(st.one_of(st.sampled_from(LEAVES), st.text()), VALUES), VALUES),
)


@settings(deadline=None)
@given(TABLES)
def test_any_tables_are_valid_or_have_problems_of_one_line(tables: dict[str, Any]) -> None:
    problems: list[Problem] = []
    file = TomlFile("file", tables, {})
    config = build(checked(from_file(file), problems), file.name)
    assert all(str(problem).isprintable() for problem in problems)
    given = sum(len(table) if isinstance(table, dict) else 1 for table in tables.values())
    assert isinstance(config, Config)
    assert len(problems) <= given + len(tables)


def problems_with(flags: dict[str, str], environ: dict[str, str]) -> tuple[Problem, ...]:
    try:
        load(flags, environ, "")
    except ConfigError as error:
        return error.problems
    return ()


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([key.variable for key in KEYS.values()]), st.text()))
def test_any_environment_is_valid_or_a_configuration_error(environ: dict[str, str]) -> None:
    problems = problems_with({}, environ)
    assert all(str(problem).isprintable() for problem in problems)
    assert {problem.origin.name for problem in problems} <= set(environ)


@settings(deadline=None)
@given(st.text(alphabet=string.printable, max_size=60))
def test_any_file_is_valid_or_a_configuration_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, newline="")
    problems = problems_with({"config.file": str(path)}, {})
    assert {problem.origin.name for problem in problems} <= {str(path)}
