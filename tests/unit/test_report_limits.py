"""Limits in the report: the nearest first, by what makes the kernel act."""

from dataclasses import replace
from typing import Final

import pytest
from kernel_figures import FIGURES, HOST_FIGURES, MIB, UNKNOWN, with_figures
from snapshots import namespace, of_namespaces, snapshot

from sockwatch.export.report.limits import limit_section
from sockwatch.export.report.page import Page, bar
from sockwatch.export.terminal import PLAIN, Style, size
from sockwatch.observe.figures import Figures
from sockwatch.observe.snapshot import Snapshot

RED, YELLOW = "\x1b[31m", "\x1b[33m"
NEARLY: Final = replace(FIGURES, host=replace(HOST_FIGURES, orphans=16_384))


def section(figures: Figures | None, *, width: int = 80, style: Style = PLAIN) -> str:
    taken = with_figures(snapshot(), figures)
    return limit_section(taken.namespaces[0], Page(style, width), "Limits, nearest first")


def names(figures: Figures) -> list[str]:
    rows = section(figures).splitlines()[2:]
    return [row.split()[0] for row in rows if row.endswith((".", "#"))]


def test_a_host_near_a_limit() -> None:
    assert (
        section(FIGURES) + "\n"
        == """\
Limits, nearest first
                     used    limit  full  acts from
  TIME_WAIT       117,965  131,072   90%       100%  ##################..
  orphans (host)    1,311   65,536    2%        25%  ....................
  memory (host)    39 MiB  1.4 GiB    3%        67%  #...................
  28,232 ephemeral ports; accept queues up to 4,096 (somaxconn); half-open ones
  without SYN cookies up to 1,024 (tcp_max_syn_backlog)
  3 sockets in no table (host): dead ones that their process has not closed, or
  only made or bound
"""
    )


def test_a_narrow_terminal_has_no_room_for_bars() -> None:
    rows = section(FIGURES, width=60).splitlines()
    assert rows[2] == "  TIME_WAIT       117,965  131,072   90%       100%  ######."
    wide = replace(FIGURES, time_wait=1 << 40, time_wait_limit=1 << 40)
    assert "#" not in section(wide, width=60)


def test_numbers_too_wide_for_a_terminal_take_the_room_of_what_matters_least() -> None:
    for bits, titles in ((31, ["used", "limit", "full"]), (44, ["used", "limit"])):
        wide = replace(FIGURES, time_wait=1 << bits, time_wait_limit=1 << bits)
        rows = section(wide, width=60).splitlines()
        assert rows[1].split() == titles
        assert max(map(len, rows)) <= 60


def test_a_quarter_of_the_orphans_is_nearer_than_nine_tenths_of_time_wait() -> None:
    """From there on the kernel resets orphans."""
    assert names(FIGURES) == ["TIME_WAIT", "orphans", "memory"]
    assert names(NEARLY) == ["orphans", "TIME_WAIT", "memory"]


@pytest.mark.parametrize(
    ("orphans", "colour"), [(8_191, ""), (8_192, YELLOW), (16_383, YELLOW), (16_384, RED)]
)
def test_a_usage_is_coloured_by_what_makes_the_kernel_act(orphans: int, colour: str) -> None:
    figures = replace(FIGURES, time_wait=0, host=replace(HOST_FIGURES, orphans=orphans))
    text = section(figures, style=Style(coloured=True))
    assert f"{colour}{orphans:,}" in text
    assert (RED in text, YELLOW in text) == (colour == RED, colour == YELLOW)


def test_a_usage_without_a_known_limit_is_told_without_a_share() -> None:
    """As in a container, where the sysctls of the host do not exist."""
    host = replace(HOST_FIGURES, orphan_limit=None, memory_limits={})
    rows = section(replace(FIGURES, host=host)).splitlines()
    assert rows[3].split() == ["orphans", "(host)", "1,311", "-", "-", "25%"]
    assert rows[4].split() == ["memory", "(host)", "39", "MiB", "-", "-", "-"]


def test_a_limit_of_zero_has_no_share() -> None:
    """tcp_max_tw_buckets = 0 is allowed: no TIME_WAIT at all."""
    rows = section(replace(FIGURES, time_wait=0, time_wait_limit=0)).splitlines()
    assert ["TIME_WAIT", "0", "0", "-", "100%"] in [row.split() for row in rows]


def test_a_usage_that_is_not_known_is_left_out() -> None:
    host = replace(HOST_FIGURES, orphans=None, hidden=None)
    text = section(replace(FIGURES, host=host, somaxconn=None))
    assert "orphans" not in text
    assert "somaxconn" not in text
    assert "in no table" not in text


@pytest.mark.parametrize("figures", [None, UNKNOWN])
def test_without_figures_there_is_no_section(figures: Figures | None) -> None:
    assert section(figures) == ""


def test_in_other_namespaces_the_host_is_not_told_again() -> None:
    taken: Snapshot = with_figures(
        of_namespaces(namespace(netns="blue")), replace(FIGURES, host=None)
    )
    text = limit_section(taken.namespaces[0], Page(), "Limits in netns blue")
    assert "(host)" not in text
    assert "TIME_WAIT" in text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 KiB"),
        (512, "0.5 KiB"),
        (4096, "4.0 KiB"),
        (266_240, "260 KiB"),
        (MIB, "1.0 MiB"),
        (39 * MIB, "39 MiB"),
        (2_358_460_416, "2.2 GiB"),
        (1 << 50, "1,024 TiB"),
    ],
)
def test_bytes_are_told_in_units_of_people(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("share", "drawn"),
    [(None, ""), (0.0, "...."), (0.1, "...."), (0.5, "##.."), (1.0, "####"), (7.0, "####")],
)
def test_a_bar_is_as_long_as_the_share(share: float | None, drawn: str) -> None:
    assert bar(share, 4) == drawn
