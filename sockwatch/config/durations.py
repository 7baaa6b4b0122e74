"""Durations as people write them: "500ms", "15s", "1h30m"; seconds inside the program."""

import re

# Like Prometheus: whole numbers, each unit at most once, the largest first. Whole milliseconds
# are exact, so what is shown is what was written.
MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
PATTERN = re.compile("".join(f"(?:([0-9]{{1,12}}){unit})?" for unit in MILLISECONDS))


def parse_duration(text: str) -> float:
    """Return the seconds that `text` stands for; ValueError if it is not a duration."""
    match = PATTERN.fullmatch(text)
    if not match or not text:
        raise ValueError(f'"{text}" is not a duration such as "500ms", "15s" or "1h30m"')
    counts = (int(count or 0) for count in match.groups())
    return sum(map(int.__mul__, counts, MILLISECONDS.values())) / 1000


def format_duration(seconds: float) -> str:
    """Write `seconds` (not negative) to the millisecond, as `parse_duration` reads it."""
    left = round(seconds * 1000)
    parts = []
    for unit, size in MILLISECONDS.items():
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
