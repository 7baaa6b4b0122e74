"""Listeners and destinations in the report: what is near its limit first, with bars."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from kernel_figures import FIGURES
from snapshots import listener, namespace

from sockwatch.export.findings import Finding, Kind
from sockwatch.export.names import endpoint
from sockwatch.export.report.destinations import destination_section
from sockwatch.export.report.limits import limit_section
from sockwatch.export.report.listeners import listener_section
from sockwatch.export.report.page import Page
from sockwatch.export.terminal import PLAIN, Style
from sockwatch.observe.snapshot import Destinations, DestinationUse, Listener

RED: Final = "\x1b[31m"
SLOW: Final = replace(listener(8080, "app.service", queue=9, limit=8), drops=11, half_open=3)
BURST: Final = replace(listener(9000, "api.service", queue=1, limit=128), peak=5)
FLOODED: Final = replace(
    listener(443, "web.service", limit=128), half_open=140, half_open_resent=139, drops=44_100
)
QUIET: Final = listener(22, "ssh.service")


def listeners(
    *some: Listener, width: int = 80, style: Style = PLAIN, suspect: Finding | None = None
) -> str:
    suspects = [suspect] if suspect else []
    return listener_section(namespace(*some), suspects, Page(style, width), "Listeners")


def table(text: str) -> str:
    return "".join(f"{line}\n" for line in text.splitlines()[1:])


def test_listeners_in_trouble() -> None:
    assert (
        table(listeners(QUIET, BURST, SLOW, FLOODED, width=100))
        == """\
  queue  limit  full   drops  half-open  peak              address       unit
      9      8  112%      11          3     0  ##########  0.0.0.0:8080  app.service
      0    128    0%  44,100        140     0  ..........  0.0.0.0:443   web.service
      1    128    1%       0          0     5  ..........  0.0.0.0:9000  api.service
      0    128    0%       0          0     0  ..........  0.0.0.0:22    ssh.service
"""
    )


@pytest.mark.parametrize(
    ("one", "titles"),
    [
        (QUIET, ["queue", "limit", "full", "address", "unit"]),
        (replace(QUIET, peak=3), ["queue", "limit", "full", "peak", "address", "unit"]),
        (replace(QUIET, half_open=3), ["queue", "limit", "full", "half-open", "address", "unit"]),
        (replace(QUIET, drops=3), ["queue", "limit", "full", "drops", "address", "unit"]),
        (replace(QUIET, queue=3, peak=3), ["queue", "limit", "full", "address", "unit"]),
    ],
)
def test_a_column_that_tells_nothing_is_left_out(one: Listener, titles: list[str]) -> None:
    assert table(listeners(one)).splitlines()[0].split() == titles


def test_who_has_dropped_something_comes_before_who_has_not() -> None:
    dropped = replace(listener(9_999), drops=1)
    rows = table(listeners(QUIET, dropped)).splitlines()[1:]
    assert [row.split()[-2] for row in rows] == ["0.0.0.0:9999", "0.0.0.0:22"]


def test_a_full_queue_of_a_group_comes_before_one_that_is_nearly_full() -> None:
    group = replace(listener(9_999, sockets=4, queue=9, limit=32), full=1)
    rows = table(listeners(listener(80, queue=127, limit=128), group)).splitlines()[1:]
    assert [row.split()[2] for row in rows] == ["28%", "99%"]


def test_on_a_narrow_terminal_columns_go_before_names() -> None:
    titles = [
        table(listeners(replace(SLOW, peak=peak), width=60)).split("address")[0].split()
        for peak in (1, 99)
    ]
    assert titles == [
        ["queue", "limit", "full", "drops"],
        ["queue", "limit", "full", "drops"],
    ]
    assert "0.0.0.0:8080" in listeners(SLOW, width=60)


def test_names_are_worth_more_than_bars() -> None:
    assert "#" in listeners(SLOW)
    long = replace(SLOW, unit="a-rather-long-name.service")
    text = listeners(long)
    assert "#" not in text
    assert long.unit in text


@pytest.mark.parametrize("unit", ["", "a.service", "nginx.service", "a-long-name.service"])
@pytest.mark.parametrize("address", ["::", "0.0.0.0", "192.168.100.200"])
def test_bars_take_only_what_names_leave(address: str, unit: str) -> None:
    full = replace(SLOW, unit=unit, address=address, half_open=3, peak=99)
    widths = set[int]()
    for width in range(60, 120):
        text = listeners(full, replace(full, port=22, queue=0), width=width)
        bars = re.findall("#+", text)
        widths.update(map(len, bars))
        assert not bars or f"  {endpoint(full)}  " in text
        assert not bars or text.count(f"  {unit or '-'}") == 2
        assert max(map(len, text.splitlines())) <= width
    assert widths == {5, 6, 7, 8, 9, 10}


@pytest.mark.parametrize(
    ("kind", "marked"),
    [
        (Kind.ACCEPT_QUEUE, ["9", "112%", "##########"]),
        (Kind.SYN_QUEUE, ["3"]),
        (Kind.SYN_FLOOD, ["3"]),
    ],
)
def test_the_queue_that_a_finding_is_about_is_marked(kind: Kind, marked: list[str]) -> None:
    suspect = Finding(kind, "", "", listener=SLOW)
    text = listeners(SLOW, FLOODED, style=Style(coloured=True), suspect=suspect)
    assert re.findall(r"\x1b\[31m(.*?)\x1b", text) == marked


def test_nobody_listens() -> None:
    assert listeners() == ""


# Destinations


USED: Final = Destinations(
    ports=28_232,
    in_use_max=24_100,
    crowded=(
        DestinationUse("192.0.2.1", "198.51.100.7:5432", in_use=24_100, time_wait=23_400),
        DestinationUse("2001:db8::1", "[2001:db8::7]:443", in_use=5_000, time_wait=0),
    ),
    unanswered={"198.51.100.9:443": 37},
)


def destinations(
    found: Destinations | None, *, width: int = 80, style: Style = PLAIN, wrong: str = ""
) -> str:
    view = replace(namespace(), destinations=found)
    findings = [Finding(Kind.EPHEMERAL_PORTS, "", "", destination=wrong)] if wrong else []
    return destination_section(view, findings, Page(style, width), "Destinations")


def test_destinations_in_trouble() -> None:
    assert (
        table(destinations(USED))
        == """\
   ports  time wait  full                        to                 from
  24,100     23,400   85%  #################...  198.51.100.7:5432  192.0.2.1
   5,000          0   18%  ####................  [2001:db8::7]:443  2001:db8::1
  no answer from 198.51.100.9:443: 37 connections
"""
    )


def test_on_a_narrow_terminal_there_is_no_bar() -> None:
    assert "#" not in destinations(USED, width=60)
    assert "198.51.100.7:5432" in destinations(USED, width=60)


def test_long_addresses_are_clipped_on_a_narrow_terminal() -> None:
    long = "2001:db8:1234:5678:9abc:def0:1234:5678"
    use = DestinationUse(long, f"[{long}]:443", 20_000, 0)
    text = destinations(replace(USED, crowded=(use,), unanswered={}), width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert "[2001" in text
    assert "]:443" in text


def test_without_a_known_range_there_is_no_share() -> None:
    text = destinations(replace(USED, ports=None))
    assert "#" not in text
    assert text.splitlines()[2].split()[:3] == ["24,100", "23,400", "-"]


def test_a_destination_short_of_ports_is_marked() -> None:
    text = destinations(USED, style=Style(coloured=True), wrong="198.51.100.7:5432")
    assert f"{RED}24,100" in text
    assert f"{RED}5,000" not in text


def test_only_who_does_not_answer() -> None:
    text = destinations(replace(USED, crowded=()))
    assert table(text) == "  no answer from 198.51.100.9:443: 37 connections\n"


@pytest.mark.parametrize(
    "found", [None, replace(USED, crowded=(), unanswered={}), Destinations(None, 0, ())]
)
def test_where_nothing_is_near_its_limit_there_is_no_section(found: Destinations | None) -> None:
    assert destinations(found) == ""


def test_the_fullest_destination_stands_among_the_limits_however_little_it_uses() -> None:
    view = replace(namespace(), destinations=Destinations(28_232, 3, ()))
    rows = limit_section(view, Page(), "Limits").splitlines()
    assert rows[2].split()[:8] == ["ports", "to", "one", "end", "3", "28,232", "0%", "100%"]


# All together


def test_the_readme_shows_what_would_be_told() -> None:
    slow = listener(8080, "app.service", queue=129, limit=128)
    doors = (
        replace(slow, drops=1_234, half_open=7, peak=129),
        replace(listener(443, "nginx.service", queue=3, limit=511), peak=60),
        listener(22, "ssh.service"),
    )
    found = Destinations(
        28_232,
        15_216,
        (DestinationUse("10.0.0.7", "10.0.0.9:5432", in_use=15_216, time_wait=14_100),),
        {"10.0.0.11:443": 37},
    )
    view = replace(namespace(*doors), destinations=found, figures=FIGURES)
    sample = "\n\n".join(
        (
            listener_section(view, (), Page(), "Listeners, fullest first"),
            destination_section(view, (), Page(), "Destinations, fullest first"),
            limit_section(view, Page(), "Limits, nearest first"),
        )
    )
    readme = Path(__file__).parents[2].joinpath("README.md").read_text()
    assert f"```text\n{sample}\n```" in readme
