"""Columns line up whatever is in them, and nothing in them steers the terminal."""

import fcntl
import io
import os
import pty
import struct
import termios
from collections.abc import Iterator
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockwatch.export.terminal import (
    PLAIN,
    Cell,
    Style,
    display_width,
    duration,
    heading,
    paragraph,
    printable,
    table,
    width_of,
    wrap,
)

COLOURED = Style(coloured=True)
RED = "\x1b[31m"
END = "\x1b[0m"


@pytest.fixture
def terminal() -> Iterator[TextIO]:
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as stream:  # noqa: PTH123
        yield stream
    os.close(ours)


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [
        ({}, True),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "0"}, False),
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
    ],
)
def test_a_terminal_gets_colour_unless_it_is_refused(
    terminal: TextIO, environ: dict[str, str], coloured: bool
) -> None:
    assert Style.of(terminal, environ).coloured is coloured


def test_a_file_or_pipe_gets_no_colour() -> None:
    assert Style.of(io.StringIO(), {}) == PLAIN


@pytest.mark.parametrize("name", ["bold", "dim", "red", "yellow", "green"])
def test_a_style_marks_text_and_nothing_else(name: str) -> None:
    marked = getattr(COLOURED, name)("text")
    assert marked.startswith("\x1b[")
    assert marked.endswith(f"mtext{END}")
    assert getattr(COLOURED, name)("") == ""
    assert getattr(PLAIN, name)("text") == "text"


def test_styles_differ() -> None:
    marks = {mark("x") for mark in (COLOURED.bold, COLOURED.dim, COLOURED.red, COLOURED.green)}
    assert len(marks) == 4


@pytest.mark.parametrize(
    ("columns", "expected"), [("120", 120), ("3", 40), ("", 80), ("wide", 80), ("-5", 80)]
)
def test_the_width_asked_for_is_taken_and_80_assumed(columns: str, expected: int) -> None:
    assert width_of(io.StringIO(), {"COLUMNS": columns}) == expected


@pytest.mark.parametrize(("columns", "expected"), [(132, 132), (20, 40), (0, 80)])
def test_the_width_of_the_terminal_is_used(terminal: TextIO, columns: int, expected: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    assert width_of(terminal, {}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nginx.service", "nginx.service"),
        ("grün-日本", "grün-日本"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("two\nlines\tand\rmore", r"two\nlines\tand\rmore"),
        ("right\u202eleft", r"right\u202eleft"),
        ("c1\x9b31m", r"c1\x9b31m"),
        ("\udcff", r"\udcff"),
        (r"a\x2db.service", r"a\x2db.service"),
    ],
)
def test_what_steers_a_terminal_is_escaped_and_the_rest_kept(text: str, expected: str) -> None:
    assert printable(text) == expected


@given(st.text())
def test_any_text_becomes_one_printable_line(text: str) -> None:
    safe = printable(text)
    assert safe.isprintable()
    assert printable(safe) == safe
    safe.encode()


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("", 0),
        ("abc", 3),
        ("日本", 4),
        ("e\N{COMBINING ACUTE ACCENT}", 1),
        ("é", 1),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER A}", 2),
    ],
)
def test_width_is_counted_in_columns(text: str, columns: int) -> None:
    assert display_width(text) == columns


def test_columns_line_up() -> None:
    rows = [("STATE", "COUNT"), ("close_wait", "7"), ("日本", "12345")]
    assert table(rows, right={1}).splitlines() == [
        "STATE       COUNT",
        "close_wait      7",
        "日本        12345",
    ]


def test_lines_have_no_blanks_at_their_end() -> None:
    text = table([("a", "long cell"), ("b", ""), ("c",)], indent="  ")
    assert text.splitlines() == ["  a  long cell", "  b", "  c"]


def test_no_rows_are_no_text() -> None:
    assert table([], width=80) == ""


def test_a_style_does_not_move_columns() -> None:
    row: list[str | Cell] = [Cell("x", COLOURED.red), "y"]
    coloured = table([heading(COLOURED, "A", "B"), row, ["long", "z"]])
    assert f"{RED}x{END}     y" in coloured
    plain = table([["A", "B"], ["x", "y"], ["long", "z"]])
    assert coloured.replace(RED, "").replace("\x1b[1m", "").replace(END, "") == plain


def test_a_hostile_name_stays_in_its_cell_and_keeps_its_style() -> None:
    text = table([[Cell("\x1b[2J\nroot", COLOURED.red), "next"]])
    assert text == rf"{RED}\x1b[2J\nroot{END}  next"


def test_the_last_column_takes_what_the_width_leaves() -> None:
    text = table([("name", "one two three four five")], width=20)
    assert text.splitlines() == ["name  one two three", "      four five"]


def test_a_column_is_no_wider_than_it_may_be() -> None:
    rows = [("a", "the peer's ACK (or room)", "63 s"), ("b", "clients", "-")]
    assert table(rows, most={1: 14}).splitlines() == [
        "a  the peer's ACK  63 s",
        "   (or room)",
        "b  clients         -",
    ]


def test_every_line_of_a_wrapped_cell_is_styled_by_itself() -> None:
    lines = table([[Cell("red words", COLOURED.red)]], most={0: 5}).splitlines()
    assert lines == [f"{RED}red{END}", f"{RED}words{END}"]


@given(
    st.lists(st.lists(st.text(max_size=12), min_size=1, max_size=4), max_size=5),
    st.integers(min_value=0, max_value=60),
)
def test_any_cells_make_printable_lines_of_the_right_number(
    rows: list[list[str]], width: int
) -> None:
    lines = table(rows, width=width).split("\n")
    assert len(lines) >= len(rows)
    assert all(line.isprintable() for line in lines)


@given(st.lists(st.text(st.sampled_from("ab日 "), max_size=9), min_size=2, max_size=2))
def test_the_second_column_starts_where_the_longest_first_cell_ends(cells: list[str]) -> None:
    lines = table([[cell, "|"] for cell in cells]).split("\n")
    assert {display_width(line) for line in lines} == {max(map(display_width, cells)) + 3}


def test_words_are_kept_whole() -> None:
    assert wrap("one two  three", 7) == ["one two", "three"]
    assert wrap("immeasurable it is", 5) == ["immeasurable", "it is"]
    assert wrap("", 5) == [""]


@given(st.text(), st.integers(min_value=1, max_value=30))
def test_wrapping_loses_no_word(text: str, width: int) -> None:
    words = " ".join(wrap(text, width)).split()
    assert words == [printable(word) for word in text.split()]


def test_a_paragraph_is_indented_within_its_width() -> None:
    assert paragraph("one two three", 9, indent="  ") == "  one two\n  three"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.6, "0.6 s"),
        (9.99, "9 s"),
        (131, "131 s"),
        (924.6, "924 s"),
        (1000, "16 min 40 s"),
        (7875, "2 h 11 min"),
        (86_400, "1 d 0 h"),
        (400_000, "4 d 15 h"),
    ],
)
def test_a_duration_reads_as_people_say_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text
