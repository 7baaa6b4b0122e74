"""Durations are exact, and only what cannot be misread is accepted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sockwatch.config import format_duration, parse_duration

MILLISECONDS = st.integers(min_value=0, max_value=10**15)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("15s", 15),
        ("5m", 300),
        ("1h30m", 5400),
        ("1d", 86400),
        ("1d2h3m4s5ms", 93784.005),
        ("90s", 90),
        ("0s", 0),
        ("007s", 7),
    ],
)
def test_a_duration_is_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "5", "s", "1.5s", "-1s", "+1s", "1s ", " 1s", "1 s", "1s1s", "1s1m", "1M", "1min",
     "1w", "1us", "٣s", "1s\n", "1_0s", "1e3s", "nan", "infs", "9999999999999s"],
)  # fmt: skip
def test_what_is_not_plainly_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.5, "500ms"), (60, "1m"), (90, "1m30s"), (1.001, "1s1ms"), (86400, "1d")],
)
def test_seconds_are_written_with_the_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@settings(deadline=None)
@given(MILLISECONDS)
def test_what_is_written_is_read_as_the_same_number(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == seconds


@settings(deadline=None)
@given(st.from_regex(r"\A([0-9]{1,3}d)?([0-9]{1,3}h)?([0-9]{1,3}m)?([0-9]{1,3}s)?\Z"))
def test_writing_a_duration_that_was_read_keeps_its_length(text: str) -> None:
    seconds = parse_duration(text or "0s")
    assert parse_duration(format_duration(seconds)) == seconds


@settings(deadline=None)
@given(st.text(alphabet="0123456789dhms. -+e"))
def test_any_text_is_a_duration_that_is_not_negative_or_is_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert seconds >= 0
    assert text[0].isdigit()
    assert text[-1] in "dhms"
