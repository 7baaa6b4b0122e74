"""The line that is named for a key is the one it stands on, or none is named."""

import os
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sockwatch.config import ConfigError
from sockwatch.config.problems import literal
from sockwatch.config.tomlfile import LARGEST_FILE, key_lines, read


def lines(text: str) -> dict[str, int]:
    return {".".join(path): line for path, line in key_lines(text)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", {}, id="nothing"),
        pytest.param("# [a]\n# b = 1\n", {}, id="comments"),
        pytest.param("[a]\nb = 1\nc = 2", {"a": 1, "a.b": 2, "a.c": 3}, id="section"),
        pytest.param("\n\n[a]\n\n# x\n  b = 1 # y", {"a": 3, "a.b": 6}, id="blank-lines"),
        pytest.param("a.b = 1\na.c = 2", {"a": 1, "a.b": 1, "a.c": 2}, id="dotted"),
        pytest.param("a = {b = 1, c = 2}", {"a": 1, "a.b": 1, "a.c": 1}, id="inline-table"),
        pytest.param("""['a']\n"b" = 1""", {"a": 1, "a.b": 2}, id="quoted"),
        pytest.param('[a]\n"b.c" = 1', {"a": 1, "a.b.c": 2}, id="dot-inside-a-quoted-key"),
        pytest.param("[[a]]\nb = 1", {"a": 1, "a.b": 2}, id="array-of-tables"),
        pytest.param("[a.b.c]\nd = 1", {"a": 1, "a.b": 1}, id="no-deeper-than-keys"),
        pytest.param("[a.x]\n[a]\nb = 1", {"a": 1, "a.x": 1, "a.b": 3}, id="subsection-first"),
        pytest.param(
            '[a]\nb = [\n  "x", # ]\n  "[c]",\n]\nc = 1', {"a": 1, "a.b": 2, "a.c": 6}, id="array"
        ),
        pytest.param(
            '[a]\nb = """\nc = 1\n[d]\n"""\nc = 1', {"a": 1, "a.b": 2, "a.c": 6}, id="long-string"
        ),
        pytest.param(
            "[a]\nb = '''\nc = 1\\\n'''\nc = 1", {"a": 1, "a.b": 2, "a.c": 5}, id="raw-string"
        ),
        pytest.param("a = {b = [\n1], c = 2}\nd = 1", {"d": 3}, id="uncertain-is-left-out"),
        pytest.param(
            "[a]\nb = [\n" + "1,\n" * 300 + "]\nc = 1", {"a": 1}, id="too-long-is-left-out"
        ),
    ],
)
def test_each_key_is_found_on_its_line(text: str, expected: dict[str, int]) -> None:
    assert lines(text) == expected


NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=4)
SCALARS = st.one_of(
    st.integers(-9, 9),
    st.booleans(),
    st.text("ab[]{}=#.'\"\\ ", max_size=8),
    st.text(string.ascii_letters + " =[]#\n", max_size=12),
)
LAYOUTS = st.sampled_from(
    ["{}", "{} # a = 1", "[\n  {},\n]", "[ # {{\n{}\n]", '["""\n[x]\ny = 1""", {}]']
)
DOCUMENTS = st.dictionaries(
    NAMES, st.dictionaries(NAMES, st.tuples(LAYOUTS, SCALARS), max_size=4), max_size=4
)


def written(document: dict[str, dict[str, tuple[str, Any]]]) -> Iterator[str]:
    for section, keys in document.items():
        yield f"[{section}]"
        for name, (layout, value) in keys.items():
            yield f"{name} = {layout.format(literal(value))}"
        yield ""


@settings(deadline=None)
@given(DOCUMENTS)
def test_a_line_that_is_named_begins_with_the_key(
    document: dict[str, dict[str, tuple[str, Any]]],
) -> None:
    text = "\n".join(written(document))
    found = dict(key_lines(text))
    for path, line in found.items():
        start = text.split("\n")[line - 1]
        assert start.startswith(f"{path[1]} =" if path[1:] else f"[{path[0]}]")
    certain = {
        (section, name)
        for section, keys in document.items()
        for name, (layout, value) in keys.items()
        if "{" not in layout.format(literal(value)).split("\n")[0]
    }
    assert certain <= set(found)


def test_a_byte_order_mark_and_carriage_returns_are_read_over(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes(b'\xef\xbb\xbf[watch]\r\ninterval = "2s"\r\n')
    file = read(str(path))
    assert file.tables == {"watch": {"interval": "2s"}}
    assert file.lines == {("watch",): 1, ("watch", "interval"): 2}


TWO_STATEMENTS = "Expected newline or end of document after a statement"


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"a = 1 b = 2\n", f":1: not valid TOML: {TWO_STATEMENTS} (column 7)"),
        (b"a = 1\n\nb = ?\n", ":3: not valid TOML: Invalid value (column 5)"),
        (b'a = "b', ": not valid TOML: Unterminated string (at end of document)"),
        (b"[watch]\n[watch]\n", ":2: not valid TOML: Cannot declare ('watch',) twice (column 7)"),
        (b'[watch]\ninterval = "\xff"\n', ":2: is not UTF-8: byte 0xff"),
        (b"\xef\xbb\xbf\n\n\xc3(", ":3: is not UTF-8: byte 0xc3"),
        (b"a = " + b"[" * 9999, ": not valid TOML: nested too deeply"),
        (b"a = " + b"1" * 9999, ": not valid TOML: number too long"),
        (b"#" * (LARGEST_FILE + 1), ": is larger than 65536 bytes: not a configuration file"),
    ],
    ids=["statements", "value", "string", "twice", "bytes", "bytes-after-mark", "deep", "number",
         "large"],
)  # fmt: skip
def test_a_file_that_is_not_toml_is_refused_with_its_line(
    tmp_path: Path, raw: bytes, problem: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        read(str(path))
    assert str(caught.value) == f"{path}{problem}"


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(str(tmp_path))
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_a_pipe_gives_once_what_is_in_it() -> None:
    """As the shell makes one of `<(...)`: a reload must neither wait for it nor read defaults."""
    receiver, sender = os.pipe()
    name = f"/dev/fd/{receiver}"
    os.write(sender, b"[watch]\ninterval = '2s'\n")
    os.close(sender)
    try:
        assert read(name).tables == {"watch": {"interval": "2s"}}
        with pytest.raises(ConfigError, match=f"{name}: is a pipe with nothing in it: give a file"):
            read(name)
    finally:
        os.close(receiver)


def test_a_named_pipe_without_writer_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="is a pipe with nothing in it"):
        read(str(pipe))


def test_a_device_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigError, match="is larger than"):
        read("/dev/zero")


def test_a_name_that_no_file_can_have_is_shown_on_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        read("a\0\nb")
    assert str(caught.value) == r'"a\u0000\nb": cannot be read: embedded null byte'
